"""What follows what in a network, read from its graph and not from names.

`trace` runs `torch.export` (non-strict) on a network and follows the channels of every tensor: which
layer wrote them, through which operations they passed unmixed. From that follow the norm that
belongs to a layer, the layers a shuffle may stand between, and the classifier.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

# --- where channels come from ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive channels with one history.

    - `width`: how many channels.
    - `producers`: the layers that wrote them, by qualified name; none for the network's input.
    - `combined`: whether something else was added to (or multiplied with) what the producers wrote.
    """

    width: int
    producers: frozenset[str]
    combined: bool = False

    @property
    def single_producer(self) -> str | None:
        """The one layer that wrote these channels, with nothing combined in, or None."""
        if self.combined or len(self.producers) != 1:
            return None
        return next(iter(self.producers))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the channels of a tensor come from: slices along `axis`, counted from the end (-1)."""

    axis: int
    slices: tuple[Slice, ...]

    @property
    def width(self) -> int:
        """The number of channels."""
        return sum(part.width for part in self.slices)

    @property
    def producers(self) -> frozenset[str]:
        """Every layer that wrote to these channels."""
        return frozenset().union(*(part.producers for part in self.slices))

    @property
    def single_producer(self) -> str | None:
        """The one layer that wrote all channels, with nothing combined in; None where not so."""
        return self.slices[0].single_producer if len(self.slices) == 1 else None


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a module with weights, in execution order.

    - `module`: its qualified name; `input`: where the channels that it reads come from, or None.
    - `input_shape`, `output_shape`: with the example's batch.
    """

    module: str
    input: Origin | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    direct: bool
    """Whether the module itself was running, or another one that uses its parameters."""
    axis: int
    """The dimension that it reads as channels, counted from the end."""


@dataclass(frozen=True)
class Graph:
    """A traced network: the calls of its layers and norms, and what reaches its output."""

    layers: tuple[LayerCall, ...]
    norms: tuple[LayerCall, ...]
    outputs: tuple[Origin | None, ...]
    computed_weights: frozenset[str]
    """Modules whose weight is used otherwise than by their own operation: changed before it (weight
    norm, standardisation), or in another product besides (a tied decoder)."""
    examples: int
    """How many examples the traced batch held."""
    attention: frozenset[str]
    """The layers whose output goes straight into attention, or that read what comes out of it."""

    @property
    def classifiers(self) -> frozenset[str]:
        """The layers whose output is the network's output, with no other layer behind them."""
        single = (origin.single_producer for origin in self.outputs if origin is not None)
        return frozenset(name for name in single if name is not None)


# --- tracing ------------------------------------------------------------------------------------


def trace(model: nn.Module, example_inputs: tuple[Any, ...]) -> Graph:
    """Trace a network in eval mode and follow its channels.

    - `model`: it must be in eval mode; it is not changed.
    - `example_inputs`: positional inputs, with a batch dimension.

    Raises `ValueError` where the network cannot be traced, with the tracer's own first line.
    """
    try:
        program = torch.export.export(model, example_inputs, strict=False)
    except Exception as error:  # the tracer raises whatever the model's own code raises
        first_line = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ValueError(
            f"`model` (={type(model).__name__}) cannot be traced by torch.export with this"
            f" `example_input`: {first_line[0]}"
        ) from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    walker = _Walker(model, names)
    for node in program.graph.nodes:
        walker.visit(node)
        walker.note_other_uses(node)
    return Graph(
        tuple(walker.layers),
        tuple(walker.norms),
        tuple(walker.outputs),
        frozenset(walker.computed),
        next(len(each) for each in example_inputs if isinstance(each, torch.Tensor)),
        frozenset(walker.attention),
    )


# Operations whose result shares its memory with their first argument.
_VIEWS = """
    select slice narrow view reshape flatten squeeze unsqueeze unflatten permute transpose expand
    split split_with_sizes chunk getitem detach alias
""".split()
# Operations that read a parameter as it is; what they mean for switching is handled there.
_READERS_OF_WEIGHTS = ("conv1d", "conv2d", "conv3d", "linear", "batch_norm")
# Products of two tensors that layers wrote: of queries with keys, of their softmax with values.
_ATTENTION_PRODUCTS = ("scaled_dot_product_attention", "matmul", "bmm", "baddbmm", "einsum")
_ATTENTION = "<attention>"


