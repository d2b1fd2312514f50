"""Image files as a network's input, prepared as a bundle says."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from wenable.preprocessing import Preprocessing


def prepare_image(path: str | os.PathLike[str], preprocessing: Preprocessing) -> np.ndarray:
    """Return an image file as a batch of one, float32, shape `(1, channels, size, size)`.

    The shorter side is scaled to `size / shown_share`, the centre is cut out, pixels are scaled to
    0 to 1 and normalised. Needs Pillow.

    Raises `ImportError` without Pillow, `OSError` or `ValueError` where the file is no image, or the
    network wants another number of channels than 1 or 3.
    """
    image = _opened(path, preprocessing.channels)
    wide, high = image.size
    # Rounded as torchvision and timm do, or the crop would lie a pixel beside theirs.
    size, shown = preprocessing.size, int(preprocessing.size / preprocessing.shown_share)
    short = min(wide, high)
    sizes = (wide * shown // short, high * shown // short)
    if sizes != (wide, high):
        image = image.resize(sizes, _filter(preprocessing.interpolation))
    left, top = (round((length - size) / 2) for length in sizes)
    image = image.crop((left, top, left + size, top + size))
    pixels_hwc = np.asarray(image, np.float32).reshape(size, size, -1)
    mean = np.array(preprocessing.mean, np.float32)
    deviation = np.array(preprocessing.deviation, np.float32)
    prepared_hwc = (pixels_hwc / np.float32(255) - mean) / deviation
    return np.ascontiguousarray(prepared_hwc.transpose(2, 0, 1)[None], np.float32)


def _opened(path: str | os.PathLike[str], channels: int) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs Pillow: pip install pillow") from error
    if channels not in (1, 3):
        raise ValueError(f"an image has 1 or 3 channels; this network wants {channels}")
    with Image.open(path) as image:
        return image.convert("RGB" if channels == 3 else "L")


def _filter(name: str) -> Any:
    from PIL import Image

    known = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    if name not in known:
        raise ValueError(f"`interpolation` (={name!r}) is unknown; allowed: {', '.join(known)}")
    return known[name]
