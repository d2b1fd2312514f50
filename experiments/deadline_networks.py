"""Trains what `benchmarks.under_load` lets keep deadlines, and writes one bundle for each party.

    python -m experiments.deadline_networks --data data/cifar10 [--scale short] [--work out/worth]
        [--folder out/deadlines]

Each party may spend the same multiply-accumulates in training, forward and backward:

- `elastic`: one network, groups x image size, as `experiments.worth` trains it (and from its files).
- `widths`: one network, US-Net's widths x image size, likewise.
- `ladder`: three plain networks of different width, each at two image sizes, as people hold ready today.
  The budget is shared so that each goes through the images equally often.
- `exits`: one network with early exits, which is also run by confidence.

A run that was stopped goes on where it was. Every mode's accuracy, on the test split, is in the bundle.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import wenable as we
from experiments.networks import SmallBottleneckResNet
from experiments.pixels import PixelSplits, load_pixels
from experiments.side_runs import answers_of, trained
from experiments.sides import Side, converted
from experiments.worth_sides import AS_FOUND, JOINT, SCALES, US_JOINT, Scale, sides_of
from wenable.core.readings import Reading
from wenable.modules.denormals import flush_denormals
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.evaluation import wilson_interval

LADDERS: Mapping[str, Sequence[Callable[[int], nn.Module]]] = {
    "short": [functools.partial(SmallBottleneckResNet, width) for width in (32, 22, 16)],
    "smoke": [functools.partial(SmallBottleneckResNet, width, blocks=2) for width in (8, 6, 4)],
}
"""Scale -> the networks of the ladder, the largest first: that of the scale itself."""
EXITS: Mapping[str, tuple[str, ...]] = {"short": ("layer1", "layer2"), "smoke": ("layer1",)}
SEED, MOST_MODES = 0, 12
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.deadline_networks")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scale", choices=list(LADDERS), default="short")
    parser.add_argument("--work", type=Path, default=Path("out/worth"))
    parser.add_argument("--folder", type=Path, default=Path("out/deadlines"))
    parser.add_argument("--parties", nargs="*", choices=list(PARTIES), default=list(PARTIES))
    arguments = parser.parse_args()
    flush_denormals()
    torch.set_num_threads(1)
    make_bundles(**vars(arguments))


def make_bundles(
    data: Path, scale: str, work: Path, folder: Path, parties: Sequence[str]
) -> dict[str, Path]:
    """Train what is missing, and return party -> its bundle."""
    pixels = load_pixels(data, SCALES[scale].image_size, work)
    folder.mkdir(parents=True, exist_ok=True)
    _write_requests(folder / "requests.npz", pixels)
    made = {}
    for party in parties:
        path = folder / f"{party}.wen"
        if not path.is_file():
            PARTIES[party](scale, pixels, work / scale, path)
        made[party] = path
    return made


def _write_requests(path: Path, pixels: PixelSplits) -> None:
    """Write the test images as networks take them, in a fixed random order, with their labels."""
    order = torch.randperm(len(pixels.test), generator=torch.Generator().manual_seed(SEED))
    (whole,) = pixels.test.batches(len(order), CPU)
    np.savez(path, images=whole[0][order].numpy(), labels=whole[1][order].numpy())


def _of_worth(name: str, scale: str, pixels: PixelSplits, work: Path, path: Path) -> None:
    """Write the bundle of a side of `experiments.worth`: the modes of its front."""
    sizes = SCALES[scale]
    side = next(each for each in sides_of(sizes) if each.name == name)
    net = _trained(side, functools.partial(sizes.make, pixels.classes), sizes, pixels, work)
    search = pixels.search.some(sizes.search_images).batches(250, CPU)
    front = we.explore(
        net, search, [images for images, _ in _calibration(sizes, pixels)], min_accuracy=0.0,
        strategy=we.Knapsack(count=sizes.front_modes),
    )  # fmt: skip
    modes = [*front.modes, net.space.full]
    _export(net, _spread(list(dict.fromkeys(modes)), net), sizes, pixels, path)


def _spread(modes: Sequence[we.Mode], net: DynamicNetwork) -> list[we.Mode]:
    """Return at most `MOST_MODES` of some modes, from the dearest to the cheapest."""
    ordered = sorted(modes, key=net.macs, reverse=True)
    if len(ordered) <= MOST_MODES:
        return ordered
    step = (len(ordered) - 1) / (MOST_MODES - 1)
    return [ordered[round(place * step)] for place in range(MOST_MODES)]


def _exits(scale: str, pixels: PixelSplits, work: Path, path: Path) -> None:
    """Write the bundle of the network with early exits."""
    sizes = SCALES[scale]
    passes = len(EXITS[scale]) + 1
    side = Side("early exits", (we.EarlyExits(EXITS[scale]),), AS_FOUND | {"passes": passes})
    net = _trained(side, functools.partial(sizes.make, pixels.classes), sizes, pixels, work)
    _export(net, net.space.uniform_modes(), sizes, pixels, path)


def _ladder(scale: str, pixels: PixelSplits, work: Path, path: Path) -> None:
    """Write the ladder's networks, each at two image sizes, as one file."""
    sizes, networks = SCALES[scale], ladder(scale)
    nets = [converted(side, make(pixels.classes), example(pixels)) for side, make in networks]
    steps = equal_steps(nets, sizes, pixels)
    bundles = {}
    for place, (side, make) in enumerate(networks):
        net = _trained(side, functools.partial(make, pixels.classes), sizes, pixels, work, steps)
        name = f"network{place}"
        bundles[name] = path.with_name(f"{path.stem}-{place}.wen")
        _export(net, net.space.uniform_modes(), sizes, pixels, bundles[name])
    we.join(bundles, path)


