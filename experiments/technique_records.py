"""From what the modes of every technique have right to records: accuracies and paired differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.paired import paired_difference
from experiments.technique_sides import TECHNIQUES, Scale, Technique
from wenable.network.evaluation import wilson_interval

Answers = dict[tuple[str, int], tuple[dict[str, Any], NDArray[np.bool_]]]
"""Technique and seed -> what is known of its run, and which images each of its modes has right."""


def records_of(scale: str, sizes: Scale, folder: Path) -> dict[str, Any]:
    """Return the records of all that is finished."""
    found: Answers = {}
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


def _compared(technique: Technique, found: Answers) -> dict[str, Any] | None:
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
