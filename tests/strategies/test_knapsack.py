"""The search by knapsack: against all modes of small spaces, and against searches of large ones."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenable.core.cost_table import CostTable
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Knob, Mode, Space
from wenable.strategies.constraints import (
    Constraint,
    cheapest_within,
    check_constraints,
    worthwhile,
)
from wenable.strategies.fronts import hypervolume
from wenable.strategies.greedy import SearchStep, greedy
from wenable.strategies.knapsack import first_losses, fitted_losses, knapsack, planned_evaluations

CHAINS = [(1,), (1, 2), (1, 2, 4), (2, 4), (1, 2, 4, 8)]


def all_modes(space: Space) -> list[Mode]:
    return [
        Mode(space, options) for options in itertools.product(*(k.options for k in space.knobs))
    ]


def top1(share: float, count: int = 0) -> Reading:
    if not count:
        return Reading(share, "top-1")
    half = 1.96 * math.sqrt(share * (1 - share) / count)
    return Reading(share, "top-1", low=share - half, high=share + half, count=count)


def table_of(draw: st.DrawFn, space: Space, unit: str, entry: st.SearchStrategy) -> CostTable:
    costs = {k.name: {n: draw(entry) for n in k.options} for k in space.knobs}
    return CostTable(space, unit, draw(entry), costs)


WHOLE = st.integers(0, 12).map(float)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    chains = draw(st.lists(st.sampled_from(CHAINS), min_size=1, max_size=4))
    return Space(tuple(Knob(f"k{i}", options) for i, options in enumerate(chains)))


@st.composite
def knapsacks(draw: st.DrawFn, entry: st.SearchStrategy = WHOLE):
    space = draw(spaces())
    table = table_of(draw, space, "ms", entry)
    losses = {}
    for knob in space.knobs:
        left = draw(st.lists(st.sampled_from(knob.options), min_size=1, unique=True))
        losses[knob.name] = {n: draw(st.integers(0, 20)) / 100 for n in sorted(left)}
    constraints = [
        Constraint(table_of(draw, space, "MB", entry), draw(st.integers(0, 30)))
        for _ in range(draw(st.integers(0, 2)))
    ]
    return space, losses, table, draw(st.integers(0, 40)), constraints


def best_of_all(space, losses, table, budget, constraints) -> tuple[float, float] | None:
    """The least loss and then the least cost, by looking at every mode."""
    found = [
        (round(sum(losses[name][n] for name, n in mode.items()), 9), table.cost(mode))
        for mode in all_modes(space)
        if all(n in losses[name] for name, n in mode.items())
        and table.cost(mode) <= budget * (1 + 1e-9)
        and all(
            constraint.table.cost(mode) <= constraint.most * (1 + 1e-9)
            for constraint in constraints
        )
    ]
    return min(found, default=None)


def figures_of(mode: Mode | None, losses, table) -> tuple[float, float] | None:
    if mode is None:
        return None
    return round(sum(losses[name][n] for name, n in mode.items()), 9), table.cost(mode)


@given(spaces(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_no_front_is_below_a_uniform_mode_on_what_the_search_sees(space: Space, seed: int):
    """Whatever modes are worth: here it is drawn for each by itself, so no losses add up."""
    rng = random.Random(seed)
    worth = {mode: rng.uniform(0.2, 0.9) for mode in all_modes(space)} | {space.full: 0.95}
    costs = {k.name: {n: rng.uniform(1, 9) / n for n in k.options} for k in space.knobs}
    table = CostTable(space, "ms", 1.0, costs)
    front = knapsack(space, lambda mode: top1(worth[mode]), table, count=3, rounds=1)
    for mode in space.uniform_modes():  # those with options that are left out elsewhere, too
        assert any(
            point.accuracy.known >= worth[mode] and point.cost.known <= table.cost(mode) + 1e-9
            for point in front
        )


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_uniform_mode_with_an_option_that_saves_nothing_is_found_and_fits_no_losses(rounds: int):
    space = Space(tuple(Knob(name, (1, 2)) for name in "abc"))
    costs = {"a": {1: 4.0, 2: 2.0}, "b": {1: 4.0, 2: 2.0}, "c": {1: 1.0, 2: 1.001}}
    table = CostTable(space, "ms", 1.0, costs)

    def share(mode: Mode) -> Reading:  # uniform modes were trained far better than mixed ones
        return top1({0: 0.9, 3: 0.85}.get(sum(n == 2 for n in mode.values()), 0.5))

    front = knapsack(space, share, table, min_accuracy=0.1, rounds=rounds)
    assert space.uniform(2) in front.modes
    assert front.evaluations == 5  # c as a whole leaves four, and all of them are evaluated
    assert planned_evaluations(space, table, (), budgets=12 * rounds) == (5, 5)


@given(knapsacks())
def test_the_knapsack_is_solved_to_the_optimum(problem):
    space, losses, table, budget, constraints = problem
    mode = cheapest_within(space, losses, table, budget, constraints)
    assert figures_of(mode, losses, table) == best_of_all(space, losses, table, budget, constraints)


@given(knapsacks(st.floats(0, 12)))
def test_the_knapsack_is_solved_where_costs_are_no_round_numbers(problem):
    """A millionth more than the constraints is borne, and so the least loss lies between two."""
    space, losses, table, budget, constraints = problem
    mode = cheapest_within(space, losses, table, budget, constraints)
    wider = [
        Constraint(constraint.table, constraint.most * (1 + 1.1e-6)) for constraint in constraints
    ]
    none = (math.inf, 0.0)
    strict = best_of_all(*problem) or none
    loose = best_of_all(space, losses, table, budget * (1 + 1.1e-6), wider) or none
    found = figures_of(mode, losses, table) or none
    assert loose[0] <= found[0] <= strict[0]
    if mode is not None:
        assert found[1] <= budget * (1 + 1e-6)
        assert all(constraint.allows(mode) for constraint in constraints)


@given(knapsacks())
def test_budgets_that_a_mode_meets_exactly_are_enough_for_it(problem):
    space, losses, table, _, _ = problem
    losses = {name: dict.fromkeys(losses[name], 0.0) for name in losses}
    cheapest = min(
        table.cost(m) for m in all_modes(space) if all(n in losses[k] for k, n in m.items())
    )
    mode = cheapest_within(space, losses, table, cheapest)
    assert mode is not None
    assert table.cost(mode) == pytest.approx(cheapest, rel=1e-9)


@given(spaces(), st.data())
def test_without_limits_the_worthwhile_options_are_those_of_the_table(space, data):
    table = table_of(data.draw, space, "ms", st.integers(0, 5).map(float))
    assert worthwhile(space, table) == table.without_slower_options()


@given(knapsacks())
def test_what_is_not_worthwhile_is_not_missed(problem):
    """Where a finer option loses no less, leaving options out changes no optimum."""
    space, _, table, budget, constraints = problem
    losses = {k.name: {n: i / 10 for i, n in enumerate(k.options)} for k in space.knobs}
    options = worthwhile(space, table, constraints)
    fewer = {name: {n: losses[name][n] for n in options[name]} for name in losses}
    assert figures_of(
        cheapest_within(space, fewer, table, budget, constraints), losses, table
    ) == figures_of(cheapest_within(space, losses, table, budget, constraints), losses, table)


@given(knapsacks())
def test_limits_are_refused_just_where_no_mode_keeps_them(problem):
    space, _, _, _, constraints = problem
    keeping = [
        mode
        for mode in all_modes(space)
        if all(constraint.allows(mode) for constraint in constraints)
    ]
    if keeping:
        assert check_constraints(space, constraints) in keeping
    else:
        with pytest.raises(ValueError, match="cannot be kept"):
            check_constraints(space, constraints)


def product_model(space: Space, seed: int):
    """An accuracy that is a product over the knobs, falling with finer options; and a table."""
    rng = random.Random(seed)
    kept = {k.name: dict.fromkeys(k.options, 1.0) for k in space.knobs}
    for row in kept.values():
        share = 1.0
        for n in list(row)[1:]:
            share *= rng.uniform(0.7, 1.0)
            row[n] = share
    costs = {k.name: {n: rng.uniform(0.5, 1.5) / n for n in k.options} for k in space.knobs}
    table = CostTable(space, "ms", 0.3, costs, source="made up", device="none")
    return lambda mode: top1(0.9 * math.prod(kept[k][n] for k, n in mode.items())), table


@settings(max_examples=25)
@given(spaces(), st.integers(0, 999))
def test_where_the_model_holds_every_solution_is_the_best_of_all_modes(space, seed):
    accuracy, table = product_model(space, seed)
    front = knapsack(space, accuracy, table, rounds=1)
    for point in front.path[1:]:
        within = [m for m in all_modes(space) if table.cost(m) <= point.cost.known + 1e-9]
        best = max(accuracy(mode).known for mode in within)
        assert point.accuracy.known == pytest.approx(best, rel=1e-5)


@settings(max_examples=25)
@given(spaces(), st.integers(0, 999), st.integers(1, 3), st.integers(1, 6))
def test_no_mode_is_evaluated_twice_and_the_number_is_bounded(space, seed, rounds, count):
    accuracy, table = product_model(space, seed)
    calls: Counter[Mode] = Counter()
    steps: list[SearchStep] = []

    def counted(mode: Mode) -> Reading:
        calls[mode] += 1
        return accuracy(mode)

    front = knapsack(space, counted, table, rounds=rounds, count=count, on_step=steps.append)
    alone = sum(len(options) - 1 for options in worthwhile(space, table).values())
    assert set(calls.values()) == {1}
    most = alone + len(space.uniform_modes()) + rounds * count
    assert len(calls) == front.evaluations == len(front.explored) <= most
    assert [step.evaluations for step in steps] == list(range(1, len(calls) + 1))
    assert all(step.number <= step.most for step in steps)
    assert set(front.modes) <= set(calls)


SPACE = Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2))))
COSTS = {"a": {1: 4.0, 2: 3.0, 4: 3.5}, "b": {1: 2.0, 2: 1.0}}
TABLE = CostTable(SPACE, "ms", 0.5, COSTS, source="a stopwatch", device="a board")
MEMORY = CostTable(SPACE, "MB", 0.0, {"a": {1: 4.0, 2: 2.0, 4: 1.0}, "b": {1: 4.0, 2: 2.0}})


def falling(mode: Mode) -> Reading:
    return top1(0.9 - 0.1 * math.log2(mode["a"]) - 0.3 * math.log2(mode["b"]))


def test_the_front_of_a_small_space():
    front = knapsack(SPACE, falling, TABLE, min_accuracy=0.45)
    assert [(str(p.mode), p.cost.known) for p in front] == [
        ("1", 6.5), ("1/2,1", 5.5), ("1/2", 4.5),
    ]  # fmt: skip
    assert (str(front.chosen.mode), front.strategy, front.cost) == ("1/2", "knapsack", "latency")
    assert front.path[0].mode == SPACE.full
    costs = [point.cost.known for point in front.path]
    assert costs == sorted(costs, reverse=True)
    cost = front.chosen.cost
    assert (cost.unit, cost.source, cost.device) == (
        "ms",
        "predicted by a table: a stopwatch",
        "a board",
    )
    assert Front.from_json(front.to_json()) == front


def test_points_at_or_under_the_threshold_are_left_out():
    accuracies = {"1": 0.9, "1/2,1": 0.8, "1,1/2": 0.7, "1/2": 0.5, "1/4": 0.5}
    front = knapsack(SPACE, lambda mode: top1(accuracies[str(mode)]), TABLE, min_accuracy=0.5)
    assert [str(mode) for mode in front.modes] == ["1", "1/2,1"]
    assert "1/2" in [str(point.mode) for point in front.path]


def test_options_that_are_slower_are_not_evaluated_unless_a_limit_needs_them():
    without = knapsack(SPACE, falling, TABLE)
    slower = [point.mode for point in without.explored if point.mode["a"] == 4]
    assert slower == [SPACE.uniform(4)]
    limited = knapsack(SPACE, falling, TABLE, constraints=[Constraint(MEMORY, 3.0)])
    assert {str(mode) for mode in limited.modes} == {"1/4"}


def test_the_front_keeps_all_limits_at_once():
    constraints = [Constraint(MEMORY, 6.0), Constraint(TABLE, 5.6)]
    front = knapsack(SPACE, falling, TABLE, constraints=constraints)
    assert [str(mode) for mode in front.modes] == ["1/2,1", "1/2"]
    assert SPACE.full in [point.mode for point in front.explored]


def test_given_budgets_are_those_that_are_used():
    front = knapsack(SPACE, falling, TABLE, budgets=[5.5], rounds=1)
    assert [str(point.mode) for point in front.path] == ["1", "1/2,1"]


def other_table() -> CostTable:
    space = Space((Knob("other", (1, 2)),))
    return CostTable(space, "ms", 0.0, {"other": {1: 2.0, 2: 1.0}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"min_accuracy": 0.9},
            r"`min_accuracy` \(=0.9\) cannot be reached: the full mode .* 0.9000",
        ),
        ({"min_accuracy": 1.0}, r"`min_accuracy` \(=1.0\) must be an accuracy from 0 to below 1"),
        ({"min_accuracy": float("nan")}, "must be an accuracy"),
        (
            {"constraints": [Constraint(TABLE, 4.0)]},
            r"`constraints\[0\]` \(=at most 4 ms\) .* costs is 4.5 ms",
        ),
        (
            {"constraints": [Constraint(TABLE, 4.7), Constraint(MEMORY, 3.5)]},
            r"`constraints\[1\]` \(=at most 3.5 MB\) cannot be kept together .* costs is 4 MB",
        ),
        (
            {"constraints": [Constraint(TABLE, 4.7)], "min_accuracy": 0.6},
            "not exceeded .* best .* 0.5000",
        ),
        (
            {"constraints": [Constraint(other_table(), 4.0)]},
            r"`constraints\[0\]` is the cost table of another",
        ),
        ({"table": other_table()}, "`table` is the cost table of another network.*'other'"),
        ({"budgets": [4.4]}, "`budgets` holds 4.4 ms; .* the least that a mode costs is 4.5 ms"),
        ({"count": 0}, r"`count` \(=0\) must be at least 1"),
        ({"rounds": 0}, r"`rounds` \(=0\) must be at least 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, message: str):
    arguments = {"space": SPACE, "accuracy": falling, "table": TABLE} | changes
    with pytest.raises(ValueError, match=message):
        knapsack(**arguments)


@pytest.mark.parametrize("most", [-1.0, float("inf"), float("nan")])
def test_limits_that_are_none_are_refused(most: float):
    with pytest.raises(ValueError, match=r"`most` .* must be a finite number"):
        Constraint(TABLE, most)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"a": {1: 0.0}}, "`losses` has no option of 'b'"),
        ({"a": {1: 0.0}, "b": {}}, "`losses` has no option of 'b'"),
        ({"a": {1: float("nan")}, "b": {1: 0.0}}, r"`losses` of 'a' in option 1 \(=nan\)"),
        ({"a": {3: 0.0}, "b": {1: 0.0}}, r"`groups` \(=3\) is not an option of 'a'"),
    ],
)
def test_losses_that_mean_nothing_are_refused(losses, message: str):
    with pytest.raises(ValueError, match=message):
        cheapest_within(SPACE, losses, TABLE, 9.0)


def test_gains_are_no_losses_and_finer_options_lose_no_less():
    row = {2: top1(0.82), 4: top1(0.6), 8: top1(0.7)}
    losses = first_losses(top1(0.8), {"a": row})["a"]
    assert losses[2] == 0.0
    assert (
        losses[4] == losses[8] == pytest.approx(math.log(0.8 / 0.6) / 2 + math.log(0.8 / 0.7) / 2)
    )


def test_what_noise_explains_is_drawn_to_the_mean():
    shares = (0.78, 0.80, 0.79, 0.77)

    def losses(count: int) -> list[float]:
        alone = {str(i): {2: top1(share, count)} for i, share in enumerate(shares)}
        return [row[2] for row in first_losses(top1(0.8, count), alone).values()]

    raw = [math.log(0.8 / share) for share in shares]
    assert losses(10**9) == pytest.approx(raw, abs=1e-4)
    assert losses(100) == pytest.approx([sum(raw) / 4] * 4)
    assert 0 < np.std(losses(5000)) < np.std(raw)


@given(spaces(), st.integers(0, 999))
def test_the_fit_is_the_least_squares_one(space, seed):
    """By its optimality conditions: no loss could be changed to make the squares smaller."""
    rng = random.Random(seed)
    first = {k.name: {n: i * rng.random() for i, n in enumerate(k.options)} for k in space.knobs}
    modes = [space.sample(rng) for _ in range(8)]
    points = [Point(mode, top1(rng.uniform(0.1, 1)), Reading(1.0, "ms")) for mode in modes]
    fitted = fitted_losses(first, points, top1(0.9))
    for knob in space.knobs:
        assert fitted[knob.name][knob.options[0]] == 0.0
        for n in knob.options[1:]:
            slope = fitted[knob.name][n] - first[knob.name][n]
            for point in points:
                if point.mode[knob.name] == n:
                    said = sum(fitted[k][m] for k, m in point.mode.items())
                    slope += said - math.log(0.9 / point.accuracy.known)
            assert slope >= -1e-9
            assert fitted[knob.name][n] == 0.0 or abs(slope) < 1e-9


def test_a_mode_that_is_never_right_has_a_finite_loss():
    front = knapsack(SPACE, lambda mode: top1(0.9 if mode == SPACE.full else 0.0), TABLE)
    assert front.modes == (SPACE.full,)


def interacting(seed: int, knobs: int, images: int = 1000):
    """A made-up network whose neighbouring layers hurt each other, seen through a test set.

    Half of the logarithmic loss is a sum over the layers and half one over pairs of neighbours; the
    accuracy ends at that of guessing. The reading is a count over `images`, most of whose luck all
    modes share, as where each is evaluated on the same images.
    """
    rng = np.random.default_rng(seed)
    space = Space(tuple(Knob(f"layer{i}", (1, 2, 4, 8, 16)) for i in range(knobs)))
    size, fixed = rng.lognormal(0, 0.8, knobs), rng.uniform(0.1, 0.6, knobs)
    costs = {
        knob.name: {n: float(size[i] * (fixed[i] + (1 - fixed[i]) / n)) for n in knob.options}
        for i, knob in enumerate(space.knobs)
    }
    weights, pairs = rng.lognormal(0, 1, knobs), rng.lognormal(0, 1, knobs - 1)
    luck = rng.random(images)

    def true(mode: Mode) -> float:
        depth = np.log2(mode.options) / 4
        loss = depth @ weights / weights.sum() + depth[:-1] * depth[1:] @ pairs / pairs.sum()
        return 0.1 + 0.66 * math.exp(-1.5 * loss)

    def accuracy(mode: Mode) -> Reading:
        own = np.random.default_rng([seed, *mode.options]).random(images)
        fresh = np.random.default_rng([seed + 1, *mode.options]).random(images) < 0.1
        return top1(float((np.where(fresh, own, luck) < true(mode)).mean()), images)

    return space, accuracy, CostTable(space, "ms", 1.0, costs), true


def true_quality(front: Front, true, table: CostTable) -> float:
    points = [Point(point.mode, top1(true(point.mode)), point.cost) for point in front]
    return hypervolume(points, table.cost("full"), 0.1)


def test_it_comes_close_to_algorithm_2_with_a_fraction_of_the_evaluations():
    for seed in (0, 1):
        space, accuracy, table, true = interacting(seed, knobs=12)

        def costs(modes, table=table):
            return [Reading(table.cost(mode), "ms") for mode in modes]

        slow, fast = greedy(space, accuracy, costs, 0.12), knapsack(space, accuracy, table)
        assert true_quality(fast, true, table) > 0.95 * true_quality(slow, true, table)
        assert fast.evaluations < 0.4 * slow.evaluations


@pytest.mark.parametrize("seed", [0, 1])
def test_in_large_spaces_fitting_anew_is_worth_more_than_more_budgets(seed: int):
    space, accuracy, table, true = interacting(seed, knobs=30)
    fitted = knapsack(space, accuracy, table, count=8, rounds=6)
    once = knapsack(space, accuracy, table, count=48, rounds=1)
    assert true_quality(fitted, true, table) > 1.01 * true_quality(once, true, table)


def test_modes_far_below_the_threshold_do_not_make_fine_options_seem_cheap(monkeypatch):
    """Losses multiply down to an accuracy of 0.6, and everything beyond has 0.5: no more is lost."""
    rng = np.random.default_rng(0)
    space = Space(tuple(Knob(f"layer{i}", (1, 2, 4)) for i in range(12)))
    losses = {name: rng.lognormal(-2.5, 0.8) for name in space.names}
    costs = {name: {1: 4.0, 2: 2.0, 4: 1.0} for name in space.names}
    table = CostTable(space, "ms", 1.0, costs)

    def accuracy(mode: Mode) -> Reading:
        share = 0.9 * math.exp(-sum(losses[name] * math.log2(n) for name, n in mode.items()))
        return top1(share if share > 0.6 else 0.5)

    def area() -> float:
        front = knapsack(space, accuracy, table, min_accuracy=0.6)
        return hypervolume(front.points, table.cost("full"), 0.6)

    found = area()
    monkeypatch.setattr(
        "wenable.strategies.knapsack._telling", lambda points, *_: list(points)
    )  # as if all told something
    assert found > 1.01 * area()


@pytest.mark.parametrize(
    ("knobs", "options"), [(6, (1, 2)), (7, (1, 2, 4, 8, 16)), (18, (1, 2, 4))]
)
def test_what_it_will_evaluate_is_told_within_a_factor_of_two(knobs: int, options: tuple[int, ...]):
    space = Space(tuple(Knob(str(i), options) for i in range(knobs)))
    rng = random.Random(5)
    weights = {name: rng.random() ** 3 / knobs**0.5 for name in space.names}
    costs = {name: {n: (1 + 2 * i % 3) / n for n in options} for i, name in enumerate(space.names)}

    def accuracy(mode: Mode) -> Reading:
        share = 0.92 * math.exp(-sum(weights[name] * math.log2(n) / 4 for name, n in mode.items()))
        draw = random.Random(str(mode))
        return top1(sum(draw.random() < share for _ in range(500)) / 500, 500)

    steps: list[SearchStep] = []
    table = CostTable(space, "MACs", 0.5, costs)
    front = knapsack(space, accuracy, table, min_accuracy=0.4, on_step=steps.append)
    assert len(steps) == front.evaluations
    assert {step.likely for step in steps} == {steps[0].likely}
    assert 0.5 <= front.evaluations / steps[0].likely <= 2
