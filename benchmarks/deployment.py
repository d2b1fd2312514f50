"""Modes of three networks on real engines, beside their plain exports and the full networks.

    python -m benchmarks.deployment [--networks resnet50 ...] [--threads 2] [--out docs]

Random weights, batch 1, 224x224, float32. Each network is exported with its uniform modes, profiled
on every installed engine, and compared by `wenable.comparison`. Results go to
`docs/deployment/results.json` and the table to `docs/deployment.md`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import wenable as we
from benchmarks.present_commit import present_commit
from wenable.comparison import compare
from wenable.files import write_whole
from wenable.measure.device import describe_device
from wenable.profiling import profile
from wenable.runtime import Session
from wenable.runtime.engines import installed_engines
from wenable.tables import Reading
from wenable.zoo import build

DOCS = Path(__file__).parents[1] / "docs"
NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0")
GOALS = {"resnet50": 6.0, "mobilenet_v2": 1.6, "efficientnet_b0": 1.8}
"""How many times faster 1/16 is to be than the full network."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployment")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=DOCS)
    arguments = parser.parse_args()
    engines = list(installed_engines())
    rows: list[dict[str, Any]] = []
    switches: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    for name in arguments.networks:
        more, switched, size = measure(name, engines, arguments.threads)
        rows, switches, sizes = rows + more, switches + switched, [*sizes, size]
    results = {
        "command": f"python -m benchmarks.deployment --threads {arguments.threads}",
        "commit": present_commit(),
        "machine": describe_device(),
        "rows": rows,
        "switches": switches,
        "sizes": sizes,
    }
    folder = arguments.out / "deployment"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_whole(arguments.out / "deployment.md", page(results))


def measure(
    name: str, engines: list[str], threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Return the figures of one network by engine and mode, of switching, and the file's size."""
    torch.manual_seed(0)
    net = we.convert(build(f"torchvision:{name}").eval(), torch.zeros(1, 3, 224, 224))
    modes = net.space.uniform_modes()
    we.calibrate(net, modes, [torch.randn(8, 3, 224, 224)])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = we.export(net, modes, Path(folder) / "net.wen")
        for each in engines:
            profile(path, engine=each, threads=threads)
        sessions = {each: Session(path, engine=each, threads=threads) for each in engines}
        rows = []
        for each in compare(path, engines=engines, threads=threads):
            engine = each.engine
            number = sessions[engine].modes.index(each.mode)
            counts = Counter(map(str, sessions[engine].lowerings(number).values()))
            row = {"network": name, "macs": net.macs(each.mode), "lowerings": dict(counts)}
            row["policy"] = sessions[engine].profile.policies.get(each.mode, "")
            row |= each.to_json() | {"best_plain": min(r.known for r in each.plain.values())}
            rows.append(row)
            print(_line(row), flush=True)
        switches = [
            {"network": name, "engine": engine} | switching(path, engine, threads)
            for engine in engines
        ]
        size = {"network": name, "bytes": path.stat().st_size}
        size["weights"] = 4 * sum(each.numel() for each in we.extract(net, "1").parameters())
    return rows, switches, size


def switching(path: Path, engine: str, threads: int) -> dict[str, Any]:
    """Return how long the first call after a switch takes, as a share of a steady one."""
    session = Session(path, engine=engine, threads=threads)
    x = session.example()
    for mode in session.modes:
        session.prepare(mode)
    ratios: list[float] = []
    rng = random.Random(0)
    for mode in rng.choices(session.modes, k=60):
        other = rng.choice([each for each in session.modes if each != mode])
        for _ in range(5):
            session.run(x, mode=other)
        first, *steady = (_seconds(session, x, mode) for _ in range(8))
        ratios.append(first / statistics.median(steady))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"first_over_steady": middle, "quartiles": [low, high], "switches": len(ratios)}


def _seconds(session: Session, x: Any, mode: str) -> float:
    started = time.perf_counter()
    session.run(x, mode=mode)
    return time.perf_counter() - started


def page(results: dict[str, Any]) -> str:
    """Return the page of the documentation for these results."""
    lines = [
        "# Modes on real engines",
        "",
        "Latency of one example of 224x224 in float32 with random weights: medians, with quartiles."
        " *Ours* is a session after `wenable profile`; *plain* is the mode exported as it is written"
        " (every layer in its own groups, the shuffle as transposes), on the same engine; *best plain*"
        " the fastest of these on any engine; *full / ours* the plain full network at its best over"
        " ours. All of a network in one run, in blocks of 20 calls in random order.",
        "",
        f"Engines: {', '.join(_engines(results))}. *Policy*: what was"
        " fastest for the mode as a whole; see [Running on a device](deploy.md)."
        f" Made by `{results['command']}` at commit {results['commit']} on {results['machine']}.",
        "",
        "| network | mode | MACs M | engine, threads | policy | ours, ms | plain, ms | best plain, ms"
        " | full / ours |",
        "|---|---|--:|---|---|--:|--:|--:|--:|",
        *map(_line, results["rows"]),
        "",
        "Goals for 1/16, full / ours at the best engine: "
        + "; ".join(
            f"{name} {goal:.1f}, here {max(_ratios(results, name), default=0.0):.2f}"
            for name, goal in GOALS.items()
        )
        + ".",
        "",
        "The first call after a switch to another mode that was used before, over a steady call of it"
        " (median and quartiles of 60 switches): "
        + "; ".join(
            f"{each['network']} on {each['engine']} {each['first_over_steady']:.2f}"
            f" ({each['quartiles'][0]:.2f} to {each['quartiles'][1]:.2f})"
            for each in results["switches"]
        )
        + ".",
        "",
        "The file, with five modes, over the plain network's weights: "
        + "; ".join(
            f"{each['network']} {each['bytes'] / each['weights']:.3f}" for each in results["sizes"]
        )
        + ".",
    ]
    return "\n".join([*lines, ""])


def _engines(results: dict[str, Any]) -> list[str]:
    return sorted({f"{row['engine']} {row['version']}" for row in results["rows"]})


def _ratios(results: dict[str, Any], name: str) -> list[float]:
    return [
        row["full_over_ours"]
        for row in results["rows"]
        if row["network"] == name and row["mode"] == "1/16"
    ]


def _line(row: dict[str, Any]) -> str:
    def spread(values: dict[str, Any]) -> str:
        reading = Reading(**values)
        return f"{reading.known:.2f} ({reading.low:.2f} to {reading.high:.2f})"

    engine = row["engine"]
    cells = [
        row["network"], row["mode"], f"{row['macs'] / 1e6:.0f}", f"{engine}, {row['threads']}",
        row["policy"],
        spread(row["ours"]), spread(row["plain"][engine]), f"{row['best_plain']:.2f}",
        f"{row['full_over_ours']:.2f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
