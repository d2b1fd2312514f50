"""Finds the image files under a folder, through links too, and counts what it leaves out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

# What Pillow reads and people keep pictures in. Not those of documents, films and measurements.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .tif .tiff .webp .avif .avifs .jp2 .j2k .jpc"
    " .jpf .jpx .j2c .pbm .pgm .ppm .pnm .pfm .tga .pcx .sgi .rgb .rgba .bw .qoi .ico .cur .icns"
    " .dds .psd".split()
)

FileId = tuple[int, int] | str
"""Device and inode of a file; where it lies in a file system that numbers none."""


@dataclass(frozen=True)
class Found:
    """The image files of a folder, in order, and how many entries were left out for which reason.

    - `files`: for each image which file it is, by device and inode: links to one, of both kinds, share it.
    """

    images: tuple[str, ...]
    files: tuple[FileId, ...]
    left_out: Counter[str] = field(default_factory=Counter)


def is_hidden(name: str) -> bool:
    """Say whether a file or folder is none of the user's: `.ipynb_checkpoints`, `._a.jpg`."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def find_images(folder: str | os.PathLike[str], *, suffixes: frozenset[str] = SUFFIXES) -> Found:
    """Return the images under a folder and its folders, as their names tell, in order of their paths.

    Links are followed; one that leads back to a folder it lies in is left out. So is what is hidden,
    and what has another suffix.

    Raises `OSError` where a folder cannot be read.
    """
    left_out: Counter[str] = Counter()
    pairs = list(_walk(os.fspath(folder), (), left_out, suffixes))
    # A folder's files together, as `Path` orders them: no character comes before the separator.
    pairs.sort(key=lambda pair: pair[0].replace(os.sep, "\0"))
    return Found(tuple(path for path, _ in pairs), tuple(file for _, file in pairs), left_out)


def _walk(
    folder: str, above: tuple[str, ...], left_out: Counter[str], suffixes: frozenset[str]
) -> Iterator[tuple[str, FileId]]:
    """Go through the images as (path, which file it is)."""
    place = os.path.realpath(folder)
    if place in above:
        left_out["a link back to a folder that it lies in"] += 1
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                left_out["hidden"] += 1
            elif entry.is_dir():
                yield from _walk(entry.path, (*above, place), left_out, suffixes)
            elif not entry.is_file():
                left_out["a link to nothing" if entry.is_symlink() else "not a file"] += 1
            elif (suffix := os.path.splitext(entry.name)[1].lower()) not in suffixes:  # noqa: PTH122
                left_out[f"not an image by its name ({suffix or 'no suffix'})"] += 1
            else:
                known = os.stat(entry.path)  # noqa: PTH116 (that of an entry has no inode on Windows)
                number = (known.st_dev, known.st_ino) if known.st_ino else None
                yield entry.path, number or os.path.realpath(entry.path)
