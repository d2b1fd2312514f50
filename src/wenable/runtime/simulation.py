"""Runs requests through a controller on a simulated machine: what it would have kept, and at what cost.

Time passes on a `FakeClock` only, so a simulation is the same to the bit wherever it runs. One server
takes the requests in the order they came; one that waits loses its time. `replay.py` runs a trace of
requests that were recorded; here the machine's load is the trace, and how long a mode takes follows
from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

from wenable.runtime.controller import Controller
from wenable.runtime.decisions import Decision, ModeFigures
from wenable.runtime.replay import FakeClock

_EDGE = 1.2
"""A slowdown that changes by this factor from one step to the next is an edge of the load."""
_CREDIT = 0.25
"""The part of a slice that a process runs for at least which begins after a pause."""
_MOST_BEHIND = 16
"""Requests that wait behind one, which a choice is told of."""


@dataclass(frozen=True)
class LoadTrace:
    """How many times slower a machine is, step by step; after the last step it begins again.

    - `step_s`: how long a step is, in seconds.
    - `compute`: the slowdown of what computes, 1 for an unloaded machine.
    - `memory`: that of what waits for memory; as `compute` where it is empty.
    - `slice_s`: how long one process runs at a time where several share a core, in seconds; 0 where they
      share it evenly. Then the slowdown less 1 is how many others want to compute, and who begins after a
      pause is let run for `_CREDIT` of a slice at least, as schedulers do.

    Raises `ValueError` for a step or a slowdown that is not finite and above 0, for columns of different
    lengths, and for slices that are not finite and at least 0.

    >>> trace = LoadTrace("square", 0.5, (1.0, 2.0))
    >>> trace.end_s(0.25, work_s=0.5, memory_share=0.0)  # half of it takes twice as long
    1.0
    """

    name: str
    step_s: float
    compute: tuple[float, ...]
    memory: tuple[float, ...] = ()
    slice_s: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 < each < math.inf for each in (self.step_s, *self.compute, *self.memory)):
            raise ValueError(f"a step or slowdown of {self.name!r} is not finite and above 0")
        if not self.compute or (self.memory and len(self.memory) != len(self.compute)):
            raise ValueError(
                f"{self.name!r} has {len(self.compute)} steps of `compute` and {len(self.memory)} of"
                " `memory`; allowed: at least one, and as many of both, or none of `memory`"
            )
        if not 0 <= self.slice_s < math.inf:
            raise ValueError(f"`slice_s` (={self.slice_s}) must be finite and at least 0")
        if self.slice_s and (self.memory or any(each < 1 or each % 1 for each in self.compute)):
            raise ValueError(
                f"{self.name!r} has slices of time: `compute` must be whole numbers of at least 1, and"
                " `memory` empty"
            )

    @property
    def length_s(self) -> float:
        """How long it takes until it begins again."""
        return self.step_s * len(self.compute)

    @cached_property
    def edges_s(self) -> tuple[float, ...]:
        """When what computes slows down or speeds up, counted from its beginning, ascending."""
        around = [*self.compute, self.compute[0]]
        return tuple(
            sorted(
                (step + 1) * self.step_s % self.length_s
                for step, (a, b) in enumerate(pairwise(around))
                if max(a, b) > _EDGE * min(a, b)
            )
        )

    def slowdown(self, time_s: float, memory_share: float = 0.0) -> float:
        """Return how much slower a mode is that waits for memory in this share of its time."""
        return self._at(int(time_s / self.step_s) % len(self.compute), memory_share)

    def end_s(self, start_s: float, work_s: float, memory_share: float) -> float:
        """Return when work ends that takes `work_s` on an unloaded machine."""
        if self.slice_s:
            return self._end_of_slices_s(start_s, work_s)
        step = math.floor(start_s / self.step_s)
        now = start_s
        while True:
            until = (step + 1) * self.step_s
            slower = self._at(step % len(self.compute), memory_share)
            if (until - now) >= work_s * slower:
                return now + work_s * slower
            work_s -= max(until - now, 0.0) / slower
            now, step = max(until, now), step + 1

    def _end_of_slices_s(self, now: float, left_s: float) -> float:
        """Return when work ends whose process and others run in turn, each until its slice is over."""
        slice_s = self.slice_s
        runs_until = math.ceil(now / slice_s + _CREDIT - 1e-9) * slice_s
        while True:
            step = math.floor(
                now / self.step_s + 1e-9
            )  # a time at its edge is in the step that begins
            others = round(self._at(step % len(self.compute), 0.0) - 1)
            until = runs_until if others else (step + 1) * self.step_s
            if left_s <= until - now + 1e-12:  # or a turn would follow in which nothing is left
                return now + left_s
            left_s -= max(until - now, 0.0)
            now = max(until, now) + others * slice_s
            runs_until = max(runs_until, now + slice_s)

    def to_json(self) -> dict[str, Any]:
        """Return its JSON form."""
        return {
            "format": "wenable-load",
            "name": self.name,
            "step_s": self.step_s,
            "compute": list(self.compute),
            "memory": list(self.memory),
            "slice_s": self.slice_s,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LoadTrace:
        """Return the trace of a JSON form; raises `ValueError` where it is none."""
        if values.get("format") != "wenable-load":
            raise ValueError("this is not the JSON form of a load trace")
        columns = tuple(values["compute"]), tuple(values.get("memory", ()))
        slice_s = float(values.get("slice_s", 0.0))
        return cls(str(values["name"]), float(values["step_s"]), *columns, slice_s)

    def _at(self, step: int, memory_share: float) -> float:
        compute = self.compute[step]
        if not self.memory:
            return compute
        return (1 - memory_share) * compute + memory_share * self.memory[step]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it comes, its deadline, and how far noise lengthens it (1 for not at all)."""

    time_s: float
    deadline_ms: float
    noise: float = 1.0


