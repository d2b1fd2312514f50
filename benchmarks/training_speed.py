"""What a training step of several passes costs, beside a plain PyTorch training step.

    python -m benchmarks.training_speed [--networks resnet50 ...] [--passes 4 20] [--rounds 7]
        [--device cpu] [--layouts channels_last contiguous] [--out .]

The figure is r of `page`: the time of the step over what its enabled multiply-accumulates would
cost in a plain step. Plain step, every pass dense, grouped as written and timed implementations are
measured in turns of random order in one process; ratios are taken within a turn. Results go to
`results/training-speed-DEVICE.jsonl` and the table to `docs/results/training-speed.md`.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page, write_records
from wenable.layers.implementations import DENSE
from wenable.modules.passes import device_name, device_of
from wenable.training import sample_modes, train_step
from wenable.training.implementations import (
    Implementations,
    choose_implementations,
    use_implementations,
)
from wenable.training.optimizers import make_optimizer
from wenable.zoo import build

NETWORKS = {
    "torchvision:resnet50": (8, 224),
    "torchvision:mobilenet_v2": (16, 224),
    "wenable.zoo:cifar_resnet20": (128, 32),
}
"""Batch and image size of each network on a CPU."""
WAYS = ("dense", "grouped", "timed")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--passes", nargs="*", type=int, default=[4, 20])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layouts", nargs="*", default=["channels_last", "contiguous"])
    parser.add_argument("--batch", type=int, default=0, help="instead of the network's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    said = " ".join(f"--{key} {' '.join(map(str, value)) if isinstance(value, list) else value}"
                    for key, value in vars(arguments).items() if key != "out")  # fmt: skip
    made = {"command": f"python -m benchmarks.training_speed {said}", "commit": present_commit()}
    file = records_file(arguments.out, f"training-speed-{arguments.device}")
    for name in arguments.networks:
        for layout in arguments.layouts:
            rows = [made | row for row in measure(name, layout, arguments)]
            results = _added(file, rows, device_name(nn.Linear(1, 1).to(arguments.device)))
            write_records(file, results)
            gc.collect()
    write_page(arguments.out, "training-speed", page(file.parent))


def _added(file: Path, rows: Sequence[dict[str, Any]], machine: str) -> dict[str, Any]:
    """Return the results in a file with these rows in the place of older ones of the same kind."""
    results: dict[str, Any] = {
        "machine": machine,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    older: list[dict[str, Any]] = []
    if file.is_file():
        kept = read_records(file)
        if results == {key: kept[key] for key in results}:
            older = kept["rows"]
    new = {_kind(row) for row in rows}
    return results | {"rows": [row for row in older if _kind(row) not in new] + list(rows)}


def _kind(row: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("network", "layout", "precision", "batch", "image_size", "passes")
    return tuple(row[key] for key in keys)


def measure(name: str, layout: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of one network in one memory format, for each number of passes."""
    torch.manual_seed(0)
    batch, size = NETWORKS[name]
    batch, device = arguments.batch or batch, torch.device(arguments.device)
    channels_last = layout == "channels_last"
    config = we.TrainConfig(
        passes=2, learning_rate=1e-4, channels_last=channels_last, precision=arguments.precision
    )
    form = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=form)
    labels = torch.randint(10, (batch,), device=device)
    plain = build(name).to(device).train()
    net = we.convert(plain, images[:1]).to(device).train()
    for each in (plain, net):
        each.to(memory_format=form)  # pyright: ignore[reportCallIssue]
    started = time.perf_counter()
    chosen = choose_implementations(net, (images,), lambda: _autocast(device, config))
    tuning_s = time.perf_counter() - started
    plain_step = _plain_step(plain, images, labels, config)
    layers = [layer.name for layer in net.switchable_layers]
    fixed = _fixed_share(plain, layers, plain_step, device)
    rows = []
    for passes in arguments.passes:
        steps = _steps(net, (images, labels), chosen, passes, config)
        rounds = arguments.rounds if passes < 10 else max(3, arguments.rounds // 2)
        times, enabled = _in_turns(plain_step, steps, net, passes, rounds, device)
        row = _figures(times, enabled, fixed)
        row |= {
            "network": name, "layout": layout, "precision": config.precision, "batch": batch,
            "image_size": size, "passes": passes, "tuning_s": tuning_s,
            "implementations": _counts(chosen),
        }  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _autocast(device: torch.device, config: we.TrainConfig) -> Any:
    kind = getattr(torch, config.precision)
    return torch.autocast(device.type, kind, enabled=config.precision != "float32")


def _plain_step(
    plain: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: we.TrainConfig
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(plain.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4)
    loss_function = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(images.device, config):
            loss = loss_function(plain(images), labels)
        loss.backward()
        optimizer.step()
        float(loss.detach())

    return step


def _fixed_share(
    plain: nn.Module, layers: Sequence[str], step: Callable[[], None], device: torch.device
) -> float:
    """Return the share of a plain step that is not spent inside the switchable layers."""
    started: list[float] = []
    inside = [0.0]

    def begin(*_: Any) -> None:
        started.append(_now(device))

    def end(*_: Any) -> None:
        inside[0] += _now(device) - started.pop()

    hooks = []
    for name in layers:
        layer = plain.get_submodule(name)
        hooks += [layer.register_forward_pre_hook(begin), layer.register_forward_hook(end)]
        hooks += [
            layer.register_full_backward_pre_hook(begin), layer.register_full_backward_hook(end),
        ]  # fmt: skip
    shares = []
    for _ in range(8):
        inside[0] = 0.0
        taken = _seconds(step, device)
        shares.append(1 - inside[0] / taken)
    for hook in hooks:
        hook.remove()
    return statistics.median(shares[1:])


def _steps(
    net: Any, batch: Any, chosen: Implementations, passes: int, config: we.TrainConfig
) -> dict[str, Callable[[tuple[we.Mode, ...]], None]]:
    """Return a training step for every way of computing the layers."""
    optimizer, loss_function = make_optimizer(net, config), nn.CrossEntropyLoss()
    scaled = config.precision == "float16"
    scaler = torch.amp.GradScaler(device_of(net).type) if scaled else None
    dense = {
        name: dict.fromkeys([n for n in ways if n > 1], DENSE) for name, ways in chosen.items()
    }
    ways = {"dense": dense, "grouped": {}, "timed": chosen}

    def step(way: str) -> Callable[[tuple[we.Mode, ...]], None]:
        def run(modes: tuple[we.Mode, ...]) -> None:
            train_step(net, batch, modes, loss_function, optimizer, config, scaler=scaler)

        def chosen_way(modes: tuple[we.Mode, ...]) -> None:
            use_implementations(net, ways[way])
            run(modes)

        return chosen_way

    return {way: step(way) for way in WAYS}


def _in_turns(
    plain_step: Callable[[], None],
    steps: dict[str, Callable[[tuple[we.Mode, ...]], None]],
    net: Any,
    passes: int,
    rounds: int,
    device: torch.device,
) -> tuple[dict[str, list[float]], list[list[float]]]:
    """Return the seconds of each step by turn, and the share of MACs that its passes enable."""
    config = we.TrainConfig(passes=passes)
    rng = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in ("plain", *steps)}
    shares = []
    switchable = sum(layer.macs for layer in net.switchable_layers)
    for turn in range(-1, rounds):  # one to warm up
        modes = sample_modes(net, config, turn + 1, rounds + 1)
        for name in rng.sample(list(times), len(times)):
            call = plain_step if name == "plain" else partial(steps[name], modes)
            taken = _seconds(call, device)
            if turn >= 0:
                times[name].append(taken)
        if turn >= 0:
            fixed = net.macs("full") - switchable
            shares.append([(net.macs(mode) - fixed) / switchable for mode in modes])
    return times, shares


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    started = _now(device)
    call()
    return _now(device) - started


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _figures(
    times: dict[str, list[float]], shares: list[list[float]], fixed: float
) -> dict[str, Any]:
    plain = statistics.median(times["plain"])
    ideal = [sum(fixed + (1 - fixed) * share for share in modes) for modes in shares]
    row: dict[str, Any] = {"plain_step_ms": 1e3 * plain, "fixed_share": fixed}
    row["ideal_plain_steps"] = statistics.median(ideal)
    for way in WAYS:
        turns = list(zip(times[way], times["plain"], ideal, strict=True))
        row[way] = {
            "step_ms": 1e3 * statistics.median(times[way]),
            "r": _spread([step / (base * steps) for step, base, steps in turns]),
        }
    pairs = zip(times["timed"], times["dense"], strict=True)
    row["timed_over_dense"] = _spread([a / b for a, b in pairs])
    return row


def _spread(ratios: list[float]) -> list[float]:
    """Return the median and the quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return [middle, low, high]


def _counts(chosen: Implementations) -> dict[str, dict[str, int]]:
    """Return how many layers take each implementation, by option."""
    counts: dict[str, dict[str, int]] = {}
    for ways in chosen.values():
        for n, way in ways.items():
            of_option = counts.setdefault(str(n), {})
            of_option[way] = of_option.get(way, 0) + 1
    return counts


def page(folder: Path) -> str:
    """Return the page of the documentation for the results in a folder."""
    files = sorted(folder.glob("training-speed-*.jsonl"))
    lines = [
        "# How fast a training step is",
        "",
        _verdict([row for file in files for row in read_records(file)["rows"]]),
        "",
        "A step of Algorithm 1 makes *s* passes, each with a part of the multiply-accumulates. With *f* the"
        " share of a plain full step that is not spent inside the switchable layers (timed in place, by"
        " hooks around their forward and backward passes) and *phi* the share of the switchable MACs that"
        " a mode enables,",
        "",
        "    r = (time of the step) / (time of a plain step x the sum over its modes of f + (1 - f) phi)",
        "",
        "*Plain* is an ordinary PyTorch training step of the network that was converted (forward,"
        " backward, SGD). *dense* computes every pass with masked whole weights, *grouped* with PyTorch's"
        " grouped convolutions, *timed* (`TrainConfig(implementations=\"timed\")`) in the way that was"
        " fastest for each layer and option. Medians over turns in random order within one process,"
        " quartiles in brackets; images per second count each image once, however many passes it goes"
        " through.",
    ]  # fmt: skip
    for file in files:
        results = read_records(file)
        versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        lines += [
            "",
            f"## {results['machine']}",
            "",
            f"With {versions}, {results['threads']} threads. Made by",
            "",
            *sorted({f"- `{row['command']}` at commit {row['commit']}" for row in results["rows"]}),
            "",
            "| network, batch, layout | s | f | plain, images/s | timed, images/s | r, timed | r, grouped"
            " | r, dense | timed / dense |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            *map(_line, sorted(results["rows"], key=lambda row: [row["network"], row["passes"]])),
        ]
    return "\n".join([*lines, ""])


def _verdict(rows: Sequence[dict[str, Any]]) -> str:
    r = [row["timed"]["r"][0] for row in rows]
    dense = [row["timed_over_dense"][0] for row in rows]
    return (
        f"A step takes {min(r):.2f} to {max(r):.2f} times what the MACs of its modes suggest, and"
        f" {min(dense):.2f} to {max(dense):.2f} times as long as with masked whole weights."
    )


def _line(row: dict[str, Any]) -> str:
    def spread(values: list[float]) -> str:
        return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"

    what = (
        f"{row['network'].partition(':')[2]} {row['image_size']}px, {row['batch']}, {row['layout']}"
    )
    if row["precision"] != "float32":
        what += f", {row['precision']}"
    per_second = 1e3 * row["batch"]
    cells = [
        what, row["passes"], f"{row['fixed_share']:.2f}", f"{per_second / row['plain_step_ms']:.1f}",
        f"{per_second / row['timed']['step_ms']:.1f}", spread(row["timed"]["r"]),
        spread(row["grouped"]["r"]), spread(row["dense"]["r"]), spread(row["timed_over_dense"]),
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
