"""What `train`, `explore` and `demo` have in common: data by name, and calls with a progress bar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from rich.console import Console

import wenable as we
from wenable.cli.terminal import progress_bar
from wenable.data import Splits, batches, digits
from wenable.dynamic_network import DynamicNetwork
from wenable.exploration.greedy import SearchStep
from wenable.measure.latency import TimingPlan
from wenable.search import Cost
from wenable.space import Mode
from wenable.tables import Front, Reading
from wenable.training import StepReport, TrainConfig

# A search measures hundreds of modes: three short blocks each, close together.
SEARCH_TIMING = TimingPlan(blocks=3, calls=8, warmup=2, gap_ms=5.0)


@dataclass(frozen=True)
class Data:
    """The splits of a data set, ready to go through."""

    splits: Splits
    calibration: list[Any]
    search: list[Any]
    test: list[Any]

    @property
    def example(self) -> torch.Tensor:
        """A batch of one image of zeros, of the right shape."""
        return torch.zeros_like(self.test[0][0][:1])


def flush_denormals() -> None:
    """Flush denormal numbers in every thread: call it before PyTorch starts its workers."""
    torch.set_flush_denormal(True)


def load_data(name: str) -> Data:
    """Return a data set by name; raises `ValueError` for an unknown one.

    Statistics are calibrated on 128 training images: on 8x8 to 2x2 maps that is 512 values a channel
    at least, and a search does it some hundred times.
    """
    if name != "digits":
        raise ValueError(f"`--data` (={name!r}) is unknown; allowed: digits")
    splits = digits()
    first = torch.utils.data.Subset(splits.train, range(128))
    return Data(
        splits,
        list(torch.utils.data.DataLoader(first, 128)),
        list(batches(splits.search, 300)),
        list(batches(splits.test, 250)),
    )


def train_with_bar(
    console: Console, net: DynamicNetwork, data: Data, config: TrainConfig, batch_size: int
) -> None:
    """Run Algorithm 1 and show how far it is."""
    loader = batches(data.splits.train, batch_size, shuffle_seed=config.seed)
    with progress_bar(console, "training") as update:

        def show(report: StepReport) -> None:
            full, smallest = report.losses[:2]
            words = f"loss: full {full:.3f}, smallest {smallest:.3f}"
            update(report.step, report.steps, words)

        we.train(net, loader, config, on_step=show)  # pyright: ignore[reportArgumentType]


def explore_with_bar(
    console: Console, net: DynamicNetwork, data: Data, cost: str, threshold: float
) -> Front:
    """Run Algorithm 2 and show how far it is."""
    with progress_bar(console, f"searching by {cost}") as update:

        def show(step: SearchStep) -> None:
            words = f"{step.evaluations} modes, accuracy {100 * step.taken.accuracy.known:.1f} %"
            update(step.number, step.most, words)

        return we.explore(
            net,
            data.search,
            data.calibration,
            threshold=threshold,
            cost=cast(Cost, cost),
            timing=SEARCH_TIMING,
            on_step=show,
        )


def accuracies(
    net: DynamicNetwork, modes: Iterable[Mode], data: Data, split: str
) -> dict[Mode, Reading]:
    """Calibrate each mode where it is not yet, and return its accuracy on a split."""
    found: dict[Mode, Reading] = {}
    examples = data.test if split == "test" else data.search
    for mode in dict.fromkeys(modes):
        if not net.is_calibrated(mode):
            we.calibrate(net, mode, data.calibration)
        found[mode] = we.evaluate(net, mode, examples, split=f"the {split} split")
    return found
