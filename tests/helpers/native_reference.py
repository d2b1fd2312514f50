"""Slow references for our kernels, and small graphs that run on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wenable.runtime.building import ModeWeights
from wenable.runtime.graph import Graph, Node, TensorType

ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 0.5 * (1 + np.tanh(x / 2)),
    "HardSigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Gelu": lambda x: 0.5 * x * (1 + _error_function(x / np.sqrt(2))),
    "Tanh": np.tanh,
}


def _error_function(x: np.ndarray) -> np.ndarray:
    from math import erf

    return np.vectorize(erf)(x)


def padded(x: np.ndarray, pads: Sequence[int], fill: float) -> np.ndarray:
    top, left, bottom, right = pads
    wide = [(0, 0), (0, 0), (top, bottom), (left, right)]
    return np.pad(x.astype(np.float64), wide, constant_values=fill)


def reference_convolution(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, attributes: Mapping[str, Any]
) -> np.ndarray:
    """A convolution, place of the window by place, group by group."""
    groups, (kernel_rows, kernel_columns) = attributes["group"], weight.shape[2:]
    down, across = attributes.get("strides", [1, 1])
    spread_rows, spread_columns = attributes.get("dilations", [1, 1])
    wide = padded(x, attributes.get("pads", [0, 0, 0, 0]), 0)
    rows = (wide.shape[2] - spread_rows * (kernel_rows - 1) - 1) // down + 1
    columns = (wide.shape[3] - spread_columns * (kernel_columns - 1) - 1) // across + 1
    inputs, outputs = weight.shape[1], len(weight) // groups
    made = np.zeros((len(x), len(weight), rows, columns)) + bias[:, None, None]
    for group in range(groups):
        read = slice(group * inputs, (group + 1) * inputs)
        wrote = slice(group * outputs, (group + 1) * outputs)
        for row in range(kernel_rows):
            for column in range(kernel_columns):
                top, left = row * spread_rows, column * spread_columns
                seen = wide[
                    :, read, top : top + down * rows : down, left : left + across * columns : across
                ]
                seen = seen[:, :, :rows, :columns]
                made[:, wrote] += np.einsum("oi,nihw->nohw", weight[wrote, :, row, column], seen)
    return made


def reference_pool(kind: str, x: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Pooling, window by window."""
    (kernel_rows, kernel_columns), (down, across) = (
        attributes["kernel_shape"],
        attributes["strides"],
    )
    pads = attributes["pads"]
    wide = padded(x, pads, -np.inf if kind == "MaxPool" else 0)
    ones = padded(np.ones_like(x), pads, attributes.get("count_include_pad", 0))
    rows = (wide.shape[2] - kernel_rows) // down + 1
    columns = (wide.shape[3] - kernel_columns) // across + 1
    made = np.zeros((*x.shape[:2], rows, columns))
    for row in range(rows):
        for column in range(columns):
            place = (
                ..., slice(row * down, row * down + kernel_rows),
                slice(column * across, column * across + kernel_columns),
            )  # fmt: skip
            if kind == "MaxPool":
                made[..., row, column] = wide[place].max((2, 3))
            else:
                made[..., row, column] = wide[place].sum((2, 3)) / ones[place].sum((2, 3))
    return made


def network_of(
    nodes: Sequence[tuple[str, list[str], str, Mapping[str, Any]]],
    inputs: Mapping[str, np.ndarray],
    tensors: Mapping[str, np.ndarray],
    outputs: Mapping[str, Sequence[int]],
) -> Callable[[Any], list[np.ndarray]]:
    """A graph of ONNX's operations, as a call with an engine that prepares modes."""
    graph = Graph(
        tuple(TensorType(name, "float32", (None, *x.shape[1:])) for name, x in inputs.items()),
        tuple(TensorType(name, "float32", (None, *shape[1:])) for name, shape in outputs.items()),
        tuple(
            Node(op, tuple(read), (made,), dict(attributes)) for op, read, made, attributes in nodes
        ),
        20,
    )
    weights = ModeWeights({}, dict(tensors), {})
    return lambda engine: engine.plan(graph, {}, weights).runner(inputs)
