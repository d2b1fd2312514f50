"""Learns how much slower a machine is now, and how irregular, from the latencies it observes.

How a latency is predicted:

1. Every observed latency is divided by the unloaded median of its mode. The *level* is the median
   of the last ratios since the load last changed, 16 or `forget_s` at most: few, so that it follows a load
   that rises slowly. Two in a row that lie above what was predicted are a new load, at once. A single one
   is not, but the next request is chosen as if it were: if it was an outlier that costs one request
   some accuracy, and if not it saves one from being late. Where the ratios of the last `memory_s`
   (three at least) lie well below the level, the load has gone: the level shows on whatever mode
   runs, so a costlier mode need not be tried to find out.
2. What a mode usually takes at most is its target quantile alone, by its p99, times the level that was
   believed when it started. The *spread* is the target quantile of what the last `window` requests took
   beyond that: in milliseconds, for modes of each length (`spread.py`). It is kept apart for each band of
   levels: a loaded machine is not only slower, it is less regular. The slow requests that reveal a rise of
   the load say nothing about the spread and are left out of it.
3. Modes slow down unequally: where one follows another, part of the difference between their ratios
   is put down to the two, in that band of levels.
4. predicted = (unloaded quantile x the mode's own factor x level, and beyond that the spread) x headroom.
   The product of level and headroom rises at once and falls only by what exceeds `hysteresis`.
5. With nothing new the level fades to 1, its logarithm halving every `forget_s`: after an idle time
   the first requests are chosen as on an unloaded machine.

Ratios and levels are kept as logarithms. No step sorts: sorted lists are kept sorted.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from functools import partial

from wenable.runtime.decisions import ModeFigures
from wenable.runtime.spread import Spread

_BANDS = 7  # of levels, half an octave each: about 1, 1.4, 2, 2.8, 4, 5.7 and above
_UNKNOWN_P99 = 1.1  # over the median, where no mode has one
_MOST_RECENT = 16
_ADAPTATION = 0.1  # share of a difference between two modes that is put down to them
_QUIET = 5  # times `memory_s`: rises of the load that follow closer are spread, not rises
# Logarithms of ratios:
_SLOW = 0.25  # what lies no further above the level is always part of the spread
_LEAST_RISE = 0.05  # what lies no further above the level is never a rise of the load
_FALL = 0.15  # all of `memory_s` this far below the level are a fall of the load
_FAR = 20.0  # no ratio is taken for larger, or for smaller than its inverse
_CLIP = 0.25  # of a difference between two modes: an outlier must not teach much
_MOST_CORRECTION = math.log(2)

_Seen = tuple[int, float, float]
"""What `Spread.add` takes of a request."""


class Machine:
    """The present state of the machine, and what each mode costs on it.

    `costs[band][place]` times exp(level), and the `spread` of the band beyond that, is a predicted latency
    in milliseconds.
    """

    def __init__(
        self,
        modes: Sequence[ModeFigures],
        target: float,
        window: int,
        memory_s: float,
        forget_s: float,
    ) -> None:
        self._tails = [_tail(mode, target) for mode in modes]
        self._medians = [math.log(mode.latency_ms) for mode in modes]
        units = [math.exp(a + b) for a, b in zip(self._medians, self._tails, strict=True)]
        of_normal = abs(statistics.NormalDist().inv_cdf(target))
        sigma = statistics.median(self._tails) / max(of_normal, 1.0)
        self._new_spread = partial(Spread, units, abs(sigma), target, window)
        self._spreads: dict[int, Spread] = {}
        self.costs = [list(units) for _ in range(_BANDS)]
        self._corrections = [[0.0] * len(modes) for _ in range(_BANDS)]
        self._memory_s, self._forget_s = memory_s, forget_s
        self._recent = _Recent(memory_s, forget_s)
        self._suspect: tuple[int, _Seen, float] | None = None
        self._rises = [-math.inf] * _BANDS  # when the level last rose, from each band
        self._before: tuple[int, float, float] | None = None  # place, ratio, time of the last one

    def level(self, now: float) -> float:
        """Return the logarithm of the slowdown."""
        return self._recent.level(now)

    def expected(self, now: float) -> float:
        """Return the level to choose by: that of a single slow request too, while it is the last one."""
        return max(self.level(now), self._recent.suspected(now))

    def spread(self, band: int) -> Spread:
        """Return the spread of a band, made when it is first asked for."""
        found = self._spreads.get(band)
        if found is None:
            found = self._spreads[band] = self._new_spread()
        return found

    def tail(self, place: int, level: float) -> float:
        """Return the logarithm of a mode's predicted latency over its median, the level left out."""
        band = band_of(level)
        usual_ms = self.costs[band][place] * math.exp(level)
        beyond = self.spread(band).quantile_ms(place, usual_ms) / usual_ms
        return self._tails[place] + math.log(beyond)

    def observe(self, place: int, latency_ms: float, now: float) -> None:
        """Take in the latency of a request that ended now."""
        level = self.level(now - latency_ms / 1e3)  # what was believed when it started
        band = band_of(level)
        ratio = min(max(math.log(latency_ms) - self._medians[place], -_FAR), _FAR)
        corrected = ratio - self._corrections[band][place]
        rise = max(self.tail(place, level), _LEAST_RISE)
        usual_ms = self.costs[band][place] * math.exp(level)
        seen = place, math.exp(self._medians[place] + ratio), usual_ms
        self._learn_spread(band, corrected - level, seen, now)
        self._recent.add(corrected, now, rise)
        self._compare(place, ratio, now)

    def _learn_spread(self, band: int, above: float, seen: _Seen, now: float) -> None:
        """Add a request, unless it is one of those in a row that reveal a rise of the load."""
        since = now - self._rises[band]
        if above <= _SLOW:
            self._settle()
            self.spread(band).add(*seen)
        elif since <= self._memory_s:
            pass  # it had started before the rise was seen
        elif self._suspect is None or since <= _QUIET * self._memory_s or self._is_old(now):
            self._settle()
            self._suspect = band, seen, now
        else:
            self._suspect, self._rises[band] = None, now

    def _settle(self) -> None:
        if self._suspect is not None:  # it stayed alone: an outlier, which the spread has to know
            band, seen, _ = self._suspect
            self.spread(band).add(*seen)
            self._suspect = None

    def _is_old(self, now: float) -> bool:
        """Say whether the last slow request was too long ago for one now to be in a row with it."""
        return self._suspect is not None and now - self._suspect[2] > self._forget_s

    def _compare(self, place: int, ratio: float, now: float) -> None:
        """Put part of the difference to the request before down to the two modes, if they differ."""
        before, self._before = self._before, (place, ratio, now)
        if before is None or before[0] == place or now - before[2] > 2 * self._memory_s:
            return
        band = band_of(self.level(now))
        corrections = self._corrections[band]
        other = before[0]
        gap = (ratio - corrections[place]) - (before[1] - corrections[other])
        step = _ADAPTATION * min(max(gap, -_CLIP), _CLIP) / 2
        for at, change in ((place, step), (other, -step)):
            new = min(max(corrections[at] + change, -_MOST_CORRECTION), _MOST_CORRECTION)
            corrections[at] = new
            self.costs[band][at] = math.exp(self._medians[at] + self._tails[at] + new)


