"""A journal on disk: what a long run has found so far, line by line, whatever ends the process."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

VERSION = 1
SUPPORTED = fcntl is not None
"""Whether this system has the file locks that a journal needs."""
BEGINNING = b'{"crc32":"'
Entry = dict[str, Any]


class JournalError(ValueError):
    """A journal is of another run, damaged, or in use by another process."""


class Journal:
    """An append-only file of JSON lines, each with a checksum and on the disk before `append` ends.

    - `path`: the file; it is made where there is none.
    - `header`: plain values that say which run this is. A journal of another run is refused.
    - `kind`: what keeps it, in a word; a journal of another kind is refused.

    The file is locked until `close`, or the end of the process however it ends. A last line that was
    being written when the process was killed is cut off; its work is done again.

    Raises `JournalError` for a journal of another run, naming what differs, for one that is damaged
    before its last line, and for one that is in use; `FileNotFoundError` without a folder for it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "search.jsonl"
    >>> with Journal(path, {"threshold": 0.9}) as journal:
    ...     journal.append({"kind": "step", "mode": "1/2"})
    >>> with Journal(path, {"threshold": 0.9}) as journal:
    ...     journal.entries
    [{'kind': 'step', 'mode': '1/2'}]
    """

    def __init__(
        self, path: str | os.PathLike[str], header: Mapping[str, Any], *, kind: str = "search"
    ) -> None:
        self.path, self.kind = Path(path), kind
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"there is no folder {self.path.parent} to write {self.path.name} into"
            )
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _lock(self._descriptor, self.path)
            self.entries = self._read(_plain(header))
        except BaseException:
            self.close()
            raise

    def _read(self, header: Entry) -> list[Entry]:
        """Return the entries on the file, without a half-written last line; write a first header."""
        content = self.path.read_bytes()
        start = BEGINNING[: len(content)]
        if not content.startswith(start):  # or cutting its last line off would destroy it
            raise JournalError(
                f"{self.path} is no journal of a {self.kind}; nothing was changed in it"
            )
        lines = content.split(b"\n")
        # A line is whole where its end is there; what stands behind the last end is not.
        whole, entries = lines[:-1], list[Entry]()
        for number, line in enumerate(whole, 1):
            entry = _parsed(line)
            if entry is None and number < len(whole):
                raise JournalError(
                    f"line {number} of the journal {self.path} is damaged; lines behind it were"
                    " written since, so it was changed later: begin a new journal"
                )
            if entry is not None:
                entries.append(entry)
        kept = sum(len(line) + 1 for line in whole[: len(entries)])
        os.ftruncate(self._descriptor, kept)
        if not entries:
            self.append({"format": self._format, "version": VERSION, "run": header})
            _flush_folder(self.path.parent)
            return []
        self._check_header(entries[0], header)
        return entries[1:]

    def _check_header(self, found: Entry, wanted: Entry) -> None:
        if found.get("format") != self._format or found.get("version") != VERSION:
            raise JournalError(
                f"{self.path} is no journal of a {self.kind} of version {VERSION}; its first line says"
                f" {found.get('format')!r}, {found.get('version')!r}"
            )
        run = found["run"]
        differing = [key for key in {**run, **wanted} if run.get(key) != wanted.get(key)]
        if differing:
            shown = "; ".join(
                f"{key}: {_short(run.get(key))} there, {_short(wanted.get(key))} here"
                for key in differing
            )
            raise JournalError(
                f"the journal {self.path} is of another run ({shown}); call that run again, or remove"
                " the file to begin anew"
            )

    @property
    def _format(self) -> str:
        return f"wenable-{self.kind}-journal"

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry, plain values, and return when it is on the disk."""
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)
        line = f'{{"crc32":"{zlib.crc32(text.encode()):08x}","entry":{text}}}\n'.encode()
        written = 0
        while written < len(line):
            written += os.write(self._descriptor, line[written:])
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Give the file and its lock back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Remove the file, whose run has ended well, and give its lock back."""
        self.path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _lock(descriptor: int, path: Path) -> None:
    if fcntl is None:
        raise JournalError("a journal needs file locks of POSIX, which this system lacks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(
            f"the journal {path} is in use by another process; wait for it, or give this run a"
            " journal of its own"
        ) from None


def _parsed(line: bytes) -> Entry | None:
    """Return the entry of a line, or None where its checksum does not fit."""
    try:
        values = json.loads(line)
        entry = values["entry"]
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
        return entry if values["crc32"] == f"{zlib.crc32(text.encode()):08x}" else None
    except (ValueError, TypeError, KeyError):
        return None


def _plain(values: Mapping[str, Any]) -> Entry:
    """Return values as they come back from JSON, so that they compare with those of a file."""
    return json.loads(json.dumps(values, allow_nan=False))


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _flush_folder(folder: Path) -> None:
    """Make the new name itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
