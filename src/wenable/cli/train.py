"""`wenable train`: Algorithm 1 on a data set, the uniform modes calibrated, the network saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

import wenable as we
from wenable.cli.terminal import consoles, mode_table, parse_groups, print_json
from wenable.cli.work import accuracies, load_data, train_with_bar
from wenable.methods.weight_enabling import ShufflePolicy
from wenable.training import TrainConfig
from wenable.zoo import build


def run_train(
    name: str,
    data_name: str,
    out: Path,
    settings: Mapping[str, Any],
    batch_size: int,
    groups: str,
    shuffle: str,
    as_json: bool,
) -> None:
    """Train a network by name on a data set by name and save it under `out`."""
    console, progress = consoles(as_json)
    config = TrainConfig(**settings)
    method = we.WeightEnabling(parse_groups(groups), cast(ShufflePolicy, shuffle))
    data = load_data(data_name)
    images = len(data.splits.train)
    if not 1 <= batch_size <= images:
        raise ValueError(
            f"`--batch-size` (={batch_size}) must be from 1 to the {images} training images"
        )
    torch.manual_seed(config.seed)
    net = we.convert(build(name), data.example, method=method)
    # Before an hour's work, not behind it: a folder that cannot be made would lose it.
    out.mkdir(parents=True, exist_ok=True)
    train_with_bar(progress, net, data, config, batch_size)
    uniform = net.space.uniform_modes()
    found = accuracies(net, uniform, data, "search")
    out.mkdir(parents=True, exist_ok=True)
    saved = we.save(net, out / "net.safetensors")
    if as_json:
        modes = [{"mode": str(mode), "accuracy": asdict(found[mode])} for mode in uniform]
        print_json({"network": str(saved), "config": asdict(config), "uniform_modes": modes})
        return
    full = net.macs("full")
    rows = [
        ("uniform", mode, net.macs(mode), full, {"accuracy % (search split)": found[mode]})
        for mode in uniform
    ]
    console.print(mode_table(f"{name} on {data_name}", rows))
    console.print(f"saved: {saved}")
