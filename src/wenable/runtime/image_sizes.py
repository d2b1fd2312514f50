"""Images made as small as a mode's graph takes them, before its engine runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wenable.core.resampling import resampled
from wenable.runtime.engine import Runner
from wenable.runtime.graph import TensorType

_IMAGE_RANK = 4


def check_inputs(full: Sequence[TensorType], own: Sequence[TensorType]) -> None:
    """Raise `ValueError` for inputs of a mode that cannot be made of those of the network.

    They have the same names and types, and the same shapes but for images `(N, C, H, W)` in floating
    point, which may be smaller in a mode.
    """
    if [(each.name, each.dtype) for each in full] != [(each.name, each.dtype) for each in own]:
        raise ValueError("its graphs have inputs of other names or types")
    for whole, part in zip(full, own, strict=True):
        if whole.shape == part.shape:
            continue
        images = len(whole.shape) == len(part.shape) == _IMAGE_RANK and whole.dtype == "float32"
        sides = [*whole.shape[2:], *part.shape[2:]]
        if not images or whole.shape[:2] != part.shape[:2] or None in sides or not _smaller(sides):
            raise ValueError(
                f"a graph has the input {part.name!r} of shape {part.shape}, which is no smaller image of"
                f" {whole.shape}"
            )


def check_other_size(first: Sequence[TensorType], other: Sequence[TensorType]) -> None:
    """Raise `ValueError` for inputs that differ from the network's in more than the size of images."""
    alike = [(each.name, each.dtype) for each in first] == [
        (each.name, each.dtype) for each in other
    ]
    pairs = zip(first, other, strict=True) if alike else ()
    if not alike or not all(
        one.shape == two.shape
        or (len(one.shape) == len(two.shape) == _IMAGE_RANK and one.shape[:2] == two.shape[:2]
            and one.dtype == "float32")
        for one, two in pairs
    ):  # fmt: skip
        raise ValueError("a size of images has inputs that differ in more than height and width")


def _smaller(sides: Sequence[int | None]) -> bool:
    height, width, own_height, own_width = (side or 0 for side in sides)
    return own_height <= height and own_width <= width


def with_smaller_images(
    runner: Runner, full: Sequence[TensorType], own: Sequence[TensorType]
) -> Runner:
    """Return a runner that takes the network's images for a mode with smaller ones; else the same."""
    sides = {
        part.name: (part.shape[2], part.shape[3])
        for whole, part in zip(full, own, strict=True)
        if whole.shape != part.shape
    }
    return _SmallerImages(runner, sides) if sides else runner


class _SmallerImages:
    """A runner that makes images smaller first; those that have the mode's size go straight in."""

    def __init__(self, runner: Runner, sides: Mapping[str, tuple[int | None, ...]]) -> None:
        self._runner, self._sides = runner, sides

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for these inputs, by name."""
        return self._runner(self._sized(inputs))

    def run_and_shrink(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the same, and keep no more memory afterwards than before."""
        return self._runner.run_and_shrink(self._sized(inputs))

    def _sized(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: self._smaller(name, array) for name, array in inputs.items()}

    def _smaller(self, name: str, images: np.ndarray) -> np.ndarray:
        wanted = self._sides.get(name)
        if wanted is None or images.shape[2:] == wanted:
            return images
        height, width = wanted
        assert height is not None
        assert width is not None
        return np.ascontiguousarray(resampled(images, height, width))
