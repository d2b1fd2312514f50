"""Measures the energy of callables: windows of calls, in random order, beside the idle power."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic

from wenable.core.readings import Reading
from wenable.measure.device import conditions, conditions_words, describe_device
from wenable.measure.energy_windows import (
    EnergyReading,
    Key,
    Recording,
    Window,
    absent,
    energy_readings,
)
from wenable.measure.latency import latency_reading
from wenable.measure.meters.meter import Meter, MeterError, NoMeter

_LARGEST_PAUSE_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class EnergyPlan:
    """How long and how often to measure.

    - `trials`: windows for each callable, at least 5 for quartiles that mean something.
    - `window_s`, `steps`: a window lasts so long, and for so many steps of the meter's counter.
    - `warmup_s`: how long the same work runs before its window.
    - `cooldown_s`: the pause before that, in which the chip comes back to one temperature.
    - `idle_s`: how long the idle power is measured, once, before the trials.
    - `pause_every` calls comes a pause of random length, up to `pause_ms` and never more than a
      fiftieth of the time since the last: without it, work in a steady rhythm could fall in step
      with the meter's sampling.
    - `seed`: of the order and the pauses.
    """

    trials: int = 5
    window_s: float = 5.0
    steps: int = 50
    warmup_s: float = 2.0
    cooldown_s: float = 5.0
    idle_s: float = 10.0
    pause_every: int = 100
    pause_ms: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("trials", "steps", "pause_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1")
        for name in ("window_s", "idle_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be above 0")
        for name in ("warmup_s", "cooldown_s", "pause_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 0")


@dataclass(frozen=True, slots=True)
class Clocks:
    """The time as a measurement sees it; replaced in tests.

    - `clock`: seconds, to time calls; `sleep`: waits so many; `stamp`: seconds since 1970.
    """

    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    stamp: Callable[[], float] = time.time


def measure_energies(
    calls: Mapping[Key, Callable[[], object]],
    meter: Meter | NoMeter,
    plan: EnergyPlan | None = None,
    *,
    device: str = "",
    clocks: Clocks | None = None,
) -> dict[Key, EnergyReading]:
    """Return the energy of each callable in mJ a call, with its latency and the idle power.

    - `calls`: what to measure, by any key. A call returns when its work is done.
    - `meter`: as `find_meter` returns it. With `NoMeter` nothing is run, and every reading has its
      reason.
    - `plan`: how long and how often; the default takes about a minute for each callable.
    - `device`: what ran it; this machine's processor where nothing is said.
    - `clocks`: replaced in tests.

    Where the meter gives out or stands still, no reading of this measurement has a value: the
    reason stands in its place.

    >>> found = measure_energies({"sum": lambda: sum(range(1000))}, NoMeter("this board has none"))
    >>> print(found["sum"].energy)
    not measured (this board has none)
    """
    device = device or describe_device()
    if isinstance(meter, NoMeter):
        unknown = Reading(None, "ms", reason=f"not run: {meter.reason}", device=device)
        return {key: absent(unknown, meter.reason, device) for key in calls}
    recording = record_windows(calls, plan, meter=meter, device=device, clocks=clocks)
    return energy_readings(recording, meter)


def record_windows(
    calls: Mapping[Key, Callable[[], object]],
    plan: EnergyPlan | None = None,
    *,
    meter: Meter | None = None,
    step_s: float = 0.1,
    device: str = "",
    clocks: Clocks | None = None,
) -> Recording[Key]:
    """Run the windows of a measurement and return when each was, with its joules if there is a meter.

    - `meter`: None where another device measures; its file is joined later, by `join_windows`.
    - `step_s`: seconds between two samples of that device.
    - the others: as in `measure_energies`.

    >>> plan = EnergyPlan(trials=2, window_s=0.01, steps=1, warmup_s=0, cooldown_s=0, idle_s=0.01)
    >>> recording = record_windows({"sum": lambda: sum(range(1000))}, plan, step_s=0.001)
    >>> len(recording.trials["sum"]), recording.trials["sum"][0].joules
    (2, None)
    """
    plan = EnergyPlan() if plan is None else plan
    run = _Run(calls, plan, meter, step_s, clocks or Clocks())
    before = conditions()
    run.all_windows()
    device = device or describe_device()
    return Recording(
        {key: tuple(windows) for key, windows in run.trials.items()},
        {key: run.latency(key, device) for key in calls},
        run.idle,
        device,
        run.failure,
        conditions_words(before, conditions()),
    )


@dataclass
class _Run(Generic[Key]):
    calls: Mapping[Key, Callable[[], object]]
    plan: EnergyPlan
    meter: Meter | None
    step_s: float
    clocks: Clocks
    failure: str = ""
    idle: Window = field(default=Window(0.0, 0.0, 0.0))

    def __post_init__(self) -> None:
        self.random = random.Random(self.plan.seed)
        self.trials: dict[Key, list[Window]] = {key: [] for key in self.calls}
        self.times_ms: dict[Key, array[float]] = {key: array("d") for key in self.calls}

    def all_windows(self) -> None:
        """Run the idle window and the trials; a meter that gives out ends the run."""
        try:
            if self.meter:
                self.step_s = self.meter.step_s
            for call in self.calls.values():
                call()  # whatever is opened at the first call is open while idle, as it is in use
            self.clocks.sleep(self.plan.cooldown_s)
            self.idle = self._measured("the idle window", self._rest)
            for number in range(1, self.plan.trials + 1):
                keys = list(self.calls)
                self.random.shuffle(keys)
                for key in keys:
                    self._trial(key, f"window {number} of {self.plan.trials} of {key}")
        except MeterError as error:
            self.failure = str(error)

    def latency(self, key: Key, device: str) -> Reading:
        """Return the latency of the calls in the windows."""
        if not self.times_ms[key]:
            reason = f"no window was run: {self.failure}"
            return Reading(None, "ms", reason=reason, device=device)
        source = f"calls in {len(self.trials[key])} windows of an energy measurement"
        return latency_reading(self.times_ms[key], source=source, device=device)

    def _trial(self, key: Key, what: str) -> None:
        self.clocks.sleep(self.plan.cooldown_s)
        call, times_ms = self.calls[key], self.times_ms[key]
        self._loop(call, self.plan.warmup_s, array("d"))
        window_s = self._long(self.plan.window_s)
        window = self._measured(what, lambda: self._loop(call, window_s, times_ms))
        self.trials[key].append(window)

    def _measured(self, what: str, work: Callable[[], tuple[int, float]]) -> Window:
        """Do work in a window of the meter."""
        clocks, meter = self.clocks, self.meter
        try:
            if meter:
                meter.begin()
            start_s, start = clocks.stamp(), clocks.clock()
            calls, pauses_s = work()
            seconds, stop_s = clocks.clock() - start, clocks.stamp()
            window = Window(start_s, stop_s, seconds, calls, pauses_s)
            # Other meters count meanwhile, whatever the time is.
            by_stamps = getattr(meter, "goes_by_stamps", False)
            if by_stamps and (reason := window.why_no_stamps()):
                raise MeterError(reason)
            joules = meter.end() if meter else None
        except MeterError as error:
            raise MeterError(f"the meter gave out in {what}: {error}") from error
        if meter and joules is not None and not joules > 0:
            raise MeterError(
                f"the counter of {meter.name} stood still in {what}: {joules:+.3g} J in"
                f" {seconds:.3g} s"
            )
        return replace(window, joules=joules)

    def _rest(self) -> tuple[int, float]:
        self.clocks.sleep(self._long(self.plan.idle_s))
        return 0, 0.0

    def _long(self, seconds: float) -> float:
        """Return how long a window must be, by the plan and by the meter's steps."""
        return max(seconds, self.plan.steps * self.step_s)

    def _loop(
        self, call: Callable[[], object], seconds: float, times_ms: array[float]
    ) -> tuple[int, float]:
        """Call for so many seconds; return how often, and how long the pauses were."""
        clock, sleep, count, pauses_s = self.clocks.clock, self.clocks.sleep, 0, 0.0
        start = paused = now = clock()
        while now - start < seconds:
            before = clock()
            call()
            now = clock()
            times_ms.append(1e3 * (now - before))
            count += 1
            if count % self.plan.pause_every == 0:
                longest_s = min(self.plan.pause_ms / 1e3, _LARGEST_PAUSE_SHARE * (now - paused))
                sleep(self.random.uniform(0.0, longest_s))
                paused = clock()
                pauses_s += paused - now
        return count, pauses_s