class _Recent:
    """The ratios since the load last changed, by time and by size."""

    def __init__(self, memory_s: float, forget_s: float) -> None:
        self._memory_s, self._forget_s = memory_s, forget_s
        self._suspect = (-math.inf, 0.0)  # when, and the ratio of a last one far above the level
        self._by_time: deque[tuple[float, float]] = deque()
        self._by_size: list[float] = []

    def add(self, value: float, now: float, rise: float) -> None:
        """Take in a ratio; two in a row that lie `rise` above the level are a new load."""
        self._by_time.append((now, value))
        level = self._median() if self._by_size else 0.0
        self._suspect = (now, value) if value > level + rise else (-math.inf, 0.0)
        if len(self._by_time) > 2:
            # The first of the two may be what `rise` is from: equal up to rounding counts.
            if min(value, self._by_time[-2][1]) > level + rise - 1e-9:
                self._keep(2)
            elif (fallen := self._fallen(level - _FALL, now)) > 0:
                self._keep(fallen)
        insort(self._by_size, value)
        if len(self._by_time) > _MOST_RECENT:
            self._drop()

    def level(self, now: float) -> float:
        """Return the median, faded where nothing is recent; 0 where there is none."""
        if not self._by_time:
            return 0.0
        while len(self._by_time) > 1 and now - self._by_time[0][0] > self._forget_s:
            self._drop()
        idle = now - self._by_time[-1][0] - self._memory_s
        return self._median() * (0.5 ** (idle / self._forget_s) if idle > 0 else 1.0)

    def suspected(self, now: float) -> float:
        """Return the last ratio if it lay far above the level a moment ago; else minus infinity."""
        at, value = self._suspect
        return value if now - at <= self._memory_s else -math.inf

    def _median(self) -> float:
        return self._by_size[(len(self._by_size) - 1) // 2]

    def _fallen(self, below: float, now: float) -> int:
        """Return how many were seen in `memory_s` (3 at least), if nearly all lie `below`; else 0."""
        count = high = 0
        for at, value in reversed(self._by_time):
            if now - at > self._memory_s and count >= 3:
                break
            count += 1
            high += value >= below
        return count if count >= 3 and high <= count // 8 else 0

    def _keep(self, count: int) -> None:
        while len(self._by_time) > count:
            self._drop()

    def _drop(self) -> None:
        _, value = self._by_time.popleft()
        del self._by_size[bisect_left(self._by_size, value)]


def band_of(level: float) -> int:
    """Return the band of a level: half octaves, the unloaded machine in the middle of the first."""
    return min(max(round(2 * level / math.log(2)), 0), _BANDS - 1)


def _tail(mode: ModeFigures, target: float) -> float:
    """Return the logarithm of the target quantile over the median, by the p99 of the mode."""
    p99 = mode.latency_p99_ms
    tail = math.log(_UNKNOWN_P99 if p99 is None else p99 / mode.latency_ms)
    normal = statistics.NormalDist()
    return tail * (normal.inv_cdf(target) / normal.inv_cdf(0.99))
