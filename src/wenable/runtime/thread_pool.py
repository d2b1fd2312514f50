"""Threads that several sessions of one process share."""

from __future__ import annotations

import threading
from collections import deque

from wenable.runtime.engine import ModeEngine
from wenable.runtime.engines import checked_threads
from wenable.runtime.forking import tell_after_fork
from wenable.runtime.unloaded import Load


class ThreadPool:
    """Lets several sessions run on the same cores without taking them from each other.

    - `threads`: of one call; None for one for each core.

    Sessions that were opened with `threads=pool` take turns: one call of all of them runs at a time, on
    all of its threads, in the order in which they came. Waiting for a turn counts towards a deadline,
    and a mode is chosen when the turn has come, by what is left then. Modes are timed while no session
    of the pool runs a request.

    Our own kernels have one set of threads for the whole pool, and one memory that values lie in.
    OpenVINO shares its threads anyway. ONNX Runtime keeps threads for each mode, which sleep outside
    of its turn: its own global pool can be set only before any other use of it in a process, refuses
    sessions with threads of their own from then on, and keeps a core busy between calls.

    Raises `ValueError` for a number of threads out of range.

    >>> pool = ThreadPool(2)
    >>> with pool.turn:  # what a session does for each call
    ...     pool.threads
    2
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = checked_threads(threads)
        self.turn = Turns()
        self.load = Load()
        self._kernels: dict[str, ModeEngine] = {}
        self._opening = threading.Lock()

    def shared(self, kernels: ModeEngine) -> ModeEngine:
        """Return the kernels of this version that the pool has; these, if it has none yet."""
        with self._opening:
            kept = self._kernels.setdefault(kernels.version, kernels)
        if kept is not kernels:
            kernels.close()
        return kept


class Turns:
    """A lock that is given in the order in which it was asked for; whoever has it may take it again."""

    def __init__(self) -> None:
        self.after_fork()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Begin anew: whoever had the turn, or waited for it, did not come along."""
        self._guard = threading.Lock()
        self._owner, self._depth = 0, 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def __enter__(self) -> None:
        own = threading.get_ident()
        with self._guard:
            if self._owner == own:
                self._depth += 1
                return
            if not self._owner:
                self._owner, self._depth = own, 1
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((own, gate))
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C while it waits
            self._give_up(own, gate)
            raise

    def __exit__(self, *error: object) -> None:
        with self._guard:
            self._depth -= 1
            if not self._depth:
                self._hand_on()

    def _hand_on(self) -> None:
        """Give the turn to whoever waited longest; `_guard` is held."""
        self._owner = 0
        if self._waiting:
            self._owner, gate = self._waiting.popleft()
            self._depth = 1
            gate.release()

    def _give_up(self, own: int, gate: threading.Lock) -> None:
        """Leave the queue, or hand on the turn that came at the same moment."""
        with self._guard:
            if (own, gate) in self._waiting:
                self._waiting.remove((own, gate))
            else:
                self._hand_on()
