"""What a mode costs on our own kernels, beside its plain export and the full network on the engines.

    python -m benchmarks.native_modes [--networks NAME ...] [--threads 2 1] [--blocks N] [--predict]
        [--out FOLDER]

Float32, batch 1, 224 x 224, random weights: the five uniform modes and ten others between the full and the
smallest. For each network and number of threads everything is timed in one run, in blocks in random order:
every mode on our kernels, as a session with `engine="auto"` runs it that nobody profiled, and exported as
it is written on every installed engine. With `--predict` a profile is measured on our kernels as well, on
one thread, and its predictions are held against random modes. Results are added for this machine, in the
place of those of the same networks; leave it alone meanwhile.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

import wenable as we
from benchmarks.operation_profile import product_rate
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page
from results.runs_by_machine import add_run
from wenable.core.readings import Reading
from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.profiling import ProfilePlan, profile
from wenable.profiling.cost_tables import spread_modes
from wenable.profiling.verification import verify
from wenable.runtime import Session
from wenable.runtime.engine import describe_engine
from wenable.runtime.engines import installed_engines, open_engine
from wenable.runtime.implementations import as_written
from wenable.zoo import build

NETWORKS = ("mobilenet_v2", "efficientnet_b0", "resnet50")
GOALS = {"mobilenet_v2": 3.0, "efficientnet_b0": 3.0, "resnet50": 6.5}
"""Full network on the best engine over 1/16 on our kernels."""
OURS, AUTO, PLAIN = "native", "auto", "plain "
BETWEEN = 10
"""Modes between the full and the smallest, beside the uniform ones."""


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.native_modes")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", nargs="*", type=int, default=[2, 1])
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    for name in arguments.networks:
        found: Parts = {part: [] for part in PARTS}
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder  # nothing profiled, nothing remembered
            path, macs = exported(name, Path(folder))
            for threads in arguments.threads:
                found["rows"] += measured(name, path, macs, threads, arguments.blocks)
            if arguments.threads:
                found["memory"] += held(name, path)
            if arguments.predict:
                found["predictions"].append(predicted(name, path))
        write(name, found, arguments.out)  # a run that is stopped keeps what it has


Parts: TypeAlias = dict[str, list[dict[str, Any]]]
PARTS = ("rows", "memory", "predictions")
"""Of what is kept of a run: latencies, memory, and how far predictions are off."""


def write(network: str, found: Parts, out: Path) -> None:
    """Write what was measured of a network beside what there is of others, and the page anew."""
    file, machine = records_file(out, "native-modes"), describe_device()
    runs = read_records(file)["runs"] if file.is_file() else []
    before = next((run for run in runs if run["machine"] == machine), {})
    made = {
        "command": _command(),
        "commit": present_commit(),
        "engines": [describe_engine(open_engine(each, 1)) for each in (OURS, *installed_engines())],
    }
    run: dict[str, Any] = {"machine": machine, "made": {**before.get("made", {})}}
    for part in PARTS:
        run[part] = list(before.get(part, []))
        if found[part]:
            others = [row for row in run[part] if row["network"] != network]
            run[part] = others + found[part]
            run["made"][f"{network}, {part}"] = made
    write_page(out, "native-modes", page(add_run(file, run)))


def _command() -> str:
    """Return what was called, without the folder that it writes to."""
    given = sys.argv[1:]
    if "--out" in given:
        place = given.index("--out")
        given = given[:place] + given[place + 2 :]
    return " ".join(["python -m benchmarks.native_modes", *given])


def predicted(name: str, path: Path) -> dict[str, Any]:
    """Return how far latencies that a profile of our kernels predicts are from those of random modes."""
    known = profile(path, engine=OURS, threads=1, plan=ProfilePlan(energy_modes=0))
    found = verify(path, known, engine=OURS)
    kept = ("median_error", "kendall_tau", "repeat_error", "repeat_tau")
    row = {"network": name, "threads": 1, "modes": len(found.measured)}
    row |= {key: found.to_json()[key] for key in kept}
    print(*row.values(), flush=True)
    return row


def exported(name: str, folder: Path) -> tuple[Path, dict[str, int]]:
    """Return a bundle with the uniform modes and those between, and their multiply-accumulates."""
    torch.manual_seed(0)
    net = we.convert(build(f"torchvision:{name}").eval(), torch.zeros(1, 3, 224, 224))
    between = spread_modes(net.space, random.Random(0), 2 * BETWEEN)[::2]  # at a level each
    modes = list(dict.fromkeys([*net.space.uniform_modes(), *between]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        we.calibrate(net, modes, [torch.randn(4, 3, 224, 224)])
        path = we.export(net, modes, folder / f"{name}.wen")
    return path, {str(mode): net.macs(mode) for mode in modes}


def measured(
    name: str, path: Path, macs: Mapping[str, int], threads: int, blocks: int
) -> list[dict[str, Any]]:
    """Return a row for each mode in each way to run it."""
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    sessions = {
        OURS: Session(path, engine=OURS, threads=threads),
        AUTO: Session(path, engine=AUTO, threads=threads),
    }
    for engine in installed_engines():
        sessions[PLAIN + engine] = Session(path, engine=engine, threads=threads, choose=as_written)
    for way, session in sessions.items():
        for mode in session.modes:
            session.prepare(mode)
            calls[way, mode] = partial(session.run, session.example(), mode=mode)
    torch.set_num_threads(threads)
    rate = product_rate()
    readings = measure_latencies(calls, TimingPlan(blocks=blocks, calls=12, gap_ms=10.0))
    rows = []
    for (way, mode), reading in readings.items():
        what = {"network": name, "threads": threads, "way": way, "mode": mode}
        ran_on = {"ran_on": sessions[AUTO].engine_of(mode)} if way == AUTO else {}
        rows.append(what | ran_on | {"macs": macs[mode], "gmacs_per_s": rate} | figures(reading))
        print(name, threads, way, mode[:30], f"{reading.known:.2f} ms", flush=True)
    return rows


def figures(reading: Reading) -> dict[str, float | int | None]:
    """Return a reading's median, quartiles and count."""
    return {
        "ms": reading.known,
        "low": reading.low,
        "high": reading.high,
        "count": reading.count,
    }


