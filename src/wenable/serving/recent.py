"""What happened of late: how long a step of each request took, and how often requests came."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

_KEPT = 128
_FORGET_S = 1.0
_QUANTILE = 0.98


class RecentTimes:
    """How long a step took: of the last 128 of the last second, 98 in 100 no longer than `ms`.

    What is older says nothing of the machine as it is now, and one that was slow for a moment would
    refuse requests for ever, since what is refused teaches nothing.

    - `clock`: seconds; replaced in tests.

    >>> times = RecentTimes()
    >>> times.ms
    0.0
    >>> for took in range(1, 101):
    ...     times.note(float(took))
    >>> times.ms
    98.0
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._last: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def note(self, took_ms: float) -> None:
        """Note how long it took once, up to now."""
        with self._lock:
            self._last.append((self._clock(), max(took_ms, 0.0)))

    @property
    def ms(self) -> float:
        """What nearly all stayed below; 0 where nothing was seen."""
        with self._lock:
            oldest_s = self._clock() - _FORGET_S
            while self._last and self._last[0][0] < oldest_s:
                self._last.popleft()
            seen = sorted(took for _, took in self._last)
        return seen[math.ceil(_QUANTILE * len(seen)) - 1] if seen else 0.0


class ArrivalRate:
    """How many requests come in a millisecond, by the last 16.

    - `clock`: seconds; replaced in tests.

    >>> from wenable.runtime.replay import FakeClock
    >>> clock = FakeClock()
    >>> rate = ArrivalRate(clock)
    >>> for _ in range(9):
    ...     rate.note()
    ...     clock.forward(0.004)
    >>> round(rate.per_ms, 3)
    0.25
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last: deque[float] = deque(maxlen=16)

    def note(self) -> None:
        """Note that one has come."""
        self._last.append(self._clock())

    @property
    def per_ms(self) -> float:
        """The rate; 0 while there are too few to tell, and falling while none comes."""
        if len(self._last) < 8:
            return 0.0
        return len(self._last) / max(1e3 * (self._clock() - self._last[0]), 1e-6)
