"""Costs of a space in parts: every mode by the table of its own part, and what is no set of parts."""

import itertools

import pytest

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.space import Knob, Space

SPACE = Space(
    (
        Knob("size", (1, 2, 3), labels=("64", "48", "32"), by_name=True),
        Knob("a", (1, 2, 4)),
        Knob("precision", (1, 4), labels=("32-bit", "8-bit")),
    )
)
MS = {
    (size, bits): 7.0 * size + bits for size, bits in itertools.product((1, 2, 3), (1, 4))
}  # what layer a takes, unlike in every part


def part(size: int, bits: int, unit: str = "ms") -> CostTable:
    rows = {"size": {size: 0.5}, "precision": {bits: 0.25}}
    rows["a"] = {n: MS[size, bits] / n for n in (1, 2, 4)}
    return CostTable(SPACE.fixed({"size": size, "precision": bits}), unit, 1.0, rows, "a board")


def test_every_mode_has_the_cost_that_its_own_part_says():
    costs = CostParts(SPACE, tuple(part(*each) for each in reversed(MS)))
    assert [knob.name for knob in costs.knobs] == ["size", "precision"]
    for options in itertools.product(*(knob.options for knob in SPACE.knobs)):
        size, n, bits = options
        mode = SPACE.mode(dict(zip(SPACE.names, options, strict=True)))
        expected = 1.0 + 0.5 + 0.25 + MS[size, bits] / n
        assert costs.cost(mode) == costs.cost(str(mode)) == costs.reading(mode).known == expected
    assert costs.missing(9) == []
    assert costs.missing_count == 0
    first = costs.costliest_first().tables[0]
    assert dict(first.space.full) == dict(SPACE.full)


def test_what_no_table_tells_is_refused_by_name_and_counted():
    costs = CostParts(SPACE, (part(1, 1), part(3, 4)))
    assert costs.missing_count == 4
    assert costs.missing(2) == ["8-bit", "1,size=48"]
    with pytest.raises(
        ValueError,
        match=r"of mode 8-bit,size=48: none was measured with size=48 and precision=8-bit",
    ):
        costs.cost("8-bit,size=48")


def test_costs_that_are_sums_are_one_table():
    rows = {knob.name: dict.fromkeys(knob.options, 1.0) for knob in SPACE.knobs}
    whole = CostTable(SPACE, "ms", 1.0, rows)
    costs = CostParts(SPACE, (whole,))
    assert costs.knobs == ()
    assert costs.cost("full") == 4.0
    assert costs.to_json() == whole.to_json()


def test_a_table_of_one_mode_is_what_was_measured_and_no_prediction():
    space = SPACE.fixed({"size": 2, "a": 1, "precision": 1})
    rows = {
        name: dict.fromkeys(knob.options, 0.0)
        for name, knob in zip(space.names, space.knobs, strict=True)
    }
    table = CostTable(space, "ms", 3.0, rows, "measured as a whole: onnxruntime 1.0")
    assert table.reading(space.full).source == "measured as a whole: onnxruntime 1.0"
    assert part(1, 1).reading({"size": 1, "a": 2, "precision": 1}).source.startswith("predicted by")


OTHER = Space((Knob("size", (1, 2)), Knob("b", (1, 2))))
OTHERS = CostTable(OTHER, "ms", 0.0, {name: {1: 1.0, 2: 1.0} for name in OTHER.names})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((), "`tables` is empty"),
        ((OTHERS,), "one of another network"),
        ((part(1, 1), part(1, 4, "mJ")), "in ms and in mJ"),
        ((part(1, 1), part(1, 1)), "two for the same option of 'size' and 'precision'"),
        (
            (part(1, 1), part(1, 4).within(SPACE.fixed({"size": 1, "precision": 4, "a": 2}))),
            "one of them holds several options of these",
        ),
    ],
)
def test_what_are_no_parts_of_a_space_is_refused(tables, message: str):
    with pytest.raises(ValueError, match=message):
        CostParts(SPACE, tables)
