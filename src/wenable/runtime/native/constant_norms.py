"""Batch norms that are the same in every mode, as the scales and shifts that our kernels know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from wenable.runtime.building import ModeWeights
from wenable.runtime.graph import NORM, Graph, Node

_STATISTICS = 4
_EPSILON = 1e-5
"""What ONNX takes if a node does not say."""


def with_constant_norms(graph: Graph, weights: ModeWeights) -> tuple[Graph, ModeWeights]:
    """Return a graph and a mode's weights in which norms with stored statistics are those of the mode.

    A network of a single mode has such norms, and one whose modes end at different exits.
    """
    norms = dict(weights.norms)
    nodes = [_as_scale_and_shift(node, weights.tensors, norms) for node in graph.nodes]
    return replace(graph, nodes=tuple(nodes)), replace(weights, norms=norms)


def _as_scale_and_shift(
    node: Node,
    tensors: Mapping[str, np.ndarray],
    norms: dict[str, tuple[np.ndarray, np.ndarray]],
) -> Node:
    stored = [tensors[name] for name in node.inputs[1:] if name in tensors]
    epsilon = node.attributes.get("epsilon", _EPSILON)
    known = (
        node.op == "BatchNormalization"
        and not node.attributes.get("training_mode")
        and isinstance(epsilon, int | float)
        and len(stored) == len(node.inputs) - 1 == _STATISTICS
        and {each.shape for each in stored} == {(stored[0].size,)}
    )
    if not known:  # what makes the plan refuses it by name
        return node
    gamma, beta, mean, variance = (each.astype(np.float64) for each in stored)
    with np.errstate(all="ignore"):  # a variance below 0 gives NaN, as on any engine
        scale = gamma / np.sqrt(variance + float(epsilon))  # type: ignore[arg-type]
        shift = beta - mean * scale
        name = node.outputs[0]
        norms[name] = scale.astype(np.float32), shift.astype(np.float32)
    return Node(NORM, node.inputs[:1], node.outputs[:1], layer=name)
