"""Data sets by name that need no download and are held in memory: digits, and scenes made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from wenable.data import Splits, digits, middle_digits


@dataclass(frozen=True)
class InMemory:
    """How a data set is made and gone through.

    - `make`: returns its three splits.
    - `classes`: how many there are; `side`: of an image, in pixels.
    - `calibration`: how many of the first training images a mode is calibrated on. A search does it some
      hundred times.
    """

    make: Callable[[], Splits]
    classes: int
    side: int
    calibration: int


IN_MEMORY = {
    # On maps of 8x8 to 2x2, 128 images are 512 values a channel at least.
    "digits": InMemory(digits, 10, 8, calibration=128),
    "scenes": InMemory(partial(middle_digits, 8000, 1000, 6000), 10, 24, calibration=512),
}