_HELD = """
import sys
from wenable.runtime import Session

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

path, engine = sys.argv[1:]
session = Session(path, engine=engine, threads=2)
before = resident_mb()
for mode in session.modes[:5]:
    session.run(session.example(), mode=mode)
print(session.prepared_mb, resident_mb() - before)
"""


def held(name: str, path: Path) -> list[dict[str, Any]]:
    """Return what a session with the five uniform modes holds, counted and resident, by engine."""
    found = []
    for engine in (OURS, *installed_engines()):
        command = [sys.executable, "-c", _HELD, str(path), engine]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        counted, resident = map(float, shown.stdout.split())
        found.append(
            {"network": name, "engine": engine, "counted_mb": counted, "resident_mb": resident}
        )
    return found


# --- the page ---------------------------------------------------------------------------------------

Rows: TypeAlias = Sequence[Mapping[str, Any]]


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of all machines' runs."""
    parts = [
        "# Modes on our own kernels\n",
        "How much faster is a mode, and is it ever slower than its plain export? Medians with quartiles, in"
        " milliseconds; float32, batch 1, 224x224, random weights; everything of a table was timed in one"
        " run, in blocks in random order. *Full / ours*: the full network on the fastest engine over the"
        ' mode on our kernels. *Auto*: a session with `engine="auto"` and no profile, and what it chose.'
        " *Best plain*: the mode exported as it is written, on the fastest engine. *Limit*: what the"
        " multiply-accumulates take at the rate of a large matrix product on this machine."
        " [How fast is a mode, and why](../guides/native.md) explains the figures.\n",
    ]
    for run in runs:
        parts.append(f"## {run['machine']}\n")
        parts.append(_made(run["made"]))
        parts.append(_verdict(run["rows"]))
        if run["predictions"]:
            parts.append(_predictions(run["predictions"]))
        for (network, threads), rows in _tables(run["rows"]).items():
            parts.append(_table(network, threads, rows))
        parts.append(_memory(run["memory"]))
    return "\n".join(parts)


