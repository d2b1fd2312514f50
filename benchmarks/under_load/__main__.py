"""Deadlines under real loads: an elastic network beside a ladder of networks, a cascade, early exits.

    python -m experiments.deadline_networks --data data/cifar10        # once: trains the parties
    python -m benchmarks.under_load [--scale short] [--folder out/deadlines] [--requests 5000] [--runs 3]
        [--batch 32] [--engine auto] [--loads NAME ...] [--out .]

Every party is a bundle in a process of its own, all on the same core, one thread; one answers at a time,
the others sleep. What sessions choose by timing was chosen before, by another process, as on a device that
ran the bundle before. Each policy gets the same requests under the same load, in an order drawn anew for
each load. The deadline is `FACTOR` times the 99th percentile of an elastic network's most accurate mode
alone. Nothing else may run meanwhile. Results go to `results/under-load-SCALE.jsonl`, the page to
`docs/results/under-load-SCALE.md`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.under_load.figures import kept, oracle
from benchmarks.under_load.loads import Load, loaded, loads
from benchmarks.under_load.page import page
from benchmarks.under_load.party import Party
from benchmarks.under_load.policies import CASCADE, EVERY_MODE
from benchmarks.under_load.serving import Requests
from benchmarks.under_load.verdicts import ELASTIC
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page, write_records
from wenable.measure.device import describe_device

FACTOR, PERIOD = 1.3, 1.6
"""Deadline over the full mode's 99th percentile, and the time between requests over the deadline."""
TARGET = 0.99
SOONEST_S = 1.5
"""From the start of a load until the first request: its processes have to be there."""

PARTIES: dict[str, dict[str, Any]] = {
    "elastic": {"fixed": 2, "cascade": ()},
    "widths": {"fixed": 3, "cascade": ()},
    "exits-size": {"fixed": 3, "cascade": ()},
    "ladder": {"fixed": 2, "cascade": ("network=network2,full", "network=network0,full")},
    "exits": {"fixed": 3, "cascade": EVERY_MODE},
    "static": {"fixed": 9, "cascade": (), "controlled": False},
}
"""Bundle -> how many of its modes are also run by themselves, and which are asked in turn; *controlled*:
whether a controller chooses among them."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.under_load")
    parser.add_argument("--scale", default="short", help="of `experiments.deadline_networks`")
    parser.add_argument("--folder", type=Path, default=Path("out/deadlines"))
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--engine", default="auto", help="of all parties")
    parser.add_argument("--loads", nargs="*", choices=[each.name for each in loads()])
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    chosen = [each for each in loads() if not arguments.loads or each.name in arguments.loads]
    run(
        arguments.folder / arguments.scale, arguments.requests, arguments.runs, arguments.batch, chosen,
        arguments.out, arguments.engine,
    )  # fmt: skip


def run(
    folder: Path,
    requests: int,
    runs: int,
    batch: int,
    chosen: Sequence[Load],
    out: Path,
    engine: str = "auto",
) -> dict[str, Any]:
    """Measure what is not measured yet, write records and page after each load, and return the records.

    - `folder`: of one scale's bundles and its `requests.npz`; `engine`: of the sessions of all parties.
    """
    results = _asked_for(folder, requests, runs, batch, engine)
    name, core = f"under-load-{results['scale'].lower()}", max(os.sched_getaffinity(0))
    with held(folder, core, batch, engine) as parties:
        results["parties"] = [{"party": name} | each.about for name, each in parties.items()]
        results["deadline_of"] = next(name for name in ELASTIC if name in parties)
        plan = planned(parties[results["deadline_of"]].about["modes"], requests, batch)
        results |= {"deadline_ms": plan.deadline_ms, "period_ms": plan.period_ms}
        results = _unless_begun(results, records_file(out, name))
        plan = replace(plan, deadline_ms=results["deadline_ms"], period_ms=results["period_ms"])
        done = {(row["run"], row["load"]) for row in results["rows"]}
        for number, load in itertools.product(range(runs), chosen):
            if (number, load.name) not in done:
                results["rows"] += measured(parties, load, plan, core, number)
                write_records(records_file(out, name), results)
                write_page(out, name, page(results))
    return results


def _asked_for(folder: Path, requests: int, runs: int, batch: int, engine: str) -> dict[str, Any]:
    """Return the records before anything is measured."""
    with np.load(folder / "requests.npz") as file:
        scale, network, data = (str(file[key]) for key in ("scale", "network", "data"))
    asked = f"--scale {scale} --requests {requests} --runs {runs} --batch {batch}"
    asked += "" if engine == "auto" else f" --engine {engine}"
    return {
        "command": f"python -m benchmarks.under_load {asked}",
        "commit": present_commit(), "machine": describe_device(),
        "scale": scale, "network": network, "data": data,
        "requests": requests, "runs": runs, "batch": batch, "engine": engine, "target": TARGET, "rows": [],
    }  # fmt: skip


def _unless_begun(results: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the records of the same command, parties and modes that a file holds, or those given.

    A benchmark of hours goes on where it was stopped, with the deadline that it began with.
    """
    if not path.is_file():
        return results
    begun = read_records(path)
    same = all(begun.get(key) == results[key] for key in ("command", "commit", "machine"))
    return begun if same and _held_in(begun) == _held_in(results) else results


