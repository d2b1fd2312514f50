"""Image files in one folder for each class, in three splits."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from wenable.data.splits import Splits
from wenable.images import find_images, read_image
from wenable.images.finding import FileId, is_hidden

# What people call the folders of the splits, in upper or lower case.
_TRAIN = ("train", "training")
_SEARCH = ("val", "validation", "valid", "dev", "eval")
_TEST = ("test", "testing")


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


@dataclass(frozen=True)
class FolderSplits(Splits):
    """The splits of a folder of images, of `ImageFiles` each.

    - `sources`: from which folder each of them comes, in words.
    - `left_out`: how many files and folders were left out, for which reason.
    """

    sources: tuple[str, str, str]
    left_out: Counter[str]


@dataclass(frozen=True)
class _Part:
    """What lies in the folder of one split: the images of each class, and which files they are."""

    folder: Path
    by_class: dict[str, tuple[str, ...]]
    file_of: dict[str, FileId]
    left_out: Counter[str]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for name, images in self.by_class.items() if images)

    def files(self, classes: tuple[str, ...]) -> ImageFiles:
        samples = ((path, label) for label, name in enumerate(classes)
                   for path in self.by_class.get(name, ()))  # fmt: skip
        return ImageFiles(tuple(samples), classes)


def image_folder(
    folder: str | os.PathLike[str], *, search_share: float = 0.1, seed: int = 0
) -> FolderSplits:
    """Return the images under `folder`, which holds `train/CLASS/*` and `val` or `test` the same way.

    - `search_share`: how much of each class of `train` is set aside for choosing modes, at random,
      at least one image of each class that has several, and never all of them; where the folder has
      both `val` and `test`, `val` is taken for that and `train` stays whole. Links to one file, symbolic
      and hard ones, stay together, and a file in several classes stays in `train`.

    `train` may be called `training`; `val` may be `validation`, `valid`, `dev` or `eval`; `test` may be
    `testing`; all of them in any case. Links are followed. What is hidden, as `.ipynb_checkpoints`,
    and a folder without images is no class; `left_out` of the result counts what was left out.

    Raises `FileNotFoundError` when a part is missing or holds no images; `ValueError` when a class
    of another part has no training image, when two folders could be the same part, and when two parts
    hold the same file, be it through links.
    """
    if not 0 < search_share < 1:
        raise ValueError(f"`search_share` (={search_share}) must be between 0 and 1")
    root = Path(folder)
    train_folder, search_folder, test_folder = (
        _folder_of(root, names) for names in (_TRAIN, _SEARCH, _TEST)
    )
    if train_folder is None:
        raise FileNotFoundError(
            f"there is no folder {root / 'train'}; it holds one folder for each class"
        )
    if search_folder is None and test_folder is None:
        raise FileNotFoundError(f"there is no folder {root / 'val'} or {root / 'test'} to test on")
    found = [each for each in (train_folder, search_folder, test_folder) if each is not None]
    train, *others = parts = [_part(each) for each in found]
    for part in others:
        _check_classes(part, train)
    _check_apart(parts)
    left_out = sum((part.left_out for part in parts), Counter())
    learnt, *files = [part.files(train.classes) for part in parts]
    names = [each.name for each in found]
    if len(parts) == 3:
        search, test = files
        return FolderSplits(learnt, search, test, (names[0], names[1], names[2]), left_out)
    rest, search = _set_aside(learnt, train.file_of, search_share, seed)
    if not len(search):
        raise ValueError(
            f"{train_folder} has one image of each class, so none can be set aside for the search (links to"
            " one file are one image, and what is in several classes stays for training): add images, or a"
            f" folder {root / 'val'} besides {root / 'test'}"
        )
    sources = (names[0], f"set aside from {names[0]}", names[1])
    return FolderSplits(rest, search, files[0], sources, left_out)


def _folder_of(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the folder of a split, whatever of its names it has."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    fit = sorted(each for each in root.iterdir() if each.name.lower() in names and each.is_dir())
    if len(fit) > 1:
        raise ValueError(
            f"{root} has the folders {', '.join(each.name for each in fit)} for one and the same"
            " split; leave one of them there"
        )
    return fit[0] if fit else None


def _part(folder: Path) -> _Part:
    """Return what lies in a split's folder; an empty class stays in `by_class`, without images."""
    by_class, file_of, left_out = {}, {}, Counter[str]()
    for each in sorted(folder.iterdir()):
        if is_hidden(each.name):
            left_out["hidden"] += 1
        elif not each.is_dir():
            left_out["in no folder of a class"] += 1
        else:
            found = find_images(each)
            by_class[each.name] = found.images
            file_of |= dict(zip(found.images, found.files, strict=True))
            left_out += found.left_out
            if not found.images:
                left_out[f"the folder {folder.name}/{each.name}: no images"] += 1
    if not file_of:
        raise FileNotFoundError(f"{folder} holds no images in folders of their classes")
    return _Part(folder, by_class, file_of, left_out)


def _check_classes(part: _Part, train: _Part) -> None:
    untaught = sorted(set(part.classes) - set(train.classes))
    if untaught:
        more = ", ..." if untaught[3:] else ""
        raise ValueError(
            f"{part.folder} has images of {', '.join(untaught[:3])}{more}, of which {train.folder}"
            " has none; every class needs at least one training image"
        )


def _check_apart(parts: list[_Part]) -> None:
    """Raise `ValueError` when one file is in two splits: links make that easy."""
    paths_of = [{file: path for path, file in part.file_of.items()} for part in parts]
    for (one, paths), (other, others) in combinations(zip(parts, paths_of, strict=True), 2):
        both = sorted((path, others[file]) for file, path in paths.items() if file in others)
        if both:
            raise ValueError(
                f"{both[0][0]} and {both[0][1]} are one file, as are {len(both)} of {one.folder.name} and"
                f" {other.folder.name} in all; the splits must not share images"
            )


def _set_aside(
    files: ImageFiles, file_of: dict[str, FileId], share: float, seed: int
) -> tuple[ImageFiles, ImageFiles]:
    """Return the rest and a random share of each class, of which one image at least is left.

    Links to one file stay together. A file in several classes is never set aside: one of them might
    have no other.
    """
    by_label: dict[int, dict[FileId, list[tuple[str, int]]]] = {}
    for sample in files.samples:
        by_label.setdefault(sample[1], {}).setdefault(file_of[sample[0]], []).append(sample)
    classes_of = Counter(file for samples_of in by_label.values() for file in samples_of)
    rest: list[tuple[str, int]] = []
    aside: list[tuple[str, int]] = []
    for label, samples_of in by_label.items():
        order = list(samples_of)
        random.Random(f"{seed} {label}").shuffle(order)
        count = min(len(order) - 1, max(1, round(share * len(order))))
        chosen = set([file for file in order if classes_of[file] == 1][:count])
        for file in order:
            (aside if file in chosen else rest).extend(samples_of[file])
    return ImageFiles(tuple(rest), files.classes), ImageFiles(tuple(aside), files.classes)
