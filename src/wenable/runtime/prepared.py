"""The modes of a session that are held ready, within a budget of memory.

Under a budget a mode is lent for each call: what is in use is not dropped, a mode that needs room
waits until there is some, and one is prepared at a time. So what lives at any moment stays within the
budget, or is one single mode that is larger than that by itself.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from wenable.runtime.engine import Runner
from wenable.runtime.forking import no_fork_meanwhile
from wenable.runtime.memory import give_back

Key = tuple[int, int]
"""The number of a mode and the size of batch it is prepared for; 0 where it takes any."""


@dataclass(slots=True)
class Held:
    """A mode that is ready.

    - `bytes`: what it takes for batches of up to `batch`; `users`: calls that run in it now.
    """

    runner: Runner
    bytes: int
    batch: int
    users: int = 0


class ClosedError(RuntimeError):
    """A session that was closed."""


class PreparedModes:
    """Prepares modes at their first use and drops those not used for longest beyond a budget.

    - `build`: returns the model of a mode by its number, whose length is its bytes.
    - `prepare`: makes the runner of a mode by its number and model, for a size of batch.
    - `count`: returns the bytes that a mode takes by its number and its model's bytes, for a size of batch.
    - `largest`: bytes of a model that was not built yet, at most.
    - `per_batch`: whether a runner serves one size of batch only.
    - `budget`: bytes; None for no limit.
    - `turn`: held by each call while it runs, and while it waits for room.
    """

    def __init__(
        self,
        build: Callable[[int], Sized],
        prepare: Callable[[int, Any, int], Runner],
        count: Callable[[int, int, int], int],
        *,
        largest: int,
        per_batch: bool,
        budget: int | None,
        turn: AbstractContextManager[Any] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.turn = nullcontext() if turn is None else turn
        self._build, self._prepare, self._count = build, prepare, count
        self._largest, self._per_batch, self._budget = largest, per_batch, budget
        self._clock, self._closed = clock, False
        self._seconds: dict[int, float] = {}
        self._sizes: dict[int, int] = {}
        self.forget()

    def forget(self) -> None:
        """Begin anew with nothing ready, as a forked process has to: its locks may be held for ever."""
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)  # a call is over
        self._turn = threading.Lock()  # to prepare, one at a time under a budget
        self._own: dict[Key, threading.Lock] = {}
        self._modes: OrderedDict[Key, Held] = OrderedDict()
        self._ready = Counter[int]()
        self._bytes = 0
        self._room_wanted = False

    def numbers(self) -> list[int]:
        """Return the modes that are ready, those not used for longest first."""
        with self._lock:
            last_first = dict.fromkeys(number for number, _ in reversed(self._modes))
        return list(last_first)[::-1]

    @property
    def held_bytes(self) -> int:
        """What is counted for all that is ready."""
        return self._bytes

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def is_ready(self, number: int, batch: int) -> bool:
        """Say whether a mode can run a batch without being prepared first."""
        return (number, batch if self._per_batch else 0) in self._modes

    def ready(self, batch: int) -> int:
        """Return how many modes can run a batch without being prepared first."""
        return self._ready[batch if self._per_batch else 0]

    def seconds(self, number: int) -> float | None:
        """Return how long a mode took to prepare when it last was; None where it never was."""
        return self._seconds.get(number)

    def size(self, number: int) -> int:
        """Return the bytes of a mode's model; the most they can be where it was not built yet."""
        return self._sizes.get(number, self._largest)

    def fits(self, number: int, batch: int) -> bool:
        """Say whether a mode can be prepared without dropping another."""
        if self._budget is None:
            return True
        return self._bytes + self._count(number, self.size(number), batch) <= self._budget

    def take(self, number: int, batch: int) -> Held:
        """Return a mode, prepared where it is not ready; `leave` it when the call is over.

        Raises what the engine raises, and `ClosedError` after `close`.
        """
        key = number, batch if self._per_batch else 0
        with self._lock:
            held = self._modes.get(key)
            if held is not None and held.batch >= batch and not self._room_wanted:
                self._modes.move_to_end(key)
                held.users += 1
                return held
        if self._budget is not None:
            with self._turn:
                return self._found(key, batch) or self._made(key, batch)
        with self._lock:
            own = self._own.setdefault(key, threading.Lock())
        with own:  # two threads that want one mode prepare it once; other modes go on
            return self._found(key, batch) or self._made(key, batch)

    def leave(self, held: Held) -> None:
        """Say that a call is over."""
        if self._budget is None:
            return
        with self._lock:
            held.users -= 1
            if self._room_wanted:
                self._left.notify_all()

    def run(self, held: Held, batch: int, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run a batch in a mode that was taken."""
        if held.batch < batch:  # there is no room to keep what so large a batch takes
            return held.runner.run_and_shrink(inputs)
        return held.runner(inputs)

    def call(self, number: int, batch: int, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run a batch in a mode, prepared where it is not ready."""
        if self._budget is None:
            held = self.take(number, batch)
            with self.turn:
                return held.runner(inputs)
        # The turn comes first: whoever has it may wait for room, which nobody holds who waits for a turn.
        with self.turn:
            held = self.take(number, batch)
            try:
                return self.run(held, batch, inputs)
            finally:
                self.leave(held)

    def close(self) -> None:
        """Drop all; calls that run go on to their end, others are refused."""
        with self._lock:
            self._closed = True
            self._modes.clear()
            self._ready.clear()
            self._bytes = 0
            self._left.notify_all()
        give_back()

    def check_open(self) -> None:
        """Raise `ClosedError` after `close`."""
        if self._closed:
            raise ClosedError("the session is closed; open the bundle again")

    def _found(self, key: Key, batch: int) -> Held | None:
        """Return a mode that is ready by now, with room for this batch where that can be had."""
        self.check_open()
        with self._lock:
            held = self._modes.get(key)
            if held is None:
                return None
            self._modes.move_to_end(key)
            held.users += 1
        if held.batch < batch:
            more = self._count(key[0], self.size(key[0]), batch) - held.bytes
            if self._make_room(more, held):
                with self._lock:
                    held.bytes, held.batch = held.bytes + more, batch
                    self._bytes += more
        return held

    def _made(self, key: Key, batch: int) -> Held:
        begun = self._clock()
        model = self._build(key[0])
        self._sizes[key[0]] = len(model)
        size = self._count(key[0], len(model), batch)
        self._make_room(size)
        with no_fork_meanwhile():
            runner = self._prepare(key[0], model, batch)
        del model
        give_back()  # writing and compiling a model takes several times what stays
        self._seconds[key[0]] = self._clock() - begun
        held = Held(runner, size, sys.maxsize if self._budget is None else batch, users=1)
        with self._lock:
            self.check_open()
            self._modes[key] = held
            self._bytes += size
            self._ready[key[1]] += 1
        return held

    def _make_room(self, size: int, keep: Held | None = None) -> bool:
        """Drop modes until so many bytes more fit, waiting for those in use; say whether they fit.

        - `keep`: a mode that is not dropped.
        """
        if self._budget is None:
            return True
        dropped = []
        with self._lock:
            self._room_wanted = True
            try:
                while self._bytes + size > self._budget and not self._closed:
                    others = [key for key, held in self._modes.items() if held is not keep]
                    idle = next((key for key in others if not self._modes[key].users), None)
                    if idle is not None:
                        dropped.append(self._drop(idle))
                    elif others:
                        self._left.wait(1.0)
                    else:
                        break
            finally:
                self._room_wanted = False
            fits = self._bytes + size <= self._budget
        if dropped:
            dropped.clear()  # taken down here, while no lock is held
            give_back()
        return fits

    def _drop(self, key: Key) -> Runner:
        """Take a mode out, and its runner from whoever still refers to what was lent."""
        held = self._modes.pop(key)
        self._bytes -= held.bytes
        self._ready[key[1]] -= 1
        runner = held.runner
        del held.runner
        return runner
