"""What a controller is told, decides and sees: figures, decisions, outcomes."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from wenable.core.given_numbers import is_number


class BudgetError(RuntimeError):
    """No mode is predicted to stay within what was asked, and the caller asked to be told."""


@dataclass(frozen=True, slots=True)
class ModeFigures:
    """What is known of one mode on this device.

    - `accuracy`: a share from 0 to 1. Where any mode has none, the order of cost stands for the
      order of accuracy in all of them: the slower the mode, the more accurate.
    - `latency_ms`: the median on an unloaded machine; `latency_p99_ms`: the 99th percentile.
    - `energy_mj`: of one inference; where it is None, `energy_reason` may say why.

    Raises `ValueError` for a figure that is not finite or out of its range.

    >>> ModeFigures("1/2", accuracy=0.74, latency_ms=9.8, latency_p99_ms=10.9).name
    '1/2'
    """

    name: str
    accuracy: float | None
    latency_ms: float
    latency_p99_ms: float | None = None
    energy_mj: float | None = None
    energy_reason: str = ""

    def __post_init__(self) -> None:
        where = f" of mode {self.name!r}"
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise ValueError(f"`accuracy` (={self.accuracy}){where} must be from 0 to 1")
        check_positive("latency_ms", self.latency_ms, where)
        if self.energy_mj is not None:
            check_positive("energy_mj", self.energy_mj, where)
        if self.latency_p99_ms is not None:
            check_positive("latency_p99_ms", self.latency_p99_ms, where)
            if self.latency_p99_ms < self.latency_ms:
                raise ValueError(
                    f"`latency_p99_ms` (={self.latency_p99_ms}){where} must be at least its"
                    f" median (={self.latency_ms})"
                )


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice of a mode.

    - `time_s`: when, by the controller's clock.
    - `deadline_ms`, `max_energy_mj`: what was asked; None where it was not.
    - `mode`, `name`: the mode chosen, by its place in the controller's modes and by its name.
    - `predicted_ms`: its latency at the controller's target quantile.
    - `energy_mj`: its energy reading; None where it has none.
    - `slowdown`: how many times slower than unloaded the machine is now.
    - `meets`: whether the mode is predicted to stay within what was asked; `reason`: why this one.
    - `before_ms`: what was gone of the request's time when the mode was chosen, and what preparing the
      mode is expected to take; `predicted_ms` contains both.
    - `evidence`: how many requests under about this load the prediction rests on, at most the controller's
      `window`. Below 1 / (1 - target) it goes by the modes' own p99, extended to the target as if
      latencies were log-normal: 0.999 is a guess until 1,000 requests were seen.
    """

    time_s: float
    deadline_ms: float | None
    max_energy_mj: float | None
    mode: int
    name: str
    predicted_ms: float
    energy_mj: float | None
    slowdown: float
    meets: bool
    reason: str
    before_ms: float = 0.0
    evidence: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request that ran.

    - `latency_ms`: of the mode's run; `ratio`: that over the unloaded median of its mode.
    - `total_ms`: from the beginning of the request, waiting and preparing included.
    """

    time_s: float
    mode: int
    name: str
    latency_ms: float
    ratio: float
    deadline_ms: float | None = None
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Counters:
    """What a controller did since it was made.

    - `decisions`: choices made; `by_mode`: the same for each mode, by name.
    - `unmet`: choices that no mode was predicted to meet; `refused`: those that raised instead.
    - `switches`: choices of another mode than the one before.
    - `observations`: requests seen; `within` and `late`: those whose deadline is known, by their time
      from the beginning of the request.
    """

    decisions: int
    unmet: int
    refused: int
    switches: int
    observations: int
    within: int
    late: int
    by_mode: dict[str, int]


class DecisionLog:
    """The counters, and the last `size` decisions and outcomes; the caller holds the lock."""

    def __init__(self, names: Iterable[str], size: int) -> None:
        self.decisions: deque[Decision] = deque(maxlen=size)
        self.outcomes: deque[Outcome] = deque(maxlen=size)
        self.refused = 0
        self._chosen = dict.fromkeys(names, 0)
        self._last = -1
        self._unmet = self._switches = self._observed = self._within = self._late = 0

    def decided(self, decision: Decision) -> None:
        """Count and keep a decision."""
        self._switches += self._last not in (-1, decision.mode)
        self._last = decision.mode
        self._unmet += not decision.meets
        self._chosen[decision.name] += 1
        self.decisions.append(decision)

    def observed(self, outcome: Outcome) -> None:
        """Count and keep an outcome."""
        self._observed += 1
        if outcome.deadline_ms is not None:
            late = outcome.total_ms > outcome.deadline_ms
            self._late += late
            self._within += not late
        self.outcomes.append(outcome)

    def counters(self) -> Counters:
        """Return the counts so far."""
        return Counters(
            decisions=sum(self._chosen.values()),
            unmet=self._unmet,
            refused=self.refused,
            switches=self._switches,
            observations=self._observed,
            within=self._within,
            late=self._late,
            by_mode=dict(self._chosen),
        )


def check_positive(name: str, value: float, where: str = "") -> None:
    """Raise `ValueError` for a figure that is not finite and above 0."""
    # A whole number may be above all that is finite in floats; numpy's floats cannot be held against that.
    most = sys.float_info.max if isinstance(value, int) else math.inf
    if not is_number(value) or not 0 < value <= most or value == math.inf:
        raise ValueError(f"`{name}` (={value!r}){where} must be a finite number above 0")
