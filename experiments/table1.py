"""Table I, measured: what each class of dynamic networks needs, on one network.

    python -m experiments.table1 --scale cpu --data data/cifar10 [--work out/experiments]

Memory, neurons, time and switching do not depend on how good the weights are, so the networks are not
trained; accuracy is not part of Table I. Modes are calibrated on a batch of training images, since a mode
in low precision needs the range of its inputs.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import wenable as we
from experiments.budget import scale_named
from experiments.data import ExperimentData, load
from experiments.engine_calls import bundle_of, mode_calls, plain_call
from experiments.methods import METHODS
from experiments.options import command_of, start
from experiments.results import with_provenance, write_results
from experiments.runs import start_of
from wenable.cascades.big_little import BigLittle, network_bytes
from wenable.core.readings import Reading
from wenable.exporting.int8 import export_int8
from wenable.measure.latency import TimingPlan, latency_reading, measure_latencies
from wenable.methods import EarlyExits
from wenable.modules.denormals import flush_denormals
from wenable.network.dynamic_network import DynamicNetwork
from wenable.runtime.engines import open_engine

TIMING = TimingPlan(blocks=20, calls=30, warmup=5, gap_ms=5.0)
SWITCHES = 200
EAGER, ENGINE = "eager PyTorch", "onnxruntime"
WEIGHT_ENABLING, BIG_LITTLE, PRECISION = "weight-enabling", "big/little", "precision"
DEPTH = "depth, early exits"
CLASSES = {
    WEIGHT_ENABLING: "weight-enabling",
    "width, SNN": "slimmable",
    "width, US-Net": "us-net",
    DEPTH: "",
    PRECISION: "precision",
}
"""Row -> the name of its method in `experiments.methods`; exits are named by the network."""


def main() -> None:
    start("table1", run)


def run(
    scale: str,
    data: Path,
    work: Path,
    out: Path,
    timing: TimingPlan = TIMING,
    switches: int = SWITCHES,
) -> dict[str, Any]:
    """Convert the scale's ResNet by each method, measure, and write `table1-SCALE.jsonl`."""
    flush_denormals()
    sizes = scale_named(scale)
    splits = load(data, sizes.budgets[sizes.resnet])
    seed = sizes.seeds[0]
    nets = {row: _dynamic(row, sizes.resnet, seed, splits) for row in CLASSES}
    plain = start_of(sizes.resnet, seed).eval()
    rows = [
        {"class": row} | _memory(net, plain) | _neurons(net, splits) | _switching(net, switches)
        for row, net in nets.items()
    ]
    little = we.extract(nets["width, SNN"], "smallest").eval()
    rows.append({"class": BIG_LITTLE} | _two_networks(little, plain, splits, timing))
    times = latencies(nets, {"cheapest": little, "full": plain}, timing)
    results = with_provenance(
        command_of("table1", scale),
        scale,
        {
            "network": sizes.resnet,
            "trained": False,
            "threads": {"eager": torch.get_num_threads(), "onnxruntime": 1},
            "plain_bytes": network_bytes(plain),
            "rows": rows,
            "latency": times,
        },
    )
    write_results(out, "table1", results)
    return results


def _dynamic(row: str, network: str, seed: int, data: ExperimentData) -> DynamicNetwork:
    """Return the untrained network of a row, its full and its cheapest mode calibrated."""
    model = start_of(network, seed)
    method = EarlyExits(exits_of(model)) if row == DEPTH else METHODS[CLASSES[row]]()
    net = we.convert(model, data.example, method=method)
    net.train()
    with torch.no_grad():
        net(next(iter(data.calibration))[0])  # as training would, it starts the ranges of inputs
    net.eval()
    we.calibrate(net, net.space.uniform_modes(), [next(iter(data.calibration))])
    return net


