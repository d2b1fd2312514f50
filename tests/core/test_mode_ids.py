"""Short names of modes: in the order of a front, stable through its file, and read by one function."""

import json

import pytest

from wenable.core.mode_ids import is_id, numbered, resolve
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Knob, Space

SPACE = Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2, 4))))
MODES = [SPACE.mode(text) for text in ("1", "1,1/2", "1/2", "1/4")]


def front(modes=MODES, chosen: int = -1) -> Front:
    points = tuple(
        Point(mode, Reading(0.9 - 0.1 * i, "top-1"), Reading(9.0 - i, "ms"))
        for i, mode in enumerate(modes)
    )
    return Front(points[:3], points[chosen], points, 4, 0.1, "latency", "greedy")


def test_names_follow_the_order_and_are_as_long_as_each_other():
    assert list(numbered(MODES)) == ["m01", "m02", "m03", "m04"]
    many = Space(tuple(Knob(str(i), (1, 2)) for i in range(7)))
    names = numbered(many.full.replace({"0": 1 + i % 2}) for i in range(100))
    assert [*names][0::99] == ["m001", "m100"]


def test_the_modes_of_a_front_keep_their_names_in_its_file():
    found = front()
    assert found.ids == dict(zip(("m01", "m02", "m03", "m04"), MODES, strict=True))
    values = json.loads(json.dumps(found.to_json()))
    assert [point["id"] for point in values["points"]] == ["m01", "m02", "m03"]
    assert values["chosen"]["id"] == "m04"
    assert Front.from_json(values).ids == found.ids
    assert front(chosen=1).to_json()["chosen"]["id"] == "m02"


@pytest.mark.parametrize(
    ("typed", "mode"),
    [("m02", "1,1/2"), ("m2", "1,1/2"), (" m0002 ", "1,1/2"), ("1/4", "1/4"), ("full", "1")],
)
def test_a_name_or_a_text_names_a_mode(typed: str, mode: str):
    assert resolve(typed, SPACE, front().ids, "front.json") == SPACE.mode(mode)


def test_modes_and_dicts_pass_through():
    assert resolve(MODES[2], SPACE, {}) == MODES[2]
    assert resolve({"a": 1, "b": 4}, SPACE, {}) == SPACE.mode("1,1/4")


def test_a_label_that_looks_like_a_name_is_the_label():
    labelled = Space((Knob("size", (1, 2), labels=("m1", "m2")),))
    assert resolve("m2", labelled, numbered([labelled.full])) == labelled.smallest


def test_a_name_that_stands_for_nothing_is_refused_with_what_there_is():
    with pytest.raises(
        ValueError, match=r"`mode` \(='m5'\) is no mode of f.json; it has m01, m02, ... m04"
    ):
        resolve("m5", SPACE, front().ids, "f.json")
    with pytest.raises(
        ValueError, match="is the short name of a mode in a front or bundle; give --front"
    ):
        resolve("m1", SPACE, {}, "give --front")
    with pytest.raises(ValueError, match="which is no option"):
        resolve("m0", SPACE, front().ids)
    assert not is_id("m")
