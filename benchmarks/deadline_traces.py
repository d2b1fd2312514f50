"""The loads that controllers are judged on: synthetic ones by a seeded function, and recorded ones.

Each is a `LoadTrace`. What is recorded lies in `benchmarks/traces/`, a few kilobytes each, with how it
was made in the file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from wenable.runtime.simulation import Arrival, LoadTrace

STEP_S = 0.02
RECORDED = Path(__file__).parent / "traces"


def square_wave() -> LoadTrace:
    """Two seconds unloaded, two with another process on the same core."""
    return LoadTrace("square wave", 2.0, (1.0, 2.0))


def ramps() -> LoadTrace:
    """The load rises over four seconds to three times, stays for one, and falls as slowly."""
    up = [1 + 2 * step / 200 for step in range(200)]
    return LoadTrace("ramps", STEP_S, (*up, *[3.0] * 50, *up[::-1], *[1.0] * 50))


def pareto_bursts(seed: int = 0) -> LoadTrace:
    """Bursts of one to three other processes; how long they stay is Pareto distributed (shape 1.5)."""
    draw = random.Random(seed)
    steps: list[float] = []
    while len(steps) < 3000:
        steps += [1.0] * max(1, round(draw.expovariate(1 / 0.8) / STEP_S))
        others = draw.choice((1, 1, 1, 2, 2, 3))
        steps += [1.0 + others] * max(1, min(round(0.1 * draw.paretovariate(1.5) / STEP_S), 500))
    return LoadTrace("Pareto bursts", STEP_S, tuple(steps))


def frequency_drop() -> LoadTrace:
    """Ten seconds at full frequency, ten at 60 % of it: what computes slows, memory hardly does."""
    compute = [1.0] * 10 + [1 / 0.6] * 10
    return LoadTrace("frequency drop", 1.0, tuple(compute), tuple([1.0] * 10 + [1.1] * 10))


def core_taken() -> LoadTrace:
    """One core of two is taken for three seconds in eight; the first tenth after it is worse."""
    steps = [1.0] * 250 + [2.6] * 5 + [1.8] * 145
    return LoadTrace("a core of two taken", STEP_S, tuple(steps))


def memory_hog(seed: int = 0) -> LoadTrace:
    """Another process fills the memory's bandwidth for some seconds: what computes hardly slows."""
    draw = random.Random(seed)
    compute, memory = [], []
    while len(compute) < 3000:
        for loaded in (False, True):
            for _ in range(round(draw.uniform(1, 4) / STEP_S)):
                compute.append(1.05 if loaded else 1.0)
                memory.append(draw.uniform(2.4, 3.2) if loaded else 1.0)
    return LoadTrace("memory hog", STEP_S, tuple(compute), tuple(memory))


def time_slices() -> LoadTrace:
    """None, one or two other processes on the core, two seconds each, which run for 10 ms at a time.

    So long are the slices of a kernel with 100 ticks a second. A request that is interrupted loses 10 or
    20 ms, however short its mode is; short modes are interrupted less often.
    """
    return LoadTrace("time slices", 2.0, (1.0, 2.0, 1.0, 3.0), slice_s=0.010)


def recorded() -> list[LoadTrace]:
    """Return what was recorded on real machines, by name."""
    paths = sorted(RECORDED.glob("*.json"))
    return [LoadTrace.from_json(json.loads(path.read_text("utf-8"))) for path in paths]


SYNTHETIC: tuple[Callable[[], LoadTrace], ...] = (
    square_wave, ramps, pareto_bursts, frequency_drop, core_taken, memory_hog, time_slices,
)  # fmt: skip


def traces() -> list[LoadTrace]:
    """Return all loads, the synthetic ones first."""
    return [make() for make in SYNTHETIC] + recorded()


def arrivals(
    count: int,
    deadline_ms: float,
    *,
    period_ms: float,
    poisson: bool = False,
    seed: int = 0,
    spread: float = 0.03,
    outliers: float = 0.0005,
) -> list[Arrival]:
    """Return requests: one a period as of a camera, or at random with that mean (`poisson`).

    How long each takes varies by `spread` (of the logarithm), and a share of them, `outliers`, is 1.5
    to 3 times slower, as on a machine that other things run on. All controllers see the same noise.
    """
    draw, now, found = random.Random(seed), 0.0, []
    for _ in range(count):
        noise = draw.lognormvariate(0.0, spread)
        if draw.random() < outliers:
            noise *= draw.uniform(1.5, 3.0)
        found.append(Arrival(now, deadline_ms, noise))
        gap_ms = draw.expovariate(1 / period_ms) if poisson else period_ms
        now += gap_ms / 1e3
    return found
