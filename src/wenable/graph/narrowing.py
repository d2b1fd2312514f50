"""Which channels each layer reads and writes where every width is cut to its first channels.

Layers write the first so many of their channels, as many as a function of their number says. What
follows from that is computed here for every operation of a trace: what stands behind a layer has as
many channels as it; what an addition joins must have the same on both sides; a concatenation has the
first channels of each of its parts. An operation that cannot be followed is refused by the module it runs
in, never guessed at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from wenable.graph.calls import TracedGraph
from wenable.graph.narrowed import Counts, Kept, NarrowedLayer, NarrowedPadding, Narrowing, kept_of
from wenable.graph.nodes import ELEMENTWISE, OVER_MAPS, argument, operation, shape_of


def narrow(
    graph: TracedGraph, active: Callable[[int], Counts], rigid: Mapping[str, str]
) -> Narrowing:
    """Return which channels everything has where each layer writes `active` of its own.

    The network's inputs and outputs keep all their channels. Channels that keep to themselves
    (depthwise and grouped convolutions, norms, pooling, sums) are as many as they come in. A convolution
    of one or three dimensions, or a transposed one, writes all its channels if they come to what cannot
    be followed.

    - `active`: a number of channels -> how many of the first are left, in each mode.
    - `rigid`: layers that read and write all their channels in every mode, with the reason.

    Raises `ValueError` for an operation that does not fit fewer channels, by the module it runs in.
    """
    operations = graph.operations
    yielding = {operations.owners.get(n, "") for n in operations.nodes if _yields(n)} - {""}
    kept: dict[str, str] = {}
    while True:
        walk = _Walk(graph, active, rigid, frozenset(kept))
        for node in operations.nodes:
            walk.visit(node)
        more = dict.fromkeys(walk.write_outputs, "")
        # What is refused first may be why others are.
        for reason, writers in walk.refusals[:1]:
            more |= dict.fromkeys(writers & yielding, reason)
        if more.keys() <= kept.keys():
            break
        kept = more | kept
    if walk.refusals:
        raise ValueError(walk.refusals[0][0])
    reasons = {name: reason for name, reason in kept.items() if reason}
    return Narrowing(walk.layers, walk.norms, walk.paddings, reasons, _ends(walk))


def _ends(walk: _Walk) -> dict[str, Kept]:
    states = {node.name: state for node, state in walk.states.items()}
    found = {}
    for name, end in walk.graph.ends.items():
        state = states.get(end.node)
        if isinstance(state, _Channels) and state.axis == 1 - len(end.shape):
            found[name] = state.kept
    return found


def _yields(node: Node) -> bool:
    """Say whether a layer stays as it is rather than that the network is refused."""
    return operation(node) in ("conv1d", "conv3d", *_TRANSPOSED)


_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@dataclass(frozen=True, slots=True)
class _Channels:
    """The one dimension of a tensor that shrinks: of each of its parts the first channels are there.

    - `parts`: the channels of each in every mode; more than one behind a concatenation.
    - `writers`: the layers that would have to write all channels for it not to shrink.
    """

    axis: int
    parts: tuple[Counts, ...]
    writers: frozenset[str]

    @property
    def counts(self) -> Counts:
        """How many channels there are in each mode."""
        return tuple(map(sum, zip(*self.parts, strict=True)))

    @property
    def kept(self) -> Kept:
        """Which of all the channels there are in each mode."""
        return kept_of(self.parts)


@dataclass(frozen=True, slots=True)
class _Lost:
    """A tensor behind an operation that was refused."""

    writers: frozenset[str]


_State = _Channels | _Lost | None
"""None: the same in every mode."""


class _RefusedError(Exception):
    pass


@dataclass
class _Walk:
    graph: TracedGraph
    active: Callable[[int], Counts]
    rigid: Mapping[str, str]
    kept: frozenset[str]
    states: dict[Node, _State] = field(default_factory=dict)
    layers: dict[str, NarrowedLayer] = field(default_factory=dict)
    norms: dict[str, Kept] = field(default_factory=dict)
    paddings: dict[str, NarrowedPadding] = field(default_factory=dict)
    refusals: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    write_outputs: frozenset[str] = frozenset()

    def visit(self, node: Node) -> None:
        """Follow one node; its inputs have been visited before."""
        states = [self.states.get(each) for each in node.all_input_nodes]
        changing = [state for state in states if state is not None]
        writers = frozenset().union(*(state.writers for state in changing))
        if node.op == "output":
            self.write_outputs = writers
        if node.op != "call_function":
            return
        name = operation(node).removesuffix("_")
        rule = _RULES.get(name)
        is_layer = rule is _layer
        try:
            if any(isinstance(state, _Lost) for state in changing) and not is_layer:
                self.states[node] = _Lost(writers)
            elif not changing and rule not in (_layer, _batch_norm):
                self.states[node] = None
            elif rule is None:
                raise _RefusedError(f"the operation {name!r} is not known to fit fewer channels")
            else:
                self.states[node] = rule(self, node)
        except _RefusedError as refused:
            words = f"{self._place(node)} cannot run narrower: {refused}"
            self.refusals.append((words, writers))
            self.states[node] = _Lost(writers)

    def _place(self, node: Node) -> str:
        operations = self.graph.operations
        name = operations.owners.get(node) or operations.running.get(node)
        return repr(name) if name else "the network's own forward"

    def source(self, node: Node) -> _Channels:
        """Return the channels of a node's first argument, which is known to shrink."""
        first = node.args[0]
        tensor = first if isinstance(first, Node) else None
        state = self.states.get(tensor) if tensor is not None else None
        if not isinstance(state, _Channels):
            raise _RefusedError(
                f"the operation {operation(node)!r} takes channels in another place"
            )
        return state

    def counts_of(self, channels: int) -> Counts:
        """Return the counts of a dimension that is the same in every mode."""
        return (channels,) * len(self.active(1))

    def result(self, axis: int, parts: tuple[Counts, ...], writers: frozenset[str]) -> _State:
        """Return the state of a tensor: None where nothing shrinks."""
        shrinks = any(len(set(part)) > 1 for part in parts)
        return _Channels(axis, parts, writers) if shrinks else None


