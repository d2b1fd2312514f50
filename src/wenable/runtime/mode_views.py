"""A mode from what all modes share: its graph with its own groups, its weights cut from the whole ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from wenable.core.entries import Entries
from wenable.core.views import View
from wenable.runtime.graph import Graph, Node


def in_mode(graph: Graph, views: Mapping[str, View]) -> Graph:
    """Return a graph in which each convolution has as many groups as the view of its weight says."""
    groups = {name: view.groups for name, view in views.items() if view.groups is not None}
    if not groups:
        return graph
    return replace(graph, nodes=tuple(_grouped(node, groups) for node in graph.nodes))


def _grouped(node: Node, groups: Mapping[str, int]) -> Node:
    convolves = node.op in ("Conv", "ConvTranspose") and len(node.inputs) > 1
    weight = node.inputs[1] if convolves else ""
    if weight not in groups:
        return node
    return replace(node, attributes={**node.attributes, "group": groups[weight]})


class CutTensors:
    """The tensors of a bundle, cut as modes want them; what several modes cut alike is one array.

    Parts that lie together are views of the whole. Others are copies, made when a mode is first built
    and kept from then on: our kernels know by the array whether modes share it.

    - `whole`: the tensors as they are stored, by name.
    """

    def __init__(self, whole: Mapping[str, np.ndarray]) -> None:
        self._whole = whole
        self._cut: dict[tuple[str, Entries | None, Entries | None], np.ndarray] = {}

    def of(self, views: Mapping[str, View]) -> Mapping[str, np.ndarray]:
        """Return the tensors of a mode.

        Raises `ValueError` for a view of a tensor that is not there, or that leaves it.
        """
        return self._each(views, self._one)

    def sized(self, views: Mapping[str, View]) -> Mapping[str, np.ndarray]:
        """Return tensors of the shapes of a mode's, whose values may be others: nothing is copied.

        Raises `ValueError` as `of` does.
        """
        return self._each(views, lambda name, view: view.sized(self._whole[name]))

    def _each(
        self, views: Mapping[str, View], cut: Callable[[str, View], np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        found = dict(self._whole)
        for name, view in views.items():
            if name not in self._whole:
                raise ValueError(f"it lacks the tensor {name!r:.100}, of which a mode has a view")
            try:
                found[name] = cut(name, view)
            except ValueError as error:
                raise ValueError(f"the view of {name!r}: {error}") from error
        return found

    def _one(self, name: str, view: View) -> np.ndarray:
        key = (name, view.rows, view.columns)
        if key not in self._cut:
            self._cut[key] = view.cut(self._whole[name])
        return self._cut[key]
