"""Differences between two networks on the same images, with their intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z = 1.959964


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of one network's accuracy less another's, with a 95 % interval over the images.

    Networks trained from other seeds differ besides.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def paired_difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Difference:
    """Return the difference of the mean accuracies of two sets of modes on the same images.

    - `ours`, `theirs`: which images each has right, shape `(modes, images)`.

    Each image counts with how much better one side's modes do on it; so what makes an image hard for both
    widens no interval.

    >>> paired_difference(np.array([[True, True, False]]), np.array([[True, False, False]])).value
    0.3333333333333333
    """
    of_image = ours.mean(0) - theirs.mean(0)
    value = float(of_image.mean())
    half = Z * float(of_image.std(ddof=1)) / np.sqrt(len(of_image))
    return Difference(value, value - half, value + half)
