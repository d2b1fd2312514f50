"""Readings and fronts: a missing figure is absent with its reason, and JSON gives back the same."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenable.core.readings import Front, Point, Reading, non_dominated
from wenable.core.space import Knob, Space

SPACE = Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2, 4))))


def point(accuracy: float, cost: float, text: str = "1") -> Point:
    return Point(SPACE.mode(text), Reading(accuracy, "top-1"), Reading(cost, "MACs"))


def test_a_figure_that_is_missing_is_not_zero():
    reading = Reading(None, "mJ", reason="no energy meter")
    assert reading.value is None
    assert str(reading) == "not measured (no energy meter)"
    with pytest.raises(ValueError, match="there is no reading in mJ: no energy meter"):
        _ = reading.known
    with pytest.raises(ValueError, match="needs its `reason`"):
        Reading(None, "mJ")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_figures_are_finite(bad: float):
    for field in ("value", "low", "high", "p90"):
        with pytest.raises(ValueError, match=f"`{field}`"):
            Reading(**{"value": 1.0, "unit": "ms", field: bad})


@pytest.mark.parametrize(
    ("words", "modelled"),
    [
        ({"source": "modelled from MACs"}, True),
        ({"source": "predicted by a table: Modelled from a data sheet"}, True),
        ({"source": "wall meter (system, measured)", "note": "trace mobilenet-model.csv"}, False),
        ({"source": "wall clock", "note": "the remodelled board"}, False),
        ({"source": "meter Model 8 (system, measured)", "device": "a board, Model B"}, False),
    ],
)
def test_a_modelled_figure_is_told_by_its_source_and_not_by_names_in_it(words, modelled):
    assert Reading(1.0, "mJ", **words).is_modelled == modelled


figures = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(st.lists(figures, min_size=1, max_size=12))
def test_the_front_is_what_no_other_point_beats(pairs: list[tuple[int, int]]):
    points = tuple(point(accuracy, cost) for accuracy, cost in pairs)
    kept = {(p.accuracy.known, p.cost.known) for p in non_dominated(points)}
    expected = {
        (a, c)
        for a, c in pairs
        if not any(x >= a and y <= c and (x > a or y < c) for x, y in pairs)
    }
    assert kept == expected
    assert len(non_dominated(points)) == len(expected)
    costs = [p.cost.known for p in non_dominated(points)]
    assert costs == sorted(costs, reverse=True)


def front() -> Front:
    points = (point(0.9, 10), point(0.8, 5, "1/2"), point(0.7, 2, "1/4,a=1"))
    return Front(points, points[-1], points, 7, 0.65, "macs", "greedy")


def test_a_front_is_a_sequence_and_survives_json():
    found = front()
    assert Front.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert len(found) == 3
    assert found[1].mode == found.modes[1] == SPACE.mode("1/2")
    assert [p.cost.known for p in found] == [10, 5, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not the JSON form of a front"),
        ({"version": 2}, "has version 2; this reads 1"),
        ({"points": [{}]}, "not the JSON form of a front"),
        ({"space": {}}, "not the JSON form of a space"),
    ],
)
def test_a_front_that_was_damaged_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Front.from_json({**front().to_json(), **change})


@pytest.mark.parametrize(
    ("key", "value"),
    [("chosen", None), ("points", [None]), ("evaluations", float("inf")), ("path", 3)],
)
def test_what_is_no_front_is_refused_by_that(key: str, value: object):
    values = json.loads(json.dumps(front().to_json())) | {key: value}
    with pytest.raises(ValueError, match="not the JSON form of a front"):
        Front.from_json(values)


def test_a_front_keeps_what_tells_its_weights():
    known = replace(front(), weights=1234)
    assert Front.from_json(json.loads(json.dumps(known.to_json()))).weights == 1234
    older = {key: value for key, value in front().to_json().items() if key != "weights"}
    assert Front.from_json(older).weights is None
