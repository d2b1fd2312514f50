"""How long something takes, in the units people read, and a search's time estimated from its start."""

from __future__ import annotations

import time
from collections.abc import Callable

from wenable.strategies.greedy import SearchStep

_WORTH_SAYING_S = 10.0
_FIRST = 4
"""So many modes are evaluated before the first estimate: one alone may be an outlier."""


def duration_words(seconds: float) -> str:
    """Return a duration in the two largest units that matter.

    >>> [duration_words(each) for each in (0.04, 8.2, 75, 3599, 5400, 200_000)]
    ['0.04 s', '8 s', '1 min 15 s', '1 h', '1 h 30 min', '2 d 8 h']
    """
    if seconds < 1:
        return f"{seconds:.2g} s"
    for size, unit, below, part in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        whole = round(seconds / below)  # in the smaller unit, so that 59.9 s is a minute
        if whole * below >= size:
            more = whole % (size // below)
            return f"{whole * below // size} {unit}" + (f" {more} {part}" if more else "")
    return f"{round(seconds)} s"


class SearchClock:
    """Estimates from the first steps of a search how long all of it will take, and says so once.

    - `say`: is told in words.
    - `now`: the time in seconds; another one serves tests.
    """

    def __init__(
        self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._now = say, now
        self._started = now()
        self._first: float | None = None
        self._said = False

    def __call__(self, step: SearchStep) -> None:
        """Take note of a step."""
        passed = self._now() - self._started
        if self._first is None:
            self._first = passed  # with what is done once: images read, kernels made
        if self._said or step.evaluations < _FIRST:
            return
        self._said = True
        if step.candidates > 1:  # whole steps of several modes each
            each, of, most = passed / step.number, f"{step.most} steps", "at most "
            whole = each * step.most
        else:
            likely = step.likely or step.most
            each, of, most = (passed - self._first) / max(step.number - 1, 1), f"{likely} modes", ""
            whole = self._first + each * (likely - 1)
        if whole >= _WORTH_SAYING_S:
            words = f"{duration_words(each)} each: {most}about {duration_words(whole)}"
            self._say(f"{most or 'about '}{of}, {words}")
