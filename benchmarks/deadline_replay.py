"""Controllers on simulated loads, beside fixed modes and an oracle: no machine's noise, no minutes.

    python -m benchmarks.deadline_replay [--requests 6000] [--target 0.9 0.99 0.999] [--out .]

The same requests under the same load for every policy. The oracle knows how long each request would
take in each mode, runs the most accurate one that is in time, and may be late as often as the
controller was: its accuracy is that at an equal share in time. Results go to
`results/deadline-replay.jsonl`, the tables and a picture to `docs/results/`. They are the same on every
machine.
"""

from __future__ import annotations

import argparse
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.deadline_traces import arrivals, square_wave, traces
from results.provenance import present_commit
from results.records import ROOT, page_file, records_file, write_page, write_records
from wenable.measure.latency import quantile
from wenable.report.timeline import plot_timeline
from wenable.runtime.controller import Controller
from wenable.runtime.deadline_run import run_of_simulation
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
    parser.add_argument("--target", type=float, nargs="+", default=[0.9, 0.99, 0.999])
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    rows = []
    for trace in traces():
        for row in compare(trace, arguments.requests, arguments.target):
            rows.append(asdict(row))
            print(rows[-1], flush=True)
    targets = " ".join(f"{each:g}" for each in arguments.target)
    results = {
        "command": "python -m benchmarks.deadline_replay"
        f" --requests {arguments.requests} --target {targets}",
        "commit": present_commit(),
        "requests": arguments.requests,
        "rows": rows,
    }
    write_records(records_file(arguments.out, "deadline-replay"), results)
    write_page(arguments.out, "deadline-replay", page(results))
    plot_timeline(pictured(), page_file(arguments.out, "deadline-replay", ".svg"))


def pictured() -> dict[str, Any]:
    """Return the run of the picture: 16 seconds of the square wave, at a target of 0.99."""
    clock, trace = FakeClock(), square_wave()
    chooser = Controlled(Controller(MODES, clock=clock), clock)
    for_all = arrivals(533, DEADLINE_MS, period_ms=30.0)
    served = simulate(chooser, MODES, trace, for_all, SHARES)
    return run_of_simulation(served, [each.name for each in MODES], trace, "Square wave, simulated")


def compare(
    trace: LoadTrace,
    count: int,
    targets: Sequence[float],
    *,
    fixed: int = len(MODES),
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


def page(results: Mapping[str, Any]) -> str:
    """Return the page of the documentation for these results."""
    rows = results["rows"]
    lines = [
        "# Deadlines on simulated loads",
        "",
        *_verdicts(rows),
        "",
        "Nothing here was timed. The modes and their latencies are made up, after a ResNet-50; the load is"
        " a trace, and the clock moves only when told to. Two traces were recorded beside a program on one"
        " core (`benchmarks.record_load`): a compiler that starts anew every few seconds, and a video that"
        " plays; the others are made up too. Under *time slices* one or two other processes run for 10 ms"
        " at a time, and a request is interrupted for a slice or not; under the others it is slowed down"
        " evenly. So the figures judge the controller and nothing"
        " else, and are the same on every machine. [Deadlines under real loads](under-load-short.md) is a"
        " measurement.",
        "",
        f"{results['requests']} requests for each row, one every 30 ms, with a deadline of"
        f" {DEADLINE_MS:.0f} ms. Unloaded medians in ms and accuracies: "
        + ", ".join(
            f"{m.name}: {m.latency_ms:g} and {100 * (m.accuracy or 0):.0f} %" for m in MODES
        )
        + ". Latencies vary by 3 %, and one request in 2,000 is 1.5 to 3 times slower. A request that comes"
        " while another runs waits and loses its time.",
        "",
        f"Made by `{results['command']}` at commit {results['commit']}.",
        "",
        "*in time*: of all requests; *steady*: of those no part of which ran in the first 200 ms after the"
        " load came or went, which is one in fifteen of a recorded load. *to the oracle*: by how many"
        " points the accuracy is below that of an oracle which knows how long each request will take, and"
        " is late as often.",
        "",
        "```{image} deadline-replay.svg",
        ":alt: Over 16 seconds the load comes and goes every two seconds; the mode changes with it, and"
        " latencies stay below the deadline, except for the first request of each load.",
        ":width: 100%",
        "```",
        "",
    ]
    for trace in dict.fromkeys(row["trace"] for row in rows):
        lines += [
            f"## {trace[0].upper()}{trace[1:]}",
            "",
            "| policy | in time | steady | accuracy | to the oracle | p99 ms | worst ms |",
            "|---|--:|--:|--:|--:|--:|--:|",
            *(_line(row) for row in rows if row["trace"] == trace),
            "",
        ]
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    below = max(100 * (row["oracle"] - row["accuracy"]), 0.0)
    return (
        f"| {row['policy']} | {100 * row['met']:.2f} % | {100 * row['met_steady']:.2f} % |"
        f" {100 * row['accuracy']:.2f} % | {below:.2f} | {row['p99_ms']:.1f} | {row['worst_ms']:.1f} |"
    )


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say for each target on how many loads it was kept, and how far the oracle is."""
    found = []
    named = dict.fromkeys(r["policy"] for r in rows if r["policy"].startswith("controller"))
    for policy in named:
        own = [row for row in rows if row["policy"] == policy]
        target = float(policy.split()[1])
        kept_all = sum(row["met"] >= target for row in own)
        kept_steady = sum(row["met_steady"] >= target for row in own)
        far = sorted(100 * (row["oracle"] - row["accuracy"]) for row in own)
        beside = [(row, _best_fixed(row, rows)) for row in own]
        behind = [
            (row, best) for row, best in beside if best and best["accuracy"] > row["accuracy"]
        ]
        found.append(
            f"- At a target of {target:g} the controller kept it on {kept_all} of {len(own)} loads over all"
            f" requests, and on {kept_steady} in steady state; it was {far[0]:.2f} to {far[-1]:.2f} points"
            f" less accurate than the oracle (median {far[len(far) // 2]:.2f}). {_behind_words(behind)}"
        )
    return found


def _best_fixed(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return the most accurate fixed mode that is in time as often under the same load, if one is."""
    enough = [
        each
        for each in rows
        if each["policy"].startswith("fixed")
        and each["trace"] == row["trace"]
        and each["met"] >= row["met"]
    ]
    return max(enough, key=lambda each: each["accuracy"], default=None)


def _behind_words(behind: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Say under which loads one mode all the time is the better choice, by hindsight."""
    if not behind:
        return "No mode by itself was more accurate and in time as often."
    named = ", ".join(
        f"{row['trace']} ({best['policy'].removeprefix('fixed ')} by"
        f" {100 * (best['accuracy'] - row['accuracy']):.2f} points)"
        for row, best in behind
    )
    return f"A mode by itself was more accurate and in time as often under: {named}."


if __name__ == "__main__":
    main()