def ladder(scale: str) -> list[tuple[Side, Callable[[int], nn.Module]]]:
    """Return the ladder's networks as sides, and what makes each for a number of classes."""
    method = we.ImageSize(SCALES[scale].sizes[:2])
    return [
        (Side(f"ladder, network {place}", (method,), {"passes": 2}), make)
        for place, make in enumerate(LADDERS[scale])
    ]


def equal_steps(nets: Sequence[DynamicNetwork], sizes: Scale, pixels: PixelSplits) -> int:
    """Return how many steps each network of the ladder makes for the budget of one party."""
    budget = sizes.spending.epochs * len(pixels.train) * nets[0].macs("full")
    of_an_image = sum(net.macs(mode) for net in nets for mode in net.space.uniform_modes())
    return max(1, round(budget / (sizes.spending.batch_size * of_an_image)))


def _trained(
    side: Side, make: Callable[[], nn.Module], sizes: Scale, pixels: PixelSplits, work: Path,
    steps: int | None = None,
) -> DynamicNetwork:  # fmt: skip
    done = trained(side, make, sizes.spending, SEED, pixels, work, CPU, steps=steps)
    assert done is not None  # there is no time at which it stops
    return done[0]


def example(pixels: PixelSplits) -> torch.Tensor:
    return torch.zeros(2, *pixels.train.images.shape[1:])


def _calibration(sizes: Scale, pixels: PixelSplits) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return pixels.train.some(sizes.spending.calibration_images).batches(256, CPU)


def _export(
    net: DynamicNetwork, modes: Sequence[we.Mode], sizes: Scale, pixels: PixelSplits, path: Path
) -> None:
    """Write modes to a bundle, each with the share of the test images that it has right."""
    right = answers_of(net, modes, _calibration(sizes, pixels), pixels.test.batches(250, CPU))
    readings: dict[Any, Any] = {
        mode: {"accuracy": _accuracy(int(row.sum()), row.size)}
        for mode, row in zip(modes, right, strict=True)
    }
    we.export(net.eval(), modes, path, readings=readings)


def _accuracy(right: int, count: int) -> Reading:
    low, high = wilson_interval(right, count)
    return Reading(
        right / count, "top-1", low, high, "95 % Wilson", count, source="the test images"
    )


PARTIES: Mapping[str, Callable[[str, PixelSplits, Path, Path], None]] = {
    "ladder": _ladder,
    "exits": _exits,
    "elastic": functools.partial(_of_worth, JOINT),
    "widths": functools.partial(_of_worth, US_JOINT),
}
"""What keeps deadlines, those first that are not trained for anything else."""


if __name__ == "__main__":
    main()
