"""Image files in one folder for each class, in three splits."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wenable.data.splits import Splits
from wenable.images import read_image


@dataclass(frozen=True)
class ImageFiles:
    """Paths with their labels, and the names of the classes in the order of the labels."""

    samples: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def some(self, count: int, seed: int = 0) -> ImageFiles:
        """Return `count` of them at random, or all where there are not as many."""
        order = list(self.samples)
        random.Random(seed).shuffle(order)
        return ImageFiles(tuple(order[:count]), self.classes)

    def read(self, index: int) -> Any:
        """Return image `index` as a PIL image in RGB; raises `UnreadableImageError`."""
        return read_image(self.samples[index][0])


def image_folder(
    folder: str | os.PathLike[str], *, search_share: float = 0.1, seed: int = 0
) -> Splits:
    """Return the images under `folder`, which holds `train/CLASS/*` and `val` or `test` the same way.

    - `search_share`: how much of each class of `train` is set aside for choosing modes, at random;
      where the folder has both `val` and `test`, `val` is taken for that and `train` stays whole.

    Raises `FileNotFoundError` where a part is missing or holds no images, `ValueError` where the
    parts differ in their classes.
    """
    root = Path(folder)
    train = _files(root / "train")
    names = [name for name in ("val", "validation", "test") if (root / name).is_dir()]
    if not names:
        raise FileNotFoundError(f"there is no folder {root / 'val'} or {root / 'test'} to test on")
    parts = [_files(root / name) for name in names]
    for name, part in zip(names, parts, strict=True):
        if part.classes != train.classes:
            differ = sorted(set(part.classes) ^ set(train.classes))[:3]
            raise ValueError(f"{root / name} has other classes than {root / 'train'}: {differ}")
    if len(parts) > 1:
        return Splits(train, parts[0], parts[-1])
    if not 0 < search_share < 1:
        raise ValueError(f"`search_share` (={search_share}) must be between 0 and 1")
    rest, search = _set_aside(train, search_share, seed)
    return Splits(rest, search, parts[0])


def _files(folder: Path) -> ImageFiles:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; it holds one folder for each class")
    classes = tuple(sorted(each.name for each in folder.iterdir() if each.is_dir()))
    samples = tuple(
        (str(path), label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in IMG_EXTENSIONS
    )
    if not samples:
        raise FileNotFoundError(f"{folder} holds no images in folders of their classes")
    return ImageFiles(samples, classes)


def _set_aside(files: ImageFiles, share: float, seed: int) -> tuple[ImageFiles, ImageFiles]:
    """Return the rest and a random share of each class."""
    by_label: dict[int, list[tuple[str, int]]] = {}
    for sample in files.samples:
        by_label.setdefault(sample[1], []).append(sample)
    rest: list[tuple[str, int]] = []
    aside: list[tuple[str, int]] = []
    for label, samples in by_label.items():
        random.Random(f"{seed} {label}").shuffle(samples)
        count = max(1, round(share * len(samples)))
        aside += samples[:count]
        rest += samples[count:]
    return ImageFiles(tuple(rest), files.classes), ImageFiles(tuple(aside), files.classes)
