"""Deadlines under real loads: an elastic network beside a ladder of networks, a cascade, early exits.

    python -m experiments.deadline_networks --data data/cifar10        # once: trains the parties
    python -m benchmarks.under_load [--folder out/deadlines] [--requests 5000] [--runs 3] [--batch 32]
        [--loads NAME ...] [--out .]

Every party is a bundle in a process of its own, all on the same core, one thread; one answers at a time,
the others sleep. Each policy gets the same requests under the same load, in an order drawn anew for each
load. The deadline is `FACTOR` times the 99th percentile of the elastic network's full mode alone. Nothing
else may run meanwhile. Results go to `results/under-load.jsonl`, the page to `docs/results/under-load.md`.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.under_load.figures import kept, oracle
from benchmarks.under_load.loads import Load, loaded, loads
from benchmarks.under_load.page import page
from benchmarks.under_load.party import Party
from benchmarks.under_load.policies import CASCADE
from benchmarks.under_load.serving import Requests
from results.provenance import present_commit
from results.records import ROOT, records_file, write_page, write_records
from wenable.measure.device import describe_device

FACTOR, PERIOD = 1.3, 1.6
"""Deadline over the full mode's 99th percentile, and the time between requests over the deadline."""
TARGET = 0.99
SOONEST_S = 1.5
"""From the start of a load until the first request: its processes have to be there."""

PARTIES: dict[str, dict[str, Any]] = {
    "elastic": {"fixed": 4, "cascade": ()},
    "widths": {"fixed": 0, "cascade": ()},
    "ladder": {"fixed": 0, "cascade": ("network=network2,full", "network=network0,full")},
    "exits": {"fixed": 0, "cascade": ("layer1", "layer2", "end")},
}
"""Bundle -> how many of its modes are also run by themselves, and which are asked in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.under_load")
    parser.add_argument("--folder", type=Path, default=Path("out/deadlines"))
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--loads", nargs="*", choices=[each.name for each in loads()])
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    chosen = [each for each in loads() if not arguments.loads or each.name in arguments.loads]
    run(
        arguments.folder, arguments.requests, arguments.runs, arguments.batch, chosen, arguments.out
    )


def run(
    folder: Path, requests: int, runs: int, batch: int, chosen: Sequence[Load], out: Path
) -> dict[str, Any]:
    """Measure what is asked for, write records and page after each load, and return the records."""
    core = max(os.sched_getaffinity(0))
    results: dict[str, Any] = {
        "command": f"python -m benchmarks.under_load --requests {requests} --runs {runs} --batch {batch}",
        "commit": present_commit(),
        "machine": describe_device(),
        "requests": requests, "runs": runs, "batch": batch, "target": TARGET, "rows": [],
    }  # fmt: skip
    with held(folder, core, batch) as parties:
        results["parties"] = [{"party": name} | each.about for name, each in parties.items()]
        plan = planned(parties["elastic"].about["modes"], requests, batch)
        results |= {"deadline_ms": plan.deadline_ms, "period_ms": plan.period_ms}
        for number in range(runs):
            for load in chosen:
                results["rows"] += measured(parties, load, plan, core, number)
                write_records(records_file(out, "under-load"), results)
                write_page(out, "under-load", page(results))
    return results


@contextmanager
def held(folder: Path, core: int, batch: int) -> Iterator[dict[str, Party]]:
    """Hold each party that there is a bundle of; the elastic one must be there."""
    paths = {name: folder / f"{name}.wen" for name in PARTIES}
    if not paths["elastic"].is_file():
        raise FileNotFoundError(
            f"{paths['elastic']} does not exist: python -m experiments.deadline_networks first"
        )
    images = folder / "requests.npz"
    with ExitStack() as stack:
        parties = {}
        for name, path in paths.items():
            if path.is_file():
                plan = PARTIES[name] | {"path": str(path), "target": TARGET}
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
