"""What is known of how long the modes take on an unloaded device, and what follows for other batches."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from wenable.core.readings import Reading

Figures = dict[str, tuple[float, float | None]]
"""Mode, as text -> its median and its 99th percentile (None where it is not known), in ms."""


class Latencies:
    """Latencies of modes by size of batch: measured ones, and estimates where there are none.

    - `modes`: as text; `shares`: what each costs beside the others, by its multiply-accumulates.
    - `measured`: size of batch -> mode -> its latency; sizes that lack a mode are left out.

    >>> readings = {"1": Reading(8.0, "ms", p99=9.0), "1/4": Reading(3.0, "ms", p99=4.0)}
    >>> known = Latencies(["1", "1/4"], [1.0, 0.3], {1: readings})
    >>> known.figures(4)
    {'1': (32.0, 36.0), '1/4': (12.0, 16.0)}
    """

    def __init__(
        self,
        modes: Sequence[str],
        shares: Sequence[float],
        measured: Mapping[int, Mapping[str, Reading]],
    ) -> None:
        self._modes, self._shares = tuple(modes), tuple(shares)
        self._lock = threading.Lock()
        self._measured: dict[int, Figures] = {}
        self._estimated: dict[int, Figures] = {}
        for batch, readings in measured.items():
            if set(modes) <= set(readings):
                self.measured(batch, {mode: readings[mode] for mode in modes})

    def is_measured(self, batch: int) -> bool:
        """Say whether a size of batch was measured while nothing else ran."""
        return batch in self._measured

    def measured(self, batch: int, readings: Mapping[str, Reading]) -> None:
        """Take in what was measured of modes; of the others the estimates are scaled alike."""
        found: Figures = {mode: (each.known, each.p99) for mode, each in readings.items()}
        if set(found) < set(self._modes):
            found = self._completed(batch, found)
        with self._lock:
            self._measured[batch] = found

    def estimated(self, batch: int, times_ms: Mapping[str, float]) -> None:
        """Take in what modes took while it cannot be said that nothing else ran; at least one.

        The others follow by their multiply-accumulates. That takes costlier modes for costlier than they
        are, since no engine is faster by all of what a mode saves.
        """
        cheapest = min(times_ms, key=lambda mode: times_ms[mode])
        least, ms = self._shares[self._modes.index(cheapest)], times_ms[cheapest]
        figures: Figures = {
            mode: (times_ms.get(mode, ms * max(share / least, 1.0)), None)
            for mode, share in zip(self._modes, self._shares, strict=True)
        }
        with self._lock:
            self._estimated[batch] = figures

    def figures(self, batch: int) -> Figures | None:
        """Return the figures of a size of batch, estimated where it was not measured.

        Between two sizes that are known they lie on a line. Above the largest they grow with the
        batch; below the smallest they are taken to be its own, which is never too little. None where
        nothing is known of any size.
        """
        with self._lock:
            for known in (self._measured, self._estimated):
                if batch in known:  # an estimate of this size before what follows from another one
                    return known[batch]
            known = self._measured or self._estimated
            if not known:
                return None
            below = max((each for each in known if each < batch), default=None)
            above = min((each for each in known if each > batch), default=None)
            return {
                mode: _between(
                    batch,
                    (below, known[below][mode]) if below else None,
                    (above, known[above][mode]) if above else None,
                )
                for mode in self._modes
            }

    def _completed(self, batch: int, found: Figures) -> Figures:
        guess = self.figures(batch)
        if guess is None:
            self.estimated(batch, {mode: median for mode, (median, _) in found.items()})
            guess = self._estimated[batch]
        ratios = sorted(found[mode][0] / guess[mode][0] for mode in found)
        scale = ratios[len(ratios) // 2]
        return {mode: found.get(mode, (scale * guess[mode][0], None)) for mode in self._modes}


def _between(
    batch: int,
    below: tuple[int, tuple[float, float | None]] | None,
    above: tuple[int, tuple[float, float | None]] | None,
) -> tuple[float, float | None]:
    if below is None:
        assert above is not None
        return above[1]
    size, (median, p99) = below
    if above is None:
        return median * batch / size, None if p99 is None else p99 * batch / size
    share = (batch - size) / (above[0] - size)
    tails = None
    if p99 is not None and above[1][1] is not None:
        tails = p99 + share * (above[1][1] - p99)
    return median + share * (above[1][0] - median), tails
