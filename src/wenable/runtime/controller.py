"""Chooses the mode of each request: the most accurate one that is predicted to meet its deadline.

How latencies are predicted is told in `slowdown.py`, and how what became of deadlines corrects that
in `headroom.py`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from wenable.runtime.decisions import (
    BudgetError,
    Counters,
    Decision,
    DecisionLog,
    ModeFigures,
    Outcome,
    check_positive,
)
from wenable.runtime.headroom import Headroom
from wenable.runtime.slowdown import Machine, band_of

_NOTHING_ASKED = "nothing was asked: the most accurate"
_MEETS = "the most accurate that meets it"
_NEAREST = "no mode meets it: the one nearest to it"
_WINDOW = 300
_CUT_FINER = 0.5
"""How much of the spread the headroom may take back while all is in time: then a mode is tried that was
passed over for the rare slow request only."""


class Controller:
    """Chooses a mode for each request, and learns the machine's slowdown from what it observes.

    - `modes`: the modes to choose from, in any order.
    - `target`: the share of requests that are to meet their deadline, above 0 and below 1.
    - `hysteresis`: predictions fall only by what exceeds this share; 0 for none.
    - `memory_s`: how long the machine must have been faster, in seconds, until that is believed,
      and so how soon accurate modes come back; `forget_s`: for how long a latency counts at all,
      and in what time a level that nothing confirms fades by half.
    - `window`: how many ratios each estimate of the spread rests on; None for 300, or three times as many
      as one late request is allowed in (3,000 at 0.999), that no single one rules the quantile.
    - `clock`: seconds that never run backwards; replaced in tests and replays.
    - `log_size`: how many decisions and outcomes are kept.

    Every method may be called from many threads. Raises `ValueError` naming the argument.

    >>> modes = [ModeFigures("1", 0.76, 18.5, 20.0), ModeFigures("1/4", 0.71, 5.7, 6.3)]
    >>> controller = Controller(modes)
    >>> decision = controller.choose(deadline_ms=12)
    >>> decision.name, decision.meets, round(decision.predicted_ms, 2)
    ('1/4', True, 6.3)
    >>> outcome = controller.observe(decision, latency_ms=5.8)
    >>> controller.counters.within
    1
    """

    def __init__(
        self,
        modes: Sequence[ModeFigures],
        *,
        target: float = 0.99,
        hysteresis: float = 0.05,
        memory_s: float = 0.1,
        forget_s: float = 1.0,
        window: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        log_size: int = 1024,
    ) -> None:
        if not 0 < target < 1:
            raise ValueError(f"`target` (={target}) must be above 0, below 1")
        if not 0 <= hysteresis < 1:
            raise ValueError(f"`hysteresis` (={hysteresis}) must be from 0 to below 1")
        check_positive("memory_s", memory_s)
        check_positive("forget_s", forget_s)
        least = math.ceil(1 / (1 - target) - 1e-9)
        window = max(_WINDOW, 3 * least) if window is None else window
        if window < least:
            raise ValueError(
                f"`window` (={window}) must be at least {least} at a target of {target}"
            )
        if log_size < 1:
            raise ValueError(f"`log_size` (={log_size}) must be at least 1")
        self.target, self.hysteresis = target, hysteresis
        self._clock = clock
        self._lock = threading.Lock()
        self._settings = (target, window, memory_s, forget_s)
        self._take(_checked_modes(modes))
        self._log = DecisionLog(self._mode_named, log_size)

    def replace(self, modes: Sequence[ModeFigures]) -> None:
        """Go on with other figures of the same modes, as measured ones in the place of estimates.

        What was learned of the machine is forgotten, since it was learned beside the old figures;
        decisions, outcomes and counters stay. Raises `ValueError` for other modes, or in another order.
        """
        new = _checked_modes(modes)
        if [each.name for each in new] != [each.name for each in self.modes]:
            raise ValueError("`modes` must be the same modes in the same order")
        with self._lock:
            self._take(new)

    def _take(self, modes: tuple[ModeFigures, ...]) -> None:
        self.modes = modes
        # Everything that a choice walks over lies in the order of accuracy, the best first.
        self._order = _by_accuracy(self.modes)
        self._place_of = {mode: place for place, mode in enumerate(self._order)}
        self._mode_named = {figures.name: mode for mode, figures in enumerate(self.modes)}
        ordered = [self.modes[mode] for mode in self._order]
        self._energies = [math.inf if m.energy_mj is None else m.energy_mj for m in ordered]
        self._has_energy = any(math.isfinite(energy) for energy in self._energies)
        self._machine = Machine(ordered, *self._settings)
        self._headrooms = [Headroom(self.target) for _ in self._machine.costs]
        self._held = -math.inf  # logarithm of level x headroom, after the hysteresis

    def choose(
        self,
        *,
        deadline_ms: float | None = None,
        max_energy_mj: float | None = None,
        strict: bool = False,
        spent_ms: float = 0.0,
        waits_ms: Sequence[float] | None = None,
        behind_ms: Sequence[float] = (),
    ) -> Decision:
        """Return the most accurate mode that is predicted to stay within what is asked.

        - `deadline_ms`: for the latency at the target quantile, from the start of the request.
        - `max_energy_mj`: for the energy reading of the mode; modes without one are passed over.
        - `spent_ms`: what is gone of the request's time.
        - `waits_ms`: what each mode needs before it can start, in the order of `modes`: 0 where it is
          ready, and what preparing it takes otherwise.
        - `behind_ms`: the time left to each request that waits behind this one, in their order. The mode
          leaves each of them the time to run in the fastest one, if it has that time at all.

        With nothing asked that is the most accurate mode of all. Where no mode meets it, the one
        that exceeds it least (of a deadline: the fastest), with `meets` False; or, if `strict`,
        `BudgetError`. Raises `ValueError` for a limit that is not finite and above 0, and for an
        energy limit where no mode has an energy reading.

        >>> controller = Controller([ModeFigures("1", 0.76, 18.5), ModeFigures("1/4", 0.71, 5.7)])
        >>> controller.choose().name
        '1'
        >>> decision = controller.choose(deadline_ms=2)
        >>> decision.name, decision.meets, decision.reason
        ('1/4', False, 'no mode meets it: the one nearest to it')
        """
        if deadline_ms is not None:
            check_positive("deadline_ms", deadline_ms)
            deadline_ms = float(deadline_ms)  # it may be numpy's, of fewer digits
        if max_energy_mj is not None:
            check_positive("max_energy_mj", max_energy_mj)
            self._check_energy()
        with self._lock:
            now = self._clock()
            level, costs = self._costs(now)
            waits = None if waits_ms is None else [waits_ms[mode] for mode in self._order]
            left_ms = None if deadline_ms is None else deadline_ms - spent_ms
            if left_ms is not None and behind_ms:
                left_ms = left_beside(left_ms, behind_ms, min(costs))
            if waits is not None:
                costs = [cost + wait for cost, wait in zip(costs, waits, strict=True)]
            place, meets, reason = self._pick(costs, left_ms, max_energy_mj)
            mode = self._order[place]
            figures = self.modes[mode]
            decision = Decision(
                time_s=now,
                deadline_ms=deadline_ms,
                max_energy_mj=max_energy_mj,
                mode=mode,
                name=figures.name,
                predicted_ms=spent_ms + costs[place],
                energy_mj=figures.energy_mj,
                slowdown=math.exp(level),
                meets=meets,
                reason=reason,
                before_ms=spent_ms + (0.0 if waits is None else waits[place]),
                evidence=self._machine.spread(band_of(level)).seen,
            )
            if strict and not meets:
                self._log.refused += 1
                raise BudgetError(_unmet_text(decision))
            self._log.decided(decision)
        return decision

    def observe(
        self,
        mode: Decision | int | str,
        latency_ms: float,
        *,
        total_ms: float | None = None,
        learn: bool = True,
    ) -> Outcome:
        """Learn from a request that has just ended, and return it as it was recorded.

        - `mode`: the decision it ran under (its deadline is then counted), or the mode by its place
          or its name.
        - `latency_ms`: how long the mode ran.
        - `total_ms`: how long the request took from its beginning, which is held against the deadline;
          `latency_ms` where nothing is said.
        - `learn`: False to count it alone: the first call of a mode after it was prepared says nothing of
          others.

        Raises `ValueError` for an unknown mode and a latency that is not finite and above 0.

        >>> controller = Controller([ModeFigures("1", 0.76, 18.5), ModeFigures("1/4", 0.71, 5.7)])
        >>> controller.observe("1/4", 11.4).ratio
        2.0
        >>> round(controller.slowdown, 2)
        2.0
        """
        check_positive("latency_ms", latency_ms)
        deadline_ms = mode.deadline_ms if isinstance(mode, Decision) else None
        index = self._index(mode.mode if isinstance(mode, Decision) else mode)
        figures = self.modes[index]
        with self._lock:
            now = self._clock()
            if learn:
                self._machine.observe(self._place_of[index], latency_ms, now)
            ratio = latency_ms / figures.latency_ms
            total_ms = latency_ms if total_ms is None else total_ms
            outcome = Outcome(now, index, figures.name, latency_ms, ratio, deadline_ms, total_ms)
            if learn and isinstance(mode, Decision) and deadline_ms is not None:
                self._adapt(mode, late=total_ms > deadline_ms)
            self._log.observed(outcome)
        return outcome

    @property
    def predictions_ms(self) -> tuple[float, ...]:
        """The latency of each mode at the target quantile, now, in milliseconds."""
        with self._lock:
            _, costs = self._costs(self._clock())
            return tuple(costs[self._place_of[mode]] for mode in range(len(self.modes)))

    @property
    def slowdown(self) -> float:
        """How many times slower than unloaded the machine is now, its spread left out."""
        with self._lock:
            return math.exp(self._machine.level(self._clock()))

    @property
    def counters(self) -> Counters:
        """What was chosen and seen so far."""
        with self._lock:
            return self._log.counters()

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The last decisions, the oldest first."""
        with self._lock:
            return tuple(self._log.decisions)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The last requests that were observed, the oldest first."""
        with self._lock:
            return tuple(self._log.outcomes)

    def _costs(self, now: float) -> tuple[float, list[float]]:
        """Return the level, and the latency of each place in milliseconds, at the target quantile."""
        level = self._machine.expected(now)
        band = band_of(level)
        headroom = self._headrooms[band].value
        free = level + headroom
        # Play, as in a worn gear. Holding the prediction rather than the mode makes the hysteresis
        # independent of what is asked, so requests with different deadlines share one controller.
        self._held = min(max(self._held, free), free + math.log1p(self.hysteresis))
        scale, wider = math.exp(self._held), math.exp(headroom)
        units, scores = self._machine.costs[band], self._machine.spread(band).scores
        return level, [
            unit * scale + score * wider if score > 0 else unit * scale * (1 + score)
            for unit, score in zip(units, scores, strict=True)
        ]

    def _adapt(self, decision: Decision, *, late: bool) -> None:
        """Let the headroom follow what became of a decision, unless no mode could be in time."""
        if decision.meets or not late:
            level = math.log(decision.slowdown)
            tail = self._machine.tail(self._place_of[decision.mode], level)
            narrowest = -_CUT_FINER * max(tail, 0.0)
            self._headrooms[band_of(level)].seen(late=late, narrowest=narrowest)

    def _pick(
        self, costs: list[float], deadline_ms: float | None, energy_mj: float | None
    ) -> tuple[int, bool, str]:
        if deadline_ms is None and energy_mj is None:
            return 0, True, _NOTHING_ASKED
        most_ms = math.inf if deadline_ms is None else deadline_ms
        if energy_mj is None:
            for place, cost in enumerate(costs):
                if cost <= most_ms:
                    return place, True, _MEETS
            return costs.index(min(costs)), False, _NEAREST
        for place, (cost, used) in enumerate(zip(costs, self._energies, strict=True)):
            if cost <= most_ms and used <= energy_mj:
                return place, True, _MEETS
        most_ms = max(most_ms, 1e-9)
        excess = [
            max(cost / most_ms, used / energy_mj)
            for cost, used in zip(costs, self._energies, strict=True)
        ]
        return excess.index(min(excess)), False, _NEAREST

    def _index(self, mode: int | str) -> int:
        if isinstance(mode, str):
            found = self._mode_named.get(mode)
            if found is None:
                raise ValueError(
                    f"`mode` (={mode!r}) is unknown; allowed: {', '.join(self._mode_named)}"
                )
            return found
        if not 0 <= mode < len(self.modes):
            raise ValueError(f"`mode` (={mode}) must be from 0 to {len(self.modes) - 1}")
        return mode

    def _check_energy(self) -> None:
        if not self._has_energy:
            reason = next((m.energy_reason for m in self.modes if m.energy_reason), "not measured")
            raise ValueError(
                f"`max_energy_mj` cannot be kept: no mode has an energy reading ({reason})"
            )


def left_beside(left_ms: float, behind_ms: Sequence[float], fastest_ms: float) -> float:
    """Return the time left to a request that others wait behind; those that are lost ask for none."""
    for place, each in enumerate(behind_ms, start=1):
        spare_ms = each - place * fastest_ms
        if fastest_ms <= spare_ms < left_ms:
            left_ms = spare_ms
    return left_ms


def _by_accuracy(modes: Sequence[ModeFigures]) -> list[int]:
    """Return the places of the modes, the most accurate first; of equal ones the faster."""
    if any(mode.accuracy is None for mode in modes):
        return sorted(range(len(modes)), key=lambda i: -modes[i].latency_ms)
    return sorted(range(len(modes)), key=lambda i: (-(modes[i].accuracy or 0), modes[i].latency_ms))


def _checked_modes(modes: Sequence[ModeFigures]) -> tuple[ModeFigures, ...]:
    checked = tuple(modes)
    if not checked:
        raise ValueError("`modes` must have at least one mode")
    names = [mode.name for mode in checked]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"`modes` has two modes named {twice!r}; names must be unique")
    return checked


def _unmet_text(decision: Decision) -> str:
    limits = []
    if decision.deadline_ms is not None:
        limits.append(f"`deadline_ms` (={decision.deadline_ms})")
    if decision.max_energy_mj is not None:
        limits.append(f"`max_energy_mj` (={decision.max_energy_mj})")
    energy = "" if decision.energy_mj is None else f" and {decision.energy_mj:.3g} mJ"
    before = ""
    if decision.before_ms > 0.1 * decision.predicted_ms:
        before = (
            f", {decision.before_ms:.3g} ms of it before the mode starts (`warm_up` prepares modes"
            " ahead of time)"
        )
    return (
        f"no mode is predicted to meet {' and '.join(limits)}: the nearest, {decision.name!r}, needs"
        f" {decision.predicted_ms:.3g} ms{energy} at a slowdown of {decision.slowdown:.2f}{before}"
    )
