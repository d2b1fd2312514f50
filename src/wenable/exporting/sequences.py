"""Sequences of tensors, as torch writes a `split` or a `chunk`, written as plain splits.

A bundle holds tensors only; and the sizes of what is split are known when a network is exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wenable.runtime.graph import Node


def without_sequences(
    nodes: Sequence[Node], tensors: dict[str, np.ndarray], shapes: Mapping[str, Sequence[int]]
) -> list[Node]:
    """Return the nodes with each `SplitToSequence` and the `SequenceAt` that read it as one `Split`.

    - `tensors`: what is constant, by name; the sizes of the parts are added to it.
    - `shapes`: those of what is computed, by name; 0 where a size is not known.

    Raises `ValueError` where the sizes of the parts, or which part is read, depend on the input.
    """
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    plain: list[Node] = []
    for node in nodes:
        if node.op == "SplitToSequence":
            plain += _split(node, readers.get(node.outputs[0], []), tensors, shapes)
        elif node.op != "SequenceAt":
            plain.append(node)
    return plain


def _split(
    node: Node,
    readers: Sequence[Node],
    tensors: dict[str, np.ndarray],
    shapes: Mapping[str, Sequence[int]],
) -> list[Node]:
    sizes = _sizes(node, tensors, shapes)
    sequence = node.outputs[0]
    parts = [f"{sequence}.{number}" for number in range(len(sizes))]
    copies = []
    for each in readers:
        number = _number(each, tensors, len(sizes))
        if parts[number].startswith(f"{sequence}."):
            parts[number] = each.outputs[0]
        else:  # the same part is read twice
            copies.append(Node("Identity", (parts[number],), each.outputs, {}))
    tensors[f"{sequence}.sizes"] = np.array(sizes, np.int64)
    inputs = (node.inputs[0], f"{sequence}.sizes")
    split = Node("Split", inputs, tuple(parts), {"axis": node.attributes.get("axis", 0)})
    return [split, *copies]


def _sizes(
    node: Node, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]]
) -> list[int]:
    axis = node.attributes.get("axis", 0)
    assert isinstance(axis, int)
    known = list(shapes.get(node.inputs[0], ()))
    whole = known[axis] if -len(known) <= axis < len(known) else 0
    asked = tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if asked is None or whole <= 0:
        raise ValueError(
            f"the network cannot be exported: the sizes into which {node.inputs[0]!r} is split depend on"
            " its input"
        )
    if asked.ndim:
        return [int(each) for each in asked]
    step = int(asked)
    return [min(step, whole - start) for start in range(0, whole, step)]


def _number(reader: Node, tensors: Mapping[str, np.ndarray], count: int) -> int:
    """Return which part of a sequence a node reads."""
    place = tensors.get(reader.inputs[1]) if reader.op == "SequenceAt" else None
    if place is None:
        raise ValueError(
            f"the network cannot be exported: {reader.op} reads a sequence of tensors, of which a bundle"
            " holds none"
        )
    return int(place) % count
