"""Outcomes and McNemar's test, against an enumeration of all coin throws and against scipy."""

import json
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from wenable.core.outcomes import Outcomes, mcnemar, same_examples

RIGHT = st.lists(st.booleans(), min_size=1, max_size=40)


def outcomes(fewer: int, more: int, alike: int = 3) -> tuple[Outcomes, Outcomes]:
    """Two modes of which one alone is right on `fewer` examples and the other alone on `more`."""
    one = [True] * fewer + [False] * more + [True, False] * alike
    other = [False] * fewer + [True] * more + [True, False] * alike
    return Outcomes.of(one, "e"), Outcomes.of(other, "e")


def thrown(fewer: int, more: int) -> float:
    """The mid-p value from every sequence of throws of a fair coin: slow and obvious."""
    least, sides = min(fewer, more), list(product((0, 1), repeat=fewer + more))
    below = sum(sum(each) < least for each in sides)
    at = sum(sum(each) == least for each in sides)
    return min(1.0, 2 * (below + at / 2) / len(sides))


@pytest.mark.parametrize("fewer", range(7))
@pytest.mark.parametrize("more", range(7))
def test_mcnemar_is_what_throwing_coins_says(fewer: int, more: int):
    one, other = outcomes(fewer, more)
    assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(thrown(fewer, more))


@pytest.mark.parametrize(("fewer", "more"), [(10, 25), (140, 190), (1, 60), (2000, 2150)])
def test_mcnemar_is_the_exact_test_less_one_term(fewer: int, more: int):
    exact = binomtest(fewer, fewer + more).pvalue
    wanted = exact - binom.pmf(fewer, fewer + more, 0.5)
    assert mcnemar(*outcomes(fewer, more)) == pytest.approx(wanted, rel=1e-9)


def test_mcnemar_says_one_in_twenty_of_equal_modes_differ_and_no_more():
    """Two modes as good as each other: mid-p is below 0.05 in about 5 % of draws."""
    rng, rounds = random.Random(0), 2000
    wrongly = 0
    for _ in range(rounds):
        first = sum(rng.random() < 0.5 for _ in range(60))
        wrongly += mcnemar(*outcomes(first, 60 - first, alike=0)) < 0.05
    assert 0.02 < wrongly / rounds < 0.065


def test_fifty_thousand_examples_neither_overflow_nor_take_long():
    assert mcnemar(*outcomes(20_000, 30_000)) == pytest.approx(0.0, abs=1e-300)
    assert 0.04 < mcnemar(*outcomes(24_780, 25_220)) < 0.06


@given(RIGHT)
def test_outcomes_hold_each_example_and_survive_json(right: list[bool]):
    kept = Outcomes.of(right, "labels")
    bits = "".join(f"{byte:08b}" for byte in kept.bits)
    assert [bit == "1" for bit in bits[: len(right)]] == right
    assert set(bits[len(right) :]) <= {"0"}
    assert (kept.right, kept.count) == (sum(right), len(right))
    assert Outcomes.from_json(json.loads(json.dumps(kept.to_json()))) == kept


def test_other_examples_are_never_paired():
    one, other = Outcomes.of([True], "a"), Outcomes.of([True], "b")
    assert not same_examples(one, other)
    assert not same_examples(one, None)
    with pytest.raises(ValueError, match="outcomes of the same examples in the same order"):
        mcnemar(one, other)


@pytest.mark.parametrize(
    "values",
    [
        {}, {"right": "gA==", "count": 9, "examples": "e"},
        {"right": "/w==", "count": 3, "examples": "e"}, {"right": "", "count": 0, "examples": "e"},
        {"right": "?", "count": 1, "examples": "e"}, {"right": 1, "count": 1, "examples": "e"},
    ],
)  # fmt: skip
def test_damaged_outcomes_are_refused(values: dict):
    with pytest.raises(ValueError, match="outcomes"):
        Outcomes.from_json(values)


def test_no_examples_are_no_outcomes():
    with pytest.raises(ValueError, match="0 examples"):
        Outcomes.of([], "e")
