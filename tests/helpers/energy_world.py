"""A made-up machine for tests of energy: its clock, the power it draws, and a meter of it."""

import math
from collections.abc import Callable
from pathlib import Path

from wenable.measure.energy import Clocks, EnergyPlan
from wenable.measure.meters.meter import MeterError

IDLE_W = 2.0
EPOCH_S = 1.7e9
QUICK = EnergyPlan(
    trials=5, window_s=1.0, steps=1, warmup_s=0.2, cooldown_s=0.5, idle_s=4.0, pause_ms=0, seed=3
)


class World:
    """A clock that only moves when something is called or slept, and the energy drawn meanwhile."""

    def __init__(self) -> None:
        self.now, self.joules = 0.0, 0.0
        self.history = [(0.0, IDLE_W)]  # from when on which power
        self.log: list[str] = []

    def pass_time(self, seconds: float, watts: float) -> None:
        self.history += [(self.now, watts), (self.now + seconds, IDLE_W)]
        self.now += seconds
        self.joules += seconds * watts

    def work(self, name: str, seconds: float, watts: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.pass_time(seconds, watts)

        return call

    def clocks(self) -> Clocks:
        def sleep(seconds: float) -> None:
            self.log.append("sleep")
            self.pass_time(seconds, IDLE_W)

        return Clocks(lambda: self.now, sleep, lambda: EPOCH_S + self.now)


class WorldMeter:
    """A meter that is right, in steps, until it breaks."""

    name, scope, kind, detail = "made-up", "board", "measured", "rail 1"

    def __init__(
        self, world: World, *, step_s: float = 0.01, breaks_at_s: float = math.inf
    ) -> None:
        self.world, self.step_s, self.breaks_at_s = world, step_s, breaks_at_s
        self.before = 0.0

    def begin(self) -> None:
        self.before = self._read()

    def end(self) -> float:
        return self._read() - self.before

    def _read(self) -> float:
        if self.world.now > self.breaks_at_s:
            raise MeterError("the sensor is gone")
        return self.world.joules


def cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n")
    return path


METAL_AND_GUEST = [("vmx", "measured"), ("hypervisor", "apportioned")]
