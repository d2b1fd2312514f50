"""How far latencies lie beyond the usual, by length of the mode, held against a slow reference."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenable.runtime.spread import Spread

UNITS_MS = [44.0, 40.0, 11.0, 10.0, 2.0]
"""Three lengths within half an octave: 40 to 44, 10 to 11, and 2."""
LONGEST_MS = [44.0, 44.0, 11.0, 11.0, 2.0]

requests = st.lists(
    st.tuples(st.integers(0, 4), st.floats(0.5, 3), st.floats(0.3, 5)), min_size=20, max_size=60
)


def reference(place: int, usual_ms: float, seen: list, target: float, window: int) -> float:
    """Return the quantile from all requests, each as if it had run in the mode of that place."""
    scores = []
    for other, slowdown, ratio in seen[-window:]:
        beyond_ms = UNITS_MS[other] * slowdown * (ratio - 1)
        if ratio <= 1:
            scores.append(ratio - 1)  # so large a share of what is usual
        elif UNITS_MS[other] > LONGEST_MS[place]:
            scores.append(beyond_ms * LONGEST_MS[place] / UNITS_MS[other])
        else:
            scores.append(beyond_ms)
    score = sorted(scores)[min(math.ceil((window + 1) * target - 1e-9), window) - 1]
    return usual_ms + score if score > 0 else usual_ms * (1 + score)


@given(requests, st.sampled_from([0.5, 0.9, 0.95]), st.floats(1, 100))
def test_it_is_the_quantile_of_what_was_seen_as_each_mode_would_have_seen_it(
    seen: list, target: float, usual_ms: float
):
    spread = Spread(UNITS_MS, 0.03, target, window=20)
    for place, slowdown, ratio in seen:
        usual = UNITS_MS[place] * slowdown
        spread.add(place, usual * ratio, usual)
    assert spread.seen == 20
    for place in range(len(UNITS_MS)):
        expected = reference(place, usual_ms, seen, target, 20)
        assert spread.quantile_ms(place, usual_ms) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("target", "window"), [(0.9, 300), (0.99, 300), (0.999, 3000)])
def test_it_begins_with_what_the_modes_take_alone(target: float, window: int):
    spread = Spread(UNITS_MS, 0.05, target, window)
    assert spread.scores == [0.0] * 5
    assert spread.quantile_ms(2, usual_ms=22.0) == 22.0


def test_a_delay_of_a_short_mode_is_not_multiplied_for_a_long_one_nor_that_of_a_long_one_kept_for_a_short():
    after_short, after_long = (Spread(UNITS_MS, 0.03, 0.9, window=10) for _ in range(2))
    for _ in range(10):
        after_short.add(4, 2.0 + 4.0, 2.0)
        after_long.add(0, 44.0 + 44.0, 44.0)
    assert after_short.scores == pytest.approx([4.0] * 5)
    assert after_long.scores == pytest.approx(LONGEST_MS)


def test_a_mode_keeps_its_own_delays_whatever_slows_it_besides():
    """The longest of its length, 1.4 times slower than the others in this band: its usual time is that."""
    spread = Spread(UNITS_MS, 0.03, 0.9, window=10)
    for _ in range(10):
        spread.add(0, 1.4 * 44.0 + 4.0, 1.4 * 44.0)
    assert spread.quantile_ms(0, 1.4 * 44.0) == pytest.approx(1.4 * 44.0 + 4.0)
