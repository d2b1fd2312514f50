"""Deadlines kept under a load that comes and goes: the controller beside fixed modes.

    python -m benchmarks.deadlines NETWORK [--accuracies docs/cifar10/results.json] [--batch 16]
        [--requests 2400] [--out docs]

NETWORK is a network saved by wenable with calibrated uniform modes; they are profiled first. Other
processes load all cores for one second in two. The deadline is 1.3 times the 99th percentile of the
unloaded full mode. Every policy sees the same wave, in turns; requests in the first 200 ms after an
edge are counted apart. Results go to `docs/deadlines/results.json` and the table to
`docs/deadlines.md`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import wenable as we
from benchmarks.present_commit import present_commit
from wenable.files import write_whole
from wenable.measure.device import describe_device, usable_cores
from wenable.profiling import profile
from wenable.runtime import Session
from wenable.tables import Reading

DOCS = Path(__file__).parents[1] / "docs"
HALF_WAVE_S, EXCUSED_S, FACTOR = 1.0, 0.2, 1.3


@dataclass(frozen=True)
class Request:
    """One request: the mode that ran, how long it took, and how long ago the load changed."""

    mode: str
    latency_ms: float
    since_edge_s: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deadlines")
    parser.add_argument("network", type=Path)
    parser.add_argument("--accuracies", type=Path, default=DOCS / "cifar10" / "results.json")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2400)
    parser.add_argument("--out", type=Path, default=DOCS)
    arguments = parser.parse_args()
    net = we.load(arguments.network)
    runs = json.loads(arguments.accuracies.read_text(encoding="utf-8"))["runs"]
    tested = {mode: Reading(**each) for mode, each in runs[0]["test"].items()}
    with tempfile.TemporaryDirectory() as folder:
        results = measure(net, tested, Path(folder), arguments.batch, arguments.requests)
    results |= {
        "command": f"python -m benchmarks.deadlines NETWORK --batch {arguments.batch}"
        f" --requests {arguments.requests}",
        "commit": present_commit(),
        "machine": describe_device(),
    }
    out = arguments.out / "deadlines"
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "results.json", json.dumps(results, indent=1) + "\n")
    write_whole(arguments.out / "deadlines.md", page(results))
    print(page(results))


def measure(
    net: Any, tested: Mapping[str, Reading], folder: Path, batch: int, requests: int
) -> dict[str, Any]:
    """Return what each policy kept of its deadlines."""

    def exported(modes: list[str]) -> Session:
        readings = {mode: {"accuracy": tested[mode]} for mode in modes}
        path = folder / f"{len(modes)}.wen"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            we.export(net, modes, path, readings=readings)
        profile(path, engine="onnxruntime", table_modes=0)
        return Session(path, engine="onnxruntime")

    modes = list(tested)
    session, pair = exported(modes), exported([modes[0], modes[-1]])
    x = session.example(batch)
    full = np.sort([_timed(lambda: session.run(x, mode=modes[0])) for _ in range(400)])
    deadline_ms = FACTOR * float(full[int(0.99 * len(full))])
    for each in (session, pair):
        each.controller(batch)
    policies: dict[str, Callable[[], str]] = {
        "controller": lambda: _under(session, x, batch, deadline_ms),
        "big/little": lambda: _under(pair, x, batch, deadline_ms),
    }
    policies |= {f"fixed {mode}": lambda mode=mode: _fixed(session, x, mode) for mode in modes}
    rows = []
    for name, policy in policies.items():
        with _square_wave() as since_edge:
            seen = _serve(policy, requests, since_edge)
        rows.append({"policy": name} | _summary(seen, deadline_ms, tested))
        print(rows[-1], flush=True)
    return {
        "engine": f"{session.engine.name} {session.engine.version}",
        "threads": session.engine.threads,
        "batch": batch,
        "requests": requests,
        "full_median_ms": float(np.median(full)),
        "deadline_ms": deadline_ms,
        "rows": rows,
    }


def _under(session: Session, x: Any, batch: int, deadline_ms: float) -> str:
    session.run(x, deadline_ms=deadline_ms)
    return session.controller(batch).decisions[-1].name


def _fixed(session: Session, x: Any, mode: str) -> str:
    session.run(x, mode=mode)
    return mode


def _serve(
    policy: Callable[[], str], requests: int, since_edge: Callable[[], float]
) -> list[Request]:
    seen = []
    for _ in range(requests):
        since, started = since_edge(), time.perf_counter()
        mode = policy()
        seen.append(Request(mode, 1e3 * (time.perf_counter() - started), since))
        time.sleep(0.002)  # between requests a device has other things to do
    return seen


def _summary(
    seen: list[Request], deadline_ms: float, tested: Mapping[str, Reading]
) -> dict[str, Any]:
    counted = [each for each in seen if each.since_edge_s > EXCUSED_S]
    met = sum(each.latency_ms <= deadline_ms for each in counted) / len(counted)
    ran = Counter(each.mode for each in seen)
    accuracy = sum(tested[mode].known * count for mode, count in ran.items()) / len(seen)
    latencies = np.array([each.latency_ms for each in seen])
    return {
        "counted": len(counted),
        "met": met,
        "met_at_all": float((latencies <= deadline_ms).mean()),
        "mean_accuracy": accuracy,
        "median_ms": float(np.median(latencies)),
        "p99_ms": float(np.quantile(latencies, 0.99)),
        "modes": dict(ran.most_common()),
    }


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


@contextmanager
def _square_wave() -> Iterator[Callable[[], float]]:
    """Load every core for one half of each wave; yield what tells the seconds since an edge."""
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_load, args=(start,), daemon=True) for _ in range(usable_cores())
    ]
    for each in others:
        each.start()
    time.sleep(1.5)  # until they have started
    try:
        yield lambda: (time.monotonic() - start) % HALF_WAVE_S
    finally:
        for each in others:
            each.terminate()
            each.join()


def _load(start: float) -> None:
    """Compute in every second half of the wave, sleep in the other; the clock is the machine's."""
    while True:
        place = (time.monotonic() - start) % (2 * HALF_WAVE_S)
        if place < HALF_WAVE_S:
            time.sleep(HALF_WAVE_S - place)
        else:
            sum(range(20_000))


