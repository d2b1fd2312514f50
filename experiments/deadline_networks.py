"""Trains what `benchmarks.under_load` lets keep deadlines, and writes one bundle for each party.

    python -m experiments.deadline_networks --data data/cifar10 [--scale short] [--batch 32]
        [--engine auto] [--work out/worth] [--folder out/deadlines] [--parties NAME ...]

Each party but the last may spend the same multiply-accumulates in training, forward and backward:

- `elastic`: one network, groups x image size, of which the uniform modes at every size are trained, as
  `experiments.worth` does it (and from its files).
- `widths`: one network, US-Net's widths x image size, likewise.
- `exits-size`: one network, early exits x image size, likewise.
- `ladder`: three plain networks of different width, each at two image sizes, as people hold ready today.
  The budget is shared so that each goes through the images equally often.
- `exits`: one network with early exits, which is also run by confidence.
- `static`: small networks that switch nothing, each trained by itself with the whole of that budget.

All but these learn as `experiments.worth` found best: what is largest by itself for half of the steps, then
all with its answers. The controller goes by accuracies of the search split, which nobody was trained on.

A run that was stopped goes on where it was. A bundle of an elastic network holds, of the modes that
`experiments.worth` found for it, the front by accuracy on the search split and by how long a batch takes on
this machine: leave it alone when they are written.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

import wenable as we
from benchmarks.under_load.policies import spread
from experiments.networks import SmallBottleneckResNet
from experiments.pixels import PixelSplits, load_pixels
from experiments.side_runs import answers_of, trained
from experiments.sides import Side, converted
from experiments.worth import finished, search_batches
from experiments.worth_records import modes_of
from experiments.worth_sides import (
    AS_FOUND,
    EXITS_JOINT,
    JOINT_POOLED,
    SCALES,
    US_JOINT,
    Scale,
    sides_of,
)
from wenable.core.readings import Point, Reading, non_dominated
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.modules.denormals import flush_denormals
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.evaluation import wilson_interval
from wenable.runtime import Session


@dataclass(frozen=True)
class Rivals:
    """What stands beside the elastic networks of a scale.

    - `ladder`: what makes its networks for a number of classes, the largest first: one that is as large as
      the elastic network, and two smaller ones. Each runs at every one of `sizes`.
    - `static`: name -> what makes a small network.
    """

    ladder: tuple[Callable[[int], nn.Module], ...]
    sizes: tuple[int, int]
    static: Mapping[str, Callable[[int], nn.Module]] = field(default_factory=dict)


@dataclass(frozen=True)
class Serving:
    """How the benchmark serves a party: the engine of its session, and how many images a request holds."""

    engine: str
    batch: int


def _of_timm(name: str) -> Callable[[int], nn.Module]:
    return lambda classes: timm.create_model(name, num_classes=classes)


def _first_blocks(name: str, blocks: int) -> Callable[[int], nn.Module]:
    """Return what makes the beginning of a MobileNet of timm, which ends as its early exit does."""

    def make(classes: int) -> nn.Module:
        whole: Any = timm.create_model(name, num_classes=classes)
        kept = whole.blocks[:blocks]
        channels = whole.blocks[blocks][0].conv_pw.in_channels
        end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
        return nn.Sequential(whole.conv_stem, whole.bn1, kept, *end)

    return make


RIVALS: Mapping[str, Rivals] = {
    "smoke": Rivals(
        tuple(functools.partial(SmallBottleneckResNet, width, blocks=2) for width in (8, 6, 4)),
        (16, 8),
        {f"width_{n}": functools.partial(SmallBottleneckResNet, n, blocks=2) for n in (6, 4)},
    ),
    "short": Rivals(
        tuple(functools.partial(SmallBottleneckResNet, width) for width in (32, 22, 16)),
        (16, 12),
    ),
    "B64": Rivals(
        tuple(map(_of_timm, ("mobilenetv2_050", "mobilenetv2_035", "mobilenetv3_small_050"))),
        (64, 48),
    ),
    "V3-64": Rivals(
        tuple(map(_of_timm, ("mobilenetv3_small_100", "mobilenetv3_small_075", "mobilenetv3_small_050"))),
        (64, 48),
        {
            "small_050": _of_timm("mobilenetv3_small_050"),
            "blocks_0_to_2": _first_blocks("mobilenetv3_small_100", 3),
        },
    ),
}  # fmt: skip
"""Scale -> what its elastic networks are held against."""
SEED, MOST_MODES = 0, 12
TIMING = TimingPlan(blocks=5, calls=10, warmup=2, gap_ms=0.0)
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.deadline_networks")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scale", choices=list(RIVALS), default="short")
    parser.add_argument("--batch", type=int, default=32, help="images in a request")
    parser.add_argument("--engine", default="auto", help="that serves them")
    parser.add_argument("--work", type=Path, default=Path("out/worth"))
    parser.add_argument("--folder", type=Path, default=Path("out/deadlines"))
    parser.add_argument("--parties", nargs="*", choices=list(PARTIES), default=list(PARTIES))
    arguments = parser.parse_args()
    flush_denormals()
    torch.set_num_threads(1)
    make_bundles(**vars(arguments))


def make_bundles(
    data: Path, scale: str, batch: int, work: Path, folder: Path, parties: Sequence[str],
    engine: str = "auto",
) -> dict[str, Path]:  # fmt: skip
    """Train what is missing, and return party -> its bundle, in a folder of the scale's name."""
    serving = Serving(engine, batch)
    pixels, folder = load_pixels(data, SCALES[scale].image_size, work), folder / scale
    folder.mkdir(parents=True, exist_ok=True)
    _write_requests(folder / "requests.npz", scale, pixels)
    made = {}
    for party in parties:
        path = folder / f"{party}.wen"
        if not path.is_file():
            PARTIES[party](scale, serving, pixels, work / scale, path)
        if path.is_file():  # not every scale has every party
            made[party] = path
    return made


