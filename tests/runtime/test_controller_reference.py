"""What the deadline controller predicts, held against a slow reference that sorts everything anew."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.test_controller import controller
from wenable.runtime.decisions import ModeFigures


class NaiveReference:
    """The level and the predictions of one mode, from lists that are sorted anew.

    `scores`: of the 99th percentile alone, times the level: what was beyond it in ms, below it as a share.
    """

    def __init__(
        self, median: float, p99: float, scores: list[float], memory_s=0.1, forget_s=1.0
    ) -> None:
        self.median, self.p99 = median, p99
        self.scores, self.memory_s, self.forget_s = scores, memory_s, forget_s
        self.since_change: list[tuple[float, float]] = []
        self.count, self.headroom, self.suspect = 0, 0.0, (-math.inf, 0.0)

    def predict(self, now: float) -> tuple[float, float]:
        ratios = [ratio for at, ratio in self.since_change if now - at <= self.forget_s]
        if not ratios:  # the last one is never forgotten, it only fades
            ratios = [ratio for _, ratio in self.since_change[-1:]] or [0.0]
        level = sorted(ratios)[(len(ratios) - 1) // 2]
        last = self.since_change[-1][0] if self.since_change else now
        level *= 0.5 ** (max(now - last - self.memory_s, 0.0) / self.forget_s)
        self.careful = level
        if now - self.suspect[0] <= self.memory_s:
            self.careful = max(level, self.suspect[1])
        return level, self.beyond(self.careful) * math.exp(self.headroom)

    def beyond(self, level: float) -> float:
        score = sorted(self.scores)[math.ceil(0.99 * (len(self.scores) + 1) - 1e-9) - 1]
        usual = self.p99 * math.exp(level)
        return usual + score if score > 0 else usual * (1 + score)

    def tail(self, level: float) -> float:
        return math.log(self.beyond(level) / (self.median * math.exp(level)))

    def observe(self, started: float, now: float, ratio: float) -> None:
        level, _ = self.predict(started)
        careful = self.careful
        rise = max(self.tail(level), 0.05)
        kept = [pair for pair in self.since_change if started - pair[0] <= self.forget_s]
        kept = kept or self.since_change[-1:]
        beyond = self.median * math.exp(ratio) - self.p99 * math.exp(level)
        score = beyond if beyond > 0 else beyond / (self.p99 * math.exp(level))
        self.scores[self.count % len(self.scores)] = score
        self.count += 1
        kept = kept if self.since_change else []
        middle = sorted(old for _, old in kept)[(len(kept) - 1) // 2] if kept else 0.0
        self.suspect = (now, ratio) if ratio > middle + rise else (-math.inf, 0.0)
        everything = [*kept, (now, ratio)]
        if len(everything) > 2:
            median = sorted(old for _, old in kept)[(len(kept) - 1) // 2]
            recent = [pair for pair in everything if now - pair[0] <= self.memory_s]
            recent = recent if len(recent) >= 3 else everything[-3:]
            high = sum(value >= median - 0.15 for _, value in recent)
            if min(value for _, value in everything[-2:]) > median + rise - 1e-9:
                everything = everything[-2:]
            elif high <= len(recent) // 8:
                everything = recent
        self.since_change = everything[-16:]
        narrowest = -0.5 * max(self.tail(careful), 0.0)  # every request is in time
        self.headroom = max(self.headroom - 0.005 / math.sqrt(0.0099) * 0.007, narrowest)


gaps_and_ratios = st.lists(
    st.tuples(st.sampled_from([0.0, 0.001, 0.02, 0.3, 3.0]), st.floats(0.93, 1.185)), max_size=120
)


@given(gaps_and_ratios)
@settings(max_examples=80, deadline=None)
def test_the_prediction_is_that_of_a_slow_reference(requests: list[tuple[float, float]]):
    """One mode, and ratios so close that all fall into the first band and all scores count."""
    median, p99, window = 2.0, 2.1, 100
    figures = ModeFigures("1", 0.9, median, p99)
    chooser, clock = controller([figures], hysteresis=0, window=window)
    # The scores it begins with are replaced one by one, in an order only it knows.
    (begun,) = chooser._machine.spread(0)._of_class
    reference = NaiveReference(median, p99, list(begun._by_time))
    for count, (gap, drawn) in enumerate(requests):
        ratio = drawn * (1 + 1e-6 * count)  # no ties, which rounding would break either way
        clock.forward(gap)
        started = clock.now_s
        level, expected = reference.predict(started)
        decision = chooser.choose(deadline_ms=50)
        assert decision.predicted_ms == pytest.approx(expected, rel=1e-9)
        assert math.log(chooser.slowdown) == pytest.approx(level, abs=1e-9)
        clock.forward(median * ratio / 1e3)
        chooser.observe(decision, median * ratio)
        reference.observe(started, clock.now_s, math.log(ratio))
