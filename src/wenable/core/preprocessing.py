"""How images become a network's input, and what its outputs mean: kept with its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wenable.core.renamed import answer_renamed, with_present_names

RENAMED = {"deviation": "std", "shown_share": "crop_pct"}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to an image before a network sees it in evaluation, and the names of its classes.

    - `size`: height and width of the input, shape `(N, channels, size, size)`.
    - `mean`, `std`: of each channel, for pixels from 0 to 1: `(pixel - mean) / std`.
    - `crop_pct`: the share of the shorter side of the image that the centre crop keeps.
    - `interpolation`: how the image is resized, `"bilinear"` or `"bicubic"`.
    - `labels`: the names of the classes, in the order of the outputs; empty where unknown.

    Raises `ValueError` for a value that is none of these.

    >>> Preprocessing(32, (0.5,), (0.25,), labels=("cat", "dog")).channels
    1
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    interpolation: str = "bilinear"
    labels: tuple[str, ...] = ()

    def __new__(cls, *_: Any, **given: Any) -> Preprocessing:
        """Answer former names with the present ones."""
        answer_renamed("Preprocessing", given, RENAMED)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= 65536:
            raise ValueError(f"`size` (={self.size!r}) must be a whole number from 1 to 65536")
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"`mean` (={self.mean}) and `std` (={self.std}) must hold one number for"
                " each channel"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(
                f"`mean` (={self.mean}) must be finite and `std` (={self.std}) above 0"
            )
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"`crop_pct` (={self.crop_pct}) must be above 0, to 1")

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
        values = with_present_names(values, RENAMED)
        try:
            return cls(
                size=values["size"],
                mean=tuple(float(each) for each in values["mean"]),
                std=tuple(float(each) for each in values["std"]),
                crop_pct=float(values["crop_pct"]),
                interpolation=str(values["interpolation"]),
                labels=tuple(str(each) for each in values["labels"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"`values` is not the JSON form of a preprocessing: {error}"
            ) from error
