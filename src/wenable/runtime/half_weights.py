"""Weights of a bundle in half the bytes: float16 or bfloat16 in the file, float32 for whoever reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

HALVES = {"float16": "F16", "bfloat16": "BF16"}
"""The types that weights may have in a file besides float32, and safetensors' names of them."""


def halved(array: np.ndarray, kind: str) -> np.ndarray:
    """Return an array of float32 as it stands in a file: float16, or the bits of bfloat16 as uint16.

    Raises `ValueError` for numbers that the type has not: nothing is rounded here.

    >>> halved(np.array([1.0, -2.0], np.float32), "bfloat16").tolist() == [0x3F80, 0xC000]
    True
    """
    if kind == "float16":
        with np.errstate(over="ignore"):
            stored = array.astype(np.float16)
    else:
        stored = (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
        stored = stored.reshape(array.shape)
    if not np.array_equal(widened(stored, kind), array):
        raise ValueError(f"weights were to be stored as {kind}, which has not all of their numbers")
    return stored


def widened(stored: np.ndarray, kind: str) -> np.ndarray:
    """Return in float32 what `halved` made.

    >>> widened(np.array([0x3F80], np.uint16), "bfloat16").tolist()
    [1.0]
    """
    if kind == "float16":
        return stored.astype(np.float32)
    return (stored.astype(np.uint32) << 16).view(np.float32)


def read_halves(values: Any) -> Mapping[str, str]:
    """Return tensor -> its type, as a manifest has them; raises `ValueError` for anything else."""
    known = type(values) is dict and all(
        name.startswith("weights.") and kind in HALVES for name, kind in values.items()
    )
    if not known:
        raise ValueError(f"`halves` (={values!r:.100}) must be names of weights, each with a type")
    return values
