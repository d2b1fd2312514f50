"""Are the modes worth running? Sides trained with equal multiply-accumulates, and their fronts.

    python -m experiments.worth --scale A --data data/cifar10 [--sides NAME ...] [--seeds 0 ...]
        [--minutes 60] [--work out/worth] [--out .]

Every side may spend the same multiply-accumulates, forward and backward: not the same passes or epochs.
Fronts are searched on the search split and compared on the test split. A run that was stopped, by
`--minutes` or otherwise, goes on where it was; what is finished is kept, and the page says what is there
and what is missing. Records go to `results/worth-SCALE.jsonl`, the page of all scales to
`docs/results/worth.md`.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import wenable as we
from experiments.pixels import Batch, PixelSplits, load_pixels
from experiments.side_runs import answers_of, searched, trained
from experiments.sides import Side, config_of, converted, steps_of_side
from experiments.worth_output import write_results
from experiments.worth_records import answers_file, parts_of
from experiments.worth_sides import (
    COMBINED,
    SCALES,
    UNIFORM_ALONE,
    Scale,
    alone_sides,
    sides_of,
)
from results.provenance import made_by_command
from results.records import ROOT
from wenable.core.readings import Point, Reading, non_dominated
from wenable.modules.denormals import flush_denormals
from wenable.network.dynamic_network import DynamicNetwork
from wenable.zoo import load_weights, read_weights


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.worth")
    parser.add_argument("--scale", choices=list(SCALES), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("out/worth"))
    parser.add_argument("--out", type=Path, default=ROOT)
    parser.add_argument("--sides", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--minutes", type=float, help="stop after so many, and go on next time")
    parser.add_argument(
        "--weights", type=Path, help="of the plain network that every side starts from"
    )
    run(**vars(parser.parse_args()))


def run(
    scale: str, data: Path, work: Path, out: Path, sides: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None, minutes: float | None = None, weights: Path | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Train and search what is missing, the most valuable first; write records and page after each.

    Returns the records, None if nothing is finished. Raises `ValueError` for a side that is unknown, and
    for a scale that goes on from weights without them.
    """
    flush_denormals()
    sizes, folder = SCALES[scale], work / scale
    stop_at = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    known = {side.name: side for side in (*sides_of(sizes), *alone_sides(sizes))}
    unknown = [name for name in sides or () if name not in known]
    if unknown:
        raise ValueError(f"`--sides` holds {unknown[0]!r}; allowed: {', '.join(known)}")
    if sizes.warm != (weights is not None):
        raise ValueError(
            f"`--weights` (={weights}) must be given for scales that start from a trained network, and for"
            f" no other; {scale!r} is {'one' if sizes.warm else 'none'}"
        )
    if weights is not None:
        sizes = replace(sizes, make=functools.partial(_with_weights, sizes.make, weights))
    pixels = load_pixels(data, sizes.image_size, work)
    results = None
    for name, seed in parts_of(sizes):
        if (sides and name not in sides) or (seeds is not None and seed not in seeds):
            continue
        if time.monotonic() > stop_at or not finished(
            known[name], sizes, seed, pixels, folder, stop_at
        ):
            break
        results = write_results(scale, sizes, folder, out)
    return results


def _with_weights(make: Callable[[int], nn.Module], weights: Path, classes: int) -> nn.Module:
    """Return a network with the weights of a file."""
    model = make(classes)
    load_weights(model, read_weights(weights))
    return model


def finished(
    side: Side, sizes: Scale, seed: int, pixels: PixelSplits, folder: Path,
    stop_at: float = float("inf"),
) -> bool:  # fmt: skip
    """Train a side, search its front and keep what its modes answer; say whether it is done."""
    path = answers_file(folder, side.name, seed)
    if path.is_file():
        return True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def make() -> nn.Module:
        return sizes.make(pixels.classes)

    steps = _steps_of(side, sizes, seed, pixels, make) if side.steps_of else None
    done = trained(side, make, sizes.spending, seed, pixels, folder, device, stop_at, steps)
    if done is None:
        return False
    net, about = done
    calibration = pixels.train.some(sizes.spending.calibration_images).batches(256, device)
    journal = path.with_suffix(".search")
    modes, front = _modes(
        side, net, sizes, calibration, search_batches(sizes, pixels, device), journal
    )
    right = answers_of(net, modes, calibration, pixels.test.batches(250, device))
    header = about | {
        "modes": [str(mode) for mode in modes], "macs": net.macs("full"),
        "costs": [net.macs(mode) / net.macs("full") for mode in modes],
        "uniform": len(net.space.uniform_modes()) if side.alone == 0 else 1,
        "front": [str(mode) for mode in front],
        "made": made_by_command(f"python -m experiments.worth --scale {folder.name}"),
    }  # fmt: skip
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, right=right, header=json.dumps(header))
    partial.replace(path)
    journal.unlink(missing_ok=True)
    return True


def search_batches(sizes: Scale, pixels: PixelSplits, device: torch.device) -> list[Batch]:
    """Return the images that fronts are searched on."""
    return pixels.search.some(sizes.search_images).batches(250, device)


def _steps_of(side: Side, sizes: Scale, seed: int, pixels: PixelSplits, make: Any) -> int:
    """Return the number of steps of the side that another takes them from."""
    other = next(each for each in sides_of(sizes) if each.name == side.steps_of)
    net = converted(other, make(), torch.zeros(2, *pixels.train.images.shape[1:]))
    config = config_of(other, sizes.spending, seed)
    return steps_of_side(other, net, config, len(pixels.train), sizes.spending)


def _modes(
    side: Side, net: DynamicNetwork, sizes: Scale, calibration: Any, search: Any, journal: Path
) -> tuple[list[we.Mode], list[we.Mode]]:
    """Return the modes of a side to be tested, and those of its front, by the search split."""
    if side.alone:
        return [net.space.uniform(side.alone)], []
    uniform = net.space.uniform_modes()
    if side.name in UNIFORM_ALONE:
        return list(uniform), list(uniform)
    if side.name in COMBINED:
        modes = list(net.space.uniform_combinations())
        return modes, _front_of(net, modes, calibration, search)
    found = searched(net, calibration, search, sizes.front_modes, journal).modes
    return list(dict.fromkeys((*uniform, *found))), list(found)


def _front_of(
    net: DynamicNetwork, modes: Sequence[we.Mode], calibration: Any, search: Any
) -> list[we.Mode]:
    """Return the modes that no other is better and cheaper than, on the search split."""
    we.calibrate(net, modes, [images for images, _ in calibration])
    points = [
        Point(mode, we.evaluate(net, mode, search), Reading(net.macs(mode), "MACs"))
        for mode in modes
    ]
    return [point.mode for point in non_dominated(tuple(points))]


if __name__ == "__main__":
    main()
