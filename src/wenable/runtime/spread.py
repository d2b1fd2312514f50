"""How far latencies lie beyond the usual at the target quantile, for short modes and for long ones.

A delay is not in proportion to what is delayed: another process on the same core takes a slice of some
milliseconds, whichever mode it interrupts, and interrupts long modes more often. So what lies above the
usual is kept in milliseconds. To a mode as long as the one in which it was seen, or longer, it is the same
delay; of a shorter one it is taken to be the shorter part, as if it had been a slowdown. Both may be too
little, and what is then seen in that mode says so, where too much would keep the mode from being tried at
all. What lies below the usual is a share of it.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from bisect import bisect_left, insort
from collections.abc import Sequence


class Spread:
    """The target quantile of what the last `window` requests took beyond the usual, by length of the mode.

    By its own uncertainty it is the ceil((n + 1) x target)-th of the last n: the next one lies below it
    with a probability of at least `target`, whatever they are distributed like (conformal prediction: Vovk,
    Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005).

    - `units_ms`: what each mode takes at the target quantile while nothing else runs.
    - `sigma`: the spread of the logarithm of that: it begins with a log-normal distribution, whose quantile
      is the mode's unit itself.

    >>> spread = Spread([2.0, 20.0], 0.03, target=0.9, window=10)
    >>> for _ in range(10):
    ...     spread.add(1, latency_ms=24.0, usual_ms=20.0)
    >>> spread.quantile_ms(0, usual_ms=2.0), spread.quantile_ms(1, usual_ms=20.0)
    (2.4, 24.0)
    """

    def __init__(self, units_ms: Sequence[float], sigma: float, target: float, window: int) -> None:
        # Modes of equal length within half an octave share a quantile: there may be thousands of modes.
        lengths = [round(2 * math.log2(unit)) for unit in units_ms]
        known = sorted(set(lengths))
        self._units_ms = tuple(units_ms)
        self._class_of = [known.index(each) for each in lengths]
        self._longest_ms = [
            max(unit for unit, length in zip(units_ms, lengths, strict=True) if length == each)
            for each in known
        ]
        rank = min(math.ceil((window + 1) * target - 1e-9), window) - 1
        points = _normal_points(window)
        ratios = [math.exp(sigma * (point - points[rank])) for point in points]
        self._of_class = [
            _Quantile([score_of(ms * ratio, ms) for ratio in ratios], rank)
            for ms in self._longest_ms
        ]

    @property
    def seen(self) -> int:
        """How many requests it rests on, `window` at most."""
        return self._of_class[0].seen

    @property
    def scores(self) -> list[float]:
        """The quantile for each mode, as `score_of` has it."""
        of_class = [each.value for each in self._of_class]
        return [of_class[each] for each in self._class_of]

    def quantile_ms(self, place: int, usual_ms: float) -> float:
        """Return the target quantile of a mode that usually takes `usual_ms` at most."""
        score = self._of_class[self._class_of[place]].value
        return usual_ms + score if score > 0 else usual_ms * (1 + score)

    def add(self, place: int, latency_ms: float, usual_ms: float) -> None:
        """Take in a request of a mode that usually takes `usual_ms` at most, as the machine was."""
        score, unit_ms = score_of(latency_ms, usual_ms), self._units_ms[place]
        for longest_ms, each in zip(self._longest_ms, self._of_class, strict=True):
            each.add(score * min(1.0, longest_ms / unit_ms) if score > 0 else score)


class _Quantile:
    """One of the last scores in the order of their size, begun with scores that nobody saw.

    Beginning with a full window keeps the first outlier from being taken for the rule, and needs no second
    way to predict.

    - `begun`: the scores of the beginning, ascending; `rank`: the place of the one that is wanted.
    """

    def __init__(self, begun: list[float], rank: int) -> None:
        self._rank, self.seen = rank, 0
        self._by_size = begun
        self._by_time = [begun[place] for place in _mixed(len(begun))]  # replaced evenly
        self._oldest = 0
        self.value = self._by_size[self._rank]

    def add(self, score: float) -> None:
        self.seen = min(self.seen + 1, len(self._by_time))
        old, self._by_time[self._oldest] = self._by_time[self._oldest], score
        self._oldest = (self._oldest + 1) % len(self._by_time)
        del self._by_size[bisect_left(self._by_size, old)]
        insort(self._by_size, score)
        self.value = self._by_size[self._rank]


def score_of(latency_ms: float, usual_ms: float) -> float:
    """Return how far a latency lies above the usual one in milliseconds, or below it as a share of it.

    >>> score_of(24.0, 20.0), score_of(15.0, 20.0)
    (4.0, -0.25)
    """
    beyond_ms = latency_ms - usual_ms
    return beyond_ms if beyond_ms > 0 else beyond_ms / usual_ms


@functools.lru_cache(maxsize=8)
def _normal_points(count: int) -> tuple[float, ...]:
    normal = statistics.NormalDist()
    return tuple(normal.inv_cdf((i + 0.5) / count) for i in range(count))


@functools.lru_cache(maxsize=8)
def _mixed(count: int) -> tuple[int, ...]:
    places = list(range(count))
    random.Random(0).shuffle(places)
    return tuple(places)
