"""What a page of `benchmarks.under_load` says first: who keeps more, and how far the oracle is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.under_load.policies import CASCADE, CONTROLLER, FIXED

Row = Mapping[str, Any]

WORDS = {
    "elastic": "elastic, groups x image size",
    "widths": "elastic, widths x image size",
    "exits-size": "elastic, early exits x image size",
    "ladder": "ladder of three networks x two image sizes",
    "exits": "network with early exits",
    "static": "two small networks, each trained alone",
}
ELASTIC = ("elastic", "widths", "exits-size")
PAIRS = (
    ("exits", "ladder"), ("exits-size", "ladder"), ("widths", "ladder"), ("elastic", "ladder"),
    ("exits-size", "exits"), ("widths", "exits"), ("elastic", "exits"), ("exits-size", "widths"),
    ("elastic", "widths"),
)  # fmt: skip
"""Whose controller is held against whose."""


def verdicts(rows: Sequence[Row], parties: Sequence[Row], target: float) -> list[str]:
    """Return a line for each pair of parties, and some for each that a controller and fixed modes ran of.

    - `rows`: of every load, party and policy one, the mean over the runs.
    """
    found = [_beside(rows, *pair) for pair in PAIRS]
    for party in WORDS:
        own = [row for row in rows if row["party"] == party]
        fixed = [row for row in own if row["policy"].startswith(FIXED)]
        if controlled(own, party):
            static = [row for row in rows if row["party"] == "static"]
            found += [
                _of_target(own, target), _beside_fixed(own, fixed), _beside_static(own, static),
                _by_confidence(own), _beside_oracle(own),
            ]  # fmt: skip
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
    """Say under how many loads one of the modes that were run by themselves keeps the aim."""
    most: dict[str, float] = {}
    fixed = [row for row in own if row["policy"].startswith(FIXED)]
    for row in fixed:
        most[row["load"]] = max(row["met"], most.get(row["load"], 0.0))
    if not most:
        return ""
    count, kept = len({row["policy"] for row in fixed}), [each >= target for each in most.values()]
    return (
        f"; of its {count} modes that were run by themselves the best one under each load kept as many"
        f" under {sum(kept)} of {len(kept)}, {100 * min(most.values()):.1f} % at worst"
    )


def _beside_fixed(own: Sequence[Row], fixed: Sequence[Row]) -> str:
    """Compare with fixed modes, by images right in time: the best under each load, and over all loads."""
    by_load = controlled(own, own[0]["party"])
    best = [
        max((r["right_in_time"] for r in fixed if r["load"] == load), default=None)
        for load in by_load
    ]
    if None in best:
        return ""
    gains = [row["right_in_time"] - most for row, most in zip(by_load.values(), best, strict=True)]
    return (
        f"*{WORDS[own[0]['party']]}*: the controller has {_points(gains)} points of images right in time"
        f" beside the best of the fixed modes that were run under each load{_one_of(own, fixed)}"
    )


def _one_of(own: Sequence[Row], fixed: Sequence[Row]) -> str:
    """Compare with the one fixed mode that is best in the mean over all loads."""
    by_load = controlled(own, own[0]["party"])
    loads = Counter(row["policy"] for row in fixed)
    policies = [policy for policy, count in loads.items() if count == len(by_load)]
    if not policies:
        return ""
    means = {
        policy: _gains(by_load, [r for r in fixed if r["policy"] == policy]) for policy in policies
    }
    policy = min(means, key=lambda each: (float(np.mean(means[each])), each))
    return f", and {_points(means[policy])} beside `{policy}`, the best of them in the mean over all loads"


def _beside_static(own: Sequence[Row], static: Sequence[Row]) -> str:
    """Compare with each static network, which no controller chooses among."""
    by_load = controlled(own, own[0]["party"])
    beside = [
        f"{_points(_gains(by_load, [r for r in static if r['policy'] == policy]))} beside the static"
        f" `{policy.removeprefix(FIXED)}`"
        for policy in dict.fromkeys(row["policy"] for row in static)
    ]
    if not beside:
        return ""
    return (
        f"*{WORDS[own[0]['party']]}*: the controller has, in points of images right in time,"
        f" {' and '.join(beside)}"
    )


def _by_confidence(own: Sequence[Row]) -> str:
    """Compare a cascade by confidence with the controller of the same party."""
    cascade = [row for row in own if row["policy"] == CASCADE]
    if not cascade:
        return ""
    by_load = controlled(own, own[0]["party"])
    gains = [row["right_in_time"] - by_load[row["load"]]["right_in_time"] for row in cascade]
    return (
        f"*{WORDS[own[0]['party']]}*: run by confidence it has {_points(gains)} points of images right in"
        " time beside its controller"
    )


def _gains(by_load: Mapping[str, Row], fixed: Sequence[Row]) -> list[float]:
    return [
        by_load[r["load"]]["right_in_time"] - r["right_in_time"]
        for r in fixed
        if r["load"] in by_load
    ]


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
