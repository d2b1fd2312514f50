"""Keeps two threads that use one network from getting each other's mode."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any


class ModeGuard:
    """Says who may set the mode of one network now, and who may run it.

    A network has one mode. With several threads three rules keep an answer from being that of
    another mode, or of a mixture; whatever would break them is refused with a `RuntimeError`:

    1. The mode is not changed while a forward pass runs.
    2. A thread that set a mode runs in that mode, or not at all.
    3. While one thread is inside `using`, the others wait with `set_mode` and `using`, and their
       forward passes are refused.

    Forward passes of several threads in one mode run side by side.
    """

    def __init__(self) -> None:
        self._holding = threading.RLock()  # held by the thread inside `using`
        self._counting = threading.Lock()
        self._own = threading.local()
        self._holder: int | None = None
        self._running = 0

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep all other threads from this network's mode, waiting for them to let go of it."""
        with self._holding:
            before, expected = self._holder, self._expected
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                # What the thread expected outside of the block, it expects behind it.
                self._holder, self._own.mode = before, expected

    @contextmanager
    def changing(self, mode: Hashable) -> Iterator[None]:
        """Let the calling thread change the mode; from then on it expects that one."""
        with self._holding, self._counting:
            if self._running:
                raise RuntimeError(
                    "`set_mode` was called while a forward pass of this network runs, whose answer"
                    " would be of two modes; give each thread a copy (copy.deepcopy) or a lock"
                )
            yield
            self._own.mode = mode

    def enter(self, present: Hashable) -> None:
        """Note a forward pass that begins in the `present` mode; `leave` must follow."""
        with self._counting:
            if self._holder is not None and self._holder != threading.get_ident():
                raise RuntimeError(
                    "a forward pass was started while another thread is inside `using`, so it would"
                    " run in that thread's mode; use `with net.using(mode)` in both threads"
                )
            expected = self._expected
            # Identity first: comparing two modes walks through all their options.
            if expected is not None and expected is not present and expected != present:
                raise RuntimeError(
                    f"this thread set mode {expected}, and another has set {present} since; use"
                    " `with net.using(mode)` in both, or give each thread a copy (copy.deepcopy)"
                )
            self._running += 1

    def leave(self) -> None:
        """Note that a forward pass has ended."""
        with self._counting:
            self._running -= 1

    @property
    def _expected(self) -> Hashable | None:
        return getattr(self._own, "mode", None)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModeGuard:
        """A copy of a network is another network: nobody has set its mode or runs it."""
        return ModeGuard()

    def __reduce__(self) -> tuple[type[ModeGuard], tuple[()]]:
        return ModeGuard, ()
