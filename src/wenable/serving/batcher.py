"""A bounded queue of requests with deadlines, and one thread that runs them in batches.

Requests run in the order they came, with the session's own threads behind each call. Those that wait
behind the first and fit it (same mode, same shapes) join its batch, as far as the fastest mode is
predicted to bring the larger batch home before the earliest deadline in it. A batch's own deadline is the
earliest of its requests, less what those that go on waiting need (`estimate.py`). Whatever cannot be in
time is refused when it comes, before its body is read if its deadline is known by then (`announce`), or
given up before it runs, so that the time goes to those that can be, and a burst leaves no long queue.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wenable.runtime.session import Session
from wenable.runtime.sized import size_given
from wenable.serving.estimate import Estimate
from wenable.serving.recent import ArrivalRate, RecentTimes
from wenable.serving.refusals import RefusedError

Inputs = tuple[np.ndarray, ...]
_MOST_KEPT = 0.75
_SLOW_S = 1.0
"""A body that takes longer has a slow client, and says nothing of when its request will wait."""


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
    margin_ms: float
    future: Future[Answer] = field(default_factory=Future)

    @property
    def size(self) -> int:
        return len(self.inputs[0])

    def left_ms(self, now_s: float) -> float:
        """Return the time until its batch has to be done, for its answer to be back in time."""
        return self.deadline_ms - self.margin_ms - 1e3 * (now_s - self.came_s)

    def fits(self, first: _Waiting) -> bool:
        return self.mode == first.mode and all(
            a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
            for a, b in zip(self.inputs, first.inputs, strict=True)
        )


class Coming:
    """A request that was announced to a queue; it counts there until `end`."""

    def __init__(self, ended: Callable[[Coming], None]) -> None:
        self._ended = ended

    def end(self) -> None:
        """It waits now, or will never come. To say it again changes nothing."""
        self._ended(self)


class Batcher:
    """Runs requests on a session, one batch after another.

    - `session`: warmed up for `batches`.
    - `batches`: the sizes that requests are joined to, ascending; a request that is larger than the
      first of them by itself runs as it is. `(1,)` where outputs have not a row for each example.
    - `capacity`: how many requests may wait.
    - `clock`: seconds; replaced in tests. `start`: False to run batches by `run_next` only, in tests.

    `ways` is told how long each request took to be seen and its answer to leave; so much of the deadlines
    of those that follow is kept for that. `close` finishes what waits.
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
        self._estimate = Estimate(session, self._batches)
        self.ways = RecentTimes(clock)
        self._reading_takes = RecentTimes(clock)
        self._arrivals = ArrivalRate(clock)
        self._waiting: deque[_Waiting] = deque()
        self._coming: dict[Coming, float] = {}  # and when each was announced, in that order
        self._changed = threading.Condition()
        self._closed = False
        self._ends_s: float | None = None  # of the batch that runs, as predicted
        self._next: tuple[Session, tuple[int, ...]] | None = None
        self._thread = threading.Thread(target=self._serve, name="wenable-serve", daemon=True)
        if start:
            self._thread.start()

    @property
    def length(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def coming(self) -> int:
        """How many requests were announced of late and do not wait yet."""
        oldest_s = self._clock() - _SLOW_S
        with self._changed:
            return self._coming_since(oldest_s)

    def announce(self, *, deadline_ms: float | None = None) -> Coming:
        """Say that a request comes whose body is not yet read; it counts as one that waits.

        - `deadline_ms`: as far as it is known by now, from now on.

        Raises `RefusedError` as `submit` does, so that the body of what is refused need not be read.
        """
        now_s = self._clock()
        with self._changed:
            self._arrivals.note()
            before = len(self._waiting) + self._coming_since(now_s - _SLOW_S)
            self._check_room(before)
            if deadline_ms is not None and (before or self._ends_s is not None):
                examples = sum(each.size for each in self._waiting) + before - len(self._waiting)
                left_ms = deadline_ms - self._margin_ms(deadline_ms)
                self._check_time(deadline_ms, left_ms, before, examples + 1, self._reading_takes.ms)
            coming = Coming(self._ended_coming)
            self._coming[coming] = now_s
        return coming

    def submit(
        self,
        inputs: Inputs,
        *,
        deadline_ms: float | None = None,
        mode: str = "",
        came_s: float | None = None,
        coming: Coming | None = None,
    ) -> Future[Answer]:
        """Take a request and return what will hold its answer.

        - `inputs`: arrays as `Session.run` takes them; checked before.
        - `deadline_ms`: from when it came; None for no deadline.
        - `came_s`: when that was, by the clock; None for now.
        - `mode`: instead of a deadline's choice.
        - `coming`: what it was announced as, if it was; ended here.

        Raises `RefusedError` if the queue is full, the deadline cannot be met, or `close` was called.
        """
        now_s = self._clock()
        request = _Waiting(
            inputs,
            now_s if came_s is None else came_s,
            math.inf if deadline_ms is None else deadline_ms,
            mode,
            self._margin_ms(math.inf if deadline_ms is None else deadline_ms),
        )
        with self._changed:
            if coming is None:
                self._arrivals.note()
            else:
                coming.end()
                self._reading_takes.note(1e3 * (now_s - request.came_s))
            if request.deadline_ms <= 1e3 * (now_s - request.came_s):
                raise RefusedError(
                    504, "`deadline_ms` passed before the request was read", "expired"
                )
            self._check_room(len(self._waiting))
            if deadline_ms is not None and (self._waiting or self._ends_s is not None):
                examples = sum(each.size for each in self._waiting) + request.size
                left_ms = request.left_ms(now_s)
                self._check_time(deadline_ms, left_ms, len(self._waiting), examples)
            self._waiting.append(request)
            self._changed.notify()
        return request.future

    def replace(self, session: Session, batches: Sequence[int]) -> None:
        """Go on with another session after the batch that runs; the one before is closed then."""
        with self._changed:
            unused, self._next = self._next, (session, tuple(sorted(batches)))
            self._changed.notify()
        if unused is not None:
            unused[0].close()

    def close(self) -> None:
        """Take no more requests, finish those that wait, and close the session."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._session.close()
        if self._next is not None:
            self._next[0].close()

    def run_next(self) -> None:
        """Run the next batch, if a request waits.

        Whatever goes wrong is told to those in the batch that have no answer yet; the others go on.
        """
        batch: list[_Waiting] = []
        try:
            with self._changed:
                now_s = self._clock()
                self._take(batch, now_s)
                if not batch:
                    return
                deadline_ms = self._deadline_ms(batch, now_s)
                size = sum(each.size for each in batch)
                runs_ms = self._estimate.batch_ms(size, deadline_ms, batch[0].mode)
                self._ends_s = now_s + runs_ms / 1e3
            self._run(batch, deadline_ms)
        except Exception as error:
            for each in batch:
                if not each.future.done():
                    each.future.set_exception(error)
        finally:
            self._ends_s = None

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed or self._next)
                if self._closed and not self._waiting:
                    return
                before, following = self._session, self._next
                if following is not None:
                    (self._session, self._batches), self._next = following, None
                    self._estimate = Estimate(self._session, self._batches)
            if following is not None:
                _close(before)
            self.run_next()

    def _margin_ms(self, deadline_ms: float) -> float:
        """Return what is kept of a deadline for the ways; not all of it, or nothing would run and teach."""
        return min(self.ways.ms, _MOST_KEPT * deadline_ms)

    def _coming_since(self, oldest_s: float) -> int:
        return sum(announced_s >= oldest_s for announced_s in self._coming.values())

    def _ended_coming(self, coming: Coming) -> None:
        with self._changed:
            self._coming.pop(coming, None)

    def _check_room(self, waiting: int) -> None:
        if self._closed:
            raise RefusedError(503, "the server is stopping", "refused")
        if waiting >= self._capacity:
            raise RefusedError(429, f"the queue is full: {waiting} requests wait", "refused")

    def _check_time(
        self,
        deadline_ms: float,
        left_ms: float,
        before: int,
        examples: int,
        reading_ms: float = 0.0,
    ) -> None:
        """Refuse a request that those before it leave no time, in the fastest mode and full batches.

        - `left_ms`: until its batch has to be done; `before`: how many requests wait before it.
        - `examples`: its own and theirs; `reading_ms`: until it can run at the earliest.
        """
        needed_ms = self._runs_on_ms() + self._estimate.needed_ms(examples)
        needed_ms = max(needed_ms, reading_ms + self._estimate.fastest_ms(1))
        if needed_ms > left_ms:
            raise RefusedError(
                429,
                f"`deadline_ms` (={deadline_ms:g}) cannot be met: {before} requests"
                f" wait before it, about {needed_ms:.0f} ms",
                "refused",
            )

    def _runs_on_ms(self) -> float:
        """Return how long the batch that runs will go on.

        One that is over its time is taken to go on for as long as it is over it.
        """
        ends_s = self._ends_s
        return 0.0 if ends_s is None else 1e3 * abs(ends_s - self._clock())

    def _take(self, batch: list[_Waiting], now_s: float) -> None:
        """Move the first request and those that join it into a batch; what is too late is given up.

        - `batch`: empty; a request is in it from when it is off the queue, so that none is lost.
        """
        while self._waiting:
            first = self._waiting.popleft()
            if not first.future.set_running_or_notify_cancel():
                continue  # its client has gone
            batch.append(first)
            reason = self._lost(first, now_s)
            if not reason:
                break
            first.future.set_exception(RefusedError(504, reason, "expired"))
            batch.clear()
        else:
            return
        for _ in range(self._joining(first, now_s)):
            joined = self._waiting.popleft()
            if joined.future.set_running_or_notify_cancel():
                batch.append(joined)

    def _lost(self, request: _Waiting, now_s: float) -> str:
        """Say why the first of those that wait cannot be in time; nothing if it can.

        The last one is tried while any of its time is left: only what runs shows how slow a machine is now.
        """
        left_ms = request.left_ms(now_s)
        needed_ms = self._estimate.fastest_ms(request.size) if self._waiting else 0.0
        if needed_ms <= left_ms and left_ms > 0:
            return ""
        left_ms, needed_ms = left_ms + request.margin_ms, needed_ms + request.margin_ms
        if left_ms <= 0:
            return "`deadline_ms` passed while the request waited"
        return (
            f"`deadline_ms` (={request.deadline_ms:g}) cannot be met any more: {left_ms:.0f} ms are left,"
            f" about {needed_ms:.0f} are needed"
        )

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
            if size in self._batches and self._estimate.fastest_ms(size) <= earliest_ms:
                joining = count
        return joining

    def _deadline_ms(self, batch: list[_Waiting], now_s: float) -> float:
        return self._estimate.allowed_ms(
            len(batch),
            min(each.left_ms(now_s) for each in batch),
            [each.left_ms(now_s) for each in self._waiting],
            self._arrivals.per_ms,
        )

    def _run(self, batch: list[_Waiting], deadline_ms: float) -> None:
        began_s = self._clock()
        x: Any = tuple(
            np.concatenate(arrays) if len(batch) > 1 else arrays[0]
            for arrays in zip(*(each.inputs for each in batch), strict=True)
        )
        x = x[0] if len(x) == 1 else x
        size = sum(each.size for each in batch)
        session, mode = self._session, batch[0].mode
        if mode or not math.isfinite(deadline_ms):
            outputs = session.run(x, mode=mode or None)
            mode = mode or session.modes[0]
        else:
            outputs = session.run(x, deadline_ms=max(deadline_ms, 1e-3))
            sized = size_given(x, session.image_sizes)
            mode = session.controller(size, sized).decisions[-1].name
        self._answer(batch, outputs, mode, began_s)

    def _answer(self, batch: list[_Waiting], outputs: Any, mode: str, began_s: float) -> None:
        if isinstance(outputs, dict):  # of names, in the order of the graph's outputs
            outputs = tuple(outputs.values())
        arrays = outputs if isinstance(outputs, tuple) else (outputs,)
        size, start, ended_s = sum(each.size for each in batch), 0, self._clock()
        for each in batch:
            rows = arrays  # of a request alone, also where outputs have not a row for each example
            if len(batch) > 1:
                rows = tuple(array[start : start + each.size] for array in arrays)
            start += each.size
            total_ms = 1e3 * (ended_s - each.came_s)
            met = None if math.isinf(each.deadline_ms) else each.left_ms(ended_s) >= 0
            waited_ms = 1e3 * (began_s - each.came_s)
            each.future.set_result(Answer(rows, mode, waited_ms, total_ms, size, met))


def _close(session: Session) -> None:
    """Close a session that was replaced; one that fails to must not hold up the one after it."""
    try:
        session.close()
    except Exception:
        logging.getLogger(__name__).exception("a session that was replaced did not close")
