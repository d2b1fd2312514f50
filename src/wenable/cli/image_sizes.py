"""What `--image-sizes` says: heights and widths of images."""

from __future__ import annotations

import re


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """Return heights and widths from words as `192x256,128`; one number is both. "" is none.

    Raises `ValueError` for other words.

    >>> parse_sizes("192x256, 128"), parse_sizes("")
    ([(192, 256), (128, 128)], [])
    """
    if not text.strip():
        return []
    sizes: list[tuple[int, int]] = []
    for each in text.split(","):
        found = re.fullmatch(r"\s*([1-9]\d*)(?:[xX]([1-9]\d*))?\s*", each, flags=re.ASCII)
        if found is None:
            raise ValueError(
                f"`--image-sizes` (={text}) holds {each.strip()!r}; allowed: height x width in pixels, with"
                " commas between sizes, as 192x256,128"
            )
        height, width = found.groups()
        sizes.append((int(height), int(width or height)))
    return sizes
