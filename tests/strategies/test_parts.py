"""The parts in which all costs of a search are sums: beside all modes of the space, one by one."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.space import Knob, Mode, Space
from wenable.strategies.constraints import Constraint, check_constraints
from wenable.strategies.parts import knobs_of_parts, parts_within

SPACE = Space(
    (
        Knob("size", (1, 2), labels=("64", "48"), by_name=True),
        Knob("precision", (1, 4), labels=("float32", "8-bit"), by_name=True),
        *(Knob(name, (1, 2, 4)) for name in "ab"),
    )
)


def every_mode() -> list[Mode]:
    rows = itertools.product(*(knob.options for knob in SPACE.knobs))
    return [SPACE.mode(dict(zip(SPACE.names, row, strict=True))) for row in rows]


def costs(rng: random.Random, *outer: str, unit: str = "ms") -> CostParts:
    """Made-up costs that are sums only if the outer knobs have one option each."""
    rows = [SPACE.knobs[SPACE.position(name)].options for name in outer]
    tables = []
    for options in itertools.product(*rows):
        part = SPACE.fixed(dict(zip(outer, options, strict=True)))
        table = {
            knob.name: {n: 0.0 if knob.name in outer else rng.uniform(1, 3) for n in knob.options}
            for knob in part.knobs
        }
        tables.append(CostTable(part, unit, rng.uniform(0, 2), table))
    return CostParts(SPACE, tuple(tables))


OUTER = st.sampled_from([(), ("size",), ("precision",), ("size", "precision")])


@given(st.integers(0, 10**6), OUTER, OUTER, OUTER, st.floats(0.2, 0.9), st.floats(0.2, 0.9))
@settings(max_examples=40)
def test_a_part_is_kept_if_and_only_if_one_of_its_modes_keeps_all(
    seed, searched, one, two, share, other
):
    rng = random.Random(seed)
    by = costs(rng, *searched)
    tables = [costs(rng, *one, unit="KiB"), costs(rng, *two, unit="mJ")]
    constraints = []
    for table, where in zip(tables, (share, other), strict=True):
        found = sorted(table.cost(mode) for mode in every_mode())
        constraints.append(Constraint(table, found[int(where * (len(found) - 1))]))
    keeping = [mode for mode in every_mode() if all(each.allows(mode) for each in constraints)]
    if not keeping:
        with pytest.raises(ValueError, match=r"`constraints\[1\]` .* together with those before"):
            parts_within(by, constraints)
        return
    parts = parts_within(by, constraints)
    names = [knob.name for knob in knobs_of_parts(by, constraints)]
    assert names == [name for name in SPACE.names if name in {*searched, *one, *two}]
    assert {tuple(part.kept[name] for name in names) for part in parts} == {
        tuple(mode[name] for name in names) for mode in keeping
    }
    for part in parts:
        assert all(each.allows(SPACE.mode(dict(part.kept))) for each in constraints)
        for mode in every_mode():
            if all(mode[knob.name] in knob.options for knob in part.table.space.knobs):
                assert part.table.cost(dict(mode)) == pytest.approx(by.cost(mode))
                for own, whole in zip(part.constraints, constraints, strict=True):
                    assert own.allows(dict(mode)) == whole.allows(mode)


def test_the_least_that_is_possible_is_that_of_all_parts():
    rng = random.Random(3)
    table = costs(rng, "size", "precision")
    least = min(table.cost(mode) for mode in every_mode())
    with pytest.raises(ValueError, match=f"the least that a mode costs is {least:g} ms"):
        parts_within(costs(rng, "size"), [Constraint(table, 0.9 * least)])


def test_a_constraint_needs_the_costs_of_all_parts_and_of_this_space():
    rng = random.Random(4)
    by = costs(rng, "size")
    with pytest.raises(ValueError, match=r"`table` has no cost of 1,size=48; a constraint needs"):
        Constraint(CostParts(SPACE, by.tables[:1]), 3.0)
    other = Space((Knob("c", (1, 2)),))
    strange = Constraint(CostTable(other, "ms", 0.0, {"c": {1: 1.0, 2: 0.5}}), 3.0)
    with pytest.raises(
        ValueError, match=r"`constraints\[0\]` is the cost table of another network"
    ):
        parts_within(by, [strange])


def test_one_sum_is_asked_for_by_name():
    constraint = Constraint(costs(random.Random(5), "size"), 9.0)
    with pytest.raises(
        ValueError, match="has a table for each option of 'size'; here it needs one for all"
    ):
        check_constraints(SPACE, [constraint])
