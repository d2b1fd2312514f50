"""The race against a search that evaluates every candidate on every image."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenable.core.space import Knob, Space
from wenable.strategies.racing import loss, most_errors, most_evaluations, race


def loss_of_a_whole_evaluation(cost: float, answers: list[int]) -> float:
    share = sum(answers) / len(answers)
    return cost / share if share else math.inf


@st.composite
def races(draw: st.DrawFn):
    candidates, images = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    # Few costs and few ways to answer, so that ties are common.
    costs = draw(
        st.lists(st.sampled_from([0.0, 1.0, 1.1, 2.0]), min_size=candidates, max_size=candidates)
    )
    rows = st.lists(st.sampled_from([0, 1, 1]), min_size=images, max_size=images)
    pool = draw(st.lists(rows, min_size=1, max_size=3))
    answers = [draw(st.sampled_from(pool)) for _ in range(candidates)]
    doubtful = draw(st.sets(st.tuples(st.integers(0, candidates - 1), st.integers(0, images - 1))))
    order = draw(st.permutations(range(images)))[: draw(st.integers(0, images))]
    return (
        costs,
        answers,
        doubtful,
        order,
        draw(st.integers(0, candidates - 1)),
        draw(st.integers(1, 9)),
    )


@settings(deadline=None, max_examples=250)
@given(races())
def test_the_winner_is_that_of_whole_evaluations(problem):
    costs, answers, doubtful, order, first, chunk = problem
    asked, seen = [], []

    def exact(i: int) -> int:
        asked.append(i)
        return sum(answers[i])

    def look(who, start: int, count: int) -> list[int]:
        assert start == len(seen), "the looks follow one another"
        seen.extend(order[start : start + count])
        shown = order[start : start + count]
        assert len(shown) == count > 0
        return [sum(not answers[i][k] and (i, k) not in doubtful for k in shown) for i in who]

    outcome = race(
        costs, len(answers[0]), first=first, exact=exact, check=look, images=len(order), chunk=chunk
    )
    losses = [loss_of_a_whole_evaluation(c, a) for c, a in zip(costs, answers, strict=True)]
    assert outcome.winner == losses.index(min(losses))  # the first of equal ones
    assert outcome.right == {i: sum(answers[i]) for i in asked}
    assert len(asked) == len(set(asked))
    assert outcome.winner in asked


@settings(deadline=None, max_examples=150)
@given(
    st.floats(0, 1e12), st.floats(0, 1e12), st.integers(1, 200), st.integers(0, 200),
    st.sampled_from([0, 2]),
)  # fmt: skip
def test_the_bound_is_the_last_that_wins(cost, other, total, right, position):
    right = min(right, total)
    best = (loss(other, right, total), 1)
    wins = [
        e for e in range(total + 1)
        if loss(cost, total - e, total) < best[0]
        or (loss(cost, total - e, total) == best[0] and position < 1)
    ]  # fmt: skip
    assert most_errors(cost, position, total, best) == max(wins, default=-1)


def test_what_cannot_win_with_no_error_is_never_run():
    def look(*_):
        raise AssertionError("nobody needs to be looked at")

    outcome = race([1.0, 2.0], 10, first=0, exact=lambda i: 9, check=look, images=10)
    assert outcome.winner == 0
    assert outcome.right == {0: 9}


def test_a_hopeless_candidate_is_looked_at_no_longer_than_its_errors_need():
    looked = []

    def look(who, start, count):
        looked.append((list(who), start, count))
        return [count for _ in who]

    race([1.0, 1.0], 1000, first=0, exact=lambda i: 990, check=look, images=1000)
    assert looked == [([1], 0, 10)]  # with 10 errors it would be no better, and comes later


def test_a_first_candidate_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"`first` \(=2\) must be one of the 2 candidates"):
        race([1.0, 1.0], 10, first=2, exact=lambda i: 9, check=lambda *_: [], images=0)


@settings(deadline=None)
@given(st.lists(st.sampled_from([(1,), (1, 2), (1, 2, 4), (1, 2, 4, 8)]), min_size=1, max_size=4))
def test_no_descent_evaluates_more_than_the_most(chains):
    space = Space(tuple(Knob(f"k{i}", options) for i, options in enumerate(chains)))

    def evaluations(mode) -> int:
        candidates = space.cheaper(mode)
        return len(candidates) + max(map(evaluations, candidates), default=0)

    if space.size <= 128:
        assert most_evaluations(space) == 1 + evaluations(space.full)
