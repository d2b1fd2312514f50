"""Fronts that are made up, with names that try to become code among them."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

from wenable.core.outcomes import Outcomes
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Knob, Space

HOSTILE = "</script><script>alert(1)</script><!--\u2028&\"'"


def space(knobs: int = 6, name: str = "layer{}") -> Space:
    return Space(tuple(Knob(name.format(i), (1, 2, 4, 8, 16)) for i in range(knobs)))


def front(of: Space, unit: str = "ms", p99: bool = True, source: str = "wall clock") -> Front:
    """A front of five points: at 1/n the accuracy is 0.95 - n/100, the cost 8/n + 1, p99 1.5x."""
    points = []
    for n in (1, 2, 4, 8, 16):
        accuracy = 0.95 - n / 100
        cost = 8 / n + 1
        points.append(
            Point(
                of.uniform(n),
                Reading(accuracy, "top-1", accuracy - 0.004, accuracy + 0.004, "95 % Wilson", 900),
                Reading(
                    cost, unit, cost * 0.98, cost * 1.03, "quartiles", 120,
                    p99=1.5 * cost if p99 else None, source=source, device="a machine",
                ),
            )
        )  # fmt: skip
    rng = random.Random(3)
    others = [
        Point(of.sample(rng), Reading(0.5 + 0.3 * rng.random(), "top-1"), Reading(4.0, unit))
        for _ in range(20)
    ]
    return Front(
        tuple(points), points[2], (points[0],), 25, 0.5, "latency", "greedy", (*points, *others)
    )


def evaluated(front: Front, of: int = 200) -> Front:
    """The same front with outcomes on both splits: on the test split each mode is 10 points worse.

    The mode at position i of the front is right on all but the first 10 + 3 i images of the search
    split, and on all but the first 30 + 3 i of the test split.
    """

    def outcomes(wrong: int, split: str) -> Outcomes:
        return Outcomes.of([i >= wrong for i in range(of)], split)

    places = {mode: i for i, mode in enumerate(front.modes)}
    found = {mode: outcomes(30 + 3 * i, "test") for mode, i in places.items()}
    tests = {
        mode: Reading(
            each.right / of, "top-1", each.right / of - 0.05, each.right / of + 0.05, "95 % Wilson", of,
            source="evaluated on the test split",
        )
        for mode, each in found.items()
    }  # fmt: skip
    searched = {mode: outcomes(10 + 3 * i, "search") for mode, i in places.items()}
    return front.with_outcomes(searched).with_tests(tests, found)


def verification(mode: str = "1/2") -> dict[str, Any]:
    measured = Reading(4.8, "ms", 4.7, 4.9, "quartiles", 120)
    missing = Reading(None, "ms", reason="the engine refused it")
    return {
        "format": "wenable-verification",
        "version": 1,
        "unit": "ms",
        "engine": "an engine",
        "device": "a machine",
        "modes": [
            {"mode": mode, "predicted": 5.0, "measured": dataclasses.asdict(measured)},
            {"mode": "1/4", "predicted": 3.1, "measured": dataclasses.asdict(missing)},
        ],
        "median_error": 0.042,
        "kendall_tau": 0.91,
    }


def hostile_front() -> Front:
    odd = front(space(2, HOSTILE + "{}"), source=HOSTILE)
    point = odd.points[0]
    noted = Point(
        point.mode,
        dataclasses.replace(point.accuracy, note=HOSTILE, device=HOSTILE, interval=HOSTILE),
        dataclasses.replace(point.cost, note=HOSTILE),
    )
    return dataclasses.replace(odd, points=(noted, *odd.points[1:]))


def write_front(path: Path, values: Front) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values.to_json()))
    return path
