"""Reads one image file: upright, in eight bits, on white where it is transparent."""

from __future__ import annotations

import os
from typing import Any, BinaryIO, Literal

from wenable.images.depth import check_depth, in_eight_bits, is_deep

File = str | os.PathLike[str] | BinaryIO
_ORIENTATION = 274  # of EXIF


class UnreadableImageError(ValueError):
    """An image file that cannot be read, with its path and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"the image {self.path} cannot be read: {self.reason}"


def read_image(file: File, mode: Literal["RGB", "L"] = "RGB", *, name: str = "") -> Any:
    """Return an image file as a PIL image, as training and devices see it.

    - `file`: a path, or a file that was opened for reading bytes.
    - `mode`: in colour, or in grey.
    - `name`: what errors call the file; its path by default.

    It is turned upright as its EXIF orientation says. Transparent parts show white, half
    transparent ones as much of it. Sixteen bits are scaled to eight; of deeper colours the upper
    eight bits are kept. Of several frames or pages the first is read. Colour profiles are not applied.

    Raises `UnreadableImageError` where the file is damaged or no image, and where no rule says
    which of its values are black and white: floats, 32-bit integers, values with a sign. Needs
    Pillow; raises `ImportError` without it.
    """
    pillow, name = _pillow(), name or str(file)
    try:
        with pillow.open(file) as image:
            check_depth(image)
            image.load()
            return _on_white(_upright(image)).convert(mode)
    except Exception as error:  # Pillow's readers raise some ten types, and struct's and zlib's
        raise UnreadableImageError(name, _reason(error)) from error


def image_size(file: File) -> tuple[int, int]:
    """Return width and height of an image that stands upright, without reading its pixels.

    Raises `UnreadableImageError` when its first bytes are no image.
    """
    pillow = _pillow()
    try:
        with pillow.open(file) as image:
            wide, high = image.size
            lies = (
                _orientation(image) >= 5 and image.format != "TIFF"
            )  # Pillow turns those by itself
            return (high, wide) if lies else (wide, high)
    except Exception as error:
        raise UnreadableImageError(str(file), _reason(error)) from error


def image_orientation(file: File) -> int:
    """Return how `read_image` turns a file, as EXIF numbers it: 1 not at all, 2 to 8 otherwise.

    Raises `UnreadableImageError` when its first bytes are no image.
    """
    pillow = _pillow()
    try:
        with pillow.open(file) as image:
            number = _orientation(image)
    except Exception as error:
        raise UnreadableImageError(str(file), _reason(error)) from error
    return number if number in range(2, 9) else 1


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs Pillow: pip install pillow") from error
    return Image


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF that is damaged says nothing; the picture may be whole
        return 1


def _upright(image: Any) -> Any:
    """Return an image in eight bits, turned as its EXIF says."""
    from PIL import Image

    turns = Image.Transpose
    turn = {
        2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE, 6: turns.ROTATE_270, 7: turns.TRANSVERSE, 8: turns.ROTATE_90,
    }.get(_orientation(image))  # fmt: skip
    shallow = in_eight_bits(image) if is_deep(image) else image
    return shallow if turn is None else shallow.transpose(turn)


def _on_white(image: Any) -> Any:
    """Return an image without transparency."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is no image that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