class _Walker:
    """Visits the nodes in execution order and keeps the origin of each tensor."""

    def __init__(self, model: nn.Module, names: dict[str, str]) -> None:
        self.modules = dict(model.named_modules())
        firsts = {id(module): name for name, module in self.modules.items()}
        every = model.named_modules(remove_duplicate=False)
        self.first_names = {name: firsts[id(module)] for name, module in every}
        parameters = model.named_parameters(remove_duplicate=False)
        buffers = model.named_buffers(remove_duplicate=False)
        self.tensors: dict[str, torch.Tensor] = {**dict(parameters), **dict(buffers)}
        self.names = names
        self.origins: dict[Node, Origin | None] = {}
        self.layers: list[LayerCall] = []
        self.norms: list[LayerCall] = []
        self.outputs: list[Origin | None] = []
        self.computed: set[str] = set()
        # Of every tensor, the last layers (or attention) that wrote to it, by whatever operations.
        self.writers: dict[Node, frozenset[str]] = {}
        self.attention: set[str] = set()

    def visit(self, node: Node) -> None:
        if node.op == "output":
            self.outputs = [self.origins.get(each) for each in node.all_input_nodes]
        if node.op != "call_function":
            return
        name = _operation(node)
        self.writers[node] = self._written_by(node, name)
        rule = _RULES.get(name) or _RULES.get(name.removesuffix("_"))
        origin = rule(self, node) if rule else None
        if origin is not None and not _fits(origin, node):
            origin = None
        self.origins[node] = origin
        # An in-place operation changes what later readers of its first argument see.
        if name.endswith("_") and node.args and isinstance(node.args[0], Node):
            self._written_in_place(node.args[0], origin)

    def _written_in_place(self, node: Node, origin: Origin | None) -> None:
        self.origins[node] = origin
        # What is written to part of a tensor changes the whole, in ways that are not followed.
        while _operation(node).removesuffix("_") in _VIEWS and isinstance(node.args[0], Node):
            node = node.args[0]
            self.origins[node] = None

    def _written_by(self, node: Node, name: str) -> frozenset[str]:
        """Return the last layers that wrote to a node's output, and note those of attention."""
        inputs = [self.writers.get(each, frozenset()) for each in node.all_input_nodes]
        written = frozenset().union(*inputs)
        if name in ("conv1d", "conv2d", "linear"):
            layer = self.owner(node, node.args[1], "weight")
            if layer is not None:
                if inputs[0] == {_ATTENTION}:
                    self.attention.add(layer)
                return frozenset({layer})
        products = [each for each in node.args if isinstance(each, Node) and self.writers.get(each)]
        if name in _ATTENTION_PRODUCTS and len(products) > 1:
            self.attention |= written - {_ATTENTION}
            return frozenset({_ATTENTION})
        return written

    def origin(self, argument: Any) -> Origin | None:
        return self.origins.get(argument) if isinstance(argument, Node) else None

    def is_constant(self, argument: Any) -> bool:
        """Whether an argument is a number, a parameter or a buffer: nothing a layer wrote."""
        return not isinstance(argument, Node) or argument.name in self.names

    def owner(self, node: Node, argument: Any, leaf: str) -> str | None:
        """Return the module whose parameter or buffer `leaf` this argument is, or None.

        The tracer knows a shared tensor by one of its names only; the module that is running when
        the operation is called says which of its owners is meant.
        """
        if not isinstance(argument, Node) or argument.name not in self.names:
            return None
        running = self.running(node)
        tensor = self.tensors[self.names[argument.name]]
        if running is not None and getattr(self.modules[running], leaf, None) is tensor:
            return running
        module, _, found = self.names[argument.name].rpartition(".")
        return self.first_names.get(module) if found == leaf else None

    def note_other_uses(self, node: Node) -> None:
        """Note the modules whose parameters are read by anything but a layer or a norm."""
        if _operation(node) in _READERS_OF_WEIGHTS or node.op == "output":
            return
        for argument in node.all_input_nodes:
            name = self.names.get(argument.name, "")
            if self.first_names.get(name.rpartition(".")[0]) and name.endswith(".weight"):
                self.computed.add(self.first_names[name.rpartition(".")[0]])

    def running(self, node: Node) -> str | None:
        """Return the innermost module that is running at a node, by its first name."""
        stack = list(node.meta.get("nn_module_stack", {}).values())
        return self.first_names.get(str(stack[-1][0]).partition("@")[0]) if stack else None


