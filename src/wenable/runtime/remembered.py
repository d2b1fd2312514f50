"""Choices that were measured once: remembered in this process, and in a file for this user."""

from __future__ import annotations

import json
from pathlib import Path

from wenable.core.user_cache import cache_path
from wenable.runtime.device_profile import write_profile


def of_batches(batch: int) -> str:
    """Return what a choice that was measured with batches is named by besides; nothing for one example.

    >>> of_batches(1), of_batches(32)
    ('', '-batches of 32')
    """
    return "" if batch == 1 else f"-batches of {batch}"


_known: dict[str, dict[str, str]] = {}  # what belongs to a file of the cache, in this process


class Remembered:
    """What was chosen for each mode; whoever uses it sees to it that one thread does at a time.

    - `name`: of the file, which says what the choices depend on.
    - `allowed`: the values that a choice may have; anything else in the file is left out.
    """

    def __init__(self, name: str, allowed: tuple[str, ...]) -> None:
        self._name, self._allowed = name, allowed

    def find(self, mode: str) -> str | None:
        """Return the choice for a mode; None where nothing is remembered."""
        known = self._in_process()
        if mode not in known:
            known.update(self._kept() | known)
        return known.get(mode)

    def note(self, mode: str, choice: str, *, keep: bool) -> None:
        """Remember a choice in this process, and with `keep` for the user."""
        self._in_process()[mode] = choice
        path = self._path()
        if keep and path is not None:
            try:
                write_profile(path, self._kept() | {mode: choice})
            except OSError:  # where nothing can be kept it is measured again
                return

    def _path(self) -> Path | None:
        return cache_path("choices", self._name)

    def _in_process(self) -> dict[str, str]:
        return _known.setdefault(str(self._path() or self._name), {})

    def _kept(self) -> dict[str, str]:
        """Return what is in the file; nothing where that cannot be read."""
        path = self._path()
        if path is None:
            return {}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return {str(mode): way for mode, way in values.items() if way in self._allowed}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}
