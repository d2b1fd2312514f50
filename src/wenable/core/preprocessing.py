"""How images become a network's input, and what its outputs mean: kept with its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to an image before a network sees it in evaluation, and the names of its classes.

    - `size`: height and width of the input, shape `(N, channels, size, size)`.
    - `mean`, `deviation`: of each channel, for pixels from 0 to 1: `(pixel - mean) / deviation`.
    - `shown_share`: the share of the shorter side of the image that the centre crop keeps.
    - `interpolation`: how the image is resized, `"bilinear"` or `"bicubic"`.
    - `labels`: the names of the classes, in the order of the outputs; empty where unknown.

    Raises `ValueError` for a value that is none of these.

    >>> Preprocessing(32, (0.5,), (0.25,), labels=("cat", "dog")).channels
    1
    """

    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    shown_share: float = 1.0
    interpolation: str = "bilinear"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= 65536:
            raise ValueError(f"`size` (={self.size!r}) must be a whole number from 1 to 65536")
        if not self.mean or len(self.mean) != len(self.deviation):
            raise ValueError(
                f"`mean` (={self.mean}) and `deviation` (={self.deviation}) must hold one number for"
                " each channel"
            )
        if not all(map(math.isfinite, (*self.mean, *self.deviation))) or min(self.deviation) <= 0:
            raise ValueError(
                f"`mean` (={self.mean}) must be finite and `deviation` (={self.deviation}) above 0"
            )
        if not 0 < self.shown_share <= 1:
            raise ValueError(f"`shown_share` (={self.shown_share}) must be above 0, to 1")

    @property
    def channels(self) -> int:
        """How many channels the input has."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return what `to_json` wrote; raises `ValueError` where it is not that."""
        try:
            return cls(
                size=values["size"],
                mean=tuple(float(each) for each in values["mean"]),
                deviation=tuple(float(each) for each in values["deviation"]),
                shown_share=float(values["shown_share"]),
                interpolation=str(values["interpolation"]),
                labels=tuple(str(each) for each in values["labels"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"`values` is not the JSON form of a preprocessing: {error}"
            ) from error
