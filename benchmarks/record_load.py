"""Records the load that another program puts on a core, as a trace for `benchmarks.deadline_replay`.

    python -m benchmarks.record_load compile --seconds 12 -- python -m compileall -qf src

The program runs on one core, again and again, and so does this one: it times a small product of matrices,
which computes, and a copy of 4 MiB, which waits for memory, in turn. Each step of the trace is how many
times slower than alone they were, alone being the median of two seconds before. The trace goes to
`benchmarks/traces/NAME.json`, with the command and the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.deadline_traces import RECORDED, STEP_S
from wenable.core.files import write_whole
from wenable.measure.device import describe_device
from wenable.runtime.simulation import LoadTrace

ALONE_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_load")
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("program", nargs="+", help="after --")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # and so the program's, a child
    kernels = _kernels()
    alone = [statistics.median(column) for column in zip(*_steps(kernels, ALONE_S), strict=True)]
    loaded = _beside(arguments.program, kernels, arguments.seconds)
    columns = [tuple(round(max(step[k] / alone[k], 0.5), 2) for step in loaded) for k in range(2)]
    compute, memory = columns
    trace = LoadTrace(f"recorded: {arguments.name}", STEP_S, compute, memory)
    made = {"program": " ".join(arguments.program), "machine": describe_device()}
    RECORDED.mkdir(exist_ok=True)
    write_whole(RECORDED / f"{arguments.name}.json", json.dumps(trace.to_json() | made) + "\n")


def _kernels() -> list[Callable[[], object]]:
    matrix, source = np.ones((160, 160), np.float32), np.ones(2**20, np.float32)
    target = np.empty_like(source)
    return [lambda: matrix @ matrix, lambda: np.copyto(target, source)]


def _steps(kernels: Sequence[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Return the mean time of each kernel in each step, for so many seconds."""
    steps, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        end, times = time.perf_counter() + STEP_S, [[0.0], [0.0]]
        while time.perf_counter() < end:
            for kernel, seen in zip(kernels, times, strict=True):
                started = time.perf_counter()
                kernel()
                seen.append(time.perf_counter() - started)
        steps.append([sum(seen) / (len(seen) - 1) for seen in times])
    return steps


def _beside(
    program: Sequence[str], kernels: Sequence[Callable[[], object]], seconds: float
) -> list[list[float]]:
    """Return the steps while a program runs on this core, started anew a second after each end."""
    steps: list[list[float]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        running = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while running.poll() is None and time.perf_counter() < until:
            steps += _steps(kernels, 5 * STEP_S)
        running.kill()
        running.wait()
        steps += _steps(kernels, 1.0)
    return steps


if __name__ == "__main__":
    main()
