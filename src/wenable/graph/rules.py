"""One rule for each kind of operation: how the channels of its output follow from its inputs'.

An operation without a rule has an output of unknown origin: no norm follows a layer through it, and
no shuffle stands behind it. That is never wrong, only less than could be had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch.fx import Node

from wenable.graph.calls import LayerCall
from wenable.graph.nodes import argument, operation, shape_of
from wenable.graph.origin import Origin, Slice, combined, cut, widened_by
from wenable.graph.products import Products


class Walk(Protocol):
    """What a rule may ask of a walk through a graph, and notes there."""

    layers: list[LayerCall]
    norms: list[LayerCall]
    owners: dict[Node, str]
    computed: set[str]
    products: Products

    def origin(self, argument: Any) -> Origin | None:
        """Return where the channels of an argument come from, or None where that is unknown."""
        ...

    def owner(self, node: Node, argument: Any, leaf: str) -> str | None:
        """Return the module whose parameter or buffer `leaf` this argument is, or None."""
        ...

    def running(self, node: Node) -> str | None:
        """Return the innermost module that is running at a node."""
        ...

    def is_frozen_norm(self, module: str) -> bool:
        """Whether a module is a batch norm whose statistics are constants."""
        ...

    def is_constant(self, argument: Any) -> bool:
        """Whether an argument is a number, or a tensor that follows from no input of the network."""
        ...


OriginRule = Callable[[Walk, Node], Origin | None]


def _layer(walk: Walk, node: Node, axis: int) -> Origin | None:
    source, weight = node.args[0], node.args[1]
    shape = shape_of(node)
    module = walk.owner(node, weight, "weight")
    if module is None:
        walk.computed |= walk.products.modules_behind(weight)
        return Origin(axis, (Slice(shape[axis], frozenset({f"<{node.name}>"})),))
    walk.owners[node] = module
    direct = walk.running(node) == module
    call = LayerCall(module, walk.origin(source), shape_of(source), shape, direct, axis)
    walk.layers.append(call)
    return Origin(axis, (Slice(shape[axis], frozenset({module})),))


def _convolution(walk: Walk, node: Node) -> Origin | None:
    spatial = len(shape_of(node.args[1])) - 2
    axis = -1 - spatial
    origin = _layer(walk, node, axis)
    groups = argument(node, 6, "groups", 1)
    inputs, outputs = shape_of(node.args[0])[axis], shape_of(node)[axis]
    before = walk.origin(node.args[0])
    if groups == inputs and outputs % inputs == 0 and groups > 1 and before is not None:
        return widened_by(before, outputs // inputs)  # depthwise: every channel stays its own
    return origin


def _linear(walk: Walk, node: Node) -> Origin | None:
    return _layer(walk, node, -1)


def _batch_norm(walk: Walk, node: Node) -> Origin | None:
    origin = walk.origin(node.args[0])
    module = walk.owner(node, node.args[3], "running_mean")
    if module is not None:
        walk.owners[node] = module
        direct = walk.running(node) == module
        # It normalises along dimension 1, whatever the channels of the layer before are.
        along = origin is not None and origin.axis == 1 - len(shape_of(node.args[0]))
        shapes = (shape_of(node.args[0]), shape_of(node))
        axis = 1 - len(shapes[0])
        call = LayerCall(module, origin if along else None, *shapes, direct, axis)
        walk.norms.append(call)
    return origin


def _keep(walk: Walk, node: Node) -> Origin | None:
    return walk.origin(node.args[0])


def _binary(walk: Walk, node: Node) -> Origin | None:
    left, right = node.args[0], argument(node, 1, "other")
    for constant, other in ((left, right), (right, left)):
        if walk.is_constant(constant):
            origin = walk.origin(other)
            if operation(node).startswith("mul") and not walk.is_constant(other):
                _note_frozen_norm(walk, node, other, origin)
            return origin
    first, second = walk.origin(left), walk.origin(right)
    if operation(node).startswith("mul"):
        for gate, other, gated in ((left, right, second), (right, left, first)):
            if (
                gated is not None
                and _is_gate(shape_of(gate), gated.axis)
                and not _is_gate(shape_of(other), gated.axis)
            ):
                return gated
    if first is None or second is None or first.axis != second.axis:
        return None
    return combined(first, second)


def _note_frozen_norm(walk: Walk, node: Node, source: Any, origin: Origin | None) -> None:
    """Note the call of a norm that is a factor and a shift for each channel."""
    module = walk.running(node)
    if module is not None and walk.is_frozen_norm(module):
        along = origin is not None and origin.axis == -3
        shapes = (shape_of(source), shape_of(node))
        walk.norms.append(LayerCall(module, origin if along else None, *shapes, True, -3))


def _is_gate(shape: tuple[int, ...], axis: int) -> bool:
    """Whether a tensor has one value a channel (or fewer) and nothing along other dimensions."""
    outside = [size for i, size in enumerate(shape) if i not in (0, len(shape) + axis)]
    return len(shape) > 2 and math.prod(outside) == 1


def _concatenation(walk: Walk, node: Node) -> Origin | None:
    tensors: Sequence[Any] = node.args[0]  # pyright: ignore[reportAssignmentType]
    origins = [walk.origin(tensor) for tensor in tensors]
    known = [origin for origin in origins if origin is not None]
    if not known:
        return None
    axis = known[0].axis
    dim = argument(node, 1, "dim", 0)
    dim = dim if dim < 0 else dim - len(shape_of(tensors[0]))
    if dim == axis:
        unknown = [Slice(shape_of(tensor)[dim], frozenset()) for tensor in tensors]
        parts = [
            origin.slices if origin is not None and origin.axis == axis else (unknown[position],)
            for position, origin in enumerate(origins)
        ]
        return Origin(axis, tuple(part for slices in parts for part in slices))
    merged = known[0]
    for other in known[1:]:
        both = combined(merged, other) if other.axis == axis else None
        if both is None:
            return None
        merged = both
    mixed = (Slice(s.width, s.producers, combined=True) for s in merged.slices)
    return merged if len(tensors) == 1 else Origin(axis, tuple(mixed))


def _reshape(walk: Walk, node: Node) -> Origin | None:
    """Follow the channels where they stay one dimension, or take in the dimensions behind them."""
    origin = walk.origin(node.args[0])
    if origin is None:
        return None
    before, after = shape_of(node.args[0]), shape_of(node)
    position = len(before) + origin.axis
    leading = math.prod(before[:position])
    for i, size in enumerate(after):
        if math.prod(after[:i]) == leading and size % origin.width == 0 and size > 1:
            factor = size // origin.width
            if math.prod(before[position + 1 :]) == factor * math.prod(after[i + 1 :]):
                widened = widened_by(origin, factor)
                return Origin(i - len(after), widened.slices)
    return None


def _permute(walk: Walk, node: Node) -> Origin | None:
    origin = walk.origin(node.args[0])
    if origin is None:
        return None
    rank = len(shape_of(node.args[0]))
    order = list(range(rank))
    if operation(node) == "permute":
        dims: Any = node.args[1]
        order = [dim % rank for dim in dims]
    else:
        first: Any = node.args[1]
        second: Any = node.args[2]
        a, b = first % rank, second % rank
        order[a], order[b] = order[b], order[a]
    return Origin(order.index(rank + origin.axis) - rank, origin.slices)


def _reduction(walk: Walk, node: Node) -> Origin | None:
    origin = walk.origin(node.args[0])
    dims = argument(node, 1, "dim")
    if origin is None or dims is None:
        return None
    rank = len(shape_of(node.args[0]))
    gone = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}
    position = rank + origin.axis
    if position in gone:
        return None
    if len(shape_of(node)) == rank:
        return origin
    behind = sum(dim > position for dim in gone)
    return Origin(origin.axis + behind, origin.slices)


def _selection(walk: Walk, node: Node) -> Origin | None:
    """Follow `select`, `slice` and `narrow`: part of a dimension, or one entry of it."""
    origin = walk.origin(node.args[0])
    if origin is None:
        return None
    rank = len(shape_of(node.args[0]))
    dim = argument(node, 1, "dim", 0) % rank
    position = rank + origin.axis
    if operation(node) == "select":
        if dim == position:
            return None
        return Origin(origin.axis + (dim > position), origin.slices)
    if dim != position:
        return origin
    start, length = argument(node, 2, "start") or 0, shape_of(node)[dim]
    start = start % origin.width if start < 0 else start
    if argument(node, 4, "step", 1) != 1:
        return None
    return cut(origin, start, start + length)


def _split(walk: Walk, node: Node) -> Origin | None:
    return walk.origin(node.args[0])  # cut at the item, whose shape says how much it takes


def _item(walk: Walk, node: Node) -> Origin | None:
    """Return the origin of one tensor out of a split."""
    several, position = node.args
    origin = walk.origin(several)
    if origin is None or not isinstance(several, Node) or not isinstance(position, int):
        return None
    if operation(several) not in ("split", "split_with_sizes", "chunk"):
        return None
    source = several.args[0]
    rank = len(shape_of(source))
    dim = argument(several, 2, "dim", 0) % rank
    if dim != rank + origin.axis:
        return origin
    sizes = [tensor.shape[dim] for tensor in several.meta["val"]]
    start = sum(sizes[:position])
    return cut(origin, start, start + sizes[position])


def _rearrangement(walk: Walk, node: Node) -> Origin | None:
    """Follow `roll` and `flip`, unless they move the channels themselves."""
    origin = walk.origin(node.args[0])
    dims = argument(node, 2 if operation(node) == "roll" else 1, "dims", [])
    rank = len(shape_of(node.args[0]))
    if origin is None or not dims or rank + origin.axis in {dim % rank for dim in dims}:
        return None
    return origin


def _padding(walk: Walk, node: Node) -> Origin | None:
    """Follow padding; channels that it adds were written by no layer, and a cut is not followed."""
    origin = walk.origin(node.args[0])
    sizes: Any = node.args[1]  # pairs, from the last dimension backwards
    if origin is None:
        return None
    at = 2 * (-origin.axis - 1)
    before, after = (*sizes[at : at + 2], 0, 0)[:2]
    if before < 0 or after < 0:
        return None
    added = [(Slice(width, frozenset()),) if width else () for width in (before, after)]
    return Origin(origin.axis, (*added[0], *origin.slices, *added[1]))


_UNARY = """
    relu relu6 hardtanh silu hardswish hardsigmoid sigmoid tanh gelu leaky_relu elu selu celu mish
    softplus prelu softmax log_softmax logsigmoid clamp clamp_min clamp_max abs neg exp sqrt
    rsqrt square dropout alpha_dropout feature_dropout clone contiguous detach to _to_copy alias
    type_as float
    layer_norm group_norm instance_norm rms_norm
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
    reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d expand
""".split()

RULES: dict[str, OriginRule] = {
    **dict.fromkeys(_UNARY, _keep),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
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