# --- layers and norms -----------------------------------------------------------------------------


def _layer(walk: _Walk, node: Node) -> _State:
    is_convolution = operation(node).startswith("conv")
    axis = 1 - len(shape_of(node.args[1])) if is_convolution else -1
    source = walk.states.get(node.args[0]) if isinstance(node.args[0], Node) else None
    inputs, outputs = shape_of(node.args[0])[axis], shape_of(node)[axis]
    name = walk.graph.operations.owners.get(node, "")
    rigid = walk.rigid.get(name, "") if name else "its weight is computed before its use"
    read: tuple[Counts, ...] = (walk.counts_of(inputs),)
    if isinstance(source, _Channels):
        if rigid:
            raise _RefusedError(rigid)
        if source.axis != axis:
            raise _RefusedError(
                "the dimension that it multiplies along is not that of the channels"
            )
        read = source.parts
    groups = argument(node, 6, "groups", 1) if is_convolution else 1
    if groups > 1:
        written, runs = _grouped(read, inputs, outputs, groups)
        writers = source.writers if source is not None else frozenset()
    else:
        runs = walk.counts_of(1)
        stays = bool(rigid) or name in walk.kept
        written = (walk.counts_of(outputs) if stays else walk.active(outputs),)
        writers = frozenset({name})
    _check_weights(walk, node)
    layer = NarrowedLayer(kept_of(read), kept_of(written), runs)
    if name and walk.layers.setdefault(name, layer) != layer:
        raise _RefusedError("it is called more than once, with different numbers of channels")
    return walk.result(axis, written, writers)


def _check_weights(walk: _Walk, node: Node) -> None:
    """Weights that were computed from channels that shrink would shrink with them."""
    weights = [each for each in node.args[1:] if isinstance(each, Node)]
    if any(walk.states.get(each) is not None for each in weights):
        raise _RefusedError("its weights are computed from channels that become fewer")


