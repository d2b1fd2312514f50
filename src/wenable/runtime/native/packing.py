"""How the weights of a layer lie for our kernels: what a kernel reads one after the other, side by side."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

FULL_UNIT, MOST_OUTPUTS = 4, 6
"""Outputs that a kernel makes at once: four fill the registers best, up to six end a group."""
DENSE_BLOCK = 16
"""Outputs of a dense layer that are computed together."""


class PackedWeights:
    """Arrays of packed weights, each made once and kept as long as any mode reads it."""

    def __init__(self) -> None:
        # By the address of the whole weight, which may be given to another when it is gone.
        self._packed: dict[
            int, tuple[weakref.ref[np.ndarray], dict[Any, weakref.ref[np.ndarray]]]
        ] = {}

    def get(self, weight: np.ndarray, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what was made of a weight and a key, or make it."""
        whole, made = self._packed.get(id(weight), (None, {}))
        if whole is None or whole() is not weight:
            made = {}
            self._packed[id(weight)] = (weakref.ref(weight), made)
        found = made[key]() if key in made else None
        if found is None:
            found = make()
            made[key] = weakref.ref(found)
        return found


def units_of(outputs: int) -> list[tuple[int, int]]:
    """Return how the outputs of a group are taken together, as pairs of a first and a count.

    >>> units_of(4), units_of(6), units_of(11)
    ([(0, 4)], [(0, 6)], [(0, 4), (4, 4), (8, 3)])
    """
    found, first = [], 0
    while outputs - first > MOST_OUTPUTS:
        found.append((first, FULL_UNIT))
        first += FULL_UNIT
    return [*found, (first, outputs - first)]


def packed_units(weight: np.ndarray, groups: int) -> np.ndarray:
    """Return the weights of a convolution unit by unit, within it source by source, output by output.

    - `weight`: shape `(outputs, inputs / groups, rows, columns)`.
    """
    weight_gok = np.ascontiguousarray(weight, np.float32).reshape(groups, len(weight) // groups, -1)
    parts = [
        weight_gok[:, first : first + count].transpose(0, 2, 1).reshape(groups, -1)
        for first, count in units_of(weight_gok.shape[1])
    ]
    return _frozen(np.concatenate(parts, axis=1).ravel())


def packed_dense(weight_gok: np.ndarray) -> np.ndarray:
    """Return the weights of a dense layer in blocks of outputs, within them input by input.

    - `weight_gok`: shape `(groups, outputs of one, inputs of one)`.
    """
    groups, outputs, inputs = weight_gok.shape
    blocks = -(-outputs // DENSE_BLOCK)
    padded = np.zeros((groups, blocks * DENSE_BLOCK, inputs), np.float32)
    padded[:, :outputs] = weight_gok
    return _frozen(
        padded.reshape(groups, blocks, DENSE_BLOCK, inputs).transpose(0, 1, 3, 2).ravel()
    )


def packed_columns(weight: np.ndarray, columns: list[list[tuple[int, int]]]) -> np.ndarray:
    """Return the weights of a depthwise convolution channel by channel, within it column by column.

    - `weight`: shape `(channels, 1, rows, columns)`; `columns`: the places of each column.
    """
    rows, places = zip(*[place for column in columns for place in column], strict=True)
    return _frozen(np.ascontiguousarray(weight[:, 0, rows, places], np.float32).ravel())


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array, np.float32)
    array.flags.writeable = False
    return array
