"""Which whole numbers an input may hold that are places in a table, as tokens are in an embedding.

Engines differ beyond its ends: ONNX Runtime refuses, OpenVINO answers as if the row were zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wenable.runtime.graph import Graph

_SAME_NUMBERS = ("Cast", "Identity", "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Transpose")


def index_limits(graph: Graph, tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the rows of the smallest table that each input chooses from, by its name.

    - `tensors`: the constants of the graph. Inputs that are no indices, or of what is computed, are not
      in the answer.
    """
    origin = {each.name: each.name for each in graph.inputs if np.dtype(each.dtype).kind in "iu"}
    rows: dict[str, int] = {}
    for node in graph.nodes:
        if node.op in _SAME_NUMBERS and node.inputs[0] in origin:
            origin[node.outputs[0]] = origin[node.inputs[0]]
        elif node.op == "Gather" and node.inputs[0] in tensors and node.inputs[1] in origin:
            axis = node.attributes.get("axis", 0)
            assert isinstance(axis, int)
            name, count = origin[node.inputs[1]], tensors[node.inputs[0]].shape[axis]
            rows[name] = min(rows.get(name, count), count)
    return rows


def outside(array: np.ndarray, rows: int) -> int | None:
    """Return a number of an array that is no row, counted from either end; None if all are.

    >>> outside(np.array([0, 9, -10]), 10), outside(np.array([3, 10]), 10)
    (None, 10)
    """
    least, most = int(array.min(initial=0)), int(array.max(initial=0))
    if most >= rows:
        return most
    return least if least < -rows else None
