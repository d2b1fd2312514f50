"""When the request at hand came, and how long answers take from their batch to their client."""

from __future__ import annotations

import time
from collections import deque
from contextvars import ContextVar

import numpy as np

CAME_S: ContextVar[float | None] = ContextVar("CAME_S", default=None)
"""When the server saw the first of the request that this task answers, by `time.perf_counter`."""


def came_s() -> float:
    """Return when the request of this task came; now, if nobody noted it."""
    noted = CAME_S.get()
    return time.perf_counter() if noted is None else noted


class WayBack:
    """How long answers take from the end of their batch until the thread that sends them goes on.

    On a busy server that thread has other requests to read first, and no batch can make up for it. Of the
    last 64 answers nine in ten took no longer than `ms`.

    >>> way = WayBack()
    >>> way.ms
    0.0
    >>> for took in range(1, 11):
    ...     way.note(float(took))
    >>> way.ms
    9.1
    """

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=64)
        self.ms = 0.0

    def note(self, took_ms: float) -> None:
        """Note how long one answer took."""
        self._last.append(max(took_ms, 0.0))
        self.ms = round(float(np.percentile(self._last, 90)), 3)
