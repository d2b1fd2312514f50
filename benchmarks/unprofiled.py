"""A session that nobody profiled beside the plain exports: does the default table ever lose?

    python -m benchmarks.unprofiled [--networks NAME ...] [--threads 2] [--out FOLDER]

Float32, batch 1, 224 x 224, random weights, the five uniform modes, on every installed engine. Each network
is timed in one run, in blocks in random order: every mode as a session runs it without a profile, and
exported as it is written. Results are added for this machine; leave it alone meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import wenable as we
from benchmarks.native_modes import figures
from results.provenance import present_commit
from results.records import ROOT, records_file, write_page
from results.runs_by_machine import add_run
from wenable.measure.device import describe_device
from wenable.profiling.comparison import ModeComparison, compare
from wenable.runtime.engines import installed_engines
from wenable.zoo import build

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unprofiled")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder  # nothing profiled, nothing remembered
            path = exported(name, Path(folder))
            found = compare(path, engines=list(installed_engines()), threads=arguments.threads)
        rows += [row(name, each) for each in found]
    run = {
        "command": " ".join(["python -m benchmarks.unprofiled", *sys.argv[1:]]),
        "commit": present_commit(),
        "machine": describe_device(),
        "rows": rows,
    }
    runs = add_run(records_file(arguments.out, "unprofiled"), run)
    write_page(arguments.out, "unprofiled", page(runs))


def exported(name: str, folder: Path) -> Path:
    """Return a bundle with the uniform modes."""
    torch.manual_seed(0)
    net = we.convert(build(f"torchvision:{name}").eval(), torch.zeros(1, 3, 224, 224))
    modes = net.space.uniform_modes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        we.calibrate(net, modes, [torch.randn(4, 3, 224, 224)])
        return we.export(net, modes, folder / f"{name}.wen")


def row(network: str, found: ModeComparison) -> dict[str, Any]:
    """Return a mode's latencies on one engine, in milliseconds, with quartiles."""
    plain = found.plain[found.engine]
    return {
        "network": network, "mode": found.mode, "engine": found.engine, "version": found.version,
        "threads": found.threads, "ours": figures(found.ours), "plain": figures(plain),
    }  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of all machines' runs."""
    parts = [
        "# A session without a profile\n",
        "Does a session that nobody profiled lose to the plain export of the same mode on the same engine?"
        " Medians with quartiles, in milliseconds; float32, batch 1, 224x224, random weights; each network"
        " was timed in one run, in blocks in random order. *Plain*: the mode exported as it is written"
        " (every layer in its own groups, the shuffle as transposes). A mode is slower *beyond the spread*"
        " if its quartiles lie above those of the plain export.\n",
    ]
    for run in runs:
        parts.append(f"## {run['machine']}\n")
        parts.append(f"`{run['command']}` at commit {run['commit']}.\n")
        parts.append(_verdict(run["rows"]) + "\n")
        parts.append(_table(run["rows"]))
    return "\n".join(parts)


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    slower = [each for each in rows if each["ours"]["low"] > each["plain"]["high"]]
    faster = [each for each in rows if each["ours"]["high"] < each["plain"]["low"]]
    worst = max(rows, key=_share)
    return (
        f"Of {len(rows)} modes on engines, {len(slower)} are slower beyond the spread and {len(faster)}"
        f" faster. The worst median is {_share(worst):.2f} times the plain export's"
        f" ({worst['network']}, {worst['mode']}, {worst['engine']})."
    )


def _share(each: Mapping[str, Any]) -> float:
    return each["ours"]["ms"] / each["plain"]["ms"]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| network | mode | engine, threads | session, ms | plain, ms | session / plain |"]
    lines.append("|---|---|---|--:|--:|--:|")
    for each in rows:
        engine = f"{each['engine']} {each['version'].split('-')[0]}, {each['threads']}"
        lines.append(
            f"| {each['network']} | {each['mode']} | {engine} | {_shown(each['ours'])} |"
            f" {_shown(each['plain'])} | {_share(each):.2f} |"
        )
    return "\n".join([*lines, ""])


def _shown(found: Mapping[str, float]) -> str:
    return f"{found['ms']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


if __name__ == "__main__":
    main()
