"""Controllers on simulated loads, beside fixed modes and an oracle: no machine's noise, no minutes.

    python -m benchmarks.deadline_replay [--requests 6000] [--target 0.99 0.999] [--json]

The same requests under the same load for every policy. The oracle knows how long each request would
take in each mode, runs the most accurate one that is in time, and may be late as often as the
controller was: its accuracy is that at an equal share in time.
"""

from __future__ import annotations

import argparse
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.deadline_traces import arrivals, traces
from wenable.measure.latency import quantile
from wenable.runtime.controller import Controller
from wenable.runtime.decisions import ModeFigures
from wenable.runtime.replay import FakeClock
from wenable.runtime.simulation import Arrival, Controlled, Fixed, LoadTrace, Served, simulate

EXCUSED_S = 0.2
"""After an edge of the load; what runs then is no steady state."""

MODES = (
    ModeFigures("1", 0.76, 18.5, 20.0),
    ModeFigures("1/2", 0.74, 9.8, 10.6),
    ModeFigures("1/4", 0.71, 5.7, 6.2),
    ModeFigures("1/8", 0.68, 4.4, 4.8),
    ModeFigures("1/16", 0.64, 3.4, 3.7),
)
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6)
"""Of each mode's time that waits for memory: cheap modes compute less for what they read."""
DEADLINE_MS = 27.0


@dataclass(frozen=True)
class Kept:
    """What a policy kept.

    - `met`: the share in time; `met_steady`: of those no part of which ran near an edge of the load.
    - `accuracy`: the mean over all requests.
    - `oracle`: the oracle's accuracy at the same share in time.
    """

    trace: str
    policy: str
    met: float
    met_steady: float
    accuracy: float
    oracle: float
    p99_ms: float
    worst_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deadline_replay")
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--target", type=float, nargs="+", default=[0.99, 0.999])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for trace in traces():
        for row in compare(trace, arguments.requests, arguments.target):
            print(json.dumps(asdict(row)) if arguments.json else _line(row), flush=True)


def compare(
    trace: LoadTrace,
    count: int,
    targets: Sequence[float],
    *,
    fixed: int = 3,
    spread: float = 0.03,
    outliers: float = 0.0005,
) -> list[Kept]:
    """Return what controllers with these targets and the first `fixed` modes keep under one load.

    - `spread`, `outliers`: the noise, as in `deadline_traces.arrivals`.
    """
    for_all = arrivals(count, DEADLINE_MS, period_ms=30.0, spread=spread, outliers=outliers)
    rows = []
    for target in targets:
        clock = FakeClock()
        chooser = Controlled(Controller(MODES, target=target, clock=clock), clock)
        served = simulate(chooser, MODES, trace, for_all, SHARES)
        rows.append(kept(f"controller {target:g}", served, trace))
    for number, mode in enumerate(MODES[:fixed]):
        served = simulate(Fixed(number), MODES, trace, for_all, SHARES)
        rows.append(kept(f"fixed {mode.name}", served, trace))
    return rows


def kept(policy: str, served: Sequence[Served], trace: LoadTrace) -> Kept:
    """Return the figures of one run."""
    steady = [each.met for each in served if is_steady(each, trace)]
    totals = sorted(each.total_ms for each in served)
    late = sum(not each.met for each in served)
    return Kept(
        trace=trace.name,
        policy=policy,
        met=1 - late / len(served),
        met_steady=sum(steady) / max(len(steady), 1),
        accuracy=sum(MODES[each.mode].accuracy or 0.0 for each in served) / len(served),
        oracle=oracle_accuracy([each.arrival for each in served], trace, late),
        p99_ms=quantile(totals, 0.99),
        worst_ms=totals[-1],
    )


def is_steady(served: Served, trace: LoadTrace) -> bool:
    """Say whether no part of a request ran in the first 200 ms after the load came or went."""
    edges_s, end_s = trace.edges_s, served.start_s + served.latency_ms / 1e3
    if not edges_s:
        return True
    place_s = end_s % trace.length_s
    since_s = (place_s - edges_s[bisect_right(edges_s, place_s) - 1]) % trace.length_s
    return since_s >= EXCUSED_S + served.latency_ms / 1e3


def oracle_accuracy(requests: Sequence[Arrival], trace: LoadTrace, late: int) -> float:
    """Return the accuracy of an oracle that is late as often as `late` says.

    It gives up the requests where the full mode gains most over the best one in time. Its requests
    never wait: each starts when it comes.
    """
    best = max(mode.accuracy or 0.0 for mode in MODES)
    found, gains = [], []
    for request in requests:
        in_time = [
            mode.accuracy or 0.0
            for mode, share in zip(MODES, SHARES, strict=True)
            if 1e3
            * (
                trace.end_s(request.time_s, mode.latency_ms * request.noise / 1e3, share)
                - request.time_s
            )
            <= request.deadline_ms
        ]
        found.append(max(in_time, default=best))
        late -= not in_time
        gains.append(best - found[-1])
    spent = sorted(gains, reverse=True)[: max(late, 0)]
    return (sum(found) + sum(spent)) / len(found)


def _line(row: Kept) -> str:
    return (
        f"{row.trace:20} {row.policy:18} in time {100 * row.met:6.2f} % (steady"
        f" {100 * row.met_steady:6.2f} %)  accuracy {100 * row.accuracy:5.2f} (oracle"
        f" {100 * row.oracle:5.2f})  p99 {row.p99_ms:5.1f} worst {row.worst_ms:6.1f} ms"
    )


if __name__ == "__main__":
    main()
