"""What a search costs: Algorithm 2 as it is written, the same made affordable, and lazy greedy.

    python -m benchmarks.search_cost [--network FILE --data FOLDER [--model NAME]]
        [--search-images 500] [--calibration-images 250] [--threshold 0.5] [--out .]

The network of `wenable demo` is trained on the digits first and searched. With `--network`, a saved
network is searched as well, on images drawn from the splits under `--data`; `--model` names a network of
`experiments.networks` at its scale `cpu`, whose file says nothing of its class. Work is
counted in multiply-accumulates of the layers that ran, calibration included, and given in forward
passes of one image through the full network. Results go to `results/search-cost.jsonl` and the
table to `docs/results/search-cost.md`.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import wenable as we
from experiments.budget import scale_named
from experiments.data import load
from experiments.networks import NETWORKS
from results.provenance import present_commit
from results.records import ROOT, records_file, write_page, write_records
from wenable.core.readings import Front, Reading
from wenable.core.space import Mode
from wenable.modules.denormals import flush_denormals
from wenable.modules.passes import device_name
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.mode_costs import macs_table
from wenable.search import Work, estimate_search, plain_macs, search_greedily
from wenable.strategies.greedy import greedy
from wenable.training import TrainConfig
from wenable.training.data_sets import Data, load_data, load_data_for
from wenable.zoo import build

Batches = list[tuple[torch.Tensor, torch.Tensor]]
KINDS = {"greedy": we.Greedy, "greedy-lazy": we.GreedyLazy}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_cost")
    parser.add_argument("--network", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--search-images", type=int, default=500)
    parser.add_argument("--calibration-images", type=int, default=250)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    flush_denormals()
    torch.set_num_threads(1)
    rows = [digits_row(arguments.epochs)]
    if arguments.network:
        rows.append(saved_row(arguments))
    given = "" if not arguments.network else (
        f" --network {arguments.network.name}"
        f"{f' --model {arguments.model}' if arguments.model else ''} --data {Path(arguments.data).name}"
        f" --search-images {arguments.search_images}"
        f" --calibration-images {arguments.calibration_images} --threshold {arguments.threshold}"
    )  # fmt: skip
    results = {
        "command": f"python -m benchmarks.search_cost{given}",
        "commit": present_commit(),
        "versions": {"torch": torch.__version__},
        "networks": rows,
    }
    write_records(records_file(arguments.out, "search-cost"), results)
    write_page(arguments.out, "search-cost", page(results))
    print(page(results))


def digits_row(epochs: int) -> dict[str, Any]:
    net, data = digits_network(epochs)
    # Above its threshold it is at every mode: the whole way down to the smallest is gone.
    return compared("digits_resnet", net, list(data.search), list(data.calibration), 0.5)


def digits_network(epochs: int, **sizes: int) -> tuple[DynamicNetwork, Data]:
    """Return the network of `wenable demo`, or one of another size, trained, and its data."""
    data = load_data("digits")
    torch.manual_seed(0)
    net = we.convert(build("wenable.zoo:digits_resnet", **sizes), data.example)
    config = TrainConfig(passes=4, epochs=epochs, learning_rate=0.03, seed=0)
    we.train(net, data.training_batches(32, 0), config)
    return net, data


def saved_row(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.model:
        net, data = network_of_an_experiment(arguments)
        label = arguments.model
    else:
        net, data, label = saved_network(arguments.network, arguments.data)
    search = part(data.search, arguments.search_images)
    calibration = part(data.calibration, arguments.calibration_images)
    return compared(label, net, search, calibration, arguments.threshold)


def saved_network(path: Path, folder: str) -> tuple[DynamicNetwork, Data, str]:
    """Return a saved network, its data, and its name."""
    net = we.load(path)
    said = net.preprocessing is not None or folder == "digits"
    data = load_data_for(net, folder) if said else load_data(folder)
    name = getattr(net, "wenable_source", None)
    return net, data, name.name.partition(":")[2] if name else type(net).__name__


def network_of_an_experiment(arguments: argparse.Namespace) -> tuple[DynamicNetwork, Any]:
    """Return a network that an experiment trained, and the data that it was trained on."""
    budget = scale_named("cpu").budgets[arguments.model]
    data = load(Path(arguments.data), replace(budget, search_images=None))
    return we.load(arguments.network, NETWORKS[arguments.model]()), data


def part(batches: Any, images: int) -> Batches:
    """Return some of the images, drawn with a fixed seed since folders come class by class."""
    pairs = [(batch[0], batch[1]) for batch in batches]
    x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    chosen = random.Random(0).sample(range(len(x)), min(images, len(x)))
    return list(zip(x[chosen].split(128), y[chosen].split(128), strict=True))


def accuracy(net: DynamicNetwork, search: Batches, calibration: Batches, mode: Mode) -> Reading:
    """Return the accuracy of a mode as `explore` has it."""
    if not net.is_calibrated(mode):
        we.calibrate(net, mode, calibration)
    return we.evaluate(net, mode, search, split="the search split")


def compared(
    name: str, net: DynamicNetwork, search: Batches, calibration: Batches, threshold: float
) -> dict[str, Any]:
    """Search one network in the three ways and set them beside each other."""
    sizes = [sum(len(batch[0]) for batch in batches) for batches in (search, calibration)]
    if net.calibrated_modes != (net.space.full,):
        net.forget_calibrations([mode for mode in net.calibrated_modes if mode != net.space.full])
    works: dict[str, Work] = {"greedy": Work(), "greedy-lazy": Work()}
    calls: dict[str, Callable[[DynamicNetwork], Front]] = {
        "plain": lambda copied: greedy(
            copied.space,
            partial(accuracy, copied, search, calibration),
            lambda modes: [macs_table(copied).reading(mode) for mode in modes],
            threshold,
            cost="macs",
        )
    }
    for strategy, work in works.items():
        calls[strategy] = lambda copied, strategy=strategy, work=work: search_greedily(
            copied, search, calibration, KINDS[strategy](), min_accuracy=threshold, work=work
        )
    found: dict[str, tuple[Front, float]] = {}
    for way, call in calls.items():
        copied, started = copy.deepcopy(net), time.perf_counter()
        found[way] = call(copied), time.perf_counter() - started
        print(f"{name}, {way}: {found[way][1]:.0f} s, {found[way][0].evaluations} evaluations")
    plain, full = found["plain"][0], net.macs("full")
    whole = plain_macs(net, plain.path, *sizes)
    ways = {}
    for way, (front, seconds) in found.items():
        macs = works[way].total if way in works else whole
        ways[way] = {
            "evaluations": front.evaluations,
            "steps": len(front.path) - 1,
            "full_passes": macs / full,
            "share_of_plain": macs / whole,
            "by_purpose": {k: v / whole for k, v in works[way].macs.items()}
            if way in works
            else {},
            "seconds": seconds,
            "identical": (front.path, front.points) == (plain.path, plain.points),
            "same_readings": front.path == plain.path,
            **divergence(front, plain),
        }
    return {
        "network": name,
        "knobs": len(net.space.names),
        "threshold": threshold,
        "search_images": sizes[0],
        "calibration_images": sizes[1],
        "machine": device_name(net),
        "estimate": {
            "plain": asdict(estimate_search(net, *sizes, plain=True)),
            "greedy": asdict(estimate_search(net, *sizes)),
        },
        "ways": ways,
        "plain_path": [[str(p.mode), p.accuracy.known, p.cost.known] for p in plain.path],
    }


def divergence(front: Front, plain: Front) -> dict[str, Any]:
    """Return how far a path is from the exact one: its steps, and accuracy at equal cost."""
    pairs = list(zip(front.path, plain.path, strict=False))
    modes = {point.mode for point in plain.path}
    gaps = [
        best_within(front, point.cost.known) - best_within(plain, point.cost.known)
        for point in (*plain.points, *front.points)
        if point.cost.known >= max(front.points[-1].cost.known, plain.points[-1].cost.known)
    ]
    return {
        "steps_apart": sum(a.mode != b.mode for a, b in pairs)
        + abs(len(front.path) - len(plain.path)),
        "modes_not_on_the_exact_path": sum(point.mode not in modes for point in front.path),
        "accuracy_at_equal_cost": {
            "mean": sum(gaps) / len(gaps), "worst": min(gaps), "best": max(gaps),
        },
        "chosen_cost_ratio": front.chosen.cost.known / plain.chosen.cost.known,
    }  # fmt: skip


def best_within(front: Front, cost: float) -> float:
    """Return the accuracy of the best mode of a front that costs no more."""
    return max(point.accuracy.known for point in front.points if point.cost.known <= cost)


def page(results: dict[str, Any]) -> str:
    """Return the page that shows the results."""
    lines = [
        "# What a search costs",
        "",
        _verdict(results["networks"]),
        "",
        "*As written*: Algorithm 2 as the paper has it. *greedy*: the same path, without the work that"
        " cannot change it. *greedy-lazy*: an approximation.",
        "",
        f"Made by `{results['command']}` at commit {results['commit']} with torch"
        f" {results['versions']['torch']}, 1 thread: what later versions save beyond it is not in these"
        " figures. Work: multiply-accumulates of the layers that ran, over all passes and images,"
        " calibration and every attempt included, in forward passes of one image through the full network.",
    ]
    for row in results["networks"]:
        most = row["estimate"]["plain"]
        lines += [
            "",
            f"## {row['network']}",
            "",
            f"{row['knobs']} knobs, {row['search_images']} search and {row['calibration_images']}"
            f" calibration images, minimum accuracy {row['threshold']}; {row['machine']}. Estimated before,"
            f" as written: at most {most['evaluations']} evaluations, {most['full_passes']:,} full passes.",
            "",
            "| search | evaluations | full passes | of as written | seconds | path | accuracy at equal"
            " cost, points: mean (worst to best) | cost of the chosen mode |",
            "|---|--:|--:|--:|--:|---|--:|--:|",
        ]
        for way, found in row["ways"].items():
            gap = found["accuracy_at_equal_cost"]
            path = (
                "identical"
                if found["identical"]
                else f"{found['modes_not_on_the_exact_path']} of {found['steps'] + 1} modes are not"
                " on the exact one"
            )
            lines.append(
                f"| {_shown(way)} | {found['evaluations']} | {found['full_passes']:,.0f} |"
                f" {100 * found['share_of_plain']:.1f} % | {found['seconds']:.0f} | {path} |"
                f" {100 * gap['mean']:+.2f} ({100 * gap['worst']:+.2f} to {100 * gap['best']:+.2f}) |"
                f" {found['chosen_cost_ratio']:.3f} x |"
            )
        purposes = row["ways"]["greedy"]["by_purpose"]
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in purposes.items())
        lines += [
            "",
            f"Where the work of *greedy* goes, as shares of the work as written: {shares}.",
        ]
    return "\n".join(lines) + "\n"


def _shown(way: str) -> str:
    return "as written" if way == "plain" else way


def _verdict(networks: list[dict[str, Any]]) -> str:
    """Say in a sentence what each way saves, and whether it finds the same path."""

    def of(way: str) -> str:
        shares = [100 * row["ways"][way]["share_of_plain"] for row in networks]
        same = all(row["ways"][way]["identical"] for row in networks)
        path = "the same path" if same else "another path"
        return f"`{way}` finds {path} with {min(shares):.0f} to {max(shares):.0f} % of the work"

    return f"Of Algorithm 2 as it is written, {of('greedy')}, and {of('greedy-lazy')}."


if __name__ == "__main__":
    main()
