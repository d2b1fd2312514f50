"""The process in which one party is held: its memory is its own, and it answers one policy at a time."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.under_load.policies import policies
from benchmarks.under_load.serving import Answered, Requests, serve
from wenable.runtime import Session

_CALLS, _PAUSE_S = 60, 0.01


class Party:
    """A bundle in a process of its own, on one core.

    - `plan`: as `policies` takes it, with `path`, `engine`, and `target`, the share of deadlines to keep.
    """

    def __init__(self, plan: Mapping[str, Any], images: Path, core: int, batch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_hold, args=(theirs, dict(plan), images, core, batch)
        )
        self._process.start()
        theirs.close()  # or a process that ends in an error would be waited for without end
        self.about: dict[str, Any] = self._asked(("about",))

    def serve(self, policy: str, requests: Requests, start_s: float) -> list[Answered]:
        """Return what became of requests."""
        return self._asked(("serve", policy, requests, start_s))

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()

    def _asked(self, question: tuple[Any, ...]) -> Any:
        try:
            self._pipe.send(question)
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise RuntimeError(
                f"the process of a party ended with status {self._process.exitcode}"
            ) from None


def _hold(pipe: Connection, plan: Mapping[str, Any], images: Path, core: int, batch: int) -> None:
    os.sched_setaffinity(0, {core})
    with np.load(images) as data:
        inputs, labels = data["images"], data["labels"]
    _chosen_by_another_process(plan, batch)
    before = _resident_mb()
    session, first_ms = _opened(plan, inputs[:batch])
    session.warm_up([batch])
    known = policies(session, batch, plan)
    for policy in known.values():
        policy(inputs[:batch], 1e3)  # what it needs is made ready
    gc.collect()
    about = {
        "memory_mb": _resident_mb() - before,
        "first_answer_ms": first_ms,
        "policies": list(known),
        "modes": _figures(session, inputs[:batch]),
    }
    while (question := pipe.recv()) is not None:
        if question[0] == "about":
            pipe.send(about)
        else:
            _, policy, requests, start_s = question
            pipe.send(serve(known[policy], requests, inputs, labels, start_s))
    session.close()


def _chosen_by_another_process(plan: Mapping[str, Any], batch: int) -> None:
    """Have everything chosen that sessions choose by timing and remember, as on a device in use."""
    context = multiprocessing.get_context("spawn")
    choosing = context.Process(target=_choose, args=(dict(plan), batch))
    choosing.start()
    choosing.join()
    if choosing.exitcode:
        raise RuntimeError(f"the process that chooses ended with status {choosing.exitcode}")


def _choose(plan: Mapping[str, Any], batch: int) -> None:
    with _session(plan, batch) as session:
        session.warm_up([batch])


def _session(plan: Mapping[str, Any], batch: int) -> Session:
    return Session(
        plan["path"], engine=plan["engine"], threads=1, batch=batch, deadline_target=plan["target"]
    )


def _opened(plan: Mapping[str, Any], x: np.ndarray) -> tuple[Session, float]:
    """Return a session, and how long it took from nothing to the first answer."""
    started = time.perf_counter()
    session = _session(plan, len(x))
    session.run(x, mode=session.modes[-1])
    return session, 1e3 * (time.perf_counter() - started)


def _figures(session: Session, x: np.ndarray) -> list[dict[str, Any]]:
    """Return each mode's accuracy, what it takes alone on its core, and what it runs on."""
    found = []
    for each in session.bundle.modes:
        mode, times = str(each.mode), []
        for _ in range(_CALLS):
            time.sleep(_PAUSE_S)  # as between requests: caches cool, and so does the clock
            started = time.perf_counter()
            session.run(x, mode=mode)
            times.append(1e3 * (time.perf_counter() - started))
        found.append({
            "mode": mode,
            "accuracy": each.readings["accuracy"].known,
            "median_ms": float(np.median(times)),
            "p99_ms": float(np.quantile(times, 0.99)),
            "engine": session.engine_of(mode),
        })  # fmt: skip
    return found


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
