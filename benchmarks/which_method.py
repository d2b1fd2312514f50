"""What the modes of each method take on the engines here: one network, one file, one run.

    python -m benchmarks.which_method [--folder out/which-method] [--blocks 5] [--calls 6] [--out .]

MobileNet-V2 with random weights: only times are measured, and no accuracy is claimed. Each method's modes
are exported to a bundle, `wenable.join` puts all into one file, and all modes are timed against each other,
in blocks in random order; then the first call after each of 60 random switches beside steady calls. Bundles
that are in the folder already are not made again. Results go to
`results/which-method.jsonl`, where those of other machines stay, and the tables to
`docs/results/which-method.md`.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision

import wenable as we
from benchmarks.switching import first_over_steady
from results.provenance import present_commit
from results.records import ROOT, records_file, write_page
from results.runs_by_machine import add_run
from wenable.core.readings import Reading
from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime import Session
from wenable.runtime.engines import installed_engines

NETWORK = "mobilenet_v2"
SIZES = (224, 160, 128)
THREADS = 2
METHODS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "static": (we.Static(), ("full",)),
    "groups": (we.WeightEnabling(), ("1/2", "1/4", "1/16")),
    "widths": (we.Slimmable((1.0, 0.75, 0.5, 0.25)), ("0.75", "0.5", "0.25")),
    "size": (we.ImageSize(SIZES), ("160", "128")),
    "groups+size": (
        (we.WeightEnabling(), we.ImageSize(SIZES)),
        ("1/4,size=128", "1/16,size=128"),
    ),
    "widths+size": (
        (we.Slimmable((1.0, 0.75, 0.5, 0.25)), we.ImageSize(SIZES)),
        ("0.5,size=128", "0.25,size=128"),
    ),
    "exits": (we.EarlyExits(("features.13", "features.6")), ("features.13", "features.6")),
    "precision": (we.SwitchablePrecision((32, 8)), ("8-bit",)),
}
"""Name -> the method, and the modes of it that are timed; the static network is the whole one."""
WORDS = {
    "static": "the whole network",
    "groups": "`WeightEnabling`",
    "widths": "`Slimmable`",
    "size": "`ImageSize`",
    "groups+size": "`WeightEnabling` x `ImageSize`",
    "widths+size": "`Slimmable` x `ImageSize`",
    "exits": "`EarlyExits`",
    "precision": "`SwitchablePrecision`",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.which_method", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "which-method")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    path = built(arguments.folder)
    if arguments.build_only:
        return
    plan = TimingPlan(blocks=arguments.blocks, calls=arguments.calls)
    engines = {}
    for name in (*installed_engines(), "auto"):
        engines[name] = measured(path, name, plan)
        gc.collect()
    run = {
        "command": f"python -m benchmarks.which_method --blocks {plan.blocks} --calls {plan.calls}",
        "commit": present_commit(),
        "machine": describe_device(),
        "network": NETWORK,
        "threads": THREADS,
        "engines": engines,
    }
    runs = add_run(records_file(arguments.out, "which-method"), run)
    write_page(arguments.out, "which-method", page(runs))
    print(page(runs))


def built(folder: Path) -> Path:
    """Return the file with the modes of all methods; makes what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    bundles = {name: folder / f"{name}.wen" for name in METHODS}
    for name, path in bundles.items():
        if not path.is_file():
            method, modes = METHODS[name]
            print(f"exporting: {name}", file=sys.stderr)
            torch.manual_seed(0)
            model = torchvision.models.get_model(NETWORK, weights=None).eval()
            net = we.convert(model, torch.randn(1, 3, 224, 224), method=method)
            if name != "static":
                we.calibrate(net, modes, [torch.randn(4, 3, 224, 224)])
            we.export(net.eval(), modes, path)
    return we.join(bundles, folder / "all.wen")


