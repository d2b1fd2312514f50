"""Whether a pretrained network keeps its answers: ResNet-20 on the CIFAR-10 test files.

    python -m benchmarks.real_weights --weights resnet20-cifar10.safetensors --images cifar10/test

The weights are those of a ResNet-20 trained elsewhere, the images one folder for each class. With
every shuffle policy the converted network's logits are compared with the original's, image by
image and bit by bit. Results go to `results/real-weights.jsonl` and `docs/results/real-weights.md`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, records_file, write_page, write_records
from wenable.measure.device import describe_device
from wenable.methods.weight_enabling import ShufflePlacement
from wenable.network.evaluation import wilson_interval
from wenable.zoo import build

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_weights", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    model = build("wenable.zoo:cifar_resnet20")
    model.load_state_dict(load_file(arguments.weights))
    model.eval()
    batches = list(_batches(arguments.images))
    expected, labels = _logits(model, batches), torch.cat([each for _, each in batches])
    rows = [_row("original", expected, expected, labels)]
    for policy in get_args(ShufflePlacement):
        net = we.convert(model, batches[0][0][:2], method=we.WeightEnabling(shuffle=policy))
        rows.append(_row(f"shuffle={policy!r}", _logits(net, batches), expected, labels))
        net.set_mode("1/4")  # what was switched and switched back gives the same again
        net.set_mode("full")
        rows.append(
            _row(f"shuffle={policy!r}, switched and back", _logits(net, batches), expected, labels)
        )
    results = {
        "command": "python -m benchmarks.real_weights --weights resnet20-cifar10.safetensors"
        " --images cifar10/test",
        "date": time.strftime("%Y-%m-%d"),
        "commit": present_commit(),
        "machine": describe_device(),
        "versions": {"torch": torch.__version__},
        "rows": rows,
    }
    write_records(records_file(arguments.out, "real-weights"), results)
    write_page(arguments.out, "real-weights", page(results))
    print(page(results))


def _batches(folder: Path) -> DataLoader[Any]:
    prepare = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)]
    )
    return DataLoader(ImageFolder(folder, prepare), batch_size=500, num_workers=2)


@torch.no_grad()
def _logits(model: torch.nn.Module, batches: list[Any]) -> torch.Tensor:
    return torch.cat([model(images) for images, _ in batches])


def _row(
    name: str, logits: torch.Tensor, expected: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    right = int((logits.argmax(1) == labels).sum())
    low, high = wilson_interval(right, len(labels))
    return {
        "network": name,
        "images": len(labels),
        "top1": right / len(labels),
        "interval_95_wilson": [low, high],
        "images_with_equal_bits": int((logits == expected).all(1).sum()),
    }


def page(results: dict[str, Any]) -> str:
    """Return the page of the documentation for these results."""
    lines = [
        "# Real weights",
        "",
        _verdict(results["rows"]),
        "",
        "A ResNet-20 pretrained on CIFAR-10, before and after `wenable.convert`, on the CIFAR-10 test"
        " images stored as JPEG files, not the original pixels that it was trained on."
        " *equal bits*: images whose ten logits are those of the original to"
        " the last bit.",
        "",
        f"Made by `{results['command']}` on {results['date']}, {results['machine']}, torch"
        f" {results['versions']['torch']}.",
        "",
        "| network | top-1 (95 % Wilson) | images | equal bits |",
        "|---|---|--:|--:|",
    ]
    for row in results["rows"]:
        low, high = (f"{100 * end:.2f}" for end in row["interval_95_wilson"])
        lines.append(
            f"| {row['network']} | {100 * row['top1']:.2f} % ({low} to {high}) | {row['images']} |"
            f" {row['images_with_equal_bits']} |"
        )
    return "\n".join([*lines, ""])


def _verdict(rows: list[dict[str, Any]]) -> str:
    kept = min(row["images_with_equal_bits"] / row["images"] for row in rows)
    if kept == 1:
        return "Converting and switching changes no bit of a pretrained network's answers."
    return f"Converting or switching changes the answers to {100 * (1 - kept):.2f} % of the images."


if __name__ == "__main__":
    main()
