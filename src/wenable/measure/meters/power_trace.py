"""Energy over time, as an external meter wrote it down."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class PowerTrace:
    """Energy over time, as a meter wrote it down.

    - `times_s`: seconds since 1970, rising.
    - `energies_j`: the energy since the first of them, at each.
    - `powers_w`: the power at each, between which it is linear; empty where the meter wrote
      energies, which are linear between their moments then.
    - `name`: the file's, for errors.

    >>> trace = PowerTrace.of_powers((0.0, 1.0, 2.0), (10.0, 10.0, 30.0))
    >>> trace.joules(0.5, 2.0, max_gap_share=1)
    25.0
    """

    times_s: Sequence[float]
    energies_j: Sequence[float]
    powers_w: Sequence[float] = ()
    name: str = "the trace"

    @classmethod
    def of_powers(
        cls, times_s: Sequence[float], powers_w: Sequence[float], name: str = "the trace"
    ) -> PowerTrace:
        """Return the trace of powers in W, summed up by trapezoids."""
        pieces = (
            (after - before) * (first + second) / 2
            for (before, after), (first, second) in zip(
                pairwise(times_s), pairwise(powers_w), strict=True
            )
        )
        return cls(times_s, tuple(accumulate(pieces, initial=0.0)), powers_w, name)

    def joules(self, start_s: float, stop_s: float, *, max_gap_share: float = 0.05) -> float:
        """Return the energy between two moments, in seconds since 1970.

        - `max_gap_share`: how much of the window may lie between two samples.

        Raises `ValueError` where the window is empty or not within the trace, or a gap is larger.
        """
        first, last = self.times_s[0], self.times_s[-1]
        if not first <= start_s < stop_s <= last:
            raise ValueError(
                f"the window from {start_s:.3f} to {stop_s:.3f} must lie within {self.name}, which"
                f" goes from {first:.3f} to {last:.3f} (seconds since 1970)"
            )
        gap_s, allowed_s = self._largest_gap(start_s, stop_s), max_gap_share * (stop_s - start_s)
        if gap_s > allowed_s:
            raise ValueError(
                f"{self.name} has a gap of {gap_s:.3g} s in the window from {start_s:.3f} to"
                f" {stop_s:.3f}; allowed: {allowed_s:.3g} s, which is `max_gap_share`"
                f" (={max_gap_share}) of the window"
            )
        return self._energy_at(stop_s) - self._energy_at(start_s)

    def _largest_gap(self, start_s: float, stop_s: float) -> float:
        begin = bisect_right(self.times_s, start_s) - 1
        inside = self.times_s[begin : bisect_right(self.times_s, stop_s) + 1]
        return max(after - before for before, after in pairwise(inside))

    def _energy_at(self, moment_s: float) -> float:
        place = min(bisect_right(self.times_s, moment_s) - 1, len(self.times_s) - 2)
        before, after = self.times_s[place], self.times_s[place + 1]
        passed, share = moment_s - before, (moment_s - before) / (after - before)
        if not self.powers_w:
            step_j = self.energies_j[place + 1] - self.energies_j[place]
            return self.energies_j[place] + share * step_j
        power, rise = self.powers_w[place], self.powers_w[place + 1] - self.powers_w[place]
        return self.energies_j[place] + passed * (power + share * rise / 2)
