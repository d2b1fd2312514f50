"""Fronts joined and compared: against all pairs of points, and against counted squares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenable.core.accuracy_comparison import Comparison, compare_accuracies
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Front, Point, Reading, non_dominated
from wenable.core.space import Knob, Mode, Space
from wenable.strategies.fronts import Evaluations, hypervolume, indistinguishable, union

SPACE = Space((Knob("a", (1, 2, 4, 8)), Knob("b", (1, 2, 4, 8))))
OTHER = Space((Knob("other", (1, 2)),))


def point(mode: Mode, tenths: int, cost: int, unit: str = "ms") -> Point:
    return Point(mode, Reading(tenths / 10, "top-1"), Reading(float(cost), unit))


def front_of(points: list[Point], strategy: str = "greedy", **changes) -> Front:
    kept = non_dominated(tuple(points))
    values = {
        "points": kept, "chosen": kept[-1], "path": tuple(points), "evaluations": len(points),
        "min_accuracy": 0.0, "cost": "latency", "strategy": strategy, "explored": tuple(points),
    }  # fmt: skip
    return Front(**values | changes)


@st.composite
def points_of(draw: st.DrawFn, least: int = 1) -> list[Point]:
    texts = st.tuples(st.sampled_from((1, 2, 4, 8)), st.sampled_from((1, 2, 4, 8)))
    modes = draw(st.lists(texts, min_size=least, max_size=8, unique=True))
    return [
        point(Mode(SPACE, options), draw(st.integers(0, 10)), draw(st.integers(0, 10)))
        for options in modes
    ]


def figures(points) -> set[tuple[float, float]]:
    return {(p.accuracy.known, p.cost.known) for p in points}


@given(st.lists(points_of(), min_size=1, max_size=3))
def test_the_union_holds_what_no_point_of_any_front_beats(lists: list[list[Point]]):
    joined = union(*(front_of(points) for points in lists))
    first = {p.mode: p for points in reversed(lists) for p in front_of(points)}
    every = figures(first.values())
    best = {
        (a, c)
        for a, c in every
        if not any((x, y) != (a, c) and x >= a and y <= c for x, y in every)
    }
    assert figures(joined) == best
    assert len(joined) == len(best)
    assert joined.evaluations == len({p.mode for points in lists for p in points})
    assert joined.chosen == joined[-1]


@given(points_of())
def test_the_union_of_one_front_is_that_front(points: list[Point]):
    assert union(front_of(points)) == front_of(points)


def test_what_the_union_tells_of_its_fronts():
    one = point(SPACE.full, 9, 8)
    again = point(SPACE.full, 8, 9)  # evaluated by the other search too
    two = point(SPACE.smallest, 5, 2)
    joined = union(
        front_of([one], min_accuracy=0.4),
        front_of([again, two], "knapsack", min_accuracy=0.3, explored=()),
        front_of([two], "knapsack", min_accuracy=0.5),
    )
    assert (joined.strategy, joined.min_accuracy, joined.evaluations) == ("greedy+knapsack", 0.3, 2)
    assert set(joined.explored) == {one, two}
    assert joined.path == (one, again, two, two)
    assert Front.from_json(joined.to_json()) == joined


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (front_of([point(OTHER.full, 9, 8)]), "different networks"),
        (front_of([point(SPACE.full, 9, 8)], cost="macs"), "'latency' and 'macs'"),
        (front_of([point(SPACE.full, 9, 8, "us")]), "'ms' and 'us'"),
    ],
)
def test_fronts_that_cannot_be_compared_are_refused(other: Front, message: str):
    with pytest.raises(ValueError, match=message):
        union(front_of([point(SPACE.full, 9, 8)]), other)


def test_no_front_is_refused():
    with pytest.raises(ValueError, match="`fronts` is empty"):
        union()


@given(points_of(least=0), st.integers(0, 12), st.integers(0, 10))
def test_the_hypervolume_is_the_number_of_squares_that_a_point_dominates(points, cost, tenths):
    squares = sum(
        any(
            p.cost.known <= x and p.accuracy.known >= (y + 1) / 10
            for p in points
        )
        for x in range(cost)
        for y in range(tenths, 10)
    )  # fmt: skip
    assert hypervolume(points, cost, tenths / 10) == pytest.approx(squares / 10)


@pytest.mark.parametrize(("cost", "accuracy"), [(float("inf"), 0.0), (1.0, float("nan"))])
def test_a_corner_that_is_not_finite_is_refused(cost: float, accuracy: float):
    with pytest.raises(ValueError, match=r"`reference_\w+` \(=(inf|nan)\) must be finite"):
        hypervolume([], cost, accuracy)


def with_interval(mode: Mode, low: float | None, high: float | None, cost: float) -> Point:
    share = 0.5 if low is None or high is None else (low + high) / 2
    return Point(mode, Reading(share, "top-1", low=low, high=high), Reading(cost, "ms"))


def test_neighbours_whose_intervals_overlap_cannot_be_told_apart():
    a, b, c, d = (
        with_interval(SPACE.uniform(n), low, high, 8 / n)
        for n, low, high in ((1, 0.85, 0.95), (2, 0.80, 0.85), (4, 0.70, 0.79), (8, 0.60, 0.75))
    )
    front = front_of([a, b, c, d])
    assert front.points == (a, b, c, d)
    assert indistinguishable(front) == [(a, b), (c, d)]


def evaluated(n: int, right: set[int], test: set[int] | None = None, examples: str = "e") -> Point:
    """A point that was right on these of 100 examples, with a wide interval."""

    def reading(of: set[int]) -> Reading:
        share = len(of) / 100
        return Reading(share, "top-1", low=share - 0.1, high=share + 0.1, count=100)

    def each(of: set[int]) -> Outcomes:
        return Outcomes.of([i in of for i in range(100)], examples)

    return Point(
        SPACE.uniform(n), reading(right), Reading(8 / n, "ms"),
        None if test is None else reading(test), each(right), None if test is None else each(test),
    )  # fmt: skip


def test_a_paired_test_tells_apart_what_overlapping_intervals_do_not():
    # The second is wrong on 8 more of the same examples, the third on 2 and right on 1 other.
    a, b = evaluated(1, set(range(90))), evaluated(2, set(range(82)))
    c = evaluated(4, {*range(80), 99})
    assert indistinguishable(front_of([a, b, c])) == [(b, c)]
    assert compare_accuracies(a, b) == Comparison(True, "search", 2**-7 / 2)
    # 2 against 1 of 3 coins: twice (1/8 + 3/8 / 2)
    assert compare_accuracies(b, c) == Comparison(False, "search", 2 * (1 / 8 + 3 / 16))


def test_the_test_split_decides_where_both_were_evaluated_there():
    a = evaluated(1, set(range(90)), test=set(range(80)))
    b = evaluated(2, set(range(80)), test=set(range(80)))
    assert compare_accuracies(a, b) == Comparison(False, "test", 1.0)
    assert indistinguishable(front_of([a, b])) == [(a, b)]
    untested = evaluated(2, set(range(80)))
    assert compare_accuracies(a, untested).split == "search"


def test_outcomes_of_other_examples_leave_the_intervals_to_decide():
    a, b = evaluated(1, set(range(90))), evaluated(2, set(range(82)), examples="others")
    assert compare_accuracies(a, b) == Comparison(False, "search")
    assert str(compare_accuracies(a, b)) == "intervals on the search split"


def test_points_without_intervals_are_left_out():
    a, b = with_interval(SPACE.full, 0.6, 0.9, 8), with_interval(SPACE.smallest, None, None, 1)
    assert indistinguishable(front_of([a, b])) == []


def test_nothing_that_was_evaluated_within_the_limits_is_said_so():
    with pytest.raises(ValueError, match=r"`min_accuracy` \(=0.5\) .* none was found"):
        Evaluations(lambda mode: Reading(0.9, "top-1"), None, 1).front("knapsack", "macs", 0.5)  # type: ignore[arg-type]
