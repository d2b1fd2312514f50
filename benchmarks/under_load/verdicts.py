"""What a page of `benchmarks.under_load` says first: who keeps more, and how far the oracle is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.under_load.policies import CONTROLLER, FIXED

Row = Mapping[str, Any]

WORDS = {
    "elastic": "elastic, groups x image size",
    "widths": "elastic, widths x image size",
    "exits-size": "elastic, early exits x image size",
    "ladder": "ladder of three networks x two image sizes",
    "exits": "network with early exits",
}
ELASTIC = ("elastic", "widths", "exits-size")
PAIRS = (
    ("elastic", "ladder"), ("widths", "ladder"), ("exits-size", "ladder"),
    ("elastic", "exits"), ("widths", "exits"), ("exits-size", "exits"),
    ("elastic", "widths"), ("exits-size", "widths"), ("exits", "ladder"),
)  # fmt: skip
"""Whose controller is held against whose."""


def verdicts(rows: Sequence[Row], parties: Sequence[Row], target: float) -> list[str]:
    """Return a line for each pair of parties, and three for each elastic network.

    - `rows`: of every load, party and policy one, the mean over the runs.
    """
    found = [_beside(rows, *pair) for pair in PAIRS]
    for party in ELASTIC:
        own = [row for row in rows if row["party"] == party]
        if own:
            found += [_of_target(own, target), _beside_fixed(own), _beside_oracle(own)]
    memory = {each["party"]: each["memory_mb"] for each in parties}
    found.append("Memory: " + "; ".join(f"{WORDS[k]} {v:.0f} MiB" for k, v in memory.items()))
    return [f"- {line}." for line in found if line]


def controlled(rows: Sequence[Row], party: str) -> dict[str, Row]:
    """Return load -> the row of a party's controller."""
    chosen = (row for row in rows if row["party"] == party and row["policy"] == CONTROLLER)
    return {row["load"]: row for row in chosen}


def _beside(rows: Sequence[Row], ours: str, theirs: str) -> str:
    mine, other = controlled(rows, ours), controlled(rows, theirs)
    both = [load for load in mine if load in other]
    if not both:
        return ""
    right = [mine[load]["right_in_time"] - other[load]["right_in_time"] for load in both]
    met = [mine[load]["met"] - other[load]["met"] for load in both]
    return (
        f"*{WORDS[ours]}* beside *{WORDS[theirs]}*, over {len(both)} loads: {_points(right)} points of"
        f" images right in time, {_points(met)} points of deadlines kept"
    )


def _of_target(own: Sequence[Row], target: float) -> str:
    party = own[0]["party"]
    met = [row["met"] for row in controlled(own, party).values()]
    kept = sum(each >= target for each in met)
    return (
        f"*{WORDS[party]}*: {100 * target:g} % of the deadlines, the aim, or more were kept under {kept} of"
        f" {len(met)} loads, {100 * min(met):.1f} % at worst{_of_its_modes(own, target)}"
    )


def _of_its_modes(own: Sequence[Row], target: float) -> str:
    """Say under how many loads some mode keeps the aim by itself: of the others no controller can."""
    most: dict[str, float] = {}
    for row in own:
        if row["policy"].startswith(FIXED):
            most[row["load"]] = max(row["met"], most.get(row["load"], 0.0))
    if not most:
        return ""
    return (
        f"; the best of its modes by itself, another one under each load, kept as many under"
        f" {sum(each >= target for each in most.values())}, {100 * min(most.values()):.1f} % at worst"
    )


def _beside_fixed(own: Sequence[Row]) -> str:
    """Compare with the most accurate fixed mode that kept as many deadlines, for each load the best."""
    party, gains = own[0]["party"], []
    by_load = controlled(own, party)
    fixed = [row for row in own if row["policy"].startswith(FIXED)]
    for load, row in by_load.items():
        as_many = [r["accuracy"] for r in fixed if r["load"] == load and r["met"] >= row["met"]]
        if as_many:
            gains.append(row["accuracy"] - max(as_many))
    if not fixed:
        return ""
    if not gains:
        return f"*{WORDS[party]}*: none of its fixed modes kept as many deadlines as the controller"
    return (
        f"*{WORDS[party]}*: under {len(gains)} of {len(by_load)} loads a fixed mode kept as many deadlines"
        f" as the controller, which has {_points(gains)} points of accuracy beside the best of these"
    )


def _beside_oracle(own: Sequence[Row]) -> str:
    party = own[0]["party"]
    below = [row["by_modes"] - row["oracle"] for row in controlled(own, party).values()]
    return (
        f"*{WORDS[party]}*: beside an oracle that is late as often, the controller has {_points(below)}"
        " points of accuracy"
    )


def _points(values: Sequence[float]) -> str:
    """Return the least, the most and the mean, in points."""
    least, most, mean = (100 * each for each in (min(values), max(values), np.mean(values)))
    return f"{least:+.1f} to {most:+.1f} (mean {mean:+.1f})"
