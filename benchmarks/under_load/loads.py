"""Loads a machine for real: other processes that compute as a trace says, or a program that people run."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.deadline_traces import (
    core_taken,
    frequency_drop,
    memory_hog,
    pareto_bursts,
    ramps,
    square_wave,
)
from wenable.runtime.simulation import LoadTrace

_SLICE_S = 0.02
_FIELD = 8 * 2**20
"""Numbers of a field that is copied: 32 MiB, more than caches hold."""


@dataclass(frozen=True)
class Load:
    """What runs beside the requests.

    - `trace`: its slowdown less 1 is how many other processes compute on the core of the requests; a
      fraction is one that computes for that part of each 20 ms. Its slowdown of memory less 1 is how much
      of the time another core copies memory. None for a program.
    - `program`: runs again and again on the core of the requests, with a second between two runs.
    """

    name: str
    trace: LoadTrace | None = None
    program: Sequence[str] = ()

    @property
    def others(self) -> int:
        """How many processes compute beside the requests at most."""
        return math.ceil(max(self.trace.compute) - 1) if self.trace else 0


def loads() -> list[Load]:
    """Return the loads that are measured, none the first."""
    traces = (square_wave(), ramps(), pareto_bursts(), core_taken(), frequency_drop(), memory_hog())
    compile_all = [sys.executable, "-c", _COMPILE, sysconfig.get_path("stdlib")]
    return [
        Load("none", LoadTrace("none", 1.0, (1.0,))),
        *(Load(_WORDS.get(each.name, each.name), each) for each in traces),
        Load("a compile job", program=compile_all),
    ]


_COMPILE = """
import sys, pathlib
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    compile(path.read_bytes(), path, "exec")
"""
"""Compiles Python's own library and writes nothing."""
_WORDS = {
    "a core of two taken": "other processes for three seconds in eight",
    "frequency drop": "two fifths of the core taken",
    "memory hog": "another core copies memory",
}
"""What a trace of the simulation is on a real machine."""


@contextmanager
def loaded(load: Load, core: int, start_s: float) -> Iterator[None]:
    """Load a core until the end of the block, from `start_s` on, a time of `time.monotonic`."""
    context = multiprocessing.get_context("spawn")
    jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (_compute, (load.trace, each, core, start_s)) for each in range(load.others)
    ]
    if load.trace is not None and load.trace.memory:
        jobs.append((_copy, (load.trace, core, start_s)))
    if load.program:
        jobs.append((_run_again_and_again, (load.program, core, start_s)))
    started = [context.Process(target=job, args=given, daemon=False) for job, given in jobs]
    for each in started:
        each.start()
    try:
        yield
    finally:
        for each in started:
            each.terminate()
            each.join()


def _compute(trace: LoadTrace, number: int, core: int, start_s: float) -> None:
    """Be the process of this number: compute for the part of each slice that the trace gives it."""
    os.sched_setaffinity(0, {core})
    while _is_wanted():
        place_s = _since(start_s)
        busy = min(max(trace.slowdown(place_s) - 1 - number, 0.0), 1.0)
        end = time.monotonic() + busy * _SLICE_S
        while time.monotonic() < end:
            sum(range(2000))
        time.sleep(max(_SLICE_S - (_since(start_s) - place_s), 0.0005))


def _copy(trace: LoadTrace, core: int, start_s: float) -> None:
    """Copy memory on another core for the part of each slice that the trace says."""
    others = os.sched_getaffinity(0) - {core}
    os.sched_setaffinity(0, others or {core})
    source = np.ones(_FIELD, np.float32)
    target = np.empty_like(source)
    while _is_wanted():
        place_s = _since(start_s)
        if trace.slowdown(place_s, memory_share=1.0) > 1.5:
            np.copyto(target, source)
        else:
            time.sleep(_SLICE_S)


def _run_again_and_again(program: Sequence[str], core: int, start_s: float) -> None:
    os.sched_setaffinity(0, {core})
    _since(start_s)
    running: list[subprocess.Popen[bytes]] = []

    def end(*_: object) -> None:
        for each in running:
            each.kill()
        sys.exit()

    signal.signal(signal.SIGTERM, end)
    while _is_wanted():
        running[:] = [subprocess.Popen(program, stdout=subprocess.DEVNULL)]
        running[0].wait()
        time.sleep(1.0)


def _is_wanted() -> bool:
    """Say whether the process that asked for the load is still there: it may have been killed."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.is_alive()


def _since(start_s: float) -> float:
    """Return the seconds since the start, once it has come."""
    while (left := start_s - time.monotonic()) > 0:
        time.sleep(left)
    return time.monotonic() - start_s
