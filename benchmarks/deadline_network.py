"""Trains the network of `benchmarks.deadlines`, shortly, and evaluates its uniform modes.

    python -m benchmarks.deadline_network --data data/cifar10 [--batches 700] [--work out/deadlines]

`--data` holds `train/CLASS/*.jpg` and `test/CLASS/*.jpg`. What a deadline needs is modes that differ
in time, with accuracies that were measured; so the network is wide for its images, all layers of a
block share one knob, and training ends after `--batches` batches of 32. A run that was stopped goes on
where it was. Network and figures go to the `--work` folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import wenable as we
from experiments.networks import SmallBottleneckResNet
from results.provenance import present_commit
from wenable.core.files import write_whole
from wenable.measure.device import describe_device
from wenable.modules.denormals import flush_denormals
from wenable.training import Checkpoint
from wenable.training.data_sets import accuracies, load_data
from wenable.training.recipes import Recipe, recipe_named

WIDTH, BATCH, SEED = 64, 32, 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deadline_network")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=700)
    parser.add_argument("--work", type=Path, default=Path("out/deadlines"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    flush_denormals()
    torch.set_num_threads(arguments.threads)
    train(arguments.data, arguments.batches, arguments.work)


def train(folder: Path, count: int, work: Path) -> None:
    """Train on `count` batches, evaluate the uniform modes on the test split, and keep both."""
    recipe = _recipe()
    data = load_data(str(folder), recipe)
    torch.manual_seed(SEED)
    method = we.WeightEnabling(tie="block")
    net = we.convert(SmallBottleneckResNet(WIDTH), data.example, method=method)
    net.preprocessing = data.preprocessing
    loader = _Part(data.training_batches(BATCH, SEED), count)
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(work / "checkpoint.safetensors", every_s=30, resume=True)
    we.train(net, loader, recipe.training, on_step=_tell, checkpoint=checkpoint)
    test = accuracies(net, net.space.uniform_modes(), data, "test")
    we.save(net, work / "net.safetensors")
    figures = {
        "command": f"python -m benchmarks.deadline_network --data data/cifar10 --batches {count}",
        "commit": present_commit(),
        "machine": describe_device(),
        "network": f"SmallBottleneckResNet({WIDTH})",
        "batches": count,
        "batch": BATCH,
        "training": recipe.training.to_json(),
        "macs": {str(mode): net.macs(mode) for mode in test},
        "test": {str(mode): asdict(reading) for mode, reading in test.items()},
    }
    write_whole(work / "accuracies.json", json.dumps(figures, indent=1) + "\n")
    print({str(mode): str(reading) for mode, reading in test.items()})


def load(work: Path) -> tuple[we.DynamicNetwork, dict[str, Any]]:
    """Return the trained network and its figures.

    Raises `FileNotFoundError` where it was not trained yet.
    """
    path = work / "net.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: python -m benchmarks.deadline_network first"
        )
    figures = json.loads((work / "accuracies.json").read_text(encoding="utf-8"))
    return we.load(path, SmallBottleneckResNet(WIDTH)), figures


def _recipe() -> Recipe:
    recipe = recipe_named("cifar")
    training = replace(
        recipe.training, epochs=1, passes=3, learning_rate=0.05, distillation=True, seed=SEED
    )
    return replace(recipe, training=training, batch_size=BATCH)


class _Part:
    """The first batches of a loader's epoch."""

    def __init__(self, loader: Any, count: int) -> None:
        self.loader, self.count = loader, min(count, len(loader))

    def __len__(self) -> int:
        return self.count

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        return islice(self.loader.batches(epoch, start), self.count - start)


def _tell(report: Any) -> None:
    if report.step % 50 == 0:
        print(report.step, report.steps, [round(loss, 3) for loss in report.losses], flush=True)


if __name__ == "__main__":
    main()
