"""`wenable demo`: the whole way on real handwritten digits, in minutes on two cores."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

import wenable as we
from wenable.cli.demo_answers import write_answers
from wenable.cli.demo_deadline import most_waves
from wenable.cli.demo_figures import DemoFigures, named
from wenable.cli.demo_load import WAVE_S
from wenable.cli.demo_modes import spread
from wenable.cli.demo_process import in_a_fresh_process
from wenable.cli.durations import duration_words
from wenable.cli.progress import explore_with_bar, train_with_bar, with_tests
from wenable.cli.terminal import busy, consoles, progress_bar
from wenable.core.files import write_whole
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Front, Reading
from wenable.core.space import Mode
from wenable.modules.denormals import flush_denormals
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training.data_sets import Data, evaluations, load_data
from wenable.training.recipes import Recipe, recipe_named
from wenable.zoo import build

NETWORK = "wenable.zoo:scenes_resnet"
THRESHOLD = 0.2
"""Twice what guessing reaches: the search goes on down to the cheapest mode."""
KEPT = 6
"""How many modes of the front are tested, exported and measured, beside the uniform ones."""
ROUNDS = 4
"""Of the search: half of what is usual, which takes a minute."""
WAVES = 3
"""For how many waves of load requests are served under the deadline."""
_START_S = 4
"""What a process takes, more or less, until it serves."""


def run_demo(out: Path, *, seed: int, epochs: int) -> bool:
    """Run the demo, write its results under `out`, and say whether every goal was met."""
    console, progress = consoles(as_json=False)
    flush_denormals()
    started = time.monotonic()
    recipe = recipe_named("scenes")
    recipe = replace(recipe, training=replace(recipe.training, epochs=epochs, seed=seed))
    out.mkdir(parents=True, exist_ok=True)
    with busy(progress, "drawing scenes of digits"):
        data = load_data("scenes")
    net = _trained(console, progress, data, recipe)
    front = _explored(console, progress, net, data)
    modes = sorted({*net.space.uniform_modes(), *front.modes}, key=lambda mode: -net.macs(mode))
    tested = _tested(progress, net, modes, data)
    front = with_tests(front, tested)
    write_whole(out / "front.json", json.dumps(front.to_json(), indent=1))
    saved, answers = we.save(net, out / "net.safetensors"), write_answers(net, modes, data, out)
    run = partial(in_a_fresh_process, console, progress)
    same = run("loading the saved network", "demo_answers", saved, answers)
    accuracy = {mode: reading for mode, (reading, _) in tested.items()}
    with busy(progress, f"exporting {len(modes)} modes, each of them checked on an engine"):
        bundle = _exported(net, front, accuracy, out)
    measured = out / "device.json"
    same = run("measuring on an engine", "demo_device", bundle, answers, measured) and same
    device = json.loads(measured.read_text(encoding="utf-8"))
    latency = {mode: Reading(**device["latencies"][str(mode)]) for mode in modes}
    figures = DemoFigures(net, front, accuracy, latency)
    figures.print_table(console)
    written = figures.write(out / "figures.json"), figures.draw(out / "front.png")
    arguments = (bundle, device["engine"], out / "deadline.json", str(WAVES))
    longest = round(WAVE_S * most_waves(len(modes), WAVES)) + _START_S
    served = run("serving under a deadline", "demo_deadline", *arguments, seconds=longest)
    met = run("checking the goals", "demo_check", out)
    console.print(f"written: {', '.join(map(str, (saved, bundle, *written)))}")
    console.print(f"took {duration_words(time.monotonic() - started)}")
    return same and served and met


def _trained(console: Console, progress: Console, data: Data, recipe: Recipe) -> DynamicNetwork:
    config = recipe.training
    torch.manual_seed(config.seed)
    net = we.convert(build(NETWORK), data.example)
    console.print(
        f"scenes_resnet: {len(net.space.names)} layers switch to 1, 1/2, 1/4, 1/8 or 1/16 of their"
        f" weights:\n{net.space.size:,} modes in {net.parameter_count('full'):,} parameters"
    )
    started = time.monotonic()
    train_with_bar(progress, net, data, config, batch_size=recipe.batch_size)
    batches = len(data.training_batches(recipe.batch_size, config.seed))
    alone = config.sharing.steps_alone(config.epochs * batches)
    first = f"\nwith the full mode alone in the first {alone} steps" if alone else ""
    console.print(
        f"Algorithm 1: {config.epochs} epochs of {batches} batches of {recipe.batch_size} scenes,"
        f" {config.passes} passes a step{first}, {duration_words(time.monotonic() - started)}"
    )
    return net


def _explored(console: Console, progress: Console, net: DynamicNetwork, data: Data) -> Front:
    """Return the modes to keep of those that the search found, the full one the first."""
    started = time.monotonic()
    found = explore_with_bar(progress, net, data, "macs", THRESHOLD, we.Knapsack(rounds=ROUNDS))
    front = spread(found, KEPT)
    console.print(
        f"search by MACs: {found.evaluations} modes evaluated, {len(found)} on the front,"
        f" {len(front)} kept, {duration_words(time.monotonic() - started)}"
    )
    return front


def _tested(
    progress: Console, net: DynamicNetwork, modes: Sequence[Mode], data: Data
) -> dict[Mode, tuple[Reading, Outcomes]]:
    """Return what each mode is worth on the test split."""
    found: dict[Mode, tuple[Reading, Outcomes]] = {}
    with progress_bar(progress, "testing") as update:
        for number, mode in enumerate(modes):
            update(number, len(modes), "")
            found |= evaluations(net, [mode], data, "test")
    return found


def _exported(
    net: DynamicNetwork, front: Front, accuracy: Mapping[Mode, Reading], out: Path
) -> Path:
    readings = {mode: {"accuracy": reading} for mode, reading in accuracy.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter, of torch's own use of it
        return we.export(
            net, list(accuracy), out / "net.wen", readings=readings, ids=named(front, accuracy)
        )
