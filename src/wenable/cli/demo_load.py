"""A load that comes and goes in steps, for requests under a deadline to live with."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STEPS = (0, 1, 2, 1)
"""How many processes compute beside this one, step after step, and then from the start again."""
STEP_S = 0.6
WAVE_S = STEP_S * len(STEPS)


def share_one_core() -> int:
    """Keep this process and its children on one core; return how many cores the load has to fill.

    A load slows this process down only if both want the same core. Where a system cannot keep a process
    on one core, the load has to fill all of them.
    """
    with contextlib.suppress(AttributeError, OSError):  # Linux has it
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        return 1
    return os.cpu_count() or 1


def computes(position: int, elapsed_s: float) -> bool:
    """Say whether the load's process `position` (0 for the first) computes at this time of the waves.

    >>> [computes(0, STEP_S * step + 0.1) for step in range(5)]
    [False, True, True, True, False]
    >>> [computes(1, STEP_S * step + 0.1) for step in range(5)]
    [False, False, True, False, False]
    """
    return STEPS[int(elapsed_s / STEP_S) % len(STEPS)] > position


@contextmanager
def waves_of_load(cores: int) -> Iterator[Callable[[], float]]:
    """Load so many cores in waves while the block runs; yield what tells the seconds since they began.

    The first wave begins, without any load, when all processes of the load are there.
    """
    context = multiprocessing.get_context("spawn")
    there, begun = context.Semaphore(0), context.Value("d", 0.0)
    processes = [
        context.Process(target=_compute_in_waves, args=(position, there, begun), daemon=True)
        for position in range(max(STEPS))
        for _ in range(cores)
    ]
    try:
        for process in processes:
            process.start()
        for _ in processes:
            there.acquire()
        begun.value = time.monotonic()  # the same clock in all processes of a machine
        yield lambda: time.monotonic() - begun.value
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _compute_in_waves(position: int, there: Any, begun: Any) -> None:
    there.release()
    while True:
        if begun.value and computes(position, time.monotonic() - begun.value):
            sum(range(20_000))
        else:
            time.sleep(0.005)
