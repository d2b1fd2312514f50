"""Durations in the units people read, and the estimate of a search from its first steps."""

import pytest

from wenable.cli.durations import SearchClock, duration_words
from wenable.core.readings import Point, Reading
from wenable.core.space import Knob, Space
from wenable.strategies.greedy import SearchStep

POINT = Point(Space((Knob("a", (1, 2)),)).full, Reading(0.9, "top-1"), Reading(1.0, "ms"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"), (0.25, "0.25 s"), (1, "1 s"), (59.4, "59 s"), (59.9, "1 min"), (90, "1 min 30 s"),
        (3599.7, "1 h"), (3660, "1 h 1 min"), (86399, "1 d"), (90000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_durations_have_the_two_units_that_matter(seconds: float, words: str):
    assert duration_words(seconds) == words


def said_of(times: list[float], steps: list[SearchStep]) -> list[str]:
    """What the clock says of steps that end at these times; it starts at 0."""
    said: list[str] = []
    clock = SearchClock(said.append, iter([0.0, *times]).__next__)
    for step in steps:
        clock(step)
    return said


def test_the_first_mode_is_not_taken_for_the_others():
    # The first takes 20 s, as images are read; each further one 2 s: 20 + 100 x 2.
    steps = [SearchStep(i, 169, POINT, 1, i, 101) for i in range(1, 8)]
    said = said_of([20, 22, 24, 26, 28, 30, 32], steps)
    assert said == ["about 101 modes, 2 s each: about 3 min 40 s"]


def test_a_search_in_steps_is_estimated_from_the_first_that_is_whole():
    steps = [SearchStep(i, 72, POINT, 18, 1 + 18 * i) for i in range(1, 4)]
    assert said_of([30, 55, 80], steps) == ["at most 72 steps, 30 s each: at most about 36 min"]


def test_what_is_over_in_seconds_needs_no_estimate():
    steps = [SearchStep(i, 20, POINT, 1, i, 12) for i in range(1, 6)]
    assert said_of([0.1 * i for i in range(1, 6)], steps) == []


def test_nothing_is_said_before_anything_is_known():
    assert said_of([1, 2], [SearchStep(i, 9, POINT, 1, i) for i in (1, 2)]) == []
