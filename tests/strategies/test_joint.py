"""The knapsack for each option of a few knobs: beside all modes, and its refusals."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable, tabulated
from wenable.core.readings import Point, Reading, non_dominated
from wenable.core.space import Knob, Mode, Space
from wenable.strategies.constraints import Constraint
from wenable.strategies.joint import knapsack_of_each, planned_evaluations_of_each

SPACE = Space(
    (
        Knob("size", (1, 2, 3), labels=("64", "48", "32"), by_name=True),
        *(Knob(name, (1, 2, 4)) for name in "abc"),
    )
)
SHARES = {1: 1.0, 2: 0.5, 3: 0.25}


def macs(mode) -> float:
    """No sum: the size multiplies what every layer costs."""
    return SHARES[mode["size"]] * (10 + sum(40 / mode[name] for name in "abc"))


def tables() -> list[CostTable]:
    parts = [SPACE.fixed({"size": n}) for n in SPACE.knobs[0].options]
    return [tabulated(part, macs, "MACs") for part in parts]


def world(seed: int):
    """Accuracies that fall with every option, and take of each other: losses multiply."""
    rng = random.Random(seed)
    kept = {
        name: [1.0, *sorted((rng.uniform(0.7, 1.0) for _ in range(2)), reverse=True)]
        for name in SPACE.names
    }
    asked: list[Mode] = []

    def accuracy(mode: Mode) -> Reading:
        asked.append(mode)
        share = 0.9
        for knob in SPACE.knobs:
            share *= kept[knob.name][knob.options.index(mode[knob.name])]
        return Reading(share, "top-1")

    return accuracy, asked


def every_mode() -> list[Mode]:
    rows = itertools.product(*(knob.options for knob in SPACE.knobs))
    return [SPACE.mode(dict(zip(SPACE.names, row, strict=True))) for row in rows]


@given(st.integers(0, 10**6))
@settings(max_examples=4)
def test_the_front_is_that_of_all_modes_if_losses_multiply(seed: int):
    accuracy, asked = world(seed)
    front = knapsack_of_each(SPACE, accuracy, tables(), count=24, rounds=2)
    assert len(asked) == len(set(asked)) == front.evaluations
    best = non_dominated(
        tuple(Point(m, accuracy(m), Reading(macs(m), "MACs")) for m in every_mode())
    )
    found = {point.mode for point in front}
    # Budgets step over a few modes that lie close to others; none that is found is beaten.
    assert found <= {point.mode for point in best}
    assert len(found) >= 0.8 * len(best)


def test_each_part_has_its_own_costs_and_steps_count_through():
    accuracy, _ = world(1)
    steps = []
    front = knapsack_of_each(SPACE, accuracy, tables(), rounds=2, on_step=steps.append)
    for point in (*front.points, *front.path, *front.explored):
        assert point.mode.space == SPACE
        assert point.cost.known == pytest.approx(macs(point.mode))
    assert front.path[0].mode == SPACE.full
    numbers = [step.number for step in steps]
    assert numbers == sorted(set(numbers))
    assert {step.most for step in steps} == {planned_evaluations_of_each(SPACE, tables(), rounds=2)}
    assert numbers[-1] <= steps[-1].most
    assert all(step.taken.mode.space == SPACE for step in steps)


def test_a_part_that_is_not_accurate_enough_costs_one_evaluation():
    def accuracy(mode: Mode) -> Reading:
        return Reading(0.9 if mode["size"] == 1 else 0.4, "top-1")

    front = knapsack_of_each(SPACE, accuracy, tables(), min_accuracy=0.5)
    assert {point.mode["size"] for point in front} == {1}
    assert sum(point.mode["size"] > 1 for point in front.explored) == 2


def test_constraints_are_kept_and_parts_that_cannot_are_left_out():
    memory = {"size": {1: 0.0, 2: 5.0, 3: 50.0}} | {n: {1: 4.0, 2: 2.0, 4: 1.0} for n in "abc"}
    constraint = Constraint(CostTable(SPACE, "KiB", 0.0, memory), 9.0)
    accuracy, asked = world(2)
    front = knapsack_of_each(SPACE, accuracy, tables(), constraints=[constraint])
    assert all(constraint.allows(point.mode) for point in front)
    assert {mode["size"] for mode in asked} == {1, 2}
    with pytest.raises(ValueError, match="cannot be kept: the least that a mode costs is 3 KiB"):
        knapsack_of_each(SPACE, accuracy, tables(), constraints=[Constraint(constraint.table, 1.0)])


def test_a_constraint_may_have_parts_of_its_own():
    """Precision changes the made-up latency of every layer, and not the MACs that are searched by."""
    space = Space((*SPACE.knobs, Knob("precision", (1, 4), labels=("32", "8-bit"), by_name=True)))

    def ms(mode) -> float:
        return macs(mode) / mode["precision"] ** 0.5

    def with_precision(table: CostTable, options: tuple[int, ...]) -> CostTable:
        part = space.fixed({"size": table.space.full["size"]})
        return CostTable(
            part, "MACs", table.rest, {**table.costs, "precision": dict.fromkeys(options, 0.0)}
        )

    parts = [
        space.fixed({"size": size, "precision": bits})
        for size in SPACE.knobs[0].options
        for bits in (1, 4)
    ]
    latency = CostParts(space, tuple(tabulated(part, ms, "ms") for part in parts))
    constraint = Constraint(latency, 30.0)
    accuracy, _ = world(5)
    known = {}

    def taught(mode: Mode) -> Reading:
        whole = SPACE.mode({name: mode[name] for name in SPACE.names})
        known[mode] = Reading(accuracy(whole).known / mode["precision"] ** 0.02, "top-1")
        return known[mode]

    by = [with_precision(table, (1, 4)) for table in tables()]
    front = knapsack_of_each(space, taught, by, constraints=[constraint], count=24, rounds=2)
    rows = itertools.product(*(knob.options for knob in space.knobs))
    modes = [space.mode(dict(zip(space.names, row, strict=True))) for row in rows]
    keeping = [mode for mode in modes if ms(mode) <= 30.0]
    best = non_dominated(tuple(Point(m, taught(m), Reading(macs(m), "MACs")) for m in keeping))
    found = {point.mode for point in front}
    assert found <= {point.mode for point in best}
    assert len(found) >= 0.8 * len(best)
    assert all(ms(mode) <= 30.0 for mode in found)
    assert {mode["precision"] for mode in found} == {1, 4}


def test_parts_within_the_constraints_that_are_not_accurate_enough_are_refused_by_name():
    memory = {"size": {1: 50.0, 2: 5.0, 3: 0.0}} | {n: {1: 4.0, 2: 2.0, 4: 1.0} for n in "abc"}
    constraint = Constraint(CostTable(SPACE, "KiB", 0.0, memory), 20.0)

    def accuracy(mode: Mode) -> Reading:
        return Reading({1: 0.9, 2: 0.4, 3: 0.3}[mode["size"]], "top-1")

    with pytest.raises(
        ValueError, match=r"the best of the full modes .* 1,size=48, has .* 0\.4000"
    ):
        knapsack_of_each(SPACE, accuracy, tables(), constraints=[constraint], min_accuracy=0.5)


def test_budgets_that_only_parts_beyond_the_constraints_keep_are_refused():
    memory = {"size": {1: 0.0, 2: 50.0, 3: 50.0}} | {n: {1: 4.0, 2: 2.0, 4: 1.0} for n in "abc"}
    constraint = Constraint(CostTable(SPACE, "KiB", 0.0, memory), 20.0)
    accuracy, asked = world(6)
    with pytest.raises(ValueError, match=r"`budgets` holds none .* the least that one costs is 40"):
        knapsack_of_each(SPACE, accuracy, tables(), constraints=[constraint], budgets=[12.0])
    assert not asked


def test_budgets_are_those_that_a_part_can_keep():
    accuracy, asked = world(3)
    front = knapsack_of_each(SPACE, accuracy, tables(), budgets=[12.0])
    assert {mode["size"] for mode in asked} == {1, 3}  # the others cost 40 and 20 at least
    assert min(point.cost.known for point in front) <= 12.0
    with pytest.raises(ValueError, match="the least that a mode costs is 10 MACs"):
        knapsack_of_each(SPACE, accuracy, tables(), budgets=[1.0])


def test_a_full_mode_that_is_not_accurate_enough_is_refused():
    accuracy, _ = world(4)
    with pytest.raises(
        ValueError, match=r"cannot be reached: the full mode has an accuracy of 0\.9"
    ):
        knapsack_of_each(SPACE, accuracy, tables(), min_accuracy=0.95)


def test_an_error_of_the_evaluation_is_not_swallowed():
    def accuracy(mode: Mode) -> Reading:
        if mode["size"] == 2:
            raise ValueError("NaN in the outputs")
        return Reading(0.5, "top-1")

    with pytest.raises(ValueError, match="NaN in the outputs"):
        knapsack_of_each(SPACE, accuracy, tables())
