"""What `wenable train` tells while it runs: what a run costs, how far it is, and what is odd about it."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console

from wenable.cli.durations import duration_words
from wenable.cli.progress import loss_words
from wenable.cli.terminal import progress_bar
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training import ScheduleChangeWarning, StepReport, sample_modes
from wenable.training.data_sets import Data
from wenable.training.recipes import Recipe


def say_classes(
    console: Console, net: DynamicNetwork, data: Data, loader: Any, data_name: str
) -> None:
    """Compare the classes of the data with the network's outputs, before anything is made.

    Raises `ValueError` where there are more classes than outputs.
    """
    with torch.no_grad():
        outputs = net.eval()(*net.example_batch)
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        return  # for what trains the network to say
    names = data.preprocessing.labels if data.preprocessing else ()
    count, scores = len(names) or int(loader.labels.max()) + 1, outputs.shape[1]
    shown = f" ({', '.join(names[:3])}{', ...' if count > 3 else ''})" if names else ""
    if count > scores:
        raise ValueError(
            f"`--data` (={data_name!r}) has {count} classes{shown}, the network {scores} output(s):"
            " it needs an output for each class"
        )
    if count < scores:
        console.print(
            f"`--data` has {count} classes{shown}, the network {scores} outputs: {scores - count} of"
            " them stand for no class and learn to stay low",
        )


def cost_line(net: DynamicNetwork, recipe: Recipe, batches: int) -> str:
    """Return what the run will cost: known before it starts, but for the time."""
    config, full = recipe.training, net.macs("full")
    steps = batches * config.epochs
    looked_at = range(0, steps, max(1, steps // 20))
    modes = [mode for step in looked_at for mode in sample_modes(net, config, step, steps)]
    per_step = sum(net.macs(mode) for mode in modes) / len(looked_at)
    alone = config.sharing.steps_alone(steps)
    first = f", the first {alone} of one," if alone else ""
    weights = sum(p.numel() for p in net.parameters()) * 4 / 2**20
    copies = 3 if config.optimizer == "sgd" else 4
    return (
        f"{steps} steps of {config.modes_per_step} passes{first} over batches of {recipe.batch_size};"
        f" a step costs about {per_step / full:.1f} times the MACs of one full pass; weights, gradients and"
        f" optimizer take {copies * weights:.0f} MiB, activations come on top; the time left is shown"
        " once the first steps were timed"
    )


@contextmanager
def progress_shown(console: Console, on_step: Callable[[StepReport], None]) -> Iterator[Any]:
    """Show how far a run is; call what it yields after every step, which calls `on_step` first."""
    started: list[float] = []
    with progress_bar(console, "training") as update:

        def show(report: StepReport) -> None:
            on_step(report)
            started.append(time.monotonic())
            if len(started) == 5:
                seconds = (started[4] - started[0]) / 4 * report.steps
                few = ", if all had one pass as these" if len(report.modes) == 1 else ""
                console.print(
                    f"estimated from the first steps: {duration_words(seconds)} for all of them{few},"
                    f" calibration and evaluation not counted{_memory_words()}"
                )
            update(report.step, report.steps, loss_words(report))

        yield show


@contextmanager
def schedule_changes_said(console: Console) -> Iterator[None]:
    """Print what changes in the schedule of a run as a line of the command."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, ScheduleChangeWarning):
                console.print(str(message))
            else:
                usual(message, category, *place, **more)

        warnings.simplefilter("always", ScheduleChangeWarning)
        warnings.showwarning = show
        yield


def _memory_words() -> str:
    if sys.platform != "linux":  # elsewhere the figure is absent or in another unit
        return ""
    import resource

    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"; {kibibytes / 2**20:.1f} GiB of memory so far"


def say_skipped(console: Console, loaders: Iterable[Any]) -> None:
    """Name an image that could not be read, and say how many there were."""
    skipped: dict[str, str] = {}
    for loader in loaders:
        skipped |= getattr(loader, "skipped", {})
    if skipped:
        first, reason = next(iter(skipped.items()))
        console.print(
            f"{len(skipped)} image(s) could not be read and were left out: {first} ({reason})"
            + (" and others" if len(skipped) > 1 else "")
        )
