"""How images are made smaller: one definition, for training, for devices and for graphs. No torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


@functools.lru_cache(maxsize=64)
def resampling_weights(before: int, after: int) -> NDArray[np.float32]:
    """Return the matrix that makes one side of an image smaller, shape `(after, before)`.

    Row i holds how much each of the old pixels counts in the new pixel i: a triangle around the new
    pixel's middle that reaches as far as to the middles of its neighbours, so that nothing between
    two new pixels is left out (antialiased bilinear). Each row adds up to 1. An image x of shape
    `(..., H, W)` becomes `weights(H, h) @ x @ weights(W, w).T`; there is no other rule at the edges.

    The figures are computed in float64 and rounded once. The array is shared, and cannot be written.

    - `before`: the side's pixels; `after`: how many there shall be, at most as many.

    Raises `ValueError` for a side below 1, and for more pixels than before.

    >>> resampling_weights(4, 2).astype(float).round(4).tolist()
    [[0.4286, 0.4286, 0.1429, 0.0], [0.0, 0.1429, 0.4286, 0.4286]]

    Source: what `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` and Pillow do.
    """
    if not 1 <= after <= before:
        raise ValueError(
            f"`after` (={after}) must be from 1 to `before` (={before}): images are made smaller only"
        )
    ratio = before / after
    old = np.arange(before) + 0.5
    new = (np.arange(after) + 0.5) * ratio
    weights = np.maximum(0.0, 1.0 - np.abs(old - new[:, None]) / ratio)
    rounded = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    rounded.flags.writeable = False
    return rounded


def resampled(images: NDArray[np.floating], height: int, width: int) -> NDArray[np.floating]:
    """Return images `(..., H, W)` made smaller to `(..., height, width)`, in their own type.

    Nothing but this thread computes. Raises `ValueError` for a size above the image's.

    >>> resampled(np.arange(16.0).reshape(1, 1, 4, 4), 2, 2).round(3).tolist()
    [[[[3.571, 5.143], [9.857, 11.429]]]]
    """
    lower = np.empty((*images.shape[:-2], height, images.shape[-1]), images.dtype)
    for new, old, weights in _bands(images.shape[-2], height, images.dtype):
        for part in _parts(images.shape[-1], weights):
            np.matmul(weights, images[..., old, part], out=lower[..., new, part])
    smaller = np.empty((*lower.shape[:-1], width), images.dtype)
    for new, old, weights in _bands(images.shape[-1], width, images.dtype):
        for part in _parts(height, weights):
            np.matmul(lower[..., part, old], weights.T, out=smaller[..., part, new])
    return smaller


_BAND = 8
"""New pixels that are computed together."""
_MOST_PRODUCTS = 100_000
"""In one call: numpy's BLAS (OpenBLAS) shares out what has more than 262,144 among threads."""


def _parts(length: int, weights: NDArray[np.floating]) -> Iterator[slice]:
    """Yield parts of the other side, each small enough for one thread."""
    step = max(_MOST_PRODUCTS // weights.size, 1)
    return (slice(start, start + step) for start in range(0, length, step))


@functools.lru_cache(maxsize=64)
def _bands(
    before: int, after: int, dtype: np.dtype[np.floating]
) -> tuple[tuple[slice, slice, NDArray[np.floating]], ...]:
    """Return some new pixels at a time: which, what old ones they are made of, and the weights between.

    A whole matrix is nearly all zeros, and its product large enough for the threads of numpy's BLAS,
    which then go on turning beside the engine's, waiting for more.
    """
    matrix = resampling_weights(before, after).astype(dtype)
    bands = []
    for start in range(0, after, _BAND):
        new = slice(start, min(start + _BAND, after))
        (used,) = np.nonzero(matrix[new].any(0))
        old = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((new, old, np.ascontiguousarray(matrix[new, old])))
    return tuple(bands)
