"""The search by evolution: against all modes of a small space, and against chance in a large one."""

import itertools
import math
import random
import sys
import warnings
from collections import Counter

import pytest

from wenable.core.cost_table import CostTable
from wenable.core.readings import Front, Point, Reading, non_dominated
from wenable.core.space import Knob, Mode, Space
from wenable.strategies.constraints import Constraint
from wenable.strategies.fronts import hypervolume
from wenable.strategies.nsga2 import nsga2

SMALL = Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2, 4)), Knob("c", (1, 2))))
LARGE = Space(tuple(Knob(f"layer{i}", (1, 2, 4, 8, 16)) for i in range(12)))


def problem(space: Space, seed: int = 0):
    """A made-up network whose neighbouring layers hurt each other, and the cost of its modes."""
    rng = random.Random(seed)
    weights = [rng.lognormvariate(0, 1) for _ in space.knobs]
    costs = {k.name: {n: rng.uniform(1, 3) * (0.2 + 1 / n) for n in k.options} for k in space.knobs}

    def accuracy(mode: Mode) -> Reading:
        depth = [math.log2(n) / 4 for n in mode.options]
        loss = sum(w * x for w, x in zip(weights, depth, strict=True)) / sum(weights)
        loss += sum(x * y for x, y in itertools.pairwise(depth)) / len(depth)
        return Reading(0.1 + 0.66 * math.exp(-1.5 * loss), "top-1")

    return accuracy, CostTable(space, "ms", 1.0, costs)


def every_point(space: Space, accuracy, table: CostTable) -> list[Point]:
    modes = (Mode(space, o) for o in itertools.product(*(k.options for k in space.knobs)))
    return [Point(m, accuracy(m), Reading(table.cost(m), "ms")) for m in modes]


def figures(points) -> list[tuple[float, float]]:
    return [(p.accuracy.known, p.cost.known) for p in points]


def test_without_optuna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    accuracy, table = problem(SMALL)
    with pytest.raises(
        ModuleNotFoundError, match=r"optuna is not .* pip install 'wenable\[search\]'"
    ):
        nsga2(SMALL, accuracy, table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, r"`trials` \(=0\) must be at least 1"),
        ({"population": 1}, r"`population` \(=1\) must be at least 2"),
        ({"min_accuracy": 1.0}, "must be an accuracy from 0 to below 1"),
        ({"table": problem(LARGE)[1]}, "`table` is the cost table of another network"),
        (
            {"constraints": [Constraint(problem(SMALL)[1], 0.5)]},
            r"`constraints\[0\]` .* cannot be kept: the least",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, message: str):
    accuracy, table = problem(SMALL)
    with pytest.raises(ValueError, match=message):
        nsga2(**{"space": SMALL, "accuracy": accuracy, "table": table} | changes)


@pytest.fixture
def _optuna():
    pytest.importorskip("optuna")


@pytest.mark.usefixtures("_optuna")
class TestWithOptuna:
    def test_a_small_space_is_searched_whole(self):
        accuracy, table = problem(SMALL)
        kept = table.without_slower_options()
        front = nsga2(SMALL, accuracy, table, trials=100)
        assert front.evaluations == math.prod(len(options) for options in kept.values())
        points = [
            p for p in every_point(SMALL, accuracy, table)
            if all(n in kept[name] for name, n in p.mode.items())
        ]  # fmt: skip
        assert figures(front) == figures(non_dominated(tuple(points)))
        assert Front.from_json(front.to_json()) == front

    def test_no_mode_is_evaluated_twice_and_trials_are_the_most(self):
        accuracy, table = problem(LARGE)
        calls: Counter[Mode] = Counter()
        steps = []

        def counted(mode: Mode) -> Reading:
            calls[mode] += 1
            return accuracy(mode)

        front = nsga2(LARGE, counted, table, trials=60, on_step=steps.append)
        assert set(calls.values()) == {1}
        assert len(calls) == front.evaluations == len(steps) == 60
        assert [(step.number, step.most) for step in steps] == [(i, 60) for i in range(1, 61)]

    def test_the_same_seed_gives_the_same_front(self):
        accuracy, table = problem(LARGE)
        one, same, other = (
            nsga2(LARGE, accuracy, table, trials=60, seed=seed) for seed in (3, 3, 4)
        )
        assert one == same
        assert one.explored != other.explored

    def test_it_begins_with_the_uniform_modes_or_those_given(self):
        accuracy, table = problem(LARGE)
        kept = table.without_slower_options()
        front = nsga2(LARGE, accuracy, table, trials=8)
        for n in LARGE.uniform_options:
            wanted = {name: max(o for o in options if o <= n) for name, options in kept.items()}
            assert LARGE.mode(wanted) in [point.mode for point in front.explored]
        given = [LARGE.full.replace({"layer3": 2}), "1,layer4=1/2"]
        front = nsga2(LARGE, accuracy, table, trials=3, start=given)
        assert [point.mode for point in front.explored[1:]] == [LARGE.mode(mode) for mode in given]

    def test_points_keep_the_limits_and_the_threshold(self):
        accuracy, table = problem(LARGE)
        size = CostTable(
            LARGE, "MB", 0.0, {k.name: {n: 1 / n for n in k.options} for k in LARGE.knobs}
        )
        constraints = [Constraint(size, 4.0), Constraint(table, 0.7 * table.cost("full"))]
        front = nsga2(LARGE, accuracy, table, trials=80, constraints=constraints, min_accuracy=0.2)
        assert all(size.cost(mode) <= 4.0 + 1e-9 for mode in front.modes)
        assert all(table.cost(mode) <= 0.7 * table.cost("full") + 1e-9 for mode in front.modes)
        assert all(point.accuracy.known > 0.2 for point in front)
        assert all(
            all(constraint.allows(point.mode) for constraint in constraints)
            for point in front.explored if point.mode != LARGE.full
        )  # fmt: skip

    def test_narrow_limits_are_kept_by_at_least_one_mode(self):
        accuracy, table = problem(LARGE)
        least = min(table.cost(mode) for mode in [LARGE.smallest])
        constraint = Constraint(
            table, sum(min(row.values()) for row in table.costs.values()) + table.rest
        )
        front = nsga2(LARGE, accuracy, table, trials=10, constraints=[constraint])
        assert constraint.most <= least
        assert all(table.cost(mode) == pytest.approx(constraint.most) for mode in front.modes)

    def test_it_finds_more_than_chance(self):
        accuracy, table = problem(LARGE)
        front = nsga2(LARGE, accuracy, table, trials=150)
        rng = random.Random(0)
        modes = [*LARGE.uniform_modes(), *(LARGE.sample(rng) for _ in range(145))]
        chance = [Point(m, accuracy(m), Reading(table.cost(m), "ms")) for m in modes]
        corner = table.cost("full"), 0.1
        assert hypervolume(front, *corner) > 1.05 * hypervolume(chance, *corner)

    def test_a_threshold_that_the_full_mode_does_not_exceed_is_refused(self):
        accuracy, table = problem(SMALL)
        with pytest.raises(ValueError, match="cannot be reached: the full mode"):
            nsga2(SMALL, accuracy, table, min_accuracy=0.9)

    def test_it_says_nothing_and_leaves_the_settings_of_optuna(self, capfd: pytest.CaptureFixture):
        import optuna

        before = optuna.logging.get_verbosity()
        accuracy, table = problem(SMALL)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            nsga2(SMALL, accuracy, table, trials=15)
        assert capfd.readouterr() == ("", "")
        assert optuna.logging.get_verbosity() == before
