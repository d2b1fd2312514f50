"""What a mode costs on our own kernels, beside the full network on the engines.

    python -m benchmarks.native_modes [--networks ...] [--threads 2 1] [--blocks N] [--out FOLDER]

Float32, batch 1, 224 x 224, random weights. For each network and number of threads everything is timed in
one run, in blocks in random order: the five uniform modes on our kernels, and the full and the smallest
mode on every installed engine as a session runs them without a profile. Medians with quartiles. The ratio
is the full network's on the fastest engine over a mode's on ours. Results are added for this machine; leave
the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import wenable as we
from benchmarks.operation_profile import product_rate
from results.provenance import present_commit
from results.records import ROOT, page_file, records_file
from results.runs_by_machine import add_run
from wenable.core.files import write_whole
from wenable.core.readings import Reading
from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime import DeviceProfile, Session
from wenable.runtime.bundle import Bundle
from wenable.runtime.engine import describe_engine
from wenable.runtime.engines import installed_engines, open_engine
from wenable.zoo import build

NETWORKS = ("mobilenet_v2", "efficientnet_b0", "resnet50")
OURS = "native"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.native_modes")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", nargs="*", type=int, default=[2, 1])
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            path, macs = exported(name, Path(folder))
            for threads in arguments.threads:
                rows += measured(name, path, macs, threads, arguments.blocks)
    run = {
        "command": f"python -m benchmarks.native_modes --blocks {arguments.blocks}",
        "commit": present_commit(),
        "machine": describe_device(),
        "rows": rows,
    }
    runs = add_run(records_file(arguments.out, "native-modes"), run)
    write_whole(page_file(arguments.out, "native-modes"), page(runs))


def exported(name: str, folder: Path) -> tuple[Path, dict[str, int]]:
    """Return a bundle with the five uniform modes, and their multiply-accumulates."""
    torch.manual_seed(0)
    net = we.convert(build(f"torchvision:{name}").eval(), torch.zeros(1, 3, 224, 224))
    modes = list(dict.fromkeys(net.space.uniform_modes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        we.calibrate(net, modes, [torch.randn(8, 3, 224, 224)])
        path = we.export(net, modes, folder / f"{name}.wen")
    return path, {str(mode): net.macs(mode) for mode in modes}


def measured(
    name: str, path: Path, macs: Mapping[str, int], threads: int, blocks: int
) -> list[dict[str, Any]]:
    """Return a row for each mode on each engine."""
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for engine_name in (OURS, *installed_engines()):
        session = unprofiled(path, engine_name, threads)
        modes = session.modes if engine_name == OURS else (session.modes[0], session.modes[-1])
        for mode in modes:
            calls[engine_name, mode] = partial(session.run, session.example(), mode=mode)
    torch.set_num_threads(threads)
    rate = product_rate()
    readings = measure_latencies(calls, TimingPlan(blocks=blocks, calls=20))
    rows = []
    for (engine_name, mode), reading in readings.items():
        engine = describe_engine(open_engine(engine_name, threads))
        what = {"network": name, "threads": threads, "engine": engine, "mode": mode}
        rows.append(what | {"macs": macs[mode], "gmacs_per_s": rate} | figures(reading))
        print(*what.values(), f"{reading.known:.2f} ms", flush=True)
    return rows


def unprofiled(path: Path, engine: str, threads: int) -> Session:
    """Return a session as a user has it who never ran `wenable profile`."""
    opened = open_engine(engine, threads)
    running = f"{opened.name} {opened.version}"
    nothing = DeviceProfile(Bundle(path).structure, describe_device(), running, threads)
    return Session(path, engine=engine, threads=threads, profile=nothing)


def figures(reading: Reading) -> dict[str, float | int | None]:
    return {
        "ms": reading.known,
        "low": reading.low,
        "high": reading.high,
        "count": reading.count,
    }


# --- the page ---------------------------------------------------------------------------------------


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    parts = [
        "# Modes on our own kernels\n",
        "Made by `python -m benchmarks.native_modes`; [the guide](../native.md) says why. Medians with"
        " quartiles, in milliseconds; float32, batch 1, 224 x 224, random weights. The ratio is the full"
        " network's time on the fastest engine over the mode's on our kernels. The limit is what the"
        " multiply-accumulates would take at the rate of a large matrix product.\n",
    ]
    for run in runs:
        parts.append(f"## {run['machine']}\n")
        parts.append(f"`{run['command']}`, commit {run['commit']}\n")
        keys = list(dict.fromkeys((row["network"], row["threads"]) for row in run["rows"]))
        for network, threads in keys:
            rows = [r for r in run["rows"] if (r["network"], r["threads"]) == (network, threads)]
            parts.append(_table(network, threads, rows))
    return "\n".join(parts)


def _table(network: str, threads: int, rows: Sequence[Mapping[str, Any]]) -> str:
    others = [row for row in rows if not row["engine"].startswith(OURS)]
    full = min(
        (row for row in others if row["mode"] == others[0]["mode"]), key=lambda row: row["ms"]
    )
    lines = [
        f"### {network}, {threads} thread{'' if threads == 1 else 's'}\n",
        "| engine | mode | MMAC | ms | quartiles | ratio | limit, ms |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ours = row["engine"].startswith(OURS)
        ratio = f"{full['ms'] / row['ms']:.2f}" if ours else ""
        limit = row["macs"] / row["gmacs_per_s"] / 1e6
        lines.append(
            f"| {row['engine']} | {row['mode']} | {row['macs'] / 1e6:.0f} | {row['ms']:.2f} |"
            f" {row['low']:.2f} to {row['high']:.2f} | {ratio} | {limit:.2f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
