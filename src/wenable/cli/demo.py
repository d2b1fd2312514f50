"""`wenable demo`: the whole way on real handwritten digits, in minutes on two cores."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

import wenable as we
from wenable.cli.demo_check import write_answers
from wenable.cli.explore import alike_words
from wenable.cli.strips import shown_mode
from wenable.cli.terminal import busy, consoles, encoding, mode_table
from wenable.cli.work import (
    Data,
    evaluations,
    explore_with_bar,
    flush_denormals,
    load_data,
    train_with_bar,
    with_tests,
)
from wenable.core.files import write_whole
from wenable.core.mode_ids import numbered
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode
from wenable.measure import describe_device
from wenable.measure.latency import TimingPlan
from wenable.network.dynamic_network import DynamicNetwork
from wenable.report.figures import TEST
from wenable.report.front_plot import Panel, plot_fronts
from wenable.search.measured_costs import mode_latencies
from wenable.training import TrainConfig
from wenable.zoo import build

# What the demo is held to, on the test split that neither training nor search saw.
GOALS = {"1": 0.97, "1/16": 0.90}
THRESHOLD = 0.95


def run_demo(out: Path, *, seed: int, epochs: int) -> bool:
    """Run the demo, write its results under `out`, and say whether every goal was met."""
    console, progress = consoles(as_json=False)
    flush_denormals()
    started = time.monotonic()
    config = TrainConfig(passes=4, epochs=epochs, learning_rate=0.03, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    data = load_data("digits")
    net = _trained(console, progress, data, config)
    fronts = {
        cost: explore_with_bar(progress, net, data, cost, THRESHOLD, we.Greedy())
        for cost in ("macs", "latency")
    }
    for cost, front in fronts.items():
        console.print(
            f"Algorithm 2 by {cost}: {front.evaluations} modes evaluated, {len(front.path) - 1}"
            f" steps, {len(front)} on the front, chosen {shown_mode(front.chosen.mode, encoding())}"
        )
    evaluated, latencies = _final_figures(progress, net, fronts, data)
    tested = {mode: reading for mode, (reading, _) in evaluated.items()}
    fronts = {cost: with_tests(front, evaluated) for cost, front in fronts.items()}
    for cost, front in fronts.items():
        write_whole(out / f"front-{cost}.json", json.dumps(front.to_json(), indent=1))
    _print_table(console, net, fronts, tested, latencies)
    for cost, front in fronts.items():
        for line in alike_words(front, numbered(tested), f"the front by {cost}"):
            console.print(line)
    picture = plot_fronts(
        _panels(net, fronts, tested, latencies),
        out / "front.png",
        title=f"Digits, test split of 500 images; {describe_device()}",
    )
    _write_figures(net, tested, latencies, out / "figures.json")
    saved = we.save(net, out / "net.safetensors")
    answers = write_answers(
        net, [*net.space.uniform_modes(), fronts["macs"].chosen.mode], data, out
    )
    met = _check_goals(console, net, tested)
    same = _same_in_a_fresh_process("demo_check", saved, answers)
    bundle = _exported(net, tested, out)
    same = _same_in_a_fresh_process("demo_deadline", bundle, answers) and same
    console.print(f"written: {saved}, {bundle}, {picture}, {out / 'figures.json'}")
    console.print(f"took {time.monotonic() - started:.0f} s")
    return met and same


def _trained(
    console: Console, progress: Console, data: Data, config: TrainConfig
) -> DynamicNetwork:
    torch.manual_seed(config.seed)
    net = we.convert(build("wenable.zoo:digits_resnet"), data.example)
    console.print(
        f"digits_resnet: {len(net.space.names)} layers switch between 1, 1/2, 1/4, 1/8 and 1/16 of"
        f" their weights: {net.space.size:,} modes in {net.parameter_count('full'):,} parameters"
    )
    started = time.monotonic()
    train_with_bar(progress, net, data, config, batch_size=32)
    console.print(
        f"Algorithm 1: {config.epochs} epochs over 997 images,"
        f" {config.passes} passes a step, {time.monotonic() - started:.0f} s"
    )
    return net


def _final_figures(
    progress: Console, net: DynamicNetwork, fronts: dict[str, Front], data: Data
) -> tuple[dict[Mode, tuple[Reading, Outcomes]], dict[Mode, Reading]]:
    """Return what was evaluated on the test split, and the latency, of every mode worth showing.

    They come from the most to the least costly, the full one first, as they are exported.
    """
    modes = list(net.space.uniform_modes())
    modes += [mode for front in fronts.values() for mode in (*front.modes, front.chosen.mode)]
    modes = sorted(dict.fromkeys(modes), key=lambda mode: -net.macs(mode))
    with busy(progress, f"final figures of {len(modes)} modes on the test split"):
        tested = evaluations(net, modes, data, "test")
        timing = TimingPlan(blocks=6, calls=20, gap_ms=20.0)
        measured = mode_latencies(net, modes, timing)
    return tested, dict(zip(modes, measured, strict=True))


def _panels(
    net: DynamicNetwork,
    fronts: dict[str, Front],
    tested: dict[Mode, Reading],
    latencies: dict[Mode, Reading],
) -> dict[str, Panel]:
    def point(mode: Mode, cost: str) -> Point:
        macs = Reading(net.macs(mode), "MACs", source="counted")
        shown = macs if cost == "macs" else latencies[mode]
        return Point(mode, tested[mode], shown, test=tested[mode])

    return {
        cost: Panel(
            tuple(point(mode, cost) for mode in front.modes),
            tuple(point(mode, cost) for mode in net.space.uniform_modes()),
            TEST,
        )
        for cost, front in fronts.items()
    }


def _print_table(
    console: Console,
    net: DynamicNetwork,
    fronts: dict[str, Front],
    tested: dict[Mode, Reading],
    latencies: dict[Mode, Reading],
) -> None:
    labels: dict[Mode, list[str]] = {mode: ["uniform"] for mode in net.space.uniform_modes()}
    for cost, front in fronts.items():
        for mode in front.modes:
            labels.setdefault(mode, []).append(cost)
        if front.chosen.mode not in front.modes:
            labels.setdefault(front.chosen.mode, []).append(f"{cost} (chosen)")
    rows = [
        (
            " ".join(labels[mode]),
            mode,
            net.macs(mode),
            net.macs("full"),
            {"latency ms": latencies[mode], "accuracy %": tested[mode]},
        )
        for mode in tested
    ]
    console.print(mode_table("modes of the trained network", rows, numbered(tested)))
    console.print(
        "accuracy: test split, 95 % interval. latency: eager PyTorch, batch 1, quartiles.\n"
        "macs, latency: the searches on whose front a mode lies. id: its name in the bundle."
    )


def _write_figures(
    net: DynamicNetwork, tested: dict[Mode, Reading], latencies: dict[Mode, Reading], path: Path
) -> None:
    rows = [
        {
            "mode": str(mode),
            "macs": net.macs(mode),
            "accuracy": asdict(tested[mode]),
            "latency": asdict(latencies[mode]),
        }
        for mode in tested
    ]
    write_whole(path, json.dumps(rows, indent=1))


def _check_goals(console: Console, net: DynamicNetwork, tested: dict[Mode, Reading]) -> bool:
    met = True
    for text, goal in GOALS.items():
        share = tested[net.space.mode(text)].known
        met = met and share >= goal
        verdict = "met" if share >= goal else "MISSED"
        console.print(
            f"goal {verdict}: mode {text} at {100 * share:.1f} %, at least {100 * goal:.0f} % wanted"
        )
    return met


def _exported(net: DynamicNetwork, tested: dict[Mode, Reading], out: Path) -> Path:
    readings = {mode: {"accuracy": reading} for mode, reading in tested.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter, of torch's own use of it
        return we.export(net, list(tested), out / "net.wen", readings=readings)


def _same_in_a_fresh_process(check: str, saved: Path, answers: Path) -> bool:
    command = [sys.executable, "-m", f"wenable.cli.{check}", str(saved), str(answers)]
    sys.stdout.flush()
    return subprocess.run(command, check=False).returncode == 0
