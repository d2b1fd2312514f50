"""What an experiment would cost: passes, images, multiply-accumulates and hours. Nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import mean

import torch

import wenable as we
from experiments.budget import SAME_EPOCHS, SHELF, Budget, Scale, scale_named
from experiments.comparisons import COMPARISONS, parts_of
from experiments.methods import METHODS
from experiments.networks import NETWORKS, off_the_shelf
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training.sampling import sample_modes

BACKWARD = 3
"""A forward and a backward pass together cost about three forward ones."""
IMAGES = {
    "smoke": (72, 8, 20),
    "cpu": (45_000, 5_000, 10_000),
    "gpu": (45_000, 5_000, 10_000),
    "imagenet": (1_153_050, 128_117, 50_000),
}
"""Scale -> images to train on, to choose modes on, and to report: a tenth of the training images of
CIFAR-10 (50,000) and of ImageNet (1,281,167) is set aside for choosing."""
EXACT_ROUNDS = 8 * 12


@dataclass(frozen=True, slots=True)
class Cost:
    """What one part costs.

    - `passes`: of batches in training, of modes over the split in searching and reporting.
    - `images`: that go through the network, forward (and backward in training), over all passes.
    - `macs`: multiply-accumulates of these.
    """

    what: str
    network: str
    passes: int
    images: int
    macs: float


def estimate(experiment: str, scale: str, macs_per_second: float | None = None) -> str:
    """Return what an experiment would cost at a scale, as a table in plain text.

    - `macs_per_second`: of the device to be; where nothing is said, what this machine does in a
      forward and backward pass of the scale's ResNet, measured now.

    Raises `ValueError` for an experiment that is not known, or a rate that is not above 0.
    """
    sizes = scale_named(scale)
    if experiment not in _EXPERIMENTS:
        allowed = ", ".join(_EXPERIMENTS)
        raise ValueError(f"`experiment` (={experiment!r}) is unknown; allowed: {allowed}")
    if macs_per_second is not None and not macs_per_second > 0:
        raise ValueError(f"`--macs-per-second` (={macs_per_second}) must be above 0")
    kind = "measured here" if macs_per_second is None else "assumed"
    rate = measured_rate(sizes) if macs_per_second is None else macs_per_second
    rows = list(_EXPERIMENTS[experiment](scale))
    lines = [
        f"{experiment} at scale {scale}: an estimate; nothing is trained. {rate:.3g} MAC/s, {kind}"
        f" (float32, {torch.get_num_threads()} threads)." if macs_per_second is None else
        f"{experiment} at scale {scale}: an estimate; nothing is trained. {rate:.3g} MAC/s, {kind}.",
        f"{'part':58} {'network':28} {'passes':>10} {'images':>10} {'MACs':>9} {'hours':>9}",
    ]  # fmt: skip
    total = Cost(
        "all", "", *(sum(getattr(r, f) for r in rows) for f in ("passes", "images", "macs"))
    )
    for row in [*rows, total]:
        hours = row.macs / rate / 3600
        lines.append(
            f"{row.what:58} {row.network:28} {row.passes:10,} {row.images:10.2e} {row.macs:9.2e}"
            f" {hours:9.2f}"
        )
    return "\n".join(lines)


def measured_rate(sizes: Scale) -> float:
    """Return the multiply-accumulates a second of training passes of the scale's ResNet, here."""
    net = network(sizes.resnet, "weight-enabling", sizes.image_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = we.extract(net, "full").train().to(device)
    x = torch.randn(16 if sizes.image_size < 100 else 4, 3, sizes.image_size, sizes.image_size)

    def step() -> float:
        began = time.perf_counter()
        plain(x.to(device)).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    step()
    return BACKWARD * net.macs("full") * len(x) / min(step() for _ in range(3))


@cache
def network(name: str, method: str, size: int) -> DynamicNetwork:
    """Return an untrained network by a method; it is counted, not run."""
    model = NETWORKS[name]()
    return we.convert(model, torch.zeros(2, 3, size, size), method=METHODS[method](), check=False)


# --- parts ----------------------------------------------------------------------------------------


def _training(
    name: str, method: str, scale: str, budget: Budget, runs: int, label: str = ""
) -> Cost:
    """Return what it costs to train a dynamic network so many times."""
    net = network(name, method, scale_named(scale).image_size)
    config = budget.training(0)
    drawn = [mode for step in range(50) for mode in sample_modes(net, config, step, 50)]
    steps = budget.epochs * (IMAGES[scale][0] // budget.batch_size) * runs
    images = steps * budget.batch_size * budget.passes
    macs = BACKWARD * images * mean(map(net.macs, drawn))
    return Cost(f"train {method}{label}, {runs} seeds", name, steps * budget.passes, images, macs)


def _plain_training(
    what: str, name: str, macs: int, budget: Budget, scale: str, runs: int, times: int = 1
) -> Cost:
    """Return what it costs to train a plain network, over `times` as many epochs."""
    steps = budget.epochs * times * (IMAGES[scale][0] // budget.batch_size) * runs
    images = steps * budget.batch_size
    return Cost(f"train {what}, {runs} seeds", name, steps, images, BACKWARD * images * macs)


def _modes_evaluated(
    what: str, name: str, method: str, scale: str, modes: float, images: int
) -> Cost:
    """Return what it costs to calibrate so many modes and run each over some images."""
    sizes = scale_named(scale)
    net = network(name, method, sizes.image_size)
    of_each = images + min(sizes.budgets[name].calibration_images, IMAGES[scale][0])
    average = (net.macs("full") + net.macs("smallest")) / 2
    return Cost(what, name, int(modes), int(modes * of_each), modes * of_each * average)


def _searches(
    name: str, method: str, scale: str, strategies: tuple[str, ...], seeds: int
) -> Iterator[Cost]:
    sizes = scale_named(scale)
    space = network(name, method, sizes.image_size).space
    images = min(sizes.budgets[name].search_images or IMAGES[scale][1], IMAGES[scale][1])
    steps = sum(len(knob.options) - 1 for knob in space.knobs)
    path = 1 + steps * len(space.knobs)
    most = {"greedy": path, "greedy-lazy": path, "knapsack": 1 + steps + EXACT_ROUNDS}
    for strategy in strategies:
        modes = most[strategy] * seeds
        what = f"search {strategy}, {method}: at most"
        yield _modes_evaluated(what, name, method, scale, modes, images)


def _fig5(scale: str) -> Iterator[Cost]:
    sizes = scale_named(scale)
    for name in sizes.networks:
        for each in COMPARISONS:
            label = (", distilled" if each.distillation else "") + (
                ", longer" if each.longer else ""
            )
            seeds = len(parts_of(scale, [name], [each.name]))
            if seeds == 0:
                continue
            strategies = (*([sizes.path_search_of(name)] if each.path else []), "knapsack")
            for method in (each.ours, each.rival):
                budget = each.budget(sizes, name)
                yield _training(name, method, scale, budget, seeds, label)
            yield from _searches(name, each.ours, scale, strategies, seeds)
            space = network(name, each.ours, sizes.image_size).space
            widths = len(network(name, each.rival, sizes.image_size).space.uniform_modes())
            path = 1 + sum(len(knob.options) - 1 for knob in space.knobs)
            modes = (path * len(strategies) + widths) * seeds
            images = IMAGES[scale][1] + IMAGES[scale][2]
            what = f"report {each.name}: at most"
            yield _modes_evaluated(what, name, each.ours, scale, modes, images)


def _fig6(scale: str) -> Iterator[Cost]:
    sizes = scale_named(scale)
    for beside in sizes.networks:
        budget = sizes.budgets[beside]
        for name in off_the_shelf(scale):
            macs = _plain_macs(name, sizes.image_size)
            for label in sizes.shelf_passes:
                times = 1 if label == SAME_EPOCHS else budget.passes
                what = f"{name} ({label} as {beside})"
                seeds = len(sizes.seeds_of(beside, SHELF))
                yield _plain_training(what, name, macs, budget, scale, seeds, times)


def _table2(scale: str) -> Iterator[Cost]:
    sizes = scale_named(scale)
    name, seeds = sizes.resnet, len(sizes.seeds)
    for method in ("weight-enabling", "weight-enabling, no shuffle"):
        yield _training(name, method, scale, sizes.budgets[name], seeds)
        yield _modes_evaluated(
            f"report {method}", name, method, scale, 10 * seeds, IMAGES[scale][2]
        )
    net = network(name, "weight-enabling", sizes.image_size)
    for mode in net.space.uniform_modes():
        what = f"{mode} alone"
        yield _plain_training(what, name, net.macs(mode), sizes.budgets[name], scale, seeds)


def _timing_only(scale: str) -> Iterator[Cost]:
    """Tables and figures of time train nothing; they take minutes on any device."""
    name = scale_named(scale).resnet
    yield Cost("timing; untrained networks", name, 0, 0, 0.0)


def _plain_macs(name: str, size: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        NETWORKS[name]().eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


_EXPERIMENTS = {
    "table1": _timing_only,
    "table2": _table2,
    "fig5": _fig5,
    "fig6": _fig6,
    "fig7": _timing_only,
}
