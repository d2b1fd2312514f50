"""Gives the outputs of a graph the names that the network has for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from wenable.runtime.graph import Graph, Node


def with_outputs_named(graph: Graph, names: Sequence[str], taken: Collection[str]) -> Graph:
    """Return a graph with its outputs named anew, in order.

    An output with the name of an input or a tensor gets `_out` behind it; a value inside the graph
    gives way. An output that is an input, a tensor or another output besides is copied.

    - `taken`: the names of its tensors.
    """
    made = {name for node in graph.nodes for name in node.outputs}
    used = {*(each.name for each in graph.inputs), *taken}
    new: dict[str, str] = {}
    copies: list[Node] = []
    final: list[str] = []
    for value, wanted in zip((each.name for each in graph.outputs), names, strict=True):
        name = unlike(wanted, "_out", used)
        used.add(name)
        final.append(name)
        if value in made and value not in new:
            new[value] = name
        else:
            copies.append(Node("Identity", (new.get(value, value),), (name,)))
    for value in sorted(made.intersection(final) - set(new)):
        new[value] = unlike(f"{value}_inside", "_", used | made)
    nodes = (
        replace(
            node,
            inputs=tuple(new.get(name, name) for name in node.inputs),
            outputs=tuple(new.get(name, name) for name in node.outputs),
        )
        for node in graph.nodes
    )
    outputs = zip(graph.outputs, final, strict=True)
    return replace(
        graph,
        nodes=(*nodes, *copies),
        outputs=tuple(replace(each, name=name) for each, name in outputs),
    )


def unlike(name: str, suffix: str, used: Collection[str]) -> str:
    """Return a name with the suffix behind it until it is none of those used."""
    while name in used:
        name += suffix
    return name
