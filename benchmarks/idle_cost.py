"""What being dynamic costs in inference: forward passes, switching, memory.

    python -m benchmarks.idle_cost [--rounds 40] [--out .]

A forward pass in a mode is compared with one of that mode's extracted network, both eager PyTorch
in one process, in turns of random order. Results go to `results/idle-cost.jsonl` and the table
to `docs/results/idle-cost.md`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, records_file, write_page, write_records
from wenable.measure.device import describe_device

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16")
MODES = ("full", "1/2", "1/4", "1/16")
THREADS = 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)
    results = {
        "command": f"python -m benchmarks.idle_cost --rounds {arguments.rounds}",
        "commit": present_commit(),
        "machine": describe_device(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "threads": THREADS,
        "batch": 1,
        "networks": [measure(name, arguments.rounds) for name in arguments.networks],
    }
    write_records(records_file(arguments.out, "idle-cost"), results)
    write_page(arguments.out, "idle-cost", page(results))
    print(page(results))


@torch.no_grad()
def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return the figures of one network, by mode."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 224, 224)
    net = we.convert(torchvision.models.get_model(name, weights=None).eval(), image)
    modes = [*map(net.space.mode, MODES), net.space.sample(random.Random(0))]
    batch = torch.randn(4, 3, 224, 224)
    we.calibrate(net, modes, [batch])
    net.drop_packed()
    weights = sum(layer.weights for layer in net.switchable_layers) * 4
    first_uses = [_first_use(net, mode, image) for mode in modes]
    return {
        "name": name,
        "knobs": len(net.space.knobs),
        "modes": [_compare(net, mode, image, rounds) for mode in modes],
        "switch": _switching(net, modes),
        "first_use": first_uses,
        "switchable_weight_bytes": weights,
        "packed_bytes": net.packed_bytes,
        "statistics_bytes_per_mode": 8
        * sum(n.num_features for n in net.switchable_norms().values()),
    }


def _first_use(net: Any, mode: we.Mode, image: torch.Tensor) -> dict[str, Any]:
    """Return how much memory and time the first forward pass in a mode takes more than the next."""
    net.drop_packed()
    net.set_mode(mode)
    first = _seconds(lambda: net(image))
    packed = net.packed_bytes
    again = statistics.median(_seconds(lambda: net(image)) for _ in range(5))
    enabled = sum(
        4 * layer.weights // mode[layer.knob]
        for layer in net.switchable_layers
        if mode[layer.knob] > 1
    )
    source = torch.ones(max(enabled // 4, 1))
    copying = statistics.median(_seconds(source.clone) for _ in range(5))
    return {
        "mode": str(mode),
        "packed_bytes": packed,
        "enabled_weight_bytes": enabled,
        "more_ms": 1e3 * (first - again),
        "plain_copy_ms": 1e3 * copying,
    }


def _compare(net: Any, mode: we.Mode, image: torch.Tensor, rounds: int) -> dict[str, Any]:
    """Return the time of the dynamic network in a mode over that of the extracted one."""
    plain: nn.Module = we.extract(net, mode)
    net.set_mode(mode)
    calls: dict[str, Callable[[], Any]] = {
        "dynamic": lambda: net(image),
        "extracted": lambda: plain(image),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    rng = random.Random(0)
    for warm_up in (True,) * 3 + (False,) * rounds:
        for name in rng.sample(list(calls), 2):
            taken = min(_seconds(calls[name]) for _ in range(3))
            if not warm_up:
                times[name].append(1e3 * taken)
    ratios = [a / b for a, b in zip(times["dynamic"], times["extracted"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "mode": str(mode),
        "dynamic_ms": statistics.median(times["dynamic"]),
        "extracted_ms": statistics.median(times["extracted"]),
        "ratio": middle,
        "ratio_quartiles": [low, high],
    }


def _switching(net: Any, modes: list[we.Mode]) -> dict[str, float]:
    """Return the time of `set_mode` between modes that have been used, every pair of them."""
    times = []
    for _ in range(200):
        for mode in modes:
            times.append(1e6 * _seconds(lambda mode=mode: net.set_mode(mode)))
    times.sort()
    return {"median_us": statistics.median(times), "p90_us": times[int(0.9 * len(times))]}


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def page(results: dict[str, Any]) -> str:
    """Return the page of the documentation for these results."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        "# What being dynamic costs when idle",
        "",
        _verdict(results["networks"]),
        "",
        "A dynamic network in one mode beside the plain network that `extract` returns for it, both in"
        " eager PyTorch without gradients; blocks are packed at the first use of an option and kept.",
        "",
        f"Made by `{results['command']}` (`make idle-cost`) on {results['machine']} with {versions},"
        f" {results['threads']} thread, batch {results['batch']}, 224x224, denormals flushed; turns in"
        " random order, the best of three calls each. Ratios are medians of the turns with their"
        " quartiles: below 1 the dynamic network was faster.",
        "",
        "| network | mode | dynamic, ms | extracted, ms | ratio (quartiles) |",
        "|---|---|--:|--:|--:|",
    ]
    for net in results["networks"]:
        for row in net["modes"]:
            mode = row["mode"] if len(row["mode"]) < 8 else "random"
            low, high = row["ratio_quartiles"]
            lines.append(
                f"| {net['name']} | {mode} | {row['dynamic_ms']:.1f} | {row['extracted_ms']:.1f} |"
                f" {row['ratio']:.3f} ({low:.3f} to {high:.3f}) |"
            )
    lines += [
        "",
        "Switching between modes that were used before, and what is held. *first use*: how much longer"
        " the first forward pass in mode 1/2 takes than the next ones, beside a plain copy of as many"
        " bytes. *packed*: after the full mode, 1/2, 1/4, 1/16 and a random mode were all used, as a"
        " share of the switchable weights; the bound is 15/16, however many modes there are. *a mode*: its"
        " calibrated statistics.",
        "",
        "| network | knobs | set_mode, us (p90) | first use, ms (copy) | packed | a mode, KiB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for net in results["networks"]:
        half = next(row for row in net["first_use"] if row["mode"] == "1/2")
        share = net["packed_bytes"] / net["switchable_weight_bytes"]
        lines.append(
            f"| {net['name']} | {net['knobs']} | {net['switch']['median_us']:.0f}"
            f" ({net['switch']['p90_us']:.0f}) | {half['more_ms']:.1f} ({half['plain_copy_ms']:.1f}) |"
            f" {share:.3f} | {net['statistics_bytes_per_mode'] / 1024:.0f} |"
        )
    return "\n".join([*lines, ""])


def _verdict(networks: list[dict[str, Any]]) -> str:
    ratios = [row["ratio"] for net in networks for row in net["modes"]]
    switches = [net["switch"]["median_us"] for net in networks]
    return (
        f"A dynamic network takes {min(ratios):.2f} to {max(ratios):.2f} times as long as the plain network"
        f" of its mode, and a switch takes {min(switches):.0f} to {max(switches):.0f} microseconds."
    )


if __name__ == "__main__":
    main()