def _made(made: Mapping[str, Mapping[str, Any]]) -> str:
    """Say by which command, at which commit and with which engines each part was made."""
    by: dict[str, list[str]] = {}
    for what, each in made.items():
        engines = ", ".join(name.removesuffix(", 1 thread") for name in each["engines"])
        by.setdefault(f"`{each['command']}` at commit {each['commit']}; {engines}", []).append(what)
    lines = [f"- {'; '.join(what).replace('rows', 'latencies')}: {how}" for how, what in by.items()]
    return "\n".join([*lines, ""])


def _predictions(rows: Rows) -> str:
    lines = [
        "Latencies predicted from a profile of our kernels, beside those measured of random modes that span"
        " the range of costs, on one thread (goals: median error 5 %, Kendall's tau 0.95). *Again*: the"
        " same modes measured a second time beside the first, which no prediction can do better than.\n",
        "| network | modes | median error | Kendall's tau | again: median error | tau |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['network']} | {row['modes']} | {100 * row['median_error']:.1f} % |"
        f" {row['kendall_tau']:.2f} | {100 * row['repeat_error']:.1f} % | {row['repeat_tau']:.2f} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def _tables(rows: Rows) -> dict[tuple[str, int], Rows]:
    keys = dict.fromkeys((row["network"], row["threads"]) for row in rows)
    return {key: [row for row in rows if (row["network"], row["threads"]) == key] for key in keys}


def _by_way(rows: Rows) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["way"], {})[row["mode"]] = row
    return found


def _best_plain(
    ways: Mapping[str, Mapping[str, Mapping[str, Any]]], mode: str
) -> Mapping[str, Any]:
    plain = [of_mode[mode] for way, of_mode in ways.items() if way.startswith(PLAIN)]
    return min(plain, key=lambda row: row["ms"])


def _verdict(rows: Rows) -> str:
    lines = [
        "| network | threads | full / ours at 1/16 | goal | MACs | auto over best plain: median, worst |"
    ]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for (network, threads), own in _tables(rows).items():
        ways = _by_way(own)
        full = _best_plain(ways, "1")
        smallest = ways[OURS]["1/16"]
        shares = sorted(
            row["ms"] / _best_plain(ways, mode)["ms"] for mode, row in ways[AUTO].items()
        )
        lines.append(
            f"| {network} | {threads} | {full['ms'] / smallest['ms']:.2f} | {GOALS.get(network, '-')} |"
            f" {full['macs'] / smallest['macs']:.1f} | {shares[len(shares) // 2]:.2f},"
            f" {shares[-1]:.2f} |"
        )
    return "\n".join([*lines, ""])


def _table(network: str, threads: int, rows: Rows) -> str:
    ways = _by_way(rows)
    full = _best_plain(ways, "1")
    lines = [
        f"### {network}, {threads} thread{'' if threads == 1 else 's'}\n",
        "| mode | MMAC | ours | auto | best plain | full / ours | full / auto | limit | limit / ours |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    number = 0
    for mode, ours in sorted(ways[OURS].items(), key=lambda item: -item[1]["macs"]):
        auto, plain = ways[AUTO][mode], _best_plain(ways, mode)
        limit = ours["macs"] / ours["gmacs_per_s"] / 1e6
        number += "," in mode
        name = f"mixture {number}" if "," in mode else mode
        lines.append(
            f"| {name} | {ours['macs'] / 1e6:.0f} | {_ms(ours)} | {_ms(auto)} {auto['ran_on']} |"
            f" {_ms(plain)} {plain['way'].removeprefix(PLAIN)} | {full['ms'] / ours['ms']:.2f} |"
            f" {full['ms'] / auto['ms']:.2f} | {limit:.2f} | {100 * limit / ours['ms']:.0f} % |"
        )
    return "\n".join([*lines, ""])


def _ms(row: Mapping[str, Any]) -> str:
    return f"{row['ms']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _memory(memory: Rows) -> str:
    lines = [
        "### Memory of a session with the five uniform modes, two threads\n",
        "*Counted*: what `memory_budget_mb` counts. *Resident*: by how much the process grew.\n",
        "| network | engine | counted, MiB | resident, MiB |",
        "|---|---|--:|--:|",
    ]
    lines += [
        f"| {row['network']} | {row['engine']} | {row['counted_mb']:.0f} | {row['resident_mb']:.0f} |"
        for row in memory
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