def _write_requests(path: Path, scale: str, pixels: PixelSplits) -> None:
    """Write the test images as networks take them, in a fixed random order, and what they are."""
    order = torch.randperm(len(pixels.test), generator=torch.Generator().manual_seed(SEED))
    (whole,) = pixels.test.batches(len(order), CPU)
    size = SCALES[scale].image_size
    np.savez(
        path, images=whole[0][order].numpy(), labels=whole[1][order].numpy(),
        scale=scale, network=SCALES[scale].network, data=f"{SCALES[scale].data} at {size} x {size} pixels",
    )  # fmt: skip


def _of_worth(
    name: str, scale: str, serving: Serving, pixels: PixelSplits, work: Path, path: Path
) -> None:
    """Write the bundle of a side of `experiments.worth`: of its modes those that save time."""
    sizes = SCALES[scale]
    side = next(each for each in sides_of(sizes) if each.name == name)
    finished(side, sizes, SEED, pixels, work)
    net = _trained(side, functools.partial(sizes.make, pixels.classes), sizes, pixels, work)
    modes = list(map(net.space.mode, modes_of(work, name, SEED)))
    we.calibrate(net, modes, [images for images, _ in _calibration(sizes, pixels)])
    search = search_batches(sizes, pixels, CPU)
    accuracies = {mode: we.evaluate(net, mode, search) for mode in modes}
    _export(net, spread(_front_in_ms(net, accuracies, serving), MOST_MODES), sizes, pixels, path)


def _front_in_ms(
    net: DynamicNetwork, accuracies: Mapping[we.Mode, Reading], serving: Serving
) -> list[we.Mode]:
    """Return the modes that no other is better and faster than, in a session as the benchmark opens it."""
    modes = {str(mode): mode for mode in accuracies}
    with tempfile.TemporaryDirectory() as folder:
        bundle = we.export(net.eval(), list(accuracies), Path(folder) / "candidates.wen")
        with Session(bundle, engine=serving.engine, threads=1, batch=serving.batch) as session:
            x = session.example(serving.batch)
            session.warm_up([serving.batch])
            calls = {mode: functools.partial(session.run, x, mode=mode) for mode in modes}
            latencies = measure_latencies(calls, TIMING, source="deadline_networks")
    timed = [Point(mode, accuracies[mode], latencies[text]) for text, mode in modes.items()]
    return [point.mode for point in non_dominated(tuple(timed))]


