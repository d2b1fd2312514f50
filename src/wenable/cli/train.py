"""`wenable train`: Algorithm 1 on a data set, the uniform modes calibrated, the network saved."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console

import wenable as we
from wenable.cli.opening import Wanted
from wenable.cli.starting import network_and_data
from wenable.cli.terminal import consoles, mode_table, parse_groups, print_json, progress_bar
from wenable.cli.training_logs import TrainingLogs
from wenable.cli.work import accuracies, loss_words
from wenable.dynamic_network import DynamicNetwork
from wenable.methods.weight_enabling import ShufflePolicy
from wenable.processes import join_processes, rank
from wenable.space import Mode
from wenable.tables import Reading
from wenable.training import Checkpoint, StepReport, sample_modes
from wenable.training.recipes import Recipe, recipe_named


def run_train(
    name: str,
    data_name: str,
    out: Path,
    recipe_name: str,
    settings: Mapping[str, Any],
    *,
    batch_size: int | None,
    groups: str,
    shuffle: str,
    wanted: Wanted,
    workers: int,
    skip_bad: bool,
    resume: bool,
    tensorboard: bool,
    as_json: bool,
) -> None:
    """Train a network by name on a data set by name or folder and save it under `out`."""
    device = join_processes()
    first = rank() == 0
    console, progress = consoles(as_json)
    console.quiet, progress.quiet = as_json or not first, not first
    recipe = _recipe(recipe_name, data_name, settings, batch_size)
    config = recipe.training
    method = we.WeightEnabling(parse_groups(groups), cast(ShufflePolicy, shuffle))
    torch.manual_seed(config.seed)
    start = network_and_data(
        name, data_name, recipe, wanted, recipe_named=bool(recipe_name), workers=workers,
        skip_bad=skip_bad,
    )  # fmt: skip
    recipe, data = start.recipe, start.data
    for line in start.lines:
        progress.print(line)
    loader = data.training_batches(recipe.batch_size, config.seed)
    net = we.convert(start.model, data.example, method=method).to(device)
    net.preprocessing = data.preprocessing
    # Before an hour's work, not behind it: a folder that cannot be made would lose it.
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(out / "checkpoint.safetensors", resume=resume)
    logs = TrainingLogs(out, net, data, resume=resume, tensorboard=tensorboard)
    progress.print(_cost_line(net, recipe, len(loader)))
    with _progress(progress, logs) as show, _interrupted() as stop:
        complete = we.train(
            net, loader, config, on_step=show, on_epoch=logs.epoch, checkpoint=checkpoint,
            should_stop=stop,
        )  # fmt: skip
    if not complete:
        console.print(
            f"stopped and written: {checkpoint.path}; the same command with --resume goes on"
        )
        return
    _say_skipped(progress, (loader, data.calibration, data.search))
    found = accuracies(net, net.space.uniform_modes(), data, "search")
    if first:
        _finish(console, net, found, out, f"{name} on {data_name}", recipe, as_json)


def _recipe(
    name: str, data_name: str, settings: Mapping[str, Any], batch_size: int | None
) -> Recipe:
    """Return the named recipe, or the one that suits the data, with what was said besides."""
    recipe = recipe_named(name or ("digits" if data_name == "digits" else "cifar"))
    said = {key: value for key, value in settings.items() if value is not None}
    recipe = replace(recipe, training=replace(recipe.training, **said))
    return recipe if batch_size is None else replace(recipe, batch_size=batch_size)


def _cost_line(net: DynamicNetwork, recipe: Recipe, batches: int) -> str:
    """Return what the run will cost: known before it starts, but for the time."""
    config, full = recipe.training, net.macs("full")
    steps = batches * config.epochs
    modes = [mode for step in range(0, steps, max(1, steps // 20))
             for mode in sample_modes(net, config, step, steps)]  # fmt: skip
    per_step = sum(net.macs(mode) for mode in modes) / len(modes) * config.modes_per_step
    weights = sum(p.numel() for p in net.parameters()) * 4 / 2**20
    copies = 3 if config.optimizer == "sgd" else 4
    return (
        f"{steps} steps of {config.modes_per_step} passes over batches of {recipe.batch_size}; a step"
        f" costs about {per_step / full:.1f} times the MACs of one full pass; weights, gradients and"
        f" optimizer take {copies * weights:.0f} MiB, activations come on top; the time left is shown"
        " once the first steps were timed"
    )


@contextmanager
def _progress(console: Console, logs: TrainingLogs) -> Iterator[Any]:
    started: list[float] = []
    with progress_bar(console, "training") as update:

        def show(report: StepReport) -> None:
            logs.step(report)
            started.append(time.monotonic())
            if len(started) == 5:
                hours = (started[4] - started[0]) / 4 * report.steps / 3600
                console.print(
                    f"estimated from the first steps: {hours:.2f} h for all of them, calibration and"
                    f" evaluation not counted{_memory_words()}"
                )
            update(report.step, report.steps, loss_words(report))

        yield show


def _memory_words() -> str:
    if sys.platform != "linux":  # elsewhere the figure is absent or in another unit
        return ""
    import resource

    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"; {kibibytes / 2**20:.1f} GiB of memory so far"


@contextmanager
def _interrupted() -> Iterator[Any]:
    """Yield what says whether Ctrl-C was pressed; a second one ends the program at once."""
    pressed: list[int] = []

    def note(number: int, _: Any) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _say_skipped(console: Console, loaders: Iterable[Any]) -> None:
    skipped: dict[str, str] = {}
    for loader in loaders:
        skipped |= getattr(loader, "skipped", {})
    if skipped:
        first, reason = next(iter(skipped.items()))
        console.print(
            f"{len(skipped)} image(s) could not be read and were left out: {first} ({reason})"
            + (" and others" if len(skipped) > 1 else "")
        )


def _finish(
    console: Console,
    net: DynamicNetwork,
    found: Mapping[Mode, Reading],
    out: Path,
    title: str,
    recipe: Recipe,
    as_json: bool,
) -> None:
    saved = we.save(net, out / "net.safetensors")
    if as_json:
        modes = [{"mode": str(mode), "accuracy": asdict(each)} for mode, each in found.items()]
        config = recipe.training.to_json()
        print_json({"network": str(saved), "config": config, "uniform_modes": modes})
        return
    full = net.macs("full")
    rows = [
        ("uniform", mode, net.macs(mode), full, {"accuracy % (search split)": each})
        for mode, each in found.items()
    ]
    console.print(mode_table(title, rows))
    console.print(f"saved: {saved}")