@dataclass(frozen=True, slots=True)
class Served:
    """One request that ran; `total_ms`: from its arrival to its end, waiting included."""

    arrival: Arrival
    start_s: float
    mode: int
    latency_ms: float
    total_ms: float

    @property
    def met(self) -> bool:
        """Whether its deadline was met."""
        return self.total_ms <= self.arrival.deadline_ms


class Chooser(Protocol):
    """What chooses the mode of each request."""

    def choose(self, now_s: float, arrival: Arrival, behind_ms: Sequence[float]) -> int:
        """Return the mode; `behind_ms`: the time left to each request that waits behind this one."""
        ...

    def observe(self, served: Served) -> None:
        """Learn from a request that has ended."""
        ...


class Fixed:
    """Always the same mode."""

    def __init__(self, mode: int) -> None:
        self._mode = mode

    def choose(self, now_s: float, arrival: Arrival, behind_ms: Sequence[float]) -> int:
        """Return the mode."""
        return self._mode

    def observe(self, served: Served) -> None:
        """Learn nothing."""


class Controlled:
    """A controller, on a clock that is moved to the times of the simulation."""

    def __init__(self, controller: Controller, clock: FakeClock) -> None:
        self.controller, self._clock = controller, clock
        self._decision: Decision | None = None

    def choose(self, now_s: float, arrival: Arrival, behind_ms: Sequence[float]) -> int:
        """Return what the controller chooses."""
        self._clock.forward(max(now_s - self._clock.now_s, 0.0))
        spent_ms = 1e3 * (now_s - arrival.time_s)
        self._decision = self.controller.choose(
            deadline_ms=arrival.deadline_ms, spent_ms=spent_ms, behind_ms=behind_ms
        )
        return self._decision.mode

    def observe(self, served: Served) -> None:
        """Let the controller learn."""
        assert self._decision is not None
        end_s = served.start_s + served.latency_ms / 1e3
        self._clock.forward(max(end_s - self._clock.now_s, 0.0))
        self.controller.observe(self._decision, served.latency_ms, total_ms=served.total_ms)


def simulate(
    chooser: Chooser,
    modes: Sequence[ModeFigures],
    trace: LoadTrace,
    arrivals: Sequence[Arrival],
    memory_shares: Sequence[float] = (),
) -> tuple[Served, ...]:
    """Serve requests one after another on a machine with this load.

    - `modes`: their unloaded medians are what a mode takes where nothing else runs.
    - `memory_shares`: the share of each mode's time that waits for memory; 0 where it is empty.

    >>> modes = [ModeFigures("1", 0.9, 10.0), ModeFigures("1/4", 0.8, 4.0)]
    >>> load = LoadTrace("half", 1.0, (1.0, 2.0))
    >>> arrivals = [Arrival(0.1 * i, deadline_ms=13.0) for i in range(20)]
    >>> sum(each.met for each in simulate(Fixed(0), modes, load, arrivals))
    10
    """
    shares = memory_shares or [0.0] * len(modes)
    free_s, served = 0.0, []
    for number, arrival in enumerate(arrivals):
        start_s = max(arrival.time_s, free_s)
        behind = []
        for other in arrivals[number + 1 : number + 1 + _MOST_BEHIND]:
            if other.time_s > start_s:
                break
            behind.append(other.deadline_ms - 1e3 * (start_s - other.time_s))
        mode = chooser.choose(start_s, arrival, behind)
        work_s = modes[mode].latency_ms * arrival.noise / 1e3
        free_s = trace.end_s(start_s, work_s, shares[mode])
        latency_ms = max(1e3 * (free_s - start_s), 1e-9)
        total_ms = 1e3 * (free_s - arrival.time_s)
        served.append(Served(arrival, start_s, mode, latency_ms, total_ms))
        chooser.observe(served[-1])
    return tuple(served)