def _exits(scale: str, serving: Serving, pixels: PixelSplits, work: Path, path: Path) -> None:
    """Write the bundle of the network with early exits."""
    sizes = SCALES[scale]
    settings = AS_FOUND | {"passes": len(sizes.exits) + 1}
    side = Side("early exits", (we.EarlyExits(sizes.exits),), settings)
    net = _trained(side, functools.partial(sizes.make, pixels.classes), sizes, pixels, work)
    _export(net, net.space.uniform_modes(), sizes, pixels, path)


def _ladder(scale: str, serving: Serving, pixels: PixelSplits, work: Path, path: Path) -> None:
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
    method, settings = we.ImageSize(RIVALS[scale].sizes), AS_FOUND | {"passes": 2}
    return [
        (Side(f"ladder, network {place}", (method,), settings), make)
        for place, make in enumerate(RIVALS[scale].ladder)
    ]


def _static(scale: str, serving: Serving, pixels: PixelSplits, work: Path, path: Path) -> None:
    """Write the static networks as one file."""
    sizes, bundles = SCALES[scale], {}
    budget = _macs(sizes.make(pixels.classes), pixels) * sizes.spending.epochs * len(pixels.train)
    for name, make in RIVALS[scale].static.items():
        side = Side(f"static, {name}", (we.Static(),), alone=1)
        of_step = sizes.spending.batch_size * _macs(make(pixels.classes), pixels)
        steps = max(1, round(budget / of_step))
        net = _trained(side, functools.partial(make, pixels.classes), sizes, pixels, work, steps)
        bundles[name] = path.with_name(f"{path.stem}-{name}.wen")
        _export(net, [net.space.uniform(1)], sizes, pixels, bundles[name])
    if bundles:
        we.join(bundles, path)


def _macs(model: nn.Module, pixels: PixelSplits) -> int:
    return we.convert(model, example(pixels), method=we.Static()).macs("full")


def equal_steps(nets: Sequence[DynamicNetwork], sizes: Scale, pixels: PixelSplits) -> int:
    """Return how many steps each network of the ladder makes for the budget of one party."""
    budget = sizes.spending.epochs * len(pixels.train) * nets[0].macs("full")
    alone = AS_FOUND["sharing"]["delay"]  # the share of the steps that its largest size has alone
    of_an_image = sum(
        alone * net.macs("full") + (1 - alone) * sum(map(net.macs, net.space.uniform_modes()))
        for net in nets
    )
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
    """Write modes to a bundle, each with the share of the search split's images that it has right."""
    right = answers_of(net, modes, _calibration(sizes, pixels), pixels.search.batches(250, CPU))
    readings: dict[Any, Any] = {
        mode: {"accuracy": _accuracy(int(row.sum()), row.size)}
        for mode, row in zip(modes, right, strict=True)
    }
    we.export(net.eval(), modes, path, readings=readings)


def _accuracy(right: int, count: int) -> Reading:
    low, high = wilson_interval(right, count)
    return Reading(
        right / count, "top-1", low, high, "95 % Wilson", count, source="the search split"
    )


PARTIES: Mapping[str, Callable[[str, Serving, PixelSplits, Path, Path], None]] = {
    "ladder": _ladder,
    "exits": _exits,
    "static": _static,
    "elastic": functools.partial(_of_worth, JOINT_POOLED),
    "widths": functools.partial(_of_worth, US_JOINT),
    "exits-size": functools.partial(_of_worth, EXITS_JOINT),
}
"""What keeps deadlines, those first that are not trained for anything else."""


if __name__ == "__main__":
    main()
