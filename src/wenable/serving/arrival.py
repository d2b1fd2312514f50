"""A request on its way through the server: what is noted of it, from its headers to its answer."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from wenable.serving.batcher import Answer, Coming


@dataclass
class Visit:
    """What is known of the request at hand.

    - `came_s`: when the server saw its headers, by `time.perf_counter`.
    - `coming`: its place in the count of those that are still read; None where nobody counts.
    - `seen_late_ms`: how long it was there before, or about that.
    - `deadline_ms`, `answer`: set when it was answered.
    """

    came_s: float = field(default_factory=time.perf_counter)
    coming: Coming | None = None
    seen_late_ms: float = 0.0
    deadline_ms: float | None = None
    answer: Answer | None = None


VISIT: ContextVar[Visit | None] = ContextVar("VISIT", default=None)
"""That of the request which this task answers."""


def present_visit() -> Visit:
    """Return what is noted of the request of this task; one that begins now, if nobody noted it."""
    return VISIT.get() or Visit()
