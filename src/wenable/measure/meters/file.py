"""An external meter that writes a CSV file: joins its trace with the windows that were recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from wenable.measure.energy_windows import EnergyReading, Key, Recording, Window, energy_readings
from wenable.measure.meters.meter import Kind, MeterError, Scope
from wenable.measure.meters.power_trace import PowerTrace
from wenable.measure.meters.trace_csv import read_trace

_MOST_WAITS, _SHORTEST_WAIT_S = 5, 0.2
"""How often the end of a window waits for its last sample: a step each time, and not less than that."""


class FileMeter:
    r"""A wall meter, or another device with a clock of its own, by the file it writes.

    - `path`: its CSV file, as `trace_csv.read_trace` reads it.
    - `scope`: what it feeds; "system" for the wall plug, "board" for a single supply.
    - `name`: the source of its readings.
    - `wraps_at_j`: where its energy counter starts again at 0, in joules.
    - `offset_s`: how far its clock is ahead of this machine's, in seconds.
    - `max_gap_share`: how much of a window may lie between two of its samples.
    - `clock`: seconds since 1970; `sleep`: waits so many. Replaced in tests.

    Where the file is written in time, it is a meter like any other: at the end of a window it waits for the
    sample that closes it, a few steps at most. Where it is complete only
    afterwards, record the windows and join them: `join_windows`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "meter.csv")
    ...     _ = file.write_text("time,power_w\n" + "".join(f"{t},5\n" for t in range(100)))
    ...     now = iter([10.0, 60.0])
    ...     meter = FileMeter(file, clock=lambda: next(now))
    ...     meter.begin()
    ...     meter.end()
    250.0
    """

    kind: Kind = "measured"

    goes_by_stamps = True
    """What it measures depends on when windows began and ended, and so on this machine's clock."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        scope: Scope = "system",
        name: str = "wall meter",
        wraps_at_j: float | None = None,
        offset_s: float = 0.0,
        max_gap_share: float = 0.05,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 0 < max_gap_share <= 1:
            raise ValueError(f"`max_gap_share` (={max_gap_share}) must be above 0 and at most 1")
        self.path, self.name = Path(path), name
        self.scope: Scope = scope
        self.wraps_at_j, self.offset_s, self.max_gap_share = wraps_at_j, offset_s, max_gap_share
        self.detail = f"trace {self.path.name}"
        self._clock, self._sleep, self._started_s = clock, sleep, 0.0

    @property
    def step_s(self) -> float:
        """The median time between two samples, in seconds; raises `MeterError` without samples."""
        try:
            return _step_of(self._written())
        except (OSError, ValueError) as error:
            raise MeterError(str(error)) from error

    def trace(self) -> PowerTrace:
        """Return what the file holds now; raises as `read_trace` does."""
        return read_trace(self.path, wraps_at_j=self.wraps_at_j)

    def _written(self) -> PowerTrace:
        return read_trace(self.path, wraps_at_j=self.wraps_at_j, growing=True)

    def _written_until(self, moment_s: float) -> PowerTrace:
        """Return the trace once it reaches a moment, or what there is after some waiting."""
        trace = self._written()
        for _ in range(_MOST_WAITS):
            if trace.times_s[-1] >= moment_s:
                break
            self._sleep(max(_step_of(trace), _SHORTEST_WAIT_S))
            trace = self._written()
        return trace

    def begin(self) -> None:
        """Start a window."""
        self._started_s = self._clock()

    def end(self) -> float:
        """Return the joules from `begin` to now; raises `MeterError` where the file does not cover it."""
        window = Window(self._started_s, self._clock(), 0.0)
        try:
            return self.joules(window, self._written_until(window.stop_s + self.offset_s))
        except (OSError, ValueError) as error:
            raise MeterError(str(error)) from error

    def joules(self, window: Window, trace: PowerTrace) -> float:
        """Return the energy of a window; raises `ValueError` as `PowerTrace.joules` does."""
        start_s, stop_s = window.start_s + self.offset_s, window.stop_s + self.offset_s
        return trace.joules(start_s, stop_s, max_gap_share=self.max_gap_share)


def _step_of(trace: PowerTrace) -> float:
    steps = sorted(after - before for before, after in pairwise(trace.times_s))
    return steps[len(steps) // 2]


def join_windows(recording: Recording[Key], meter: FileMeter) -> dict[Key, EnergyReading]:
    r"""Return the readings of windows whose energy an external meter wrote down meanwhile.

    - `recording`: what `record_windows` returned, or `Recording.from_json` read again.
    - `meter`: its file, now complete.

    Raises `ValueError` where the trace does not cover a window, has too large a gap in it, or is
    not sound; where this machine's clock was set during a window; `OSError` without a file.

    >>> import tempfile
    >>> from wenable.core.readings import Reading
    >>> trials = (Window(20.0, 70.0, 50.0, calls=100), Window(80.0, 130.0, 50.0, calls=100))
    >>> recording = Recording({"full": trials}, {"full": Reading(500.0, "ms")}, Window(0, 15, 15))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "meter.csv")
    ...     watts = [2 if t < 20 else 5 for t in range(140)]
    ...     rows = [f"{t},{power}\n" for t, power in enumerate(watts)]
    ...     _ = file.write_text("time,power_w\n" + "".join(rows))
    ...     found = join_windows(recording, FileMeter(file, max_gap_share=0.1))
    >>> print(found["full"].energy, "of which idle not:", found["full"].above_idle)
    2.5e+03 mJ (2.5e+03 to 2.5e+03) of which idle not: 1.5e+03 mJ (1.5e+03 to 1.5e+03)
    """
    trace = meter.trace()

    def joined(window: Window) -> Window:
        if reason := window.why_no_stamps():
            raise ValueError(reason)
        return replace(window, joules=meter.joules(window, trace))

    trials = {key: tuple(map(joined, windows)) for key, windows in recording.trials.items()}
    complete = replace(recording, trials=trials, idle=joined(recording.idle))
    return energy_readings(complete, meter)
