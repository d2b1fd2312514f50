"""A bounded queue of requests with deadlines, and one thread that runs them in batches.

Requests run in the order they came, with the session's own threads behind each call. Those that wait
behind the first and fit it (same mode, same shapes) join its batch, as far as the fastest mode is
predicted to bring the larger batch home before the earliest deadline in it. A batch's own deadline is the
earliest of its requests, less what those that go on waiting need. Whatever cannot be in time is refused
when it comes, or given up when its time is over, so that a burst leaves no long queue behind.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wenable.runtime.controller import left_beside
from wenable.runtime.session import Session
from wenable.serving.refusals import RefusedError

Inputs = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Answer:
    """What a request got.

    - `outputs`: its rows of each output.
    - `waited_ms`, `total_ms`: until its batch began, and until it was done, from when it came.
    - `batch`: how many examples ran together; `met`: whether its deadline was met, None without one.
    """

    outputs: Inputs
    mode: str
    waited_ms: float
    total_ms: float
    batch: int
    met: bool | None


@dataclass
class _Waiting:
    inputs: Inputs
    came_s: float
    deadline_ms: float
    mode: str
    future: Future[Answer] = field(default_factory=Future)

    @property
    def size(self) -> int:
        return len(self.inputs[0])

    def left_ms(self, now_s: float) -> float:
        return self.deadline_ms - 1e3 * (now_s - self.came_s)

    def fits(self, first: _Waiting) -> bool:
        return self.mode == first.mode and all(
            a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
            for a, b in zip(self.inputs, first.inputs, strict=True)
        )


class Batcher:
    """Runs requests on a session, one batch after another.

    - `session`: warmed up for `batches`.
    - `batches`: the sizes that requests are joined to, ascending; a request that is larger than the
      first of them by itself runs as it is.
    - `capacity`: how many requests may wait.
    - `clock`: seconds; replaced in tests. `start`: False to run batches by `run_next` only, in tests.

    `close` finishes what waits.
    """

    def __init__(
        self,
        session: Session,
        *,
        batches: Sequence[int] = (1, 2, 4, 8),
        capacity: int = 64,
        clock: Callable[[], float] = time.perf_counter,
        start: bool = True,
    ) -> None:
        self._session, self._batches = session, tuple(sorted(batches))
        self._capacity, self._clock = capacity, clock
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = self._running = False
        self._next: Session | None = None
        self._thread = threading.Thread(target=self._serve, name="wenable-serve", daemon=True)
        if start:
            self._thread.start()

    @property
    def length(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def submit(
        self,
        inputs: Inputs,
        *,
        deadline_ms: float | None = None,
        mode: str = "",
        came_s: float | None = None,
    ) -> Future[Answer]:
        """Take a request and return what will hold its answer.

        - `inputs`: arrays as `Session.run` takes them; checked before.
        - `deadline_ms`: from when it came; None for no deadline.
        - `came_s`: when that was, by the clock; None for now.
        - `mode`: instead of a deadline's choice.

        Raises `RefusedError` if the queue is full, the deadline cannot be met, or `close` was called.
        """
        now_s = self._clock()
        request = _Waiting(
            inputs,
            now_s if came_s is None else came_s,
            math.inf if deadline_ms is None else deadline_ms,
            mode,
        )
        if request.left_ms(now_s) <= 0:
            raise RefusedError(504, "`deadline_ms` passed before the request was read", "expired")
        with self._changed:
            if self._closed:
                raise RefusedError(503, "the server is stopping", "refused")
            if len(self._waiting) >= self._capacity:
                raise RefusedError(
                    429, f"the queue is full: {len(self._waiting)} requests wait", "refused"
                )
            if deadline_ms is not None and (self._waiting or self._running):
                self._check_time(request)
            self._waiting.append(request)
            self._changed.notify()
        return request.future

    def replace(self, session: Session) -> None:
        """Go on with another session after the batch that runs; the one before is closed then."""
        with self._changed:
            unused, self._next = self._next, session
            self._changed.notify()
        if unused is not None:
            unused.close()

    def close(self) -> None:
        """Take no more requests, finish those that wait, and close the session."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._session.close()
        if self._next is not None:
            self._next.close()

    def run_next(self) -> None:
        """Run the next batch, if a request waits."""
        with self._changed:
            now_s = self._clock()
            batch = self._taken(now_s)
            deadline_ms = self._deadline_ms(batch, now_s) if batch else math.inf
            self._running = bool(batch)
        if not batch:
            return
        try:
            self._run(batch, deadline_ms)
        finally:
            self._running = False

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed or self._next)
                if self._closed and not self._waiting:
                    return
                before, following = self._session, self._next
                if following is not None:
                    self._session, self._next = following, None
            if following is not None:
                before.close()
            self.run_next()

    def _check_time(self, request: _Waiting) -> None:
        """Refuse a request that those before it leave no time, in the fastest mode and full batches."""
        examples = sum(each.size for each in self._waiting) + request.size
        largest = self._batches[-1]
        needed_ms = self._fastest_ms(largest) * math.ceil(examples / largest)
        if needed_ms > request.left_ms(self._clock()):
            raise RefusedError(
                429,
                f"`deadline_ms` (={request.deadline_ms:g}) cannot be met: {len(self._waiting)} requests"
                f" wait before it, about {needed_ms:.0f} ms",
                "refused",
            )

    def _fastest_ms(self, batch: int) -> float:
        return min(self._session.controller(batch).predictions_ms)

    def _taken(self, now_s: float) -> list[_Waiting]:
        """Take the first request and those that join it off the queue; what is too late is given up."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.future.set_running_or_notify_cancel():
                continue  # its client has gone
            if first.left_ms(now_s) > 0:
                break
            first.future.set_exception(
                RefusedError(504, "`deadline_ms` passed while the request waited", "expired")
            )
        else:
            return []
        batch = [first]
        for count in range(self._joining(first, now_s)):
            joined = self._waiting.popleft()
            if joined.future.set_running_or_notify_cancel():
                batch.append(joined)
            del count
        return batch

    def _joining(self, first: _Waiting, now_s: float) -> int:
        """Return how many of those that wait join: the most whose batch has one of the sizes, in time."""
        joining, size, earliest_ms = 0, first.size, first.left_ms(now_s)
        for count, each in enumerate(self._waiting, start=1):
            left_ms = each.left_ms(now_s)
            if not each.fits(first) or left_ms <= 0 or each.future.cancelled():
                break
            size, earliest_ms = size + each.size, min(earliest_ms, left_ms)
            if size > self._batches[-1]:
                break
            if size in self._batches and self._fastest_ms(size) <= earliest_ms:
                joining = count
        return joining

    def _deadline_ms(self, batch: list[_Waiting], now_s: float) -> float:
        left_ms = min(each.left_ms(now_s) for each in batch)
        behind_ms = [each.left_ms(now_s) for each in self._waiting]
        if not behind_ms:
            return left_ms
        largest = self._batches[-1]
        return left_beside(left_ms, behind_ms, self._fastest_ms(largest) / largest)

    def _run(self, batch: list[_Waiting], deadline_ms: float) -> None:
        began_s = self._clock()
        x: Any = tuple(
            np.concatenate(arrays) if len(batch) > 1 else arrays[0]
            for arrays in zip(*(each.inputs for each in batch), strict=True)
        )
        x = x[0] if len(x) == 1 else x
        size = sum(each.size for each in batch)
        session, mode = self._session, batch[0].mode
        try:
            if mode or not math.isfinite(deadline_ms):
                outputs = session.run(x, mode=mode or None)
                mode = mode or session.modes[0]
            else:
                outputs = session.run(x, deadline_ms=max(deadline_ms, 1e-3))
                mode = session.controller(size).decisions[-1].name
        except Exception as error:  # whoever waits for an answer is told; the others go on
            for each in batch:
                each.future.set_exception(error)
            return
        self._answer(batch, outputs, mode, began_s)

    def _answer(self, batch: list[_Waiting], outputs: Any, mode: str, began_s: float) -> None:
        arrays = outputs if isinstance(outputs, tuple) else (outputs,)
        size, start, ended_s = sum(each.size for each in batch), 0, self._clock()
        for each in batch:
            rows = tuple(array[start : start + each.size] for array in arrays)
            start += each.size
            total_ms = 1e3 * (ended_s - each.came_s)
            met = total_ms <= each.deadline_ms if math.isfinite(each.deadline_ms) else None
            waited_ms = 1e3 * (began_s - each.came_s)
            each.future.set_result(Answer(rows, mode, waited_ms, total_ms, size, met))
