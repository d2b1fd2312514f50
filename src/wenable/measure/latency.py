"""Times callables against each other: blocks of calls, in random order, medians with spread."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from wenable.core.readings import Reading
from wenable.measure.device import describe_device

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class TimingPlan:
    """How often and in what rhythm to time.

    - `blocks` of `calls` are timed for each callable, after `warmup` calls each.
    - `gap_ms`: the pause before a block, so that the threads of the last one have gone to sleep.
    - `seed`: of the order of the blocks.

    Calling in turns, call by call, between sessions with thread pools of their own inflates times
    several fold, since the idle pools spin: hence blocks.
    """

    blocks: int = 5
    calls: int = 20
    warmup: int = 5
    gap_ms: float = 50.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("blocks", 1), ("calls", 1), ("warmup", 0), ("gap_ms", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least {least}")


def measure_latencies(
    callables: Mapping[Key, Callable[[], object]],
    plan: TimingPlan | None = None,
    *,
    source: str = "",
    device: str = "",
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[Key, Reading]:
    """Return the latency of each callable in milliseconds: the median, its quartiles and the p90.

    - `callables`: what to time, by any key. Each is called `warmup` times, then `blocks` times
      once uncounted and `calls` times timed.
    - `source`: how the figure was got, for the reading; the timing plan is added to it.
    - `device`: what ran it; this machine's processor where nothing is said.
    - `clock`, `sleep`: seconds, and waiting for some; replaced in tests.

    Garbage collection is off while a block runs.

    >>> readings = measure_latencies({"sum": lambda: sum(range(1000))}, TimingPlan(blocks=2, gap_ms=0))
    >>> readings["sum"].unit, readings["sum"].count
    ('ms', 40)
    """
    plan = TimingPlan() if plan is None else plan
    for call in callables.values():
        for _ in range(plan.warmup):
            call()
    order = [key for key in callables for _ in range(plan.blocks)]
    random.Random(plan.seed).shuffle(order)
    samples: dict[Key, list[float]] = {key: [] for key in callables}
    for key in order:
        sleep(plan.gap_ms / 1e3)
        samples[key].extend(_time_block(callables[key], plan.calls, clock))
    rhythm = f"{plan.blocks} blocks of {plan.calls} calls in random order"
    text = f"{source}; {rhythm}" if source else rhythm
    return {
        key: latency_reading(times, source=text, device=device) for key, times in samples.items()
    }


def latency_reading(times_ms: Sequence[float], *, source: str = "", device: str = "") -> Reading:
    """Return the median, the quartiles and the 90th percentile of latencies as a reading."""
    ordered = sorted(times_ms)
    return Reading(
        quantile(ordered, 0.5),
        "ms",
        low=quantile(ordered, 0.25),
        high=quantile(ordered, 0.75),
        interval="quartiles",
        count=len(ordered),
        p90=quantile(ordered, 0.9),
        p99=quantile(ordered, 0.99),
        source=source,
        device=device or describe_device(),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ascending values, linear between neighbours.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.5
    """
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _time_block(
    call: Callable[[], object], calls: int, clock: Callable[[], float]
) -> Iterator[float]:
    call()  # the first one after a pause wakes threads and fills caches
    with _no_garbage_collection():
        for _ in range(calls):
            start = clock()
            call()
            yield 1e3 * (clock() - start)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
