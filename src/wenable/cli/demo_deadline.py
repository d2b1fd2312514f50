"""Serves requests under a deadline while a load comes and goes, in a process that imports no torch."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wenable.cli.demo_load import STEP_S, STEPS, WAVE_S, share_one_core, waves_of_load
from wenable.cli.terminal import PlainConsole, plain_table
from wenable.core.files import write_whole
from wenable.runtime import Session

BATCH = 16
"""Images in a request: enough that one takes longer than the turns in which processes get the core."""
FACTOR = 1.4
"""The deadline, in medians of the full mode on the core alone."""
WAVES_FIXED = 1
"""For how many waves of load each fixed mode is served, beside the deadline."""
PAUSE_S = 0.002
LATE_S = 0.1
"""A wave that began less than this ago has not begun to load."""


@dataclass(frozen=True)
class Served:
    """What became of the requests: how many, the share in time, the mean accuracy, what ran."""

    requests: int
    in_time: float
    accuracy: float
    modes: dict[str, int]


def summary(
    served: Sequence[tuple[str, float]], deadline_ms: float, accuracy: Mapping[str, float]
) -> Served:
    """Return what became of requests.

    - `served`: the mode and the latency in ms of each; `accuracy`: of each mode, a share.

    >>> summary([("1", 4.0), ("1", 9.0), ("1/4", 2.0), ("1/4", 3.0)], 5.0, {"1": 0.9, "1/4": 0.7})
    Served(requests=4, in_time=0.75, accuracy=0.8, modes={'1': 2, '1/4': 2})
    """
    ran = Counter(mode for mode, _ in served)
    return Served(
        len(served),
        sum(latency <= deadline_ms for _, latency in served) / len(served),
        sum(accuracy[mode] * count for mode, count in ran.items()) / len(served),
        dict(ran.most_common()),
    )


def ladder(accuracy: Mapping[str, float], latency: Mapping[str, float]) -> list[str]:
    """Return the modes that no other beats in accuracy and latency, the most accurate first.

    >>> ladder({"1": 0.9, "1/2": 0.8, "1/4": 0.81}, {"1": 3.0, "1/2": 2.0, "1/4": 1.5})
    ['1', '1/4']
    """
    kept: list[str] = []
    for mode in sorted(accuracy, key=lambda mode: (-accuracy[mode], latency[mode])):
        if not kept or latency[mode] < latency[kept[-1]]:
            kept.append(mode)
    return kept


def best_fixed(
    modes: Sequence[str], serve: Callable[[str], Served], wanted: float
) -> dict[str, Served]:
    """Return what became of fixed modes, the last one the most accurate that keeps as many deadlines.

    Faster modes keep more of them, so halving the range finds it in a few runs. The cheapest counts as the
    best one if none keeps as many.

    - `modes`: the most accurate and slowest first; `wanted`: the share that is to be in time.
    """
    runs: dict[str, Served] = {}
    low, high = 0, len(modes) - 1
    while low < high:
        middle = (low + high) // 2
        runs[modes[middle]] = serve(modes[middle])
        if runs[modes[middle]].in_time >= wanted:
            high = middle
        else:
            low = middle + 1
    best = modes[low]
    last = runs.pop(best) if best in runs else serve(best)
    return {**runs, best: last}


def most_waves(modes: int, waves: int) -> int:
    """Return how many waves of load there are at most: so many for the deadline, then fixed modes.

    >>> most_waves(10, waves=3)
    9
    """
    halvings = max(modes - 2, 0).bit_length()
    return waves + WAVES_FIXED * (2 + halvings)


def main(bundle: Path, engine: str, out: Path, waves: int) -> None:
    """Print what became of the deadline and of the best fixed mode, and write it as JSON to `out`.

    - `waves`: for how many waves of load the deadline chooses.
    """
    cores = share_one_core()
    session = Session(bundle, engine=engine, threads=1)
    x, controller = session.example(BATCH), session.controller(BATCH)
    accuracy = {str(each.mode): each.readings["accuracy"].known for each in session.bundle.modes}
    alone = {each.name: each.latency_ms for each in controller.modes}
    steady = ladder(accuracy, alone)
    deadline_ms = FACTOR * alone[steady[0]]

    def under_deadline() -> str:
        session.run(x, deadline_ms=deadline_ms)
        return controller.decisions[-1].name

    def fixed(mode: str) -> str:
        session.run(x, mode=mode)
        return mode

    with waves_of_load(cores) as elapsed_s:

        def served(request: Callable[[], str], waves: int) -> Served:
            return summary(_serve(request, waves, elapsed_s), deadline_ms, accuracy)

        ours = served(under_deadline, waves)
        full = served(lambda: fixed(steady[0]), WAVES_FIXED)
        runs = best_fixed(
            steady[1:] or steady,
            lambda mode: served(lambda: fixed(mode), WAVES_FIXED),
            ours.in_time,
        )
    best = list(runs)[-1]
    names = {str(mode): name for name, mode in session.bundle.ids.items()}
    shown = {
        "the deadline chooses": ours,
        f"best fixed mode, {names[best]}": runs[best],
        f"most accurate fixed, {names[steady[0]]}": full,
    }
    _print(shown, names, deadline_ms)
    rows = [asdict(each) | {"policy": name} for name, each in shown.items()]
    write_whole(
        out,
        json.dumps({"deadline_ms": deadline_ms, "batch": BATCH, "policies": rows}, indent=1),
    )
    assert "torch" not in sys.modules


def _serve(
    request: Callable[[], str], waves: int, elapsed_s: Callable[[], float]
) -> list[tuple[str, float]]:
    """Make requests from the beginning of a wave on; return mode and latency in ms of each."""
    begin_s = WAVE_S * math.ceil((elapsed_s() - LATE_S) / WAVE_S)
    time.sleep(max(0.0, begin_s - elapsed_s()))
    found: list[tuple[str, float]] = []
    while elapsed_s() < begin_s + waves * WAVE_S:
        started = time.perf_counter()
        mode = request()
        found.append((mode, 1e3 * (time.perf_counter() - started)))
        time.sleep(PAUSE_S)  # between requests a device has other things to do
    return found


def _print(shown: Mapping[str, Served], names: Mapping[str, str], deadline_ms: float) -> None:
    console = PlainConsole()
    steps = ", ".join(map(str, STEPS))
    table = plain_table(
        f"{deadline_ms:.1f} ms for {BATCH} images, {FACTOR} times what the full mode takes alone,"
        f" on a core where\n{steps}, ... other processes compute, {STEP_S} s each"
    )
    table.add_column("mode", no_wrap=True)
    table.add_column("in time\n%", justify="right", no_wrap=True)
    table.add_column("accuracy\nmean %", justify="right", no_wrap=True)
    table.add_column("modes that ran, % of the requests")
    for name, each in shown.items():
        ran = "  ".join(
            f"{names[mode]}\u00a0{100 * count / each.requests:.0f}"
            for mode, count in each.modes.items()
        )
        table.add_row(name, f"{100 * each.in_time:.1f}", f"{100 * each.accuracy:.1f}", ran)
    console.print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
