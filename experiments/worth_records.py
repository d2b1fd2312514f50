"""From what the modes of every side have right to records: fronts beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.fronts_of_sides import SideFront, beside
from experiments.sides import Side
from experiments.worth_sides import (
    FOUND,
    JOINT,
    MAIN,
    PAPER,
    SCALES,
    US_JOINT,
    US_NET,
    US_NET_TAUGHT,
    Scale,
    alone_sides,
    sides_of,
)
from results.records import read_records, records_file

PAIRS = (
    (PAPER, US_NET), (FOUND, US_NET), (FOUND, US_NET_TAUGHT), (JOINT, US_NET), (JOINT, US_JOINT),
    (FOUND, PAPER),
)  # fmt: skip
"""Whose front is held against whose."""


def parts_of(sizes: Scale) -> list[tuple[str, int]]:
    """Return the sides and seeds of a scale, the most valuable first: one seed of all, then the others."""
    first = [side.name for side in sides_of(sizes)]
    full, *others = [side.name for side in alone_sides(sizes)]
    main, rest = [n for n in first if n in MAIN], [n for n in first if n not in MAIN]
    one = sizes.seeds[0]
    ordered = [(name, one) for name in (*main, full, *rest, *others)]
    return ordered + [(name, seed) for seed in sizes.seeds[1:] for name in main]


def answers_file(folder: Path, name: str, seed: int) -> Path:
    """Return where it is kept what a side's modes have right."""
    return folder / f"{Side(name, ()).file_name}-{seed}.answers.npz"


def records_of(scale: str, sizes: Scale, folder: Path) -> dict[str, Any]:
    """Return the records of all that is finished, and what is missing."""
    found = {}
    for name, seed in parts_of(sizes):
        path = answers_file(folder, name, seed)
        if path.is_file():
            with np.load(path) as file:
                found[name, seed] = json.loads(str(file["header"])), file["right"]
    made = next(iter(found.values()))[0]["made"]
    return {
        **made, "scale": scale, "network": sizes.network, "image_size": sizes.image_size,
        "budget": sizes.spending.epochs,
        "missing": [f"{n}, seed {s}" for n, s in parts_of(sizes) if (n, s) not in found],
        "runs": [_run(name, seed, *each) for (name, seed), each in found.items()],
        "pairs": _pairs(sizes, found),
    }  # fmt: skip


def all_scales(out: Path) -> list[dict[str, Any]]:
    """Return the records of every scale that was run."""
    paths = {name: records_file(out, f"worth-{name}") for name in SCALES}
    return [read_records(path) for path in paths.values() if path.is_file()]


def _run(name: str, seed: int, header: Mapping[str, Any], right: Any) -> dict[str, Any]:
    """Return the record of one side and seed: its training, and the accuracy and cost of its modes."""
    keys = ("epochs", "full_passes", "training_s", "uniform", "macs")
    return {
        "side": name, "seed": seed, **{key: header[key] for key in keys},
        "steps": header["identity"]["steps"], "images": right.shape[1],
        "commit": header["made"]["commit"],
        "modes": [
            {"mode": mode, "cost": cost, "accuracy": float(row.mean())}
            for mode, cost, row in zip(header["modes"], header["costs"], right, strict=True)
        ],
    }  # fmt: skip


def _pairs(sizes: Scale, found: Mapping[tuple[str, int], Any]) -> list[dict[str, Any]]:
    """Return every pair of fronts that is there."""
    rows = []
    for ours, theirs in PAIRS:
        for seed in sizes.seeds:
            if (ours, seed) in found and (theirs, seed) in found:
                fronts = [_front(*found[name, seed]) for name in (ours, theirs)]
                rows.append({"ours": ours, "theirs": theirs, "seed": seed, **beside(*fronts)})
    return rows


def _front(header: Mapping[str, Any], right: Any) -> SideFront:
    """Return the modes that the search found, the cheapest first."""
    places = range(header["uniform"], len(header["modes"]))
    places = [*places] or [*range(len(header["modes"]))]
    places = sorted(places, key=lambda place: header["costs"][place])
    return SideFront(
        tuple(header["modes"][place] for place in places),
        np.asarray([header["costs"][place] for place in places]),
        right[places],
    )
