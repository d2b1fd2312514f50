"""The share of modes above a rival's line, against a direct reading of what it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.equal_cost import count_above, share_interval, undominated

points = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 10)), min_size=1, max_size=6)


def line_by_hand(cost: float, rival: list[tuple[int, int]]) -> float:
    """The mean at each cost, and a straight line between the two neighbours of `cost`."""
    means = {c: np.mean([a for k, a in rival if k == c]) for c, _ in rival}
    left, right = max(c for c in means if c <= cost), min(c for c in means if c >= cost)
    if left == right:
        return float(means[left])
    return float(means[left] + (means[right] - means[left]) * (cost - left) / (right - left))


@given(points, points)
def test_above_is_what_a_ruler_says(ours, rival):
    found = count_above(*zip(*ours, strict=True), *zip(*rival, strict=True))
    low, high = min(c for c, _ in rival), max(c for c, _ in rival)
    inside = [(c, a) for c, a in ours if low <= c <= high]
    # A line through whole numbers passes whole points exactly but for rounding.
    heights = [(a, line_by_hand(c, rival)) for c, a in inside]
    clear = [a > line for a, line in heights if abs(a - line) > 1e-9]
    assert found.modes == len(inside)
    assert sum(clear) <= found.above <= sum(clear) + len(heights) - len(clear)
    assert found.cheaper == sum(c < low for c, _ in ours)
    assert found.dearer == sum(c > high for c, _ in ours)


def test_beyond_the_line_it_goes_on_level():
    assert count_above([9.0], [0.6], [1, 3], [0.5, 0.5], within=(1, 10)).above == 1
    assert count_above([9.0], [0.5], [1, 3], [0.4, 0.5], within=(1, 10)).above == 0
    assert count_above([9.0], [0.6], [1, 3], [0.5, 0.5]).share is None


@given(points)
def test_undominated_are_those_that_nobody_beats(found):
    costs, accuracies = zip(*found, strict=True)
    kept = {(costs[i], accuracies[i]) for i in undominated(costs, accuracies)}
    assert kept == {
        (c, a)
        for c, a in found
        if not any(k <= c and b >= a and (k, b) != (c, a) for k, b in found)
    }


def test_the_interval_holds_the_share_where_nothing_is_close():
    right = np.tile(np.arange(200) < 180, (2, 1))
    rival = np.stack([np.arange(200) < 60, np.arange(200) < 100])
    assert share_interval([1, 2], right, [1, 2], rival) == (1.0, 1.0)
    assert share_interval([1, 2], rival, [1, 2], right) == (0.0, 0.0)
    assert share_interval([5], right[:1], [1, 2], rival) is None


def test_the_interval_is_wide_where_all_is_chance():
    rng = np.random.default_rng(0)
    right, rival = rng.random((1, 400)) < 0.5, rng.random((1, 400)) < 0.5
    assert share_interval([1], right, [1], rival) == pytest.approx((0.0, 1.0))
