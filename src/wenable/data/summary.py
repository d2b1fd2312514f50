"""What a folder of images holds, in a few lines to read before hours of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from wenable.data.image_folder import FolderSplits, ImageFiles
from wenable.images import UnreadableImageError
from wenable.images.reading import image_size

LOOKED_AT = 64
"""Images of each split whose size is looked up, at random: opening a million takes minutes."""


def summary(splits: FolderSplits) -> list[str]:
    """Return lines that tell the splits with their images, classes and sizes, and what was left out."""
    parts = (splits.train, splits.search, splits.test)
    names = ("training", "search", "test")
    lines = [
        f"{name} ({source}): {_counts(files)}; {_sizes(files)}"
        for name, source, files in zip(names, splits.sources, parts, strict=True)
    ]
    if splits.left_out:
        reasons = (f"{count} {reason}" for reason, count in sorted(splits.left_out.items()))
        lines.append("left out: " + ", ".join(reasons))
    return lines


def _counts(files: ImageFiles) -> str:
    """Return how many images there are of how many classes, and of which there are none."""
    by_label = Counter(label for _, label in files.samples)
    images = "1 image" if len(files) == 1 else f"{len(files):,} images"
    classes = "1 class" if len(by_label) == 1 else f"{len(by_label):,} classes"
    words = f"{images} of {classes}, {_range(list(by_label.values()))} of each"
    missing = [name for label, name in enumerate(files.classes) if not by_label[label]]
    if missing:
        more = ", ..." if missing[3:] else ""
        words += (
            f", none of {', '.join(missing[:3])}{more} ({len(missing)} of {len(files.classes)})"
        )
    return words


def _sizes(files: ImageFiles) -> str:
    looked = files.some(LOOKED_AT).samples
    sizes: list[tuple[int, int]] = []
    bad = ""
    for path, _ in looked:
        try:
            sizes.append(image_size(path))
        except UnreadableImageError as error:
            bad = str(error)
    words = "no size known"
    if sizes:
        wide, high = ([size[side] for size in sizes] for side in (0, 1))
        words = f"{_range(wide)} x {_range(high)} pixels"
    if len(looked) < len(files):
        words += f" ({len(looked)} looked at)"
    if bad:
        words += f"; {len(looked) - len(sizes)} of {len(looked)} cannot be opened: {bad}"
    return words


def common_size(files: ImageFiles) -> int | None:
    """Return the height and width of all images that were looked at; None unless they are one."""
    try:
        sizes = {image_size(path) for path, _ in files.some(LOOKED_AT).samples}
    except UnreadableImageError:
        return None
    (wide, high), *others = sizes
    return wide if wide == high and not others else None


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
