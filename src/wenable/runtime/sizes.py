"""How much memory a graph takes, told before an engine is given it.

A file of a few kilobytes can ask for any size: a value tiled, and that tiled again. So the shape of
every value is worked out, and what is held at once is bounded. Shapes that depend on data cannot be,
and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from wenable.runtime.graph import Graph, Node
from wenable.runtime.shapes import Operands, Shape, shapes_made

MOST_VALUES = 2**28
"""That may be held at once for each example: 1 GiB in float32. Networks stay far below."""
_MOST_KNOWN = 4096
"""Values of a tensor up to which it is computed, since a shape may be made of it."""


def check_sizes(
    graph: Graph, tensors: Mapping[str, np.ndarray], batch: int = 1
) -> Mapping[str, Shape]:
    """Raise `ValueError` where a graph holds more than `MOST_VALUES` at once for each example.

    - `tensors`: of the bundle; they are in memory as it is and do not count.
    - `batch`: examples given at once.

    Also where an operation's size depends on data, or its operands do not fit. Returns the shape of
    every value.
    """
    shapes = value_shapes(graph, tensors, batch)
    for node, held in _held(graph, tensors, shapes):
        if node is not None and held > batch * MOST_VALUES:
            raise ValueError(
                f"its graph holds {held} values at once where {node.op} makes {node.outputs[0]!r} for"
                f" {batch} example(s); allowed: {MOST_VALUES} for each"
            )
    return shapes


def most_held(graph: Graph, tensors: Mapping[str, np.ndarray], batch: int = 1) -> int:
    """Return how many values a graph holds at once at most, those of the bundle left out.

    Raises `ValueError` where an operation's size depends on data, or its operands do not fit.
    """
    shapes = value_shapes(graph, tensors, batch)
    return max(held for _, held in _held(graph, tensors, shapes))


def _held(
    graph: Graph, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> Iterator[tuple[Node | None, int]]:
    """Yield how many values are held at the beginning, with None, and when each node has run."""
    last = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    last |= {each.name: len(graph.nodes) for each in graph.outputs}
    held = sum(math.prod(shapes[each.name]) for each in graph.inputs)
    yield None, held
    for place, node in enumerate(graph.nodes):
        held += sum(math.prod(shapes[name]) for name in node.outputs if name)
        yield node, held
        done = {name for name in node.inputs if last[name] == place and name in shapes}
        unread = {name for name in node.outputs if name and name not in last}
        held -= sum(math.prod(shapes[name]) for name in (done - set(tensors)) | unread)


def value_shapes(
    graph: Graph, tensors: Mapping[str, np.ndarray], batch: int = 1
) -> dict[str, Shape]:
    """Return the shape of every value of a graph, its inputs among them, for a number of examples.

    Raises `ValueError` for the first node whose shapes cannot be told.
    """
    shapes: dict[str, Shape] = {name: array.shape for name, array in tensors.items()}
    known: dict[str, np.ndarray] = dict(tensors)
    for each in graph.inputs:
        shapes[each.name] = (batch, *(size or 1 for size in each.shape[1:]))
    for node in graph.nodes:
        operands = Operands(
            node,
            [shapes[name] if name else None for name in node.inputs],
            [known.get(name) for name in node.inputs],
        )
        try:
            made = shapes_made(operands)
            value = _computed(operands, made[0])
        except (ValueError, IndexError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"in its graph, where {node.outputs[0]!r} is made: {error}") from error
        shapes.update({name: made[i] for i, name in enumerate(node.outputs) if name})
        if value is not None:
            known[node.outputs[0]] = value
    return shapes


def _computed(o: Operands, shape: Shape) -> np.ndarray | None:
    """Return the value of a node's first output where it is small and follows from known ones."""
    if o.node.op == "Shape":
        start, end = o.attribute("start", 0), o.attribute("end", len(o.shape()))
        return np.array(o.shape()[start:end], np.int64)
    if o.node.op == "Size":
        return np.array(math.prod(o.shape()), np.int64)
    if o.node.op not in _COMPUTE:
        return None
    given = [
        value for value, read in zip(o.values, o.shapes, strict=True)
        if read is not None and value is not None
    ]  # fmt: skip
    there = sum(read is not None for read in o.shapes)
    sizes = [math.prod(shape), *(each.size for each in given)]
    if len(given) < there or max(sizes) > _MOST_KNOWN:
        return None
    with np.errstate(all="ignore"):
        return np.asarray(_COMPUTE[o.node.op](o, given, shape))


def _cast(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    types = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
    return given[0].astype(types[o.attribute("to", 0)])


def _quotient(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    if given[0].dtype.kind == "f":
        return given[0] / given[1]
    if not given[1].all():
        raise ValueError("a division by zero")
    # Whole numbers are divided towards zero.
    quotient, rest = np.divmod(given[0], given[1])
    return quotient + ((rest != 0) & (quotient < 0))


def _modulo(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    if not given[1].all():
        raise ValueError("a division by zero")
    return (np.fmod if o.attribute("fmod", 0) else np.mod)(given[0], given[1])


def _turned(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    return given[0].transpose(o.attribute("perm", list(range(given[0].ndim))[::-1]))


def _sliced(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    x = given[0]
    axes = o.whole(3) if o.has(3) else list(range(len(o.whole(1))))
    steps = o.whole(4) if o.has(4) else [1] * len(axes)
    for start, end, axis, step in zip(o.whole(1), o.whole(2), axes, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(x.shape[axis])
        x = np.take(x, range(first, last, stride), axis)
    return x


def _gathered(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    return np.take(given[0], given[1], o.attribute("axis", 0))


def _concatenated(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    return np.concatenate(given, o.attribute("axis", 0))


def _ranged(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    start, _, step = (each.item() for each in given)
    return (start + step * np.arange(shape[0])).astype(given[0].dtype)


def _product_of(o: Operands, given: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    axes = tuple(o.whole(1)) if o.has(1) else None
    return np.prod(given[0], axis=axes, dtype=given[0].dtype).reshape(shape)


def _each(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    return lambda o, given, shape: function(*given)


def _extreme(function: Any) -> Callable[..., np.ndarray]:
    return lambda o, given, shape: reduce(function, given)  # of any number


_COMPUTE: Mapping[str, Callable[[Operands, Sequence[np.ndarray], Shape], np.ndarray]] = {
    "Abs": _each(np.abs), "Add": _each(np.add), "And": _each(np.logical_and), "Cast": _cast,
    "Ceil": _each(np.ceil), "Concat": _concatenated, "Div": _quotient, "Equal": _each(np.equal),
    "Expand": lambda o, given, shape: np.broadcast_to(given[0], shape),
    "Floor": _each(np.floor), "Gather": _gathered, "Greater": _each(np.greater),
    "GreaterOrEqual": _each(np.greater_equal), "Identity": _each(np.asarray), "Less": _each(np.less),
    "LessOrEqual": _each(np.less_equal), "Max": _extreme(np.maximum), "Min": _extreme(np.minimum),
    "Mod": _modulo, "Mul": _each(np.multiply), "Neg": _each(np.negative),
    "Not": _each(np.logical_not), "Or": _each(np.logical_or), "Range": _ranged,
    "ReduceProd": _product_of, "Reshape": lambda o, given, shape: given[0].reshape(shape),
    "Slice": _sliced, "Squeeze": lambda o, given, shape: given[0].reshape(shape),
    "Sub": _each(np.subtract), "Transpose": _turned,
    "Unsqueeze": lambda o, given, shape: given[0].reshape(shape), "Where": _each(np.where),
}  # fmt: skip
