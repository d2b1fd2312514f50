"""`wenable train`: Algorithm 1 on a data set, the uniform modes calibrated, the network saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console

import wenable as we
from wenable.cli.opening import Wanted
from wenable.cli.paying_words import left_out_line
from wenable.cli.run_folder import RunFolder
from wenable.cli.set_options import with_settings
from wenable.cli.starting import network_and_data
from wenable.cli.stopping import StopRequest, stop_requests
from wenable.cli.terminal import consoles, mode_table, parse_groups, print_json
from wenable.cli.train_words import (
    cost_line,
    progress_shown,
    say_classes,
    say_skipped,
    schedule_changes_said,
)
from wenable.cli.training_logs import TrainingLogs
from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.methods.weight_enabling import ShufflePlacement
from wenable.modules.processes import join_processes, rank
from wenable.network.dynamic_network import DynamicNetwork
from wenable.runtime.device_profile import DeviceProfile
from wenable.training import Checkpoint
from wenable.training.data_sets import accuracies
from wenable.training.in_memory import IN_MEMORY
from wenable.training.recipes import Recipe, recipe_named
from wenable.training.start import start_of_run


@dataclass(frozen=True)
class RunOptions:
    """What a run does besides training: where it runs, what it reads, writes and goes on from.

    - `profile`: of the device that the network is for; options that do not pay there are left out.
    """

    resume: bool = False
    overwrite: bool = False
    keep_best: bool = False
    tensorboard: bool = False
    skip_bad: bool = False
    workers: int = 2
    device: str = "auto"
    profile: Path | None = None


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
    options: RunOptions,
    as_json: bool,
) -> int:
    """Train a network by name on a data set by name or folder, save it under `out`.

    Returns the exit status: 0, or 128 and the number of the signal that stopped the run.
    """
    try:
        return _train(
            name,
            data_name,
            out,
            recipe_name,
            settings,
            batch_size,
            groups,
            shuffle,
            wanted,
            options,
            as_json,
        )
    except KeyboardInterrupt:  # before the first step or after the last
        if as_json and rank() == 0:
            print_json({"complete": False})
        raise


def _train(
    name: str,
    data_name: str,
    out: Path,
    recipe_name: str,
    settings: Mapping[str, Any],
    batch_size: int | None,
    groups: str,
    shuffle: str,
    wanted: Wanted,
    options: RunOptions,
    as_json: bool,
) -> int:
    device = join_processes(options.device)
    first = rank() == 0
    console, progress = consoles(as_json)
    console.quiet, progress.quiet = as_json or not first, not first
    folder = RunFolder(out, options.resume, options.overwrite)
    weights = wanted.pretrained or wanted.weights is not None
    recipe = _recipe(recipe_name, data_name, settings, batch_size, weights)
    config = recipe.training
    method = we.WeightEnabling(parse_groups(groups), cast(ShufflePlacement, shuffle))
    torch.manual_seed(config.seed)
    start = network_and_data(
        name, data_name, recipe, wanted, recipe_named=bool(recipe_name), workers=options.workers,
        skip_bad=options.skip_bad,
    )  # fmt: skip
    recipe, data = start.recipe, start.data
    for line in start.lines:
        progress.print(line)
    loader = data.training_batches(recipe.batch_size, config.seed)
    profile = DeviceProfile.read(options.profile) if options.profile else None
    net = we.convert(start.model, data.example, method=method, profile=profile).to(device)
    if profile is not None:
        progress.print(left_out_line(net, profile))
    net.preprocessing = data.preprocessing
    say_classes(progress, net, data, loader, data_name)
    start_of_run(net, loader, config)
    # Before an hour's work, not behind it: a folder that cannot be made would lose it.
    out.mkdir(parents=True, exist_ok=True)
    logs = TrainingLogs(
        folder, net, data, tensorboard=options.tensorboard, keep_best=options.keep_best
    )
    progress.print(cost_line(net, recipe, len(loader)))
    if first:
        folder.begin()
    logs.begin()
    checkpoint = Checkpoint(folder.checkpoint, resume=options.resume)
    with (
        progress_shown(progress, logs.step) as show,
        stop_requests() as stop,
        schedule_changes_said(progress),
    ):
        complete = we.train(
            net, loader, config, on_step=show, on_epoch=logs.epoch, checkpoint=checkpoint,
            should_stop=stop,
        )  # fmt: skip
    if not complete:
        return _stopped(console, checkpoint, stop, as_json and first)
    say_skipped(progress, (loader, data.calibration, data.search))
    found = accuracies(net, net.space.uniform_modes(), data, "search")
    if first:
        _finish(console, net, found, folder, f"{name} on {data_name}", recipe, as_json)
    return 0


def _recipe(
    name: str, data_name: str, settings: Mapping[str, Any], batch_size: int | None, weights: bool
) -> Recipe:
    """Return the named recipe, or the one that suits the data, with what was said besides."""
    recipe = recipe_named(name or (data_name if data_name in IN_MEMORY else "cifar"))
    training = with_settings(recipe.training, settings, from_weights=weights)
    recipe = replace(recipe, training=training)
    return recipe if batch_size is None else replace(recipe, batch_size=batch_size)


def _stopped(console: Console, checkpoint: Checkpoint, stop: StopRequest, as_json: bool) -> int:
    if as_json:
        print_json({"complete": False, "checkpoint": str(checkpoint.path)})
    console.print(f"stopped and written: {checkpoint.path}; the same command with --resume goes on")
    return stop.exit_status


def _finish(
    console: Console,
    net: DynamicNetwork,
    found: Mapping[Mode, Reading],
    folder: RunFolder,
    title: str,
    recipe: Recipe,
    as_json: bool,
) -> None:
    saved = we.save(net, folder.network)
    best = folder.best if folder.best.exists() else None
    if as_json:
        modes = [{"mode": str(mode), "accuracy": asdict(each)} for mode, each in found.items()]
        config = recipe.training.to_json()
        result = {"complete": True, "network": str(saved), "config": config, "uniform_modes": modes}
        print_json(result | ({"best": str(best)} if best else {}))
        return
    full = net.macs("full")
    rows = [
        ("uniform", mode, net.macs(mode), full, {"accuracy % (search split)": each})
        for mode, each in found.items()
    ]
    console.print(mode_table(title, rows))
    console.print(f"saved: {saved}" + (f"; after the best epoch: {best}" if best else ""))