def _operation(node: Node) -> str:
    target = node.target if node.op == "call_function" else ""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.removeprefix("aten::")
    return getattr(target, "__name__", str(target))


def _shape(argument: Any) -> tuple[int, ...]:
    value = argument.meta.get("val") if isinstance(argument, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _fits(origin: Origin, node: Node) -> bool:
    """Whether a claimed origin agrees with the shape; a list of tensors is checked at its items."""
    shape = _shape(node)
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return True
    return len(shape) >= -origin.axis and shape[origin.axis] == origin.width


def _argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


# --- one rule for each kind of operation -----------------------------------------------------------

_Rule = Callable[["_Walker", Node], Origin | None]


def _layer(walker: _Walker, node: Node, axis: int) -> Origin | None:
    source, weight = node.args[0], node.args[1]
    shape = _shape(node)
    module = walker.owner(node, weight, "weight")
    if module is None:
        walker.computed |= _owners_behind(walker, weight)
        return Origin(axis, (Slice(shape[axis], frozenset({f"<{node.name}>"})),))
    direct = walker.running(node) == module
    call = LayerCall(module, walker.origin(source), _shape(source), shape, direct, axis)
    walker.layers.append(call)
    return Origin(axis, (Slice(shape[axis], frozenset({module})),))


def _owners_behind(walker: _Walker, weight: Any) -> set[str]:
    """Return the modules whose parameters a computed weight was computed from."""
    found: set[str] = set()
    todo = [weight] if isinstance(weight, Node) else []
    while todo:
        node = todo.pop()
        if node.name in walker.names:
            found.add(walker.names[node.name].rpartition(".")[0])
        else:
            todo.extend(node.all_input_nodes)
    return found


def _convolution(walker: _Walker, node: Node) -> Origin | None:
    spatial = len(_shape(node.args[1])) - 2
    axis = -1 - spatial
    origin = _layer(walker, node, axis)
    groups = _argument(node, 6, "groups", 1)
    inputs, outputs = _shape(node.args[0])[axis], _shape(node)[axis]
    before = walker.origin(node.args[0])
    if groups == inputs and outputs % inputs == 0 and groups > 1 and before is not None:
        return _widened(before, outputs // inputs)  # depthwise: every channel stays its own
    return origin


def _linear(walker: _Walker, node: Node) -> Origin | None:
    return _layer(walker, node, -1)


def _batch_norm(walker: _Walker, node: Node) -> Origin | None:
    origin = walker.origin(node.args[0])
    module = walker.owner(node, node.args[3], "running_mean")
    if module is not None:
        direct = walker.running(node) == module
        # It normalises along dimension 1, whatever the channels of the layer before are.
        along = origin is not None and origin.axis == 1 - len(_shape(node.args[0]))
        shapes = (_shape(node.args[0]), _shape(node))
        axis = 1 - len(shapes[0])
        call = LayerCall(module, origin if along else None, *shapes, direct, axis)
        walker.norms.append(call)
    return origin


def _keep(walker: _Walker, node: Node) -> Origin | None:
    return walker.origin(node.args[0])


def _binary(walker: _Walker, node: Node) -> Origin | None:
    left, right = node.args[0], _argument(node, 1, "other")
    for constant, other in ((left, right), (right, left)):
        if walker.is_constant(constant):
            return walker.origin(other)
    first, second = walker.origin(left), walker.origin(right)
    if _operation(node).startswith("mul"):
        for gate, other, gated in ((left, right, second), (right, left, first)):
            if (
                gated is not None
                and _is_gate(_shape(gate), gated.axis)
                and not _is_gate(_shape(other), gated.axis)
            ):
                return gated
    if first is None or second is None or first.axis != second.axis:
        return None
    return _combined(first, second)


def _is_gate(shape: tuple[int, ...], axis: int) -> bool:
    """Whether a tensor has one value a channel (or fewer) and nothing along other dimensions."""
    outside = [size for i, size in enumerate(shape) if i not in (0, len(shape) + axis)]
    return len(shape) > 2 and math.prod(outside) == 1


def _combined(first: Origin, second: Origin) -> Origin | None:
    """Return the origin of a sum: the same channels, written by both sides."""
    if first.width != second.width:
        return None
    edges = sorted(_edges(first) | _edges(second))
    slices = []
    for start, stop in zip([0, *edges], edges, strict=False):
        if start != stop:
            parts = [_cut(origin, start, stop).slices for origin in (first, second)]
            producers = frozenset().union(*(part.producers for side in parts for part in side))
            slices.append(Slice(stop - start, producers, combined=True))
    return Origin(first.axis, tuple(slices))


def _edges(origin: Origin) -> set[int]:
    stop, edges = 0, set()
    for part in origin.slices:
        stop += part.width
        edges.add(stop)
    return edges


def _cut(origin: Origin, start: int, stop: int) -> Origin:
    """Return the origin of the channels from `start` up to `stop`."""
    slices, at = [], 0
    for part in origin.slices:
        low, high = max(start, at), min(stop, at + part.width)
        if low < high:
            slices.append(Slice(high - low, part.producers, part.combined))
        at += part.width
    return Origin(origin.axis, tuple(slices))


def _widened(origin: Origin, factor: int) -> Origin:
    slices = (Slice(s.width * factor, s.producers, s.combined) for s in origin.slices)
    return Origin(origin.axis, tuple(slices))


def _concatenation(walker: _Walker, node: Node) -> Origin | None:
    tensors: Sequence[Any] = node.args[0]  # pyright: ignore[reportAssignmentType]
    origins = [walker.origin(tensor) for tensor in tensors]
    known = [origin for origin in origins if origin is not None]
    if not known:
        return None
    axis = known[0].axis
    dim = _argument(node, 1, "dim", 0)
    dim = dim if dim < 0 else dim - len(_shape(tensors[0]))
    if dim == axis:
        unknown = [Slice(_shape(tensor)[dim], frozenset()) for tensor in tensors]
        parts = [
            origin.slices if origin is not None and origin.axis == axis else (unknown[position],)
            for position, origin in enumerate(origins)
        ]
        return Origin(axis, tuple(part for slices in parts for part in slices))
    merged = known[0]
    for other in known[1:]:
        both = _combined(merged, other) if other.axis == axis else None
        if both is None:
            return None
        merged = both
    mixed = (Slice(s.width, s.producers, combined=True) for s in merged.slices)
    return merged if len(tensors) == 1 else Origin(axis, tuple(mixed))


def _reshape(walker: _Walker, node: Node) -> Origin | None:
    """Follow the channels where they stay one dimension, or take in the dimensions behind them."""
    origin = walker.origin(node.args[0])
    if origin is None:
        return None
    before, after = _shape(node.args[0]), _shape(node)
    position = len(before) + origin.axis
    leading = math.prod(before[:position])
    for i, size in enumerate(after):
        if math.prod(after[:i]) == leading and size % origin.width == 0 and size > 1:
            factor = size // origin.width
            if math.prod(before[position + 1 :]) == factor * math.prod(after[i + 1 :]):
                widened = _widened(origin, factor)
                return Origin(i - len(after), widened.slices)
    return None


def _permute(walker: _Walker, node: Node) -> Origin | None:
    origin = walker.origin(node.args[0])
    if origin is None:
        return None
    rank = len(_shape(node.args[0]))
    order = list(range(rank))
    if _operation(node) == "permute":
        dims: Any = node.args[1]
        order = [dim % rank for dim in dims]
    else:
        first: Any = node.args[1]
        second: Any = node.args[2]
        a, b = first % rank, second % rank
        order[a], order[b] = order[b], order[a]
    return Origin(order.index(rank + origin.axis) - rank, origin.slices)


def _reduction(walker: _Walker, node: Node) -> Origin | None:
    origin = walker.origin(node.args[0])
    dims = _argument(node, 1, "dim")
    if origin is None or dims is None:
        return None
    rank = len(_shape(node.args[0]))
    gone = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}
    position = rank + origin.axis
    if position in gone:
        return None
    if len(_shape(node)) == rank:
        return origin
    behind = sum(dim > position for dim in gone)
    return Origin(origin.axis + behind, origin.slices)


def _selection(walker: _Walker, node: Node) -> Origin | None:
    """Follow `select`, `slice` and `narrow`: part of a dimension, or one entry of it."""
    origin = walker.origin(node.args[0])
    if origin is None:
        return None
    rank = len(_shape(node.args[0]))
    dim = _argument(node, 1, "dim", 0) % rank
    position = rank + origin.axis
    if _operation(node) == "select":
        if dim == position:
            return None
        return Origin(origin.axis + (dim > position), origin.slices)
    if dim != position:
        return origin
    start, length = _argument(node, 2, "start") or 0, _shape(node)[dim]
    start = start % origin.width if start < 0 else start
    if _argument(node, 4, "step", 1) != 1:
        return None
    return _cut(origin, start, start + length)


def _split(walker: _Walker, node: Node) -> Origin | None:
    return walker.origin(node.args[0])  # cut at the item, whose shape says how much it takes


def _item(walker: _Walker, node: Node) -> Origin | None:
    """Return the origin of one tensor out of a split."""
    several, position = node.args
    origin = walker.origin(several)
    if origin is None or not isinstance(several, Node) or not isinstance(position, int):
        return None
    if _operation(several) not in ("split", "split_with_sizes", "chunk"):
        return None
    source = several.args[0]
    rank = len(_shape(source))
    dim = _argument(several, 2, "dim", 0) % rank
    if dim != rank + origin.axis:
        return origin
    sizes = [tensor.shape[dim] for tensor in several.meta["val"]]
    start = sum(sizes[:position])
    return _cut(origin, start, start + sizes[position])


def _rearrangement(walker: _Walker, node: Node) -> Origin | None:
    """Follow `roll` and `flip`, unless they move the channels themselves."""
    origin = walker.origin(node.args[0])
    dims = _argument(node, 2 if _operation(node) == "roll" else 1, "dims", [])
    rank = len(_shape(node.args[0]))
    if origin is None or not dims or rank + origin.axis in {dim % rank for dim in dims}:
        return None
    return origin


def _padding(walker: _Walker, node: Node) -> Origin | None:
    """Follow padding, unless it adds channels or cuts some off."""
    origin = walker.origin(node.args[0])
    sizes: Any = node.args[1]  # pairs, from the last dimension backwards
    if origin is None:
        return None
    at = 2 * (-origin.axis - 1)
    return None if any(sizes[at : at + 2]) else origin


_UNARY = """
    relu relu6 hardtanh silu hardswish hardsigmoid sigmoid tanh gelu leaky_relu elu selu celu mish
    softplus prelu softmax log_softmax logsigmoid clamp clamp_min clamp_max abs neg exp sqrt
    rsqrt square dropout alpha_dropout feature_dropout clone contiguous detach to _to_copy alias
    type_as float
    layer_norm group_norm instance_norm rms_norm
    max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_max_pool1d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d
    upsample_bicubic2d reflection_pad2d replication_pad2d expand
""".split()

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_UNARY, _keep),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "linear": _linear,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "maximum", "minimum"), _binary),
    "cat": _concatenation,
    **dict.fromkeys(("reshape", "view", "flatten", "squeeze", "unsqueeze", "unflatten"), _reshape),
    "permute": _permute,
    "transpose": _permute,
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduction),
    **dict.fromkeys(("select", "slice", "narrow"), _selection),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "getitem": _item,
    "roll": _rearrangement,
    "flip": _rearrangement,
    **dict.fromkeys(("pad", "constant_pad_nd"), _padding),
}


def shared_modules(model: nn.Module) -> frozenset[str]:
    """Return the modules that share a parameter with another, or are reached by two names."""
    places: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), set()).add(name.rpartition(".")[0])
    return frozenset(name for names in places.values() if len(names) > 1 for name in names)


def call_counts(calls: Sequence[LayerCall]) -> Counter[str]:
    """Return how often each module is called."""
    return Counter(call.module for call in calls)
