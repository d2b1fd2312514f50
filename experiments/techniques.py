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
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.page_techniques import page
from experiments.pixels import PixelSplits, load_pixels
from experiments.side_runs import answers_of, modes_to_compare, trained
from experiments.technique_records import records_of
from experiments.technique_sides import SCALES, TECHNIQUES, Scale, Technique
from results.provenance import made_by_command
from results.records import ROOT, records_file, write_page, write_records
from wenable.modules.denormals import flush_denormals


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
                results = records_of(scale, sizes, folder)
                write_records(records_file(out, "techniques"), results)
                write_page(out, "techniques", page(results))
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


if __name__ == "__main__":
    main()