def exits_of(model: nn.Module) -> tuple[str, ...]:
    """Return where a ResNet's early exits are: behind each stage but the last."""
    stages = [
        name for name in ("layer1", "layer2", "layer3", "layer4")
        if list(getattr(model, name, nn.Identity()).parameters())
    ]  # fmt: skip
    return tuple(stages[:-1])


# --- memory and neurons ---------------------------------------------------------------------------


def _memory(net: DynamicNetwork, plain: nn.Module) -> dict[str, Any]:
    """Return the bytes that are held for all modes, those that the cheapest enables, and the packed."""
    net.drop_packed()
    held = network_bytes(net)
    modes = net.space.uniform_modes()
    with torch.inference_mode():
        for mode in modes:
            with net.using(mode):
                net(*net.example_batch)
    packed = net.packed_bytes
    net.drop_packed()
    statistics = sum(
        each.mean.numel() * 4 + each.var.numel() * 4
        for mode in modes
        if (kept := net.calibration(mode)) and kept.statistics
        for each in kept.statistics.values()
    )
    return {
        "modes": len(modes),
        "held_bytes": held,
        "held_over_plain": held / network_bytes(plain),
        "statistics_bytes": statistics,
        "packed_bytes": packed,
        "cheapest_mode": str(net.space.smallest),
        "cheapest_bytes": _weight_bytes(net, net.space.smallest),
        "full_bytes": _weight_bytes(net, net.space.full),
    }


def _weight_bytes(net: DynamicNetwork, mode: we.Mode) -> int:
    """Return the bytes of the weights that a mode reads, at the bits that it reads them with.

    Norms and what a method leaves alone count at 32 bits. Narrow weights are as wide as any other in
    the simulation: this is what the mode's own file would hold.
    """
    switched = {layer.name: layer for layer in net.switchable_layers}
    bits = sum(
        layer.weights_at(mode[layer.knob]) * layer.bits_in(mode) for layer in switched.values()
    )
    rest = net.parameter_count(mode) - sum(
        layer.weights_at(mode[layer.knob]) for layer in switched.values()
    )
    return bits // 8 + 4 * rest


def _neurons(net: DynamicNetwork, data: ExperimentData) -> dict[str, Any]:
    """Return how many values the layers of the cheapest and of the full mode write for one image."""
    counts = []
    for mode in (net.space.smallest, net.space.full):
        counts.append(count_neurons(we.extract(net, mode).eval(), data.example[:1]))
    return {"neurons": counts[0], "neurons_full": counts[1], "neurons_share": counts[0] / counts[1]}


