"""Images with boxes, from a folder and a file of annotations in COCO's format."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from wenable.data.transforms import IMAGENET_DEVIATION, IMAGENET_MEAN
from wenable.images import read_image
from wenable.images.reading import image_orientation

Target = dict[str, torch.Tensor]
Example = tuple[torch.Tensor, Target]


class CocoImages(Dataset[Example]):
    """Images of a folder with their boxes, all of one size; made by `coco_folder`.

    An example is an image `(3, side, side)` of float32, and a dict: `boxes`, `(K, 4)`, left, top, right
    and bottom in pixels of that image, float32; `labels`, `(K,)`, places in `classes`.

    - `paths`: of the images, in the order of the file.
    - `classes`: the names of the categories, by their number in the file.
    - `left_out`: how many annotations were left out, for which reason.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        boxes: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
        classes: tuple[str, ...],
        side: int,
        left_out: Counter[str],
        told_sizes: Sequence[tuple[int, int] | None],
    ) -> None:
        self.paths, self.classes, self.side = tuple(paths), classes, side
        self.left_out, self._boxes, self._labels = left_out, boxes, labels
        self._told_sizes = told_sizes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        """Return an example.

        Raises `UnreadableImageError` for a damaged file, and `ValueError` where boxes would lie in the
        wrong place, or could: where its sides are to each other otherwise than the annotations say, and
        where it is turned when it is read (EXIF) and its sides do not tell on which of the two its boxes
        were drawn.
        """
        path, told = self.paths[index], self._told_sizes[index]
        image = read_image(path)
        shrunk = _shrunk(image.size, told or image.size, path)
        if len(self._boxes[index]):
            _check_turn(image.size, told, path)
        scale = self.side / max(image.size)
        width, height = (max(1, round(scale * each)) for each in image.size)
        pixels = np.asarray(image.resize((width, height), resample=2), np.float32) / 255  # bilinear
        # What is beside the image is 0, the mean: a detector has nothing to find there.
        canvas = np.zeros((self.side, self.side, 3), np.float32)
        canvas[:height, :width] = (pixels - IMAGENET_MEAN) / IMAGENET_DEVIATION
        target = {"boxes": scale * shrunk * self._boxes[index], "labels": self._labels[index]}
        return torch.from_numpy(canvas.transpose(2, 0, 1).copy()), target


def _shrunk(size: tuple[int, int], told: tuple[int, int], path: Path) -> float:
    """Return how much smaller an image is than its annotations say; they may be of the original."""
    if not _alike(size, told):
        raise ValueError(
            f"{path} has {size[0]} x {size[1]} pixels, upright, and its annotations are of {told[0]} x"
            f" {told[1]}: it was cut, or is turned when it is read (EXIF)"
        )
    return max(size) / max(told)


def _check_turn(size: tuple[int, int], told: tuple[int, int] | None, path: Path) -> None:
    """Raise `ValueError` where boxes may have been drawn on the image as it is stored, and it is turned."""
    turn = image_orientation(path)
    stored = (size[1], size[0]) if turn >= 5 else size  # quarter turns
    if turn != 1 and (told is None or _alike(stored, told)):
        raise ValueError(
            f"{path} is turned when it is read (EXIF orientation {turn}), and its sides do not tell whether"
            " its boxes were drawn on it upright or as it is stored: store it upright, without that entry"
        )


def _alike(size: tuple[int, int], told: tuple[int, int]) -> bool:
    """Say whether sides are to each other as they are told, to a pixel."""
    factor = max(size) / max(told)
    return all(abs(side - factor * of_told) <= 1 for side, of_told in zip(size, told, strict=True))


