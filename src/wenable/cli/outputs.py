"""Files that a command is to write, held against those that it reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_WRITTEN = ("out", "refit_out")


def check_reads_none(given: Mapping[str, Any]) -> None:
    """Refuse to write over a file that the same command reads: a trained network by its own bundle.

    - `given`: what the command was called with, by parameter; `NAME=FILE` reads the file too.

    >>> check_reads_none({"network": Path("net.safetensors"), "out": Path("net.wen")})
    """
    for name in _WRITTEN:
        path = given.get(name)
        if not isinstance(path, Path):
            continue
        others = {key: value for key, value in given.items() if key != name}
        if any(_is_same(path, each) for each in _paths(others.values())):
            raise ValueError(
                f"`{name}` (={path}) is a file that this command reads or writes besides; name another"
            )


def _paths(values: Any) -> Iterator[Path]:
    for value in values:
        if isinstance(value, Path):
            yield value
        elif isinstance(value, list | tuple):
            yield from _paths(Path(each) if isinstance(each, str) else each for each in value)
            yield from (
                Path(str(each).partition("=")[2]) for each in value if "=" in str(each)
            )  # of NAME=FILE


def _is_same(one: Path, other: Path) -> bool:
    """Say whether two paths are one file, by whatever links they lead there; folders are none."""
    with contextlib.suppress(OSError, ValueError):
        if one.is_dir() or other.is_dir():
            return False
        return one.resolve() == other.resolve() or one.samefile(other)
    return False