def _held_in(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return each party with its modes and their accuracies."""
    return [
        (each["party"], [(mode["mode"], mode["accuracy"]) for mode in each["modes"]])
        for each in results["parties"]
    ]


@contextmanager
def held(folder: Path, core: int, batch: int, engine: str = "auto") -> Iterator[dict[str, Party]]:
    """Hold each party that there is a bundle of; one elastic network must be there."""
    paths = {name: folder / f"{name}.wen" for name in PARTIES}
    if not any(paths[name].is_file() for name in ELASTIC):
        raise FileNotFoundError(
            f"{folder} has neither {' nor '.join(paths[name].name for name in ELASTIC)}:"
            " python -m experiments.deadline_networks first"
        )
    images = folder / "requests.npz"
    with ExitStack() as stack:
        parties = {}
        for name, path in paths.items():
            if path.is_file():
                plan = PARTIES[name] | {"path": str(path), "target": TARGET, "engine": engine}
                parties[name] = Party(plan, images, core, batch)
                stack.callback(parties[name].close)
        yield parties


def planned(modes: Sequence[Mapping[str, Any]], count: int, batch: int) -> Requests:
    """Return requests with a deadline that the most accurate mode keeps while it is alone."""
    full = max(modes, key=lambda each: each["accuracy"])
    deadline_ms = FACTOR * full["p99_ms"]
    return Requests(count, batch, PERIOD * deadline_ms, deadline_ms)


def measured(
    parties: Mapping[str, Party], load: Load, plan: Requests, core: int, number: int
) -> list[dict[str, Any]]:
    """Return the figures of every policy under one load, in an order drawn for it."""
    todo = [(name, each) for name, party in parties.items() for each in party.about["policies"]]
    random.Random(f"{load.name} {number}").shuffle(todo)
    rows = []
    for name, policy in todo:
        start_s = time.monotonic() + SOONEST_S
        with loaded(load, core, start_s):
            answered = parties[name].serve(policy, plan, start_s)
        row = {"load": load.name, "run": number, "party": name, "policy": policy}
        row |= kept(answered, plan, load)
        if policy != CASCADE:
            row |= oracle(answered, plan, parties[name].about["modes"])
        rows.append(row)
        print(f"{load.name}, {name}, {policy}: {row['met']:.4f} in time, {row['accuracy']:.4f} right",
              flush=True)  # fmt: skip
    order = {(name, policy): place for place, (name, policy) in enumerate(sorted(todo))}
    return sorted(rows, key=lambda row: order[row["party"], row["policy"]])


if __name__ == "__main__":
    main()
