"""Each training technique alone, beside Algorithm 1 as the paper has it, at equal multiply-accumulates.

    python -m experiments.techniques --scale cpu --data data/cifar10 [--only NAME ...] [--seeds 0 1]
        [--work out/techniques] [--out .]

All are trained on the same images from the same weights, with as many multiply-accumulates forward and
backward as the base, and compared on the search split, which no network was trained on: it is what
settings are chosen on. A run that was stopped goes on where it was; what is finished is kept, and the
page says what is there. Records go to `results/techniques.jsonl`, the page to `docs/results/techniques.md`.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import wenable as we
from experiments.networks import SmallBottleneckResNet
from experiments.page_techniques import page
from experiments.paired import paired_difference
from experiments.pixels import PixelSplits, load_pixels
from experiments.side_runs import answers_of, modes_to_compare, trained
from experiments.sides import Side, Spending
from results.provenance import made_by_command
from results.records import ROOT, page_file, records_file, write_records
from wenable.core.files import write_whole
from wenable.modules.denormals import flush_denormals
from wenable.network.evaluation import wilson_interval
from wenable.training import TrainConfig

BASE = "Algorithm 1"
GROUPS = we.WeightEnabling(shuffle="first")
DELAYED: dict[str, Any] = {"distillation": True, "sharing": {"delay": 0.5}}


@dataclass(frozen=True, slots=True)
class Technique:
    """A technique: its side, where it is from, and what it is compared with."""

    side: Side
    source: str
    beside: str = BASE


def _technique(
    name: str, source: str, /, *methods: Any, beside: str = BASE, prepare: str = "", **settings: Any
) -> Technique:
    return Technique(Side(name, methods or (GROUPS,), settings, prepare), source, beside)


DISTILLED_LATER = "delay, then distillation"
TECHNIQUES = (
    _technique(BASE, "WeNet, section III-C"),
    _technique("delay", "DepS, ECCV 2024", sharing={"delay": 0.5}),
    _technique(DISTILLED_LATER, "DepS, ECCV 2024", **DELAYED),
    _technique("US-Net", "US-Nets, 2019", we.UniversallySlimmable(0.25, 0.025, divisor=4)),
    _technique("means of losses", "-", sharing={"losses": "mean"}),
    _technique("shuffle everywhere", "-", we.WeightEnabling(shuffle="all")),
    _technique("projected gradients", "NASViT, 2022; PCGrad, 2020", sharing={"project": True}),
    _technique(
        "delay, then alpha-divergence", "AlphaNet, 2021", beside=DISTILLED_LATER,
        distillation=True, sharing={"delay": 0.5, "divergence": "alpha"},
    ),
    _technique("costs drawn evenly", "-", sampling="macs"),
    _technique(
        "uniform modes only", "PSS-Net, 2021: a pool", sharing={"pool": ("1/2", "1/4", "1/8")}
    ),
    _technique("two extremes only", "AnyDepth-DETR, 2026", passes=2),
    _technique(
        "delay, then losses that rise", "DepS, ECCV 2024", sharing={"delay": 0.5, "rise": 0.25}
    ),
    _technique(
        "delay, then the mean of earlier passes teaches", "RS-Net, 2020", beside=DISTILLED_LATER,
        distillation=True, sharing={"delay": 0.5, "teacher": "earlier"},
    ),
    _technique(
        "diagonal blocks first", "SuperFast, DAC 2025", sharing={"delay": 0.5, "first": "outward"}
    ),
    _technique("distillation from the start", "US-Nets, 2019", distillation=True),
    _technique("last gamma at zero", "BigNAS, 2020", prepare="zero gamma"),
    _technique(
        "US-Net with distillation", "US-Nets, 2019", we.UniversallySlimmable(0.25, 0.025, divisor=4),
        distillation=True,
    ),
)  # fmt: skip
"""What is tried, the most promising first. US-Net is beside it for orientation."""


@dataclass(frozen=True)
class Scale:
    """How much is computed.

    - `mixtures`: how many modes besides the uniform ones are compared; `images`: of the search split.
    """

    make: Callable[[], nn.Module]
    spending: Spending
    seeds: tuple[int, ...]
    mixtures: int
    images: int | None
    image_size: int = 32


def _settings(**changes: Any) -> TrainConfig:
    common: dict[str, Any] = {"passes": 4, "learning_rate": 0.1, "clip_grad": 5.0, "warmup": 0.1}
    return TrainConfig(**(common | changes))


SCALES = {
    "smoke": Scale(
        functools.partial(SmallBottleneckResNet, 8, blocks=2),
        Spending(2.0, 16, _settings(), calibration_images=16), (0,), 2, None, image_size=16,
    ),
    "short": Scale(
        functools.partial(SmallBottleneckResNet, 16),
        Spending(1.0, 64, _settings(channels_last=True), calibration_images=512), (0, 1), 8, None,
        image_size=16,
    ),
    "cpu": Scale(
        functools.partial(SmallBottleneckResNet, 32),
        Spending(4.0, 64, _settings(channels_last=True), calibration_images=1024), (0, 1), 16, None,
    ),
}  # fmt: skip
"""`smoke` runs in the tests; `short` takes minutes for each technique on one core, at half the size of the
images; `cpu` takes most of an hour."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.techniques")
    parser.add_argument("--scale", choices=list(SCALES), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("out/techniques"))
    parser.add_argument("--out", type=Path, default=ROOT)
    parser.add_argument("--only", nargs="*", choices=[each.side.name for each in TECHNIQUES])
    parser.add_argument("--seeds", nargs="*", type=int)
    run(**vars(parser.parse_args()))


