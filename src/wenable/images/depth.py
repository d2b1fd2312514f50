"""Grey images of more than eight bits: scaled by their depth, or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np

_WAY_OUT = "save it with 8 or 16 bits per channel, with black and white where they belong"
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED, _UNDEFINED = 0, 1, 4
# What Pillow reads into 16 unsigned bits; in other formats the same bits are signed.
_UNSIGNED_FORMATS = ("PNG", "TIFF", "PPM", "JPEG2000")
# What Pillow reads into 32 bits though the file holds 16.
_SIXTEEN_IN_THIRTY_TWO = ("PNG", "PPM")


def check_depth(image: Any) -> None:
    """Raise `ValueError` where nothing says which values of an image are black and white.

    - `image`: a PIL image that was opened and not loaded yet.
    """
    if image.mode == "F":
        raise ValueError(f"its pixels are floats, which tell no black and white; {_WAY_OUT}")
    if any(each not in (_UNSIGNED, _UNDEFINED) for each in _tag(image, _TIFF_SAMPLE_FORMAT, (1,))):
        raise ValueError(f"its pixels have a sign, so no value tells black; {_WAY_OUT}")
    if image.mode == "I" and image.format not in _SIXTEEN_IN_THIRTY_TWO:
        raise ValueError(f"its pixels are 32-bit integers, which tell no white; {_WAY_OUT}")
    if image.mode.startswith("I;16") and image.format not in _UNSIGNED_FORMATS:
        raise ValueError(f"its pixels may have a sign in {image.format} files; {_WAY_OUT}")
    # Pillow keeps the upper byte of such pixels, and all of the transparent colour.
    sixteen = any(";16" in str(each[3]) for each in image.tile)
    if sixteen and image.mode == "RGB" and "transparency" in image.info:
        raise ValueError(
            "one of its 16-bit colours is transparent; save it with an alpha channel instead"
        )


def is_deep(image: Any) -> bool:
    """Say whether a PIL image holds one channel of more than eight bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def in_eight_bits(image: Any) -> Any:
    """Return a deep grey image with eight bits: in mode L, or LA where one grey is transparent.

    Values are scaled so that the highest of the file's depth becomes 255, and rounded.
    """
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    white = 2 ** _bits(image) - 1
    scaled = (values * 255 + white // 2) // white
    if image.format == "TIFF" and _tag(image, _TIFF_PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
        scaled = 255 - scaled  # Pillow turns these round for eight bits and fewer only
    grey = Image.fromarray(scaled.astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _bits(image: Any) -> int:
    return int(_tag(image, _TIFF_BITS, (16,))[0])


def _tag(image: Any, number: int, otherwise: Any) -> Any:
    """Return a tag of a TIFF file; `otherwise` where it has none, or is of another format."""
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    return otherwise if tags is None else tags.get(number, otherwise)
