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
    EXITS_JOINT,
    FOUND,
    JOINT,
    JOINT_POOLED,
    MAIN,
    PAPER,
    POOLED,
    SCALES,
    SLIM_JOINT,
    SLIM_POOLED,
    UNIFORM_ALONE,
    US_JOINT,
    US_NET,
    US_NET_FOUND,
    US_NET_TAUGHT,
    Scale,
    alone_sides,
    sides_of,
)
from results.records import read_records, records_file

PAIRS = (
    (POOLED, SLIM_POOLED), (POOLED, US_NET_FOUND), (POOLED, FOUND), (SLIM_POOLED, US_NET_FOUND),
    (JOINT_POOLED, SLIM_JOINT), (JOINT_POOLED, US_NET_FOUND), (SLIM_JOINT, US_NET_FOUND),
    (JOINT_POOLED, POOLED), (JOINT_POOLED, US_JOINT), (SLIM_JOINT, US_JOINT), (EXITS_JOINT, US_JOINT),
    (EXITS_JOINT, SLIM_JOINT),
    (FOUND, US_NET_FOUND), (PAPER, US_NET), (FOUND, US_NET),
    (FOUND, US_NET_TAUGHT), (JOINT, US_NET), (JOINT, US_JOINT), (FOUND, PAPER), (US_NET_FOUND, US_NET),
)  # fmt: skip
"""Whose front is held against whose."""
Part = tuple[str, int]
"""A side's name and a seed."""


def parts_of(sizes: Scale) -> list[Part]:
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


def modes_of(folder: Path, name: str, seed: int) -> list[str]:
    """Return the modes of a side that is finished: the uniform ones, and those of its front."""
    with np.load(answers_file(folder, name, seed)) as answers:
        return json.loads(str(answers["header"]))["modes"]


def latencies_file(folder: Path, name: str, seed: int) -> Path:
    """Return where it is kept how long a side's modes take; see `experiments.worth_latency`."""
    return folder / f"{Side(name, ()).file_name}-{seed}.latency.json"


def records_of(scale: str, sizes: Scale, folder: Path) -> dict[str, Any]:
    """Return the records of all that is finished, and what is missing."""
    found, timed = {}, {}
    for name, seed in parts_of(sizes):
        path = answers_file(folder, name, seed)
        if path.is_file():
            with np.load(path) as file:
                found[name, seed] = json.loads(str(file["header"])), file["right"]
        path = latencies_file(folder, name, seed)
        if path.is_file():
            timed[name, seed] = json.loads(path.read_text(encoding="utf-8"))
    made = next(iter(found.values()))[0]["made"]
    return {
        **made, "scale": scale, "network": sizes.network, "image_size": sizes.image_size,
        "budget": sizes.spending.epochs,
        "missing": [f"{n}, seed {s}" for n, s in parts_of(sizes) if (n, s) not in found],
        "timed": list({json.dumps(each["made"]): each["made"] for each in timed.values()}.values()),
        "runs": [
            _run(part, header, right, _modes_of(timed.get(part)))
            for part, (header, right) in found.items()
        ],
        "pairs": _pairs(sizes, found, timed),
    }  # fmt: skip


def all_scales(out: Path) -> list[dict[str, Any]]:
    """Return the records of every scale that was run."""
    paths = {name: records_file(out, f"worth-{name}") for name in SCALES}
    return [read_records(path) for path in paths.values() if path.is_file()]


def _modes_of(timed: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return by mode what was timed of a side: nothing if it was not."""
    return timed["modes"] if timed else {}


def _run(
    part: Part, header: Mapping[str, Any], right: Any, timed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of one side and seed: its training, and the accuracy and cost of its modes."""
    keys = ("epochs", "full_passes", "training_s", "uniform", "macs")
    return {
        "side": part[0], "seed": part[1], **{key: header[key] for key in keys},
        "steps": header["identity"]["steps"], "images": right.shape[1], "front": header["front"],
        "made": header["made"],
        "modes": [
            {"mode": mode, "cost": cost, "accuracy": float(row.mean()), **timed.get(mode, {})}
            for mode, cost, row in zip(header["modes"], header["costs"], right, strict=True)
        ],
    }  # fmt: skip


def _pairs(
    sizes: Scale, found: Mapping[Part, Any], timed: Mapping[Part, Any]
) -> list[dict[str, Any]]:
    """Return every pair of fronts that is there; at equal ms too, if both were timed in one run."""
    rows = []
    for ours, theirs in PAIRS:
        for seed in sizes.seeds:
            parts = [(name, seed) for name in (ours, theirs)]
            if not all(part in found for part in parts):
                continue
            fronts = [_front(part[0], *found[part]) for part in parts]
            row = {"ours": ours, "theirs": theirs, "seed": seed, **beside(*fronts)}
            if all(part in timed for part in parts) and _in_one_run(*(timed[p] for p in parts)):
                in_ms = [
                    by_latency(front, {mode: each["latency_ms"] for mode, each in modes.items()})
                    for front, modes in zip(fronts, (timed[p]["modes"] for p in parts), strict=True)
                ]
                row["at_equal_ms"] = beside(*in_ms)
            rows.append(row)
    return rows


def _in_one_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["made"] == other["made"]


def by_latency(front: SideFront, latency_ms: Mapping[str, float]) -> SideFront:
    """Return a front with its modes' latencies as costs, the fastest first.

    A mode that is no faster than one further up the front is left out: nobody would run it. The order of
    the front is that of the search, so no test image decides what stays.
    """
    kept: list[int] = []
    for place in reversed(range(len(front.modes))):
        if not kept or latency_ms[front.modes[place]] < latency_ms[front.modes[kept[-1]]]:
            kept.append(place)
    kept.reverse()
    modes = tuple(front.modes[place] for place in kept)
    return SideFront(modes, np.asarray([latency_ms[mode] for mode in modes]), front.right[kept])


def _front(side: str, header: Mapping[str, Any], right: Any) -> SideFront:
    """Return the modes of a side's front on the search split, the cheapest first.

    Of a side that trains the uniform modes alone these are returned.
    """
    places = [header["modes"].index(mode) for mode in header["front"]]
    if side in UNIFORM_ALONE:
        places = [*range(header["uniform"])]
    places = sorted(places, key=lambda place: header["costs"][place])
    return SideFront(
        tuple(header["modes"][place] for place in places),
        np.asarray([header["costs"][place] for place in places]),
        right[places],
    )
