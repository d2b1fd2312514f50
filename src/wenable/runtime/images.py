"""Image files and pixels as a network's input, prepared as a bundle says."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from wenable.core.preprocessing import Preprocessing
from wenable.images.reading import File, read_image


def prepare_image(file: File, preprocessing: Preprocessing, *, name: str = "") -> np.ndarray:
    """Return an image file as a batch of one, float32, shape `(1, channels, size, size)`.

    - `file`: a path, or a file that was opened for reading bytes; `name`: what errors call it.

    It is read as in training: upright, in eight bits, on white where it is transparent. The shorter
    side is scaled to `size / crop_pct`, the centre is cut out, pixels are scaled to 0 to 1 and
    normalised. Needs Pillow.

    Raises `ImportError` without Pillow, `wenable.images.UnreadableImageError` where the file is
    damaged, no image, or of a depth that tells no black and white, `ValueError` where the network
    wants another number of channels than 1 or 3.
    """
    _check_channels(preprocessing)
    image = read_image(file, "RGB" if preprocessing.channels == 3 else "L", name=name)
    return _prepared(image, preprocessing)


def prepare_pixels(pixels: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Return images in memory as a batch, float32, shape `(N, channels, size, size)`.

    - `pixels`: uint8, shape `(N, height, width, channels)`, or one image `(height, width, channels)`, or a
      list of images, whose sizes may differ. One channel may be left out: `(height, width)`.

    What is done to them is what `prepare_image` does to a file that was read. Needs Pillow.

    Raises `ImportError` without Pillow, `ValueError` for another shape or type, or no image.
    """
    from PIL import Image

    _check_channels(preprocessing)
    images = list(pixels) if isinstance(pixels, list) or np.ndim(pixels) == 4 else [pixels]
    if not images:
        raise ValueError("`x` holds no image; pass at least one")
    prepared = []
    for image in images:
        array: np.ndarray[Any, Any] = image if isinstance(image, np.ndarray) else np.zeros(0)
        flat = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        right = list(flat.shape)[2:] == ([3] if preprocessing.channels == 3 else [])
        if array.dtype != np.uint8 or flat.ndim < 2 or not array.size or not right:
            found = type(image).__name__
            if isinstance(image, np.ndarray):
                found = f"{image.dtype}, shape {image.shape}"
            raise ValueError(
                f"`x` holds an image of {found}; it must be a uint8 array of shape (height, width,"
                f" {preprocessing.channels})"
            )
        prepared.append(_prepared(Image.fromarray(np.ascontiguousarray(flat)), preprocessing))
    return np.concatenate(prepared)


def _check_channels(preprocessing: Preprocessing) -> None:
    if preprocessing.channels not in (1, 3):
        raise ValueError(
            f"an image has 1 or 3 channels; this network wants {preprocessing.channels}"
        )


def _prepared(image: Any, preprocessing: Preprocessing) -> np.ndarray:
    resampling = _filter(preprocessing.interpolation)
    wide, high = image.size
    # Rounded as torchvision and timm do, or the crop would lie a pixel beside theirs.
    size, shown = preprocessing.size, int(preprocessing.size / preprocessing.crop_pct)
    short = min(wide, high)
    sizes = (wide * shown // short, high * shown // short)
    if sizes != (wide, high):
        image = image.resize(sizes, resampling)
    if sizes != (size, size):
        left, top = (round((length - size) / 2) for length in sizes)
        image = image.crop((left, top, left + size, top + size))
    return _normalised(np.asarray(image).reshape(size, size, -1), preprocessing)


def _normalised(pixels_hwc: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Return bytes as a batch of one: by a table of what becomes of each, which is faster than sums."""
    tables = _tables(tuple(preprocessing.mean), tuple(preprocessing.std))
    prepared = np.empty((1, len(tables), *pixels_hwc.shape[:2]), np.float32)
    for channel, table in enumerate(tables):
        # No byte is clipped; to check each would take longer than to look it up.
        np.take(table, pixels_hwc[..., channel], out=prepared[0, channel], mode="clip")
    return prepared


@lru_cache(maxsize=16)
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return what becomes of the bytes 0 to 255 in each channel."""
    shares = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    prepared = (shares - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(prepared.T)


def _filter(name: str) -> Any:
    from PIL import Image

    kinds = Image.Resampling
    known = {
        "nearest": kinds.NEAREST, "bilinear": kinds.BILINEAR, "bicubic": kinds.BICUBIC,
        "box": kinds.BOX, "hamming": kinds.HAMMING, "lanczos": kinds.LANCZOS,
    }  # fmt: skip
    if name not in known:
        raise ValueError(f"`interpolation` (={name!r}) is unknown; allowed: {', '.join(known)}")
    return known[name]