def measured(path: Path, engine: str, plan: TimingPlan) -> dict[str, Any]:
    """Return what each mode takes in a session on one engine, all timed against each other."""
    with Session(path, engine=engine, threads=THREADS) as session:
        x = session.example()
        calls: dict[str, Callable[[], object]] = {}
        for mode in session.modes:
            session.prepare(mode)
            calls[mode] = partial(session.run, x, mode=mode)
        readings = measure_latencies(calls, plan, source=f"{engine}, batch 1")
        rows = [
            {
                "network": session.bundle.space.within(each.mode)[0],
                "mode": str(session.bundle.space.within(each.mode)[1]),
                "macs": each.readings["macs"].known,
                "ran_on": session.engine_of(each.mode),
                "latency": asdict(readings[str(each.mode)]),
            }
            for each in session.bundle.modes
        ]
        return {
            "version": f"{session.engine.name} {session.engine.version}",
            "modes": rows,
            "switching": first_over_steady(session),
        }


def page(runs: list[dict[str, Any]]) -> str:
    """Return the page of the documentation for the runs of some machines."""
    lines = [
        "# What each method saves in time",
        "",
        _verdict(runs),
        "",
        "MobileNet-V2 at 224x224 with random weights, batch 1: there are times here and no accuracies. The"
        " modes of all methods stand in one file (`wenable.join`) and ran in one session without a profile."
        " Medians with quartiles in ms; *faster* is the whole network over the mode in the same session."
        ' *auto* is `engine="auto"`: the faster engine, and our own kernels where those are faster.',
        "",
    ]
    for run in runs:
        lines += _of_machine(run)
    return "\n".join(lines)


def _verdict(runs: list[dict[str, Any]]) -> str:
    """Say in a sentence how much faster the fastest mode of each method was."""
    said = []
    for run in runs:
        rows = run["engines"]["auto"]["modes"]
        whole = _whole(rows)
        best = {
            name: max(whole / each["latency"]["value"] for each in rows if each["network"] == name)
            for name in METHODS
            if name != "static"
        }
        listed = ", ".join(
            f"{WORDS[name]} {ratio:.2f} times"
            for name, ratio in sorted(best.items(), key=lambda each: -each[1])
        )
        said.append(f'on {run["machine"]}, in a session with `engine="auto"`: {listed}')
    return f"The fastest mode of each method, over the whole network: {'; '.join(said)}."


def _whole(rows: list[dict[str, Any]]) -> float:
    return next(each["latency"]["value"] for each in rows if each["network"] == "static")


def _of_machine(run: dict[str, Any]) -> list[str]:
    engines = run["engines"]
    versions = ", ".join(dict.fromkeys(each["version"] for each in engines.values()))
    heads = ["method", "mode", "MMAC"]
    for name in engines:
        heads += [name, "faster"]
    lines = [
        f"## {run['machine']}",
        "",
        f"`{run['command']}` at commit {run['commit']}; {versions}; {run['threads']} threads.",
        "",
        f"| {' | '.join(heads)} |",
        f"|---|---|{'--:|' * (len(heads) - 2)}",
    ]
    rows = {
        name: {_key(each): each for each in engine["modes"]} for name, engine in engines.items()
    }
    first = next(iter(rows.values()))
    for key in sorted(first, key=lambda each: (list(METHODS).index(each[0]), -first[each]["macs"])):
        cells = [WORDS[key[0]], f"`{key[1]}`", f"{first[key]['macs'] / 1e6:.0f}"]
        for name, of_engine in rows.items():
            reading = Reading(**of_engine[key]["latency"])
            ran_on = f" {of_engine[key]['ran_on']}" if name == "auto" else ""
            whole = _whole(engines[name]["modes"])
            cells += [f"{_shown(reading)}{ran_on}", f"{whole / reading.known:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_switches(engines)]


def _switches(engines: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return what a switch between two modes of any methods costs, where it was measured."""
    said = []
    for name, each in engines.items():
        if found := each.get("switching"):
            low, high = found["quartiles"]
            said.append(f"{name} {found['first_over_steady']:.2f} ({low:.2f} to {high:.2f})")
    if not said:
        return []
    return [
        "The first call after a switch between any two of these modes, over a steady call (median and"
        f" quartiles of 60 switches; goal 1.10): {'; '.join(said)}.",
        "",
    ]


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["network"], row["mode"]


def _shown(reading: Reading) -> str:
    return f"{reading.known:.1f} ({reading.low:.1f} to {reading.high:.1f})"


if __name__ == "__main__":
    main()