def run(
    scale: str, data: Path, work: Path, out: Path, only: list[str] | None = None,
    seeds: list[int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train what is not trained yet, and write records and page after each."""
    flush_denormals()
    sizes, folder = SCALES[scale], work / scale
    pixels = load_pixels(data, sizes.image_size, work)
    results: dict[str, Any] = {}
    for seed in seeds or sizes.seeds:
        for technique in TECHNIQUES:
            if not only or technique.side.name in only:
                _answered(technique, sizes, seed, pixels, folder)
                results = _results(scale, sizes, folder)
                write_records(records_file(out, "techniques"), results)
                written = page_file(out, "techniques")
                written.parent.mkdir(parents=True, exist_ok=True)
                write_whole(written, page(results))
    return results


def _answered(
    technique: Technique, sizes: Scale, seed: int, pixels: PixelSplits, folder: Path
) -> None:
    """Train a technique and keep what its modes answer on the search split."""
    path = folder / f"{technique.side.file_name}-{seed}.answers.npz"
    if path.is_file():
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    done = trained(technique.side, sizes.make, sizes.spending, seed, pixels, folder, device)
    assert done is not None
    net, about = done
    modes = modes_to_compare(net, sizes.mixtures)
    right = answers_of(
        net, modes,
        pixels.train.some(sizes.spending.calibration_images).batches(256, device),
        pixels.search.some(sizes.images).batches(250, device),
    )  # fmt: skip
    header = about | {
        "modes": [str(mode) for mode in modes],
        "share_of_macs": [net.macs(mode) / net.macs("full") for mode in modes],
        "uniform": len(net.space.uniform_modes()),
        "macs": net.macs("full"),
        "made": made_by_command(f"python -m experiments.techniques --scale {folder.name}"),
    }
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, right=right, header=json.dumps(header))
    partial.replace(path)


def _results(scale: str, sizes: Scale, folder: Path) -> dict[str, Any]:
    """Return the records of all that is finished."""
    found: dict[tuple[str, int], tuple[dict[str, Any], NDArray[np.bool_]]] = {}
    for technique in TECHNIQUES:
        for seed in sizes.seeds:
            path = folder / f"{technique.side.file_name}-{seed}.answers.npz"
            if path.is_file():
                with np.load(path) as file:
                    found[technique.side.name, seed] = (
                        json.loads(str(file["header"])),
                        file["right"],
                    )
    runs = [_run_of(name, seed, *each) for (name, seed), each in found.items()]
    rows = [row for each in TECHNIQUES if (row := _compared(each, found))]
    made = next(iter(found.values()))[0]["made"]
    return {**made, "scale": scale, "budget": sizes.spending.epochs, "runs": runs, "compared": rows}


def _run_of(
    name: str, seed: int, header: dict[str, Any], right: NDArray[np.bool_]
) -> dict[str, Any]:
    modes = []
    for mode, share, row in zip(header["modes"], header["share_of_macs"], right, strict=True):
        low, high = wilson_interval(int(row.sum()), len(row))
        accuracy = {"value": float(row.mean()), "low": low, "high": high}
        modes.append({"mode": mode, "share_of_macs": share, **accuracy})
    keys = ("epochs", "full_passes", "training_s", "uniform", "macs")
    return {
        "technique": name, "seed": seed, **{key: header[key] for key in keys},
        "steps": header["identity"]["steps"], "image_size": header["identity"]["image_size"],
        "images": right.shape[1], "modes": modes,
        "commit": header["made"]["commit"],
    }  # fmt: skip


def _compared(
    technique: Technique,
    found: dict[tuple[str, int], tuple[dict[str, Any], NDArray[np.bool_]]],
) -> dict[str, Any] | None:
    """Return how much better a technique is than what it stands beside, over the seeds of both."""
    name, beside = technique.side.name, technique.beside
    seeds = [s for n, s in found if n == name and (beside, s) in found]
    if name == beside or not seeds:
        return None
    pairs = [(found[name, seed], found[beside, seed]) for seed in seeds]
    row: dict[str, Any] = {
        "technique": name, "beside": beside, "source": technique.source, "seeds": seeds
    }  # fmt: skip
    if pairs[0][0][0]["modes"] != pairs[0][1][0]["modes"]:
        return row | _by_cost(pairs)
    uniform = pairs[0][0][0]["uniform"]
    places = {
        "full": slice(0, 1), "middle": slice(1, uniform - 1), "smallest": slice(uniform - 1, uniform),
        "mixtures": slice(uniform, None), "all": slice(None),
    }  # fmt: skip
    for part, where in places.items():
        ours, theirs = (np.concatenate([pair[side][1][where] for pair in pairs]) for side in (0, 1))
        row[part] = paired_difference(ours, theirs).to_json()
        row[part]["of_seeds"] = [
            float(pair[0][1][where].mean() - pair[1][1][where].mean()) for pair in pairs
        ]
    return row


def _by_cost(pairs: list[Any]) -> dict[str, Any]:
    """Return differences of a side with other modes: its line at the costs of the base's modes."""
    ours, theirs, full, smallest = [], [], [], []
    for (header, right), (base, base_right) in pairs:
        order = np.argsort(header["share_of_macs"])
        costs = np.asarray(header["share_of_macs"])[order]
        lines = np.stack([
            np.interp(base["share_of_macs"], costs, column) for column in right[order].astype(float).T
        ], 1)  # fmt: skip
        ours.append(lines)
        theirs.append(base_right.astype(float))
        uniform = base["uniform"]
        full.append((lines[:1], base_right[:1]))
        smallest.append((lines[uniform - 1 : uniform], base_right[uniform - 1 : uniform]))
    found = {}
    for part, mine, other in (
        ("all", ours, theirs),
        ("full", [each[0] for each in full], [each[1] for each in full]),
        ("smallest", [each[0] for each in smallest], [each[1] for each in smallest]),
    ):
        found[part] = paired_difference(np.concatenate(mine), np.concatenate(other)).to_json()
    return found


if __name__ == "__main__":
    main()
