"""What an energy meter is, and whether its counter moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Scope = Literal["GPU", "package", "board", "system"]
Kind = Literal["measured", "apportioned"]


class MeterError(RuntimeError):
    """A meter that is not there, cannot be read, or gave no energy; the text says why."""


class Described(Protocol):
    """What a reading says of its meter. All is read only here; a plain attribute does as well."""

    @property
    def name(self) -> str:
        """How it is got, as "rapl-package"; it becomes the source of a reading."""
        ...

    @property
    def scope(self) -> Scope:
        """What is measured: the GPU, the processor's package, the board, the whole system."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether "measured", or "apportioned": a host shares its own reading out to its guests."""
        ...

    @property
    def detail(self) -> str:
        """What else a reader has to know, as which GPU; may be empty."""
        ...


class Meter(Described, Protocol):
    """Gives the energy between two moments, one window at a time.

    Both methods raise `MeterError` where the meter cannot be read.
    """

    @property
    def step_s(self) -> float:
        """About how many seconds lie between two steps of its counter."""
        ...

    def begin(self) -> None:
        """Start a window."""
        ...

    def end(self) -> float:
        """Return the joules since `begin`."""
        ...


@dataclass(frozen=True, slots=True)
class NoMeter:
    """That there is no meter, and the reason, which every reading repeats.

    >>> NoMeter("the board has no sensor").reason
    'the board has no sensor'
    """

    reason: str


def why_dead(
    meter: Meter, *, busy_s: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> str:
    """Return why a meter is none, or "" where its counter moves while the processor is busy.

    - `busy_s`: how many seconds to keep one core busy.
    - `clock`: seconds; replaced in tests.

    >>> class Still:
    ...     name, scope, kind, step_s, detail = "still", "package", "measured", 0.001, ""
    ...     def begin(self): pass
    ...     def end(self): return 0.0
    >>> why_dead(Still(), busy_s=0.01)
    'its counter does not move: +0 J while the processor was busy for 0.01 s'
    """
    try:
        meter.begin()
        start = clock()
        while clock() - start < busy_s:
            sum(range(1000))
        joules = meter.end()
    except MeterError as error:
        return str(error)
    if joules > 0:
        return ""
    return (
        f"its counter does not move: {joules:+.3g} J while the processor was busy for {busy_s:g} s"
    )


def in_guest(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether this is a virtual machine, by the processor's flag `hypervisor`.

    - `cpuinfo`: the file to read. Only x86 has the flag; a guest on another processor is not
      recognised.

    >>> in_guest(Path("no such file"))
    False
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(
        "hypervisor" in line.partition(":")[2].split()
        for line in lines
        if line.startswith(("flags", "Features"))
    )