def count_neurons(plain: nn.Module, x: torch.Tensor) -> int:
    """Return how many values the convolutions and dense layers of a network write for `x`.

    >>> layers = nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(32, 5)
    >>> count_neurons(nn.Sequential(*layers), torch.ones(1, 3, 2, 2))
    37
    """
    count = 0

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal count
        count += output.numel()

    hooks = [
        module.register_forward_hook(add)
        for module in plain.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.inference_mode():
            plain(x)
    finally:
        for hook in hooks:
            hook.remove()
    return count


# --- switching ------------------------------------------------------------------------------------


def _switching(net: DynamicNetwork, switches: int) -> dict[str, Any]:
    """Return what `set_mode` takes, and the first pass after it over a steady one, in eager PyTorch."""
    modes, rng = net.space.uniform_modes(), random.Random(0)
    example = net.example_batch
    took_ms, ratios = [], []
    with torch.inference_mode():
        for mode in modes:  # blocks are packed at the first use
            net.set_mode(mode)
            net(*example)
        for _ in range(switches):
            other = rng.choice([mode for mode in modes if mode != net.mode])
            began = time.perf_counter()
            net.set_mode(other)
            took_ms.append(1e3 * (time.perf_counter() - began))
            times = []
            for _ in range(5):
                began = time.perf_counter()
                net(*example)
                times.append(time.perf_counter() - began)
            ratios.append(times[0] / sorted(times[1:])[len(times[1:]) // 2])
    source = f"{switches} random switches between uniform modes, eager PyTorch"
    ordered = sorted(ratios)
    ends = [ordered[len(ordered) * i // 4] for i in (1, 3)]
    return {
        "switch": asdict(latency_reading(took_ms, source=source)),
        "first_over_steady": {"median": ordered[len(ordered) // 2], "quartiles": ends},
        "bytes_loaded": 0,
    }


def _two_networks(
    little: nn.Module, big: nn.Module, data: ExperimentData, timing: TimingPlan
) -> dict[str, Any]:
    """Return the same of two networks, of which the little one is SNN's narrowest."""
    example = data.example[:1]
    both, one = (BigLittle(little, big, example, residence) for residence in ("both", "one"))
    sizes = count_neurons(little, example), count_neurons(big, example)
    nothing = Reading(
        None, "ms", reason="both are held; nothing is switched but which one is called"
    )
    return {
        "modes": 2,
        "held_bytes": both.bytes_held,
        "held_over_plain": both.bytes_held / network_bytes(big),
        "held_bytes_if_one": one.bytes_held,
        "statistics_bytes": 0,
        "packed_bytes": 0,
        "cheapest_mode": "little",
        "cheapest_bytes": network_bytes(little),
        "full_bytes": network_bytes(big),
        "neurons": sizes[0],
        "neurons_full": sizes[1],
        "neurons_share": sizes[0] / sizes[1],
        "switch": asdict(nothing),
        "switch_if_one": asdict(one.measure_change(timing)),
        "bytes_loaded": one.bytes_per_change,
    }


# --- time: whether the gain needs a special device ------------------------------------------------


def latencies(
    nets: Mapping[str, DynamicNetwork], pair: Mapping[str, nn.Module], timing: TimingPlan
) -> list[dict[str, Any]]:
    """Return the time of every row's full and cheapest mode, all in one run, for one image.

    In eager PyTorch and on ONNX Runtime: weight-enabling from a bundle, the others as plain exports.
    Low precision is simulated in eager PyTorch; ONNX Runtime multiplies integers of 8 bits, and none
    of fewer.
    """
    engine = open_engine("onnxruntime", 1)
    calls: dict[tuple[str, str, str], Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        x = next(iter(nets.values())).example_batch[0]  # the same of all
        for row, net in nets.items():
            modes = {"full": net.space.full, "cheapest": net.space.smallest}
            if row == PRECISION:
                modes["8 bits"] = net.space.uniform(4)
                path = export_int8(net, modes["8 bits"], Path(folder) / "int8.onnx")
                run = engine.prepare(path.read_bytes())
                calls[row, "8 bits", ENGINE] = partial(run, {"input": x.numpy()})
            own: dict[str, Callable[[], object]] = {}
            if row == WEIGHT_ENABLING:
                own = mode_calls(bundle_of(net, [*map(str, modes.values())], folder), x, engine)
            for name, mode in modes.items():
                plain = we.extract(net, mode).eval()
                calls[row, name, EAGER] = partial(plain, x)
                if row == WEIGHT_ENABLING:
                    calls[row, name, ENGINE] = own[str(mode)]
                elif row != PRECISION or name == "full":
                    calls[row, name, ENGINE] = plain_call(plain, x, engine)
        for name, plain in pair.items():
            calls[BIG_LITTLE, name, EAGER] = partial(plain, x)
            calls[BIG_LITTLE, name, ENGINE] = plain_call(plain, x, engine)
        with torch.inference_mode():
            found = measure_latencies(calls, timing, source="wall clock, one image")
    found[PRECISION, "cheapest", ENGINE] = Reading(
        None, "ms", reason="no engine here multiplies integers of fewer than 8 bits"
    )
    return [
        {"class": row, "mode": mode, "engine": name, "latency": asdict(reading)}
        for (row, mode, name), reading in found.items()
    ]


if __name__ == "__main__":
    main()
