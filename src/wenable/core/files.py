"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_LEFT_BEHIND_S = 3600.0
"""Seconds without a write after which a temporary file has no writer any more."""


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write a file so that a reader finds the old content or the new, and nothing between.

    The data goes to a temporary file beside it, is flushed to the disk, and takes the name then.
    Where anything fails the temporary file is removed and the old file stands. What a writer that was
    killed left behind is removed by the next one that writes the same file, an hour later.

    Raises `OSError` where the folder does not exist or cannot be written, or the disk is full.
    """
    check_writable(path)
    target = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    _remove_leftovers(target)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target))
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a saved network is as readable as any other file.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    _flush_folder(target.parent)
    return target


@contextlib.contextmanager
def no_empty_folder_left(path: str | os.PathLike[str]) -> Iterator[None]:
    """Where the block fails, remove the folders that it made for `path` and put nothing into.

    - `path`: a file or a folder that the block is to write.
    """
    new = [each for each in (Path(path), *Path(path).parents) if not each.exists()]
    try:
        yield
    except BaseException:
        for each in new:  # the innermost first; one that holds something stays, and all around it
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of this target that are too old to be still written."""
    for each in target.parent.glob(f"{glob.escape(_prefix(target))}*"):
        with contextlib.suppress(OSError):
            if time.time() - each.stat().st_mtime > _LEFT_BEHIND_S:
                each.unlink()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path that `write_whole` could not write to, before long work is done for it.

    Raises `FileNotFoundError` where its folder does not exist, `IsADirectoryError` where it is a
    folder itself, `PermissionError` where the folder cannot be written into.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} to write {target.name} into")
    if target.is_dir():
        raise IsADirectoryError(f"`path` (={target}) is a folder; name a file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {target.parent} cannot be written into")


def _flush_folder(folder: Path) -> None:
    """Make the new name itself durable; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
