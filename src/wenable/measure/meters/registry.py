"""Which energy meters this machine has, and why the others are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from wenable.measure.meters.meter import Meter, MeterError, NoMeter, Scope, why_dead
from wenable.measure.meters.rapl import RaplMeter
from wenable.measure.meters.zeus import NOT_INSTALLED, ZeusMeter


@dataclass(frozen=True, slots=True)
class Availability:
    """One meter that was looked for.

    - `name`: what was looked for; `why`: what was found, or why it is none.
    - `meter`: the meter itself, or None.

    >>> Availability("rapl-package", "there is no folder /sys/class/powercap").ok
    False
    """

    name: str
    why: str
    meter: Meter | None = None

    @property
    def ok(self) -> bool:
        """Whether it can be used."""
        return self.meter is not None


def available_meters(
    *, busy_s: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> list[Availability]:
    """Return every meter that was looked for, usable or not, the widest scope first.

    - `busy_s`: how many seconds a meter's counter has to move in, with the processor kept busy.
    - `clock`: seconds; replaced in tests.

    A wall meter is not among them: it writes a file, which `file` reads.

    >>> "rapl-package" in [each.name for each in available_meters(busy_s=0.01)]
    True
    """
    return [_look(name, make, busy_s, clock) for name, make in _candidates()]


def find_meter(
    *scopes: Scope, busy_s: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> Meter | NoMeter:
    """Return the first meter of this machine with one of the scopes, or `NoMeter` with the reason.

    - `scopes`: "board" and "package" where nothing is said. "GPU" has to be asked for, since a GPU's
      counter says nothing of what runs on the processor.
    - `busy_s`, `clock`: as in `available_meters`.

    >>> meter = find_meter(busy_s=0.01)
    >>> isinstance(meter, NoMeter) or meter.scope in ("board", "package")
    True
    """
    wanted = scopes or ("board", "package")
    found = available_meters(busy_s=busy_s, clock=clock)
    for each in found:
        if each.meter is not None and each.meter.scope in wanted:
            return each.meter
    reasons = [f"{each.name}: {each.why}" for each in found]
    return NoMeter(f"no energy meter with scope {' or '.join(wanted)} ({'; '.join(reasons)})")


def _candidates() -> Iterator[tuple[str, Callable[[], Meter]]]:
    """Yield names and how to open them. Without zeus its three meters are one line."""
    has_zeus = find_spec("zeus") is not None
    if has_zeus:
        yield "zeus SoC (Jetson, Apple)", partial(ZeusMeter, "board")
    yield "rapl-package", RaplMeter
    if has_zeus:
        yield "zeus package", partial(ZeusMeter, "package")
        yield "zeus GPU", partial(ZeusMeter, "GPU")
    else:
        yield "zeus (GPU, package, Jetson, Apple)", _no_zeus


def _no_zeus() -> Meter:
    raise MeterError(NOT_INSTALLED)


def _look(
    name: str, make: Callable[[], Meter], busy_s: float, clock: Callable[[], float]
) -> Availability:
    try:
        meter = make()
    except MeterError as error:
        return Availability(name, str(error))
    dead = why_dead(meter, busy_s=busy_s, clock=clock)
    if dead:
        return Availability(name, dead)
    parts = (meter.name, f"scope {meter.scope}", meter.kind, meter.detail)
    return Availability(name, ", ".join(part for part in parts if part), meter)
