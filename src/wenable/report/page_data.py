"""What the page of a report shows, as plain values: fronts and predictions, checked to fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from wenable.core.accuracy_comparison import compare_accuracies
from wenable.core.readings import Front, Point, Reading
from wenable.report.figures import (
    TEST,
    common_split,
    merit_name,
    shown_accuracy,
    shown_name,
    split_of,
)

# unit -> (factor, unit shown, decimals); other units are shown as they are, with three digits
_SHOWN = {"MACs": (1e-6, "M MACs", 2), "top-1": (100.0, "%", 1)}
_NAMES = {
    "macs": "multiply-accumulates",
    "bit_operations": "bit operations",
    "latency": "latency",
    "energy": "energy",
}


def shown_unit(unit: str) -> dict[str, Any]:
    """Return how figures in `unit` are shown: factor, unit, and decimals (None: three digits).

    >>> shown_unit("top-1"), shown_unit("ms")["shown"]
    ({'unit': 'top-1', 'scale': 100.0, 'shown': '%', 'decimals': 1}, 'ms')
    """
    scale, shown, decimals = _SHOWN.get(unit, (1.0, unit, None))
    return {"unit": unit, "scale": scale, "shown": shown, "decimals": decimals}


def cost_name(cost: str) -> str:
    """Return a front's cost as a reader says it: `macs` as `multiply-accumulates`."""
    return _NAMES.get(cost, cost)


def page_data(
    series: Mapping[str, Front], title: str, predictions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the values that the page is drawn from.

    - `series`: name -> front. Their networks may differ; the units of their figures may not.
    - `predictions`: the JSON forms of verifications, predicted costs beside measured ones.

    Raises `ValueError` where there is no front, units differ, or a verification is malformed.
    """
    if not series:
        raise ValueError("`series` is empty; a report needs at least one front")
    accuracy, cost = _only_unit(series, "accuracy"), _only_unit(series, "cost")
    costs = dict.fromkeys(cost_name(front.cost) for front in series.values())
    return {
        "title": title,
        "accuracy": {
            **shown_unit(accuracy),
            "name": accuracy_name(series),
            "merit": merit_name(accuracy),
        },
        "cost": {**shown_unit(cost), "name": " or ".join(costs)},
        "series": [
            _series(shown_name(name, front, series), front) for name, front in series.items()
        ],
        "predictions": [_verification(values) for values in predictions],
    }


def accuracy_name(series: Mapping[str, Front]) -> str:
    """Return what the accuracies shown are called, with the split they are on if it is one for all.

    >>> from wenable.core.space import Knob, Space
    >>> point = Point(Space((Knob("a", (1, 2)),)).full, Reading(0.9, "top-1"), Reading(3.0, "ms"))
    >>> accuracy_name({"a": Front((point,), point, (point,), 1, 0.5, "latency", "greedy")})
    'top-1 accuracy, search split, chosen on it'
    """
    split = common_split(series.values())
    merit = merit_name(_only_unit(series, "accuracy"))
    return f"{merit}{f', {split}' if split else ''}"


def table_points(front: Front) -> tuple[Point, ...]:
    """Return the points of a front and the chosen one, from the least to the most costly."""
    return tuple(sorted(front.found, key=_cost_or_infinity))


def _only_unit(series: Mapping[str, Front], figure: str) -> str:
    found: dict[str, str] = {}
    for name, front in series.items():
        for point in (*front.points, *front.explored, front.chosen):
            found.setdefault(getattr(point, figure).unit, name)
    if len(found) > 1:
        listed = ", ".join(f"{name!r} in {unit}" for unit, name in found.items())
        raise ValueError(
            f"`series` mixes units of {figure}: {listed}; allowed: one unit in one report"
        )
    return next(iter(found))


def _series(name: str, front: Front) -> dict[str, Any]:
    kept = set(front.modes) | {front.chosen.mode}
    return {
        "name": name,
        "strategy": front.strategy,
        "tested": split_of(front) == TEST,
        "cost": cost_name(front.cost),
        "threshold": front.min_accuracy,
        "evaluations": front.evaluations,
        "knobs": list(front.chosen.mode.space.names),
        "finest": max(front.chosen.mode.space.uniform_options),
        "labelled": any(knob.labels for knob in front.chosen.mode.space.knobs),
        "points": [_point(point, front) for point in table_points(front)],
        "explored": [_point(point, front) for point in _others(front, kept)],
    }


def _others(front: Front, kept: set[Any]) -> list[Point]:
    """Return what was explored and is not on the front; each mode once, the last reading."""
    last = {point.mode: point for point in front.explored if point.mode not in kept}
    return sorted(last.values(), key=_cost_or_infinity)


def _cost_or_infinity(point: Point) -> float:
    return math.inf if point.cost.value is None else point.cost.value


def _point(point: Point, front: Front) -> dict[str, Any]:
    return {
        "id": next((name for name, mode in front.ids.items() if mode == point.mode), ""),
        "next": _next_costlier(point, front),
        "mode": str(point.mode),
        "options": list(point.mode.options),
        "texts": [
            knob.text(option)
            for knob, option in zip(point.mode.space.knobs, point.mode.options, strict=True)
        ],
        "front": point.mode in front.modes,
        "chosen": point.mode == front.chosen.mode,
        "accuracy": _reading(shown_accuracy(point, split_of(front))),
        "search": _reading(point.accuracy),
        "cost": _reading(point.cost),
    }


def _next_costlier(point: Point, front: Front) -> dict[str, Any] | None:
    """Return how the accuracy compares with that of the next costlier mode of the front."""
    for costlier, cheaper in pairwise(front.points):
        if cheaper.mode == point.mode:
            found = compare_accuracies(costlier, cheaper)
            return {"alike": found.told_apart is False, "how": str(found)}
    return None


def _reading(reading: Reading) -> dict[str, Any]:
    return {**asdict(reading), "modelled": reading.is_modelled}


def _verification(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verification checked and with shown units; raises `ValueError` where it is none."""
    if not isinstance(values, Mapping) or values.get("format") != "wenable-verification":
        raise ValueError("`predictions` is not the JSON form of a verification")
    if values.get("version") != 1:
        raise ValueError(
            f"the verification has version {values.get('version')!r}; this reads version 1"
        )
    try:
        modes = [_predicted(each) for each in values["modes"]]
        words = {key: str(values.get(key, "")) for key in ("engine", "device")}
        quality = {key: _figure(values.get(key)) for key in ("median_error", "kendall_tau")}
        return {**shown_unit(str(values["unit"])), **words, **quality, "modes": modes}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"`predictions` is not the JSON form of a verification: {error!r}"
        ) from error


def _predicted(values: Mapping[str, Any]) -> dict[str, Any]:
    predicted = _figure(values["predicted"])
    if predicted is None:
        raise ValueError(f"`predicted` of mode {values['mode']!r} is missing")
    measured = _reading(Reading(**values["measured"]))
    return {"mode": str(values["mode"]), "predicted": predicted, "measured": measured}


def _figure(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a verification holds {value!r} where a finite number has to stand")
    return float(value)
