"""The inputs of `wenable run`: files, folders, patterns and standard input, as arrays."""

from __future__ import annotations

import glob
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wenable.core.preprocessing import Preprocessing
from wenable.images.finding import SUFFIXES, find_images
from wenable.runtime import prepare_image

_ARRAY = b"\x93NUMPY"  # how a .npy file begins
STDIN = Path("-")


@dataclass(frozen=True)
class Named:
    """One input: what it is called, and its file; None for standard input."""

    name: str
    path: Path | None

    def read(self, preprocessing: Preprocessing | None) -> np.ndarray:
        """Return it as an array with a batch dimension, an image prepared as the bundle says.

        Raises `OSError` or `ValueError`, with its name.
        """
        if self.path is None:
            data = sys.stdin.buffer.read()
            is_array, file = data.startswith(_ARRAY), io.BytesIO(data)
        else:
            is_array, file = self.path.suffix == ".npy", self.path
        if is_array:
            try:
                array = np.load(file, allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise ValueError(f"the array {self.name} cannot be read: {error}") from error
            if not isinstance(array, np.ndarray):
                raise ValueError(f"the array {self.name} cannot be read: it holds several arrays")
            if not array.ndim:
                raise ValueError(f"the array {self.name} is a single value, without a batch")
            return array
        if preprocessing is None:
            raise ValueError(
                f"{self.name}: the bundle does not say how images are prepared; pass a .npy array"
                " instead"
            )
        return prepare_image(file, preprocessing, name=self.name)


def named_inputs(given: Sequence[Path]) -> list[Named]:
    """Return every input that is meant, in order: what lies in folders and fits patterns, too.

    A file that does not exist is kept: it is refused when it is read, and the others are not lost.

    Raises `ValueError` where a folder holds nothing to run on, no file fits a pattern, or standard
    input is asked for twice.
    """
    if given.count(STDIN) > 1:
        raise ValueError("standard input (-) was named twice; it can be read once")
    return [each for path in given for each in _meant(path)]


def _meant(path: Path) -> Iterator[Named]:
    if path == STDIN:
        yield Named("standard input", None)
    elif path.is_dir():
        found = find_images(path, suffixes=SUFFIXES | {".npy"})
        if not found.images:
            raise ValueError(f"the folder {path} holds no images and no .npy arrays")
        yield from (Named(each, Path(each)) for each in found.images)
    elif not path.exists() and glob.has_magic(str(path)):
        fits = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (keeps absolute paths)
        if not fits:
            raise ValueError(f"no file fits the pattern {path}")
        for each in fits:
            yield from _meant(Path(each))
    else:
        yield Named(str(path), path)
