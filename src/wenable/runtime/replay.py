"""Runs a load trace through a controller, on a clock that moves only when told to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wenable.runtime.controller import Controller
from wenable.runtime.decisions import Decision, Outcome


class FakeClock:
    """A clock in seconds that moves only when told to: `clock()` reads it.

    >>> clock = FakeClock()
    >>> clock.forward(0.25)
    >>> clock()
    0.25
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s

    def forward(self, seconds: float) -> None:
        """Move on; raises `ValueError` for a negative or not finite step."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"`seconds` (={seconds}) must be finite and at least 0")
        self.now_s += seconds


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One request of a load trace.

    - `time_s`: when it is asked; it waits where the one before it still runs.
    - `ratio`: how many times slower than its unloaded median a mode runs at that time.
    - `deadline_ms`, `max_energy_mj`: what is asked of it.
    """

    time_s: float
    ratio: float
    deadline_ms: float | None = None
    max_energy_mj: float | None = None

    @classmethod
    def from_outcome(cls, outcome: Outcome) -> TraceStep:
        """Return the step that an outcome recorded: asked when it started."""
        start = outcome.time_s - outcome.latency_ms / 1e3
        return cls(start, outcome.ratio, outcome.deadline_ms)


def replay(
    controller: Controller, clock: FakeClock, trace: Iterable[TraceStep]
) -> tuple[tuple[Decision, Outcome], ...]:
    """Run a load trace through a controller whose clock is `clock`, one request after the other.

    A mode takes its unloaded median times the `ratio` of the step; deadlines count from the start
    of a request. The same trace on a new controller gives the same decisions, to the bit.

    >>> from wenable.runtime.controller import Controller, ModeFigures
    >>> clock = FakeClock()
    >>> modes = [ModeFigures("1", 0.9, 10.0, 11.0), ModeFigures("1/4", 0.8, 4.0, 4.4)]
    >>> controller = Controller(modes, clock=clock)
    >>> trace = [TraceStep(0.1 * i, 1.0 if i < 3 else 2.0, deadline_ms=13.0) for i in range(7)]
    >>> [decision.name for decision, outcome in replay(controller, clock, trace)]
    ['1', '1', '1', '1', '1/4', '1/4', '1/4']
    """
    served = []
    for step in trace:
        clock.forward(max(step.time_s - clock.now_s, 0.0))
        decision = controller.choose(deadline_ms=step.deadline_ms, max_energy_mj=step.max_energy_mj)
        latency_ms = controller.modes[decision.mode].latency_ms * step.ratio
        clock.forward(latency_ms / 1e3)
        served.append((decision, controller.observe(decision, latency_ms)))
    return tuple(served)