def page(results: Mapping[str, Any]) -> str:
    """Return the page of the documentation for these results."""
    lines = [
        "# Deadlines under a load that comes and goes",
        "",
        f"The uniform modes of the CIFAR-10 network on {results['engine']}, {results['threads']} threads,"
        f" requests of {results['batch']} images one after another, {results['requests']} for each"
        " policy. Other processes keep every core busy for one second in two. The deadline is"
        f" {results['deadline_ms']:.2f} ms, 1.3 times the 99th percentile of the full mode on an unloaded"
        " machine. *in time*: of the requests more than 200 ms after the load came or went, and in"
        " brackets of all. *accuracy*: that of the modes that ran, on the test split.",
        "",
        f"Made by `{results['command']}` at commit {results['commit']} on {results['machine']}.",
        "",
        "| policy | in time (all) | mean accuracy | median ms | p99 ms | modes that ran |",
        "|---|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    for row in results["rows"]:
        ran = ", ".join(f"{mode}: {count}" for mode, count in row["modes"].items())
        lines.append(
            f"| {row['policy']} | {100 * row['met']:.1f} % ({100 * row['met_at_all']:.1f}) |"
            f" {100 * row['mean_accuracy']:.1f} % | {row['median_ms']:.2f} | {row['p99_ms']:.2f} | {ran} |"
        )
    fixed = [each for each in results["rows"] if each["policy"].startswith("fixed")]
    kept = [each["mean_accuracy"] for each in fixed if each["met"] >= 0.99]
    best = f"{100 * max(kept):.1f} %" if kept else "none keeps 99 %"
    lines += [
        "",
        f"The best fixed mode that keeps 99 %: {best}.",
    ]
    if not kept:
        lines += [
            "",
            "Where no fixed mode keeps 99 %, not even the smallest, the load does not slow requests down"
            " evenly: it takes the core away for a few milliseconds at a time, which no choice of mode"
            " can make up for when requests are short.",
        ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
