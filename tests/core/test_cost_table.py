"""Costs that are sums: against the sum itself, and against the MACs of a network."""

import math
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.networks import converted
from wenable.core.cost_table import CostTable, tabulated
from wenable.core.space import Knob, Space

SPACE = Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2))))
COSTS = {"a": {1: 4.0, 2: 3.0, 4: 3.5}, "b": {1: 2.0, 2: 1.0}}


def table(**changes: Any) -> CostTable:
    return CostTable(**{"space": SPACE, "unit": "ms", "rest": 0.5, "costs": COSTS} | changes)


def test_a_mode_costs_the_rest_and_one_entry_for_each_knob():
    assert table().cost({"a": 4, "b": 2}) == 0.5 + 3.5 + 1.0


def test_options_that_are_slower_than_a_coarser_one_are_left_out():
    assert table().without_slower_options() == {"a": (1, 2), "b": (1, 2)}


@given(st.lists(st.floats(0, 1e6), min_size=5, max_size=5), st.floats(0, 1e6))
def test_a_sum_comes_back_from_its_values_alone(entries, rest):
    costs = {
        "a": dict(zip((1, 2, 4), entries[:3], strict=True)),
        "b": dict(zip((1, 2), entries[3:], strict=True)),
    }
    original = table(costs=costs, rest=rest)
    found = tabulated(SPACE, original.cost, "ms")
    for a in (1, 2, 4):
        for b in (1, 2):
            mode = {"a": a, "b": b}
            assert math.isclose(found.cost(mode), original.cost(mode), rel_tol=1e-9, abs_tol=1e-6)


def test_the_macs_of_a_network_are_such_a_sum():
    net = converted()
    found = tabulated(net.space, net.macs, "MACs")
    for seed in range(20):
        mode = net.space.sample(random.Random(seed))
        assert found.cost(mode) == pytest.approx(net.macs(mode), rel=1e-9)


def test_what_is_no_sum_is_refused():
    with pytest.raises(ValueError, match="no sum over knobs"):
        tabulated(SPACE, lambda mode: 10 - mode["a"] * mode["b"], "ms")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rest": math.nan}, "`rest` (=nan) must be a finite number"),
        ({"costs": {"a": COSTS["a"]}}, "lacks 'b'"),
        ({"costs": COSTS | {"c": {1: 1.0}}}, "unknown knob 'c'"),
        ({"costs": COSTS | {"b": {1: 2.0}}}, "options [1] of 'b'; the knob has [1, 2]"),
        ({"costs": COSTS | {"b": {1: 2.0, 2: -1.0}}}, "'b' in option 2 (=-1.0)"),
        ({"costs": COSTS | {"b": {1: 2.0, 2: math.nan}}}, "'b' in option 2 (=nan)"),
        ({"costs": COSTS | {"b": {1: 2.0, 2: True}}}, "'b' in option 2 (=True)"),
    ],
)
def test_holes_and_figures_that_are_none_are_refused(changes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        table(**changes)


def test_its_json_reads_back():
    assert CostTable.from_json(table().to_json()) == table()


@pytest.mark.parametrize("damage", ["format", "version", "space", "costs", "rest"])
def test_json_that_is_damaged_is_refused(damage):
    values = table().to_json()
    del values[damage]
    with pytest.raises(ValueError, match=r"cost table"):
        CostTable.from_json(values)
