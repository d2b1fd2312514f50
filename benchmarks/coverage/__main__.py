"""Tries every network, one process each, and writes the results and the table of the docs.

    python -m benchmarks.coverage                     all networks; takes an hour or two on 2 cores
    python -m benchmarks.coverage --only resnet18     some, by name
    python -m benchmarks.coverage --resume            those that have no result yet
    python -m benchmarks.coverage --recount           count the MACs of those that have one again: seconds
                                                      each; go on with it by calling it again
    python -m benchmarks.coverage --pick              choose the smallest network of each timm module

Results go to `results/coverage.jsonl` after every network, the table to `docs/results/coverage.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from benchmarks.coverage.check import Outcome, check
from benchmarks.coverage.networks import (
    Candidate,
    pick_timm_networks,
    timm_networks,
    torchvision_networks,
)
from benchmarks.coverage.recount import recounted
from benchmarks.coverage.table import table
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page, write_records
from wenable.measure.device import describe_device

LIMIT_S = 1200


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    if arguments.pick:
        pick_timm_networks()
        return
    if arguments.one:
        print(json.dumps(dataclasses.asdict(check(Candidate(**json.loads(arguments.one))))))
        return
    results = records_file(arguments.out, "coverage")
    keep = arguments.resume or arguments.only or arguments.recount
    rows = read_records(results)["networks"] if keep and results.exists() else []
    outcomes = {(row["library"], row["name"]): Outcome(**row) for row in rows}
    commit = present_commit()
    candidates = [
        candidate
        for candidate in (*torchvision_networks(), *timm_networks())
        if candidate.library in arguments.library
    ]
    for number, candidate in enumerate(candidates, 1):
        key = (candidate.library, candidate.name)
        known = outcomes.get(key)
        wanted = candidate.name in arguments.only if arguments.only else known is None
        if arguments.recount:
            chosen = wanted or not arguments.only
            if chosen and known and known.knobs and known.counted != commit:
                outcome = outcomes[key] = recounted(known, candidate)
                outcome.counted = commit
                print(_line(number, len(candidates), outcome), flush=True)
                _write(results, outcomes)
        elif wanted:
            outcome = outcomes[key] = _check_apart(candidate)
            outcome.commit = commit
            print(_line(number, len(candidates), outcome), flush=True)
            _write(results, outcomes)
    write_page(arguments.out, "coverage", table(read_records(results)))


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--library", nargs="*", default=["torchvision", "timm"])
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--recount", action="store_true", help="count MACs again, and no more")
    parser.add_argument("--out", type=Path, default=ROOT)
    parser.add_argument("--pick", action="store_true", help="choose timm's networks anew")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _check_apart(candidate: Candidate) -> Outcome:
    """Check in a process of its own: memory is given back, and a crash is one row of the table."""
    names = (candidate.library, candidate.family, candidate.name, candidate.input_size)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.coverage", "--one"]
    try:
        run = subprocess.run(
            [*command, json.dumps(dataclasses.asdict(candidate))],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(*names, unfinished=f"not done after {LIMIT_S} s")
    if run.returncode:
        last = run.stderr.strip().splitlines()[-1:] or [f"exit status {run.returncode}"]
        return Outcome(*names, defects=[last[0]])
    return Outcome(**json.loads(run.stdout.splitlines()[-1]))


def _line(number: int, count: int, outcome: Outcome) -> str:
    detail = outcome.refusal or outcome.unfinished or "; ".join(outcome.defects)
    return (
        f"{number}/{count} {outcome.library} {outcome.name}: {outcome.verdict},"
        f" {outcome.share_by_default:.0%} of what is groupable, {outcome.seconds} s {detail}"
    )


def _write(path: Path, outcomes: dict[tuple[str, str], Outcome]) -> None:
    values = {
        "command": "python -m benchmarks.coverage",
        "machine": describe_device(),
        "versions": {m.__name__: m.__version__ for m in (torch, torchvision, timm)},
        "networks": [dataclasses.asdict(outcome) for outcome in outcomes.values()],
    }
    write_records(path, values)


if __name__ == "__main__":
    main()