def coco_folder(
    images: str | os.PathLike[str], annotations: str | os.PathLike[str], *, side: int
) -> CocoImages:
    """Return the images of a folder with the boxes that a file in COCO's format tells.

    - `images`: the folder of the image files, as `val2017`.
    - `annotations`: the file of their boxes, as `instances_val2017.json`.
    - `side`: of the square that images are made: the longer side is scaled to it, and the rest is
      filled with the mean colour, which is 0 after the usual normalisation (ImageNet's).

    Groups (`iscrowd`) and boxes without an area are left out; `left_out` of the result counts them.
    An image without boxes stays.

    Raises `FileNotFoundError` for a file or folder that is not there, an image among them;
    `ValueError` for a file that is not in COCO's format, and a `side` below 1.
    """
    if type(side) is not int or side < 1:
        raise ValueError(f"`side` (={side!r}) must be a whole number of pixels, at least 1")
    folder, file = Path(images), Path(annotations)
    if not folder.is_dir():
        raise FileNotFoundError(f"`images` (={folder}) is no folder")
    known = _read(file)
    names = _by_id(known["categories"], "category", file, "name")
    files = _by_id(known["images"], "image", file, "file_name")
    places = {number: place for place, number in enumerate(sorted(names))}
    boxes: dict[Any, list[list[float]]] = {number: [] for number in files}
    labels: dict[Any, list[int]] = {number: [] for number in files}
    left_out: Counter[str] = Counter()
    for each in known["annotations"]:
        number, category, box = _annotation(each, file)
        for kind, given, allowed in (("image", number, files), ("category", category, places)):
            if type(given) is not int or given not in allowed:
                raise ValueError(f"{file}: an annotation is of {kind} {given!r}, which it has not")
        if each.get("iscrowd"):
            left_out["a group of objects"] += 1
        elif not min(box[2:]) > 0:
            left_out["a box without an area"] += 1
        else:
            left, top, width, height = box
            boxes[number].append([left, top, left + width, top + height])
            labels[number].append(places[category])
    paths = [folder / name for name in files.values()]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images of {file.name} are not there, the first: {missing[0]}"
        )
    return CocoImages(
        paths,
        [torch.tensor(each).view(-1, 4) for each in boxes.values()],
        [torch.tensor(each, dtype=torch.long) for each in labels.values()],
        tuple(names[number] for number in sorted(names)),
        side,
        left_out,
        [_told_size(each) for each in known["images"]],
    )


def with_boxes(examples: Sequence[tuple[torch.Tensor, Any]]) -> tuple[torch.Tensor, list[Any]]:
    """Return a batch: images `(N, ...)`, and the targets in a list, one for each image.

    The `collate_fn` of a DataLoader if images have boxes, whose number differs.

    >>> example = (torch.zeros(3, 8, 8), {"boxes": torch.zeros(0, 4)})
    >>> images, targets = with_boxes([example, example])
    >>> images.shape, len(targets)
    (torch.Size([2, 3, 8, 8]), 2)
    """
    images, targets = zip(*examples, strict=True)
    return torch.stack(images), list(targets)


def _told_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the width and height that a file tells of an image, if it does."""
    width, height = image.get("width"), image.get("height")
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        return None
    return width, height


def _read(file: Path) -> Mapping[str, list[Any]]:
    """Return what a file of annotations holds, once it has the lists that one needs."""
    if not file.is_file():
        raise FileNotFoundError(f"`annotations` (={file}) is no file")
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of the text or of its encoding
        raise ValueError(f"`annotations` (={file}) is no JSON: {error}") from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(known, Mapping) or not isinstance(known.get(name), list):
            raise ValueError(
                f"`annotations` (={file}) is not in COCO's format: it has no list {name!r}; allowed: a file"
                " of instances, with 'images', 'annotations' and 'categories'"
            )
    if not known["images"]:
        raise ValueError(f"`annotations` (={file}) has no images")
    return known


def _by_id(entries: list[Any], kind: str, file: Path, wanted: str) -> dict[Any, str]:
    """Return what entries are called, by their `id`."""
    found: dict[Any, str] = {}
    for each in entries:
        if not isinstance(each, Mapping) or not isinstance(each.get(wanted), str):
            raise ValueError(f"{file}: no {wanted!r} in the {kind} {str(each)[:60]}")
        if type(each.get("id")) is not int or each["id"] in found:
            raise ValueError(
                f"{file}: the `id` of the {kind} {each[wanted]!r} is no whole number, or another's"
            )
        found[each["id"]] = each[wanted]
    return found


def _annotation(each: Any, file: Path) -> tuple[Any, Any, list[float]]:
    """Return image, category and box of an annotation: left, top, width and height in pixels."""
    known: Any = each if isinstance(each, Mapping) else {}
    box: Any = known.get("bbox")
    numbers = isinstance(box, list) and all(type(side) in (int, float) for side in box)
    if not numbers or len(box) != 4 or not all(map(math.isfinite, box)):
        raise ValueError(
            f"{file}: an annotation has no `bbox` of four numbers, [left, top, width, height]:"
            f" {str(each)[:60]}"
        )
    return known.get("image_id"), known.get("category_id"), [float(side) for side in box]