def _grouped(
    read: tuple[Counts, ...], inputs: int, outputs: int, groups: int
) -> tuple[tuple[Counts, ...], Counts]:
    """Return what a grouped convolution writes, and in how many groups, all as large as before."""
    size = inputs // groups
    unfit = [count for part in read for count in part if count % size]
    if unfit:
        raise _RefusedError(
            f"its {groups} groups read {size} channels each, and {unfit[0]} of {inputs} channels are"
            " no whole number of groups"
        )
    runs = [tuple(count // size for count in part) for part in read]
    written = tuple(tuple(each * (outputs // groups) for each in part) for part in runs)
    return written, tuple(map(sum, zip(*runs, strict=True)))


def _batch_norm(walk: _Walk, node: Node) -> _State:
    source = walk.states.get(node.args[0]) if isinstance(node.args[0], Node) else None
    name = walk.graph.operations.owners.get(node, "")
    shape = shape_of(node.args[0])
    kept: Kept = walk.counts_of(shape[1])
    _check_weights(walk, node)
    if isinstance(source, _Channels):
        if source.axis != 1 - len(shape):
            raise _RefusedError("it normalises along another dimension than that of the channels")
        if not name and any(isinstance(each, Node) for each in node.args[1:]):
            if node.args[3] is None:
                raise _RefusedError("it has no running statistics (`track_running_stats=False`)")
            raise _RefusedError("its weights belong to no batch norm that is known")
        kept = source.kept
    if name and walk.norms.setdefault(name, kept) != kept:
        raise _RefusedError("it is called more than once, with different numbers of channels")
    return source


# --- what keeps channels apart --------------------------------------------------------------------


def _elementwise(walk: _Walk, node: Node) -> _State:
    """All inputs that shrink do so alike, and the others do not reach along that dimension."""
    several = [(each, walk.states.get(each)) for each in node.all_input_nodes]
    channels = [state for _, state in several if isinstance(state, _Channels)]
    first = channels[0]
    for other in channels[1:]:
        if (other.axis, other.kept) != (first.axis, first.kept):
            raise _RefusedError(
                f"the operation {operation(node)!r} joins {_counted(first)} with {_counted(other)}"
                + (" of other parts" if other.counts == first.counts else "")
            )
    for each, state in several:
        shape = shape_of(each)
        if state is None and len(shape) >= -first.axis and shape[first.axis] != 1:
            what = walk.graph.operations.parameters.get(each.name)
            raise _RefusedError(
                f"the operation {operation(node)!r} joins {_counted(first)} with"
                + (f" the parameter {what!r}" if what else " a tensor")
                + f" that keeps {shape[first.axis]} in every mode"
            )
    writers = frozenset().union(*(state.writers for state in channels))
    return _Channels(first.axis, first.parts, writers)


def _counted(channels: _Channels) -> str:
    counts = ", ".join(map(str, channels.counts[:4]))
    return f"{counts}{', ...' if len(channels.counts) > 4 else ''} channels"


def _over_maps(walk: _Walk, node: Node) -> _State:
    """Pooling and interpolation: along the last dimensions, as many as the name says."""
    source = walk.source(node)
    name = operation(node).removesuffix("_")
    if -source.axis <= int(name[-2]):  # "max_pool2d"
        raise _RefusedError(f"the operation {name!r} runs along the channels")
    return source


def _keep(walk: _Walk, node: Node) -> _State:
    return walk.source(node)


def _prelu(walk: _Walk, node: Node) -> _State:
    if math.prod(shape_of(node.args[1])) != 1:
        raise _RefusedError("its activation has a weight for each channel")
    return walk.source(node)


def _layer_norm(walk: _Walk, node: Node) -> _State:
    source = walk.source(node)
    normalised: Any = node.args[1]
    if -source.axis <= len(normalised):
        raise _RefusedError("its layer norm is over a fixed number of channels")
    return source


def _instance_norm(walk: _Walk, node: Node) -> _State:
    if any(isinstance(each, Node) for each in node.args[1:]):
        raise _RefusedError("its instance norm has weights for each channel")
    return walk.source(node)


def _group_norm(walk: _Walk, node: Node) -> _State:
    source = walk.source(node)
    if source.axis == 1 - len(shape_of(node.args[0])):
        raise _RefusedError("its group norm is over a fixed number of channels")
    return source


# --- shapes ---------------------------------------------------------------------------------------


def _reshape(walk: _Walk, node: Node) -> _State:
    """Follow channels that stay one dimension, or take in the dimensions behind them.

    Flattening maps keeps the first channels first: every channel becomes H x W neighbours.
    """
    source = walk.source(node)
    before, after = shape_of(node.args[0]), shape_of(node)
    position = len(before) + source.axis
    leading, width = math.prod(before[:position]), before[position]
    for i, size in enumerate(after):
        if math.prod(after[:i]) == leading and size % width == 0 and size > 1:
            factor = size // width
            if math.prod(before[position + 1 :]) == factor * math.prod(after[i + 1 :]):
                parts = tuple(tuple(each * factor for each in part) for part in source.parts)
                return _Channels(i - len(after), parts, source.writers)
    raise _RefusedError(
        f"the operation {operation(node)!r} from {before} to {after} splits or mixes its channels"
    )


def _squeeze(walk: _Walk, node: Node) -> _State:
    """Follow what drops dimensions of one entry, which the channels may be at some width."""
    source, rank = walk.source(node), len(shape_of(node.args[0]))
    dims: Any = argument(node, 1, "dim")
    meant = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
    if 1 in source.counts and rank + source.axis in {dim % rank for dim in meant}:
        raise _RefusedError(
            "it drops every dimension of size 1, and at some width its only channel: name those to drop"
        )
    return _reshape(walk, node)


def _permute(walk: _Walk, node: Node) -> _State:
    source = walk.source(node)
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
    return _Channels(order.index(rank + source.axis) - rank, source.parts, source.writers)


def _reduction(walk: _Walk, node: Node) -> _State:
    source = walk.source(node)
    dims: Any = argument(node, 1, "dim")
    rank = len(shape_of(node.args[0]))
    every = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % rank for dim in every}
    position = rank + source.axis
    if position in gone:
        return None  # over the channels that are there, as a network of that width has it
    behind = 0 if len(shape_of(node)) == rank else sum(dim > position for dim in gone)
    return _Channels(source.axis + behind, source.parts, source.writers)


def _selection(walk: _Walk, node: Node) -> _State:
    """Follow `select`, `slice` and `narrow`, along other dimensions than the channels."""
    source = walk.source(node)
    before, after = shape_of(node.args[0]), shape_of(node)
    dim = argument(node, 1, "dim", 0) % len(before)
    position = len(before) + source.axis
    if operation(node) == "select":
        if dim == position:
            raise _RefusedError("it takes one of its channels by number")
        return _Channels(source.axis + (dim > position), source.parts, source.writers)
    if dim == position and before[dim] != after[dim]:
        raise _RefusedError("it takes part of its channels by number")
    return source


def _split(walk: _Walk, node: Node) -> _State:
    source = walk.source(node)
    rank = len(shape_of(node.args[0]))
    if argument(node, 2, "dim", 0) % rank == rank + source.axis:
        raise _RefusedError(f"the operation {operation(node)!r} splits its channels")
    return source


def _concatenation(walk: _Walk, node: Node) -> _State:
    """Follow parts beside each other: along the channels those of each, the first ones of every part."""
    tensors: Any = node.args[0]
    states = [walk.states.get(each) for each in tensors]
    channels = [state for state in states if isinstance(state, _Channels)]
    rank = len(shape_of(node))
    axis = argument(node, 1, "dim", 0) % rank - rank
    if all(each.axis != axis for each in channels):
        return _elementwise(walk, node)
    parts: list[Counts] = []
    for each, state in zip(tensors, states, strict=True):
        if not isinstance(state, _Channels):
            parts.append(walk.counts_of(shape_of(each)[axis]))
        elif state.axis == axis:
            parts += state.parts
        else:
            raise _RefusedError("it concatenates channels of one tensor with rows of another")
    writers = frozenset().union(*(each.writers for each in channels))
    return _Channels(axis, tuple(parts), writers)


def _rearrangement(walk: _Walk, node: Node) -> _State:
    source = walk.source(node)
    dims: Any = argument(node, 2 if operation(node) == "roll" else 1, "dims", [])
    rank = len(shape_of(node.args[0]))
    if not dims or rank + source.axis in {dim % rank for dim in dims}:
        raise _RefusedError(f"the operation {operation(node)!r} moves its channels")
    return source


def _padding(walk: _Walk, node: Node) -> _State:
    """Padded channels are as many as a layer of that size has, shared out before and behind.

    The padding itself knows one width, so the module around it has to end with it: there what is
    too many can be cut off.
    """
    source = walk.source(node)
    sizes: Any = node.args[1]  # pairs, from the last dimension backwards
    at = 2 * (-source.axis - 1)
    before, behind = (*sizes[at : at + 2], 0, 0)[:2]
    if not before and not behind:
        return source
    if len(source.parts) > 1:
        raise _RefusedError("it pads channels by number, behind a concatenation of channels")
    module = walk.graph.operations.running.get(node, "")
    ends = walk.graph.ends.get(module)
    if before < 0 or behind < 0:
        raise _RefusedError("it cuts off channels by number")
    if source.axis < -3:
        raise _RefusedError("it pads channels that have more than two dimensions behind them")
    if not module or ends is None or ends.node != node.name:
        raise _RefusedError("it pads channels by number, and more follows in the same module")
    called = [operation(n) for n, each in walk.graph.operations.running.items() if each == module]
    if called.count(operation(node)) > 1:
        raise _RefusedError("its module pads channels by number in several places")
    counts = walk.active(shape_of(node)[source.axis])
    added = [after - count for after, count in zip(counts, source.counts, strict=True)]
    first = [each * before // (before + behind) for each in added]
    cuts = (
        tuple(before - each for each in first),
        tuple(behind - (total - each) for total, each in zip(added, first, strict=True)),
    )
    if min(*added, *cuts[0], *cuts[1]) < 0:
        raise _RefusedError("it pads channels by number, and at some width by too many or too few")
    walk.paddings[module] = NarrowedPadding(source.axis, *cuts)
    return walk.result(source.axis, (counts,), source.writers)


_RULES: dict[str, Callable[[_Walk, Node], _State]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", *_TRANSPOSED, "linear"), _layer),
    "batch_norm": _batch_norm,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(OVER_MAPS, _over_maps),
    "prelu": _prelu,
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    **dict.fromkeys(("expand", "getitem"), _keep),
    **dict.fromkeys(("reshape", "view", "flatten", "unsqueeze", "unflatten"), _reshape),
    "squeeze": _squeeze,
    **dict.fromkeys(("permute", "transpose"), _permute),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduction),
    **dict.fromkeys(("select", "slice", "narrow"), _selection),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "cat": _concatenation,
    **dict.fromkeys(("roll", "flip"), _rearrangement),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padding),
}
