"""The deadline controller, under fake clocks: choices, predictions, replays, a square-wave load."""

import math
import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenable.runtime.controller import Controller, ModeFigures
from wenable.runtime.decisions import BudgetError
from wenable.runtime.replay import FakeClock, TraceStep, replay

MODES = (
    ModeFigures("1", 0.76, 18.5, 20.8, 900.0),
    ModeFigures("1/2", 0.74, 9.8, 11.0, 520.0),
    ModeFigures("1/4", 0.71, 5.7, 6.4, 310.0),
    ModeFigures("1/8", 0.68, 4.4, 4.9, 240.0),
    ModeFigures("1/16", 0.64, 3.4, 3.8, 200.0),
)
WITHOUT_ENERGY = tuple(
    ModeFigures(m.name, m.accuracy, m.latency_ms, m.latency_p99_ms) for m in MODES
)


def controller(modes=MODES, **settings) -> tuple[Controller, FakeClock]:
    clock = FakeClock(100.0)
    return Controller(modes, clock=clock, **settings), clock


def serve(chooser: Controller, clock: FakeClock, ratio: float, deadline_ms: float = 27.0) -> str:
    """Run one request on a machine that is `ratio` times slower than unloaded."""
    step = TraceStep(clock.now_s, ratio, deadline_ms)
    [(decision, _)] = replay(chooser, clock, [step])
    return decision.name


# What is chosen


@pytest.mark.parametrize(
    ("deadline_ms", "name"),
    [(100, "1"), (20.8001, "1"), (20.7, "1/2"), (6.5, "1/4"), (3.9, "1/16")],
)
def test_before_anything_is_seen_the_p99_of_the_figures_decides(deadline_ms: float, name: str):
    chooser, _ = controller()
    decision = chooser.choose(deadline_ms=deadline_ms)
    assert decision.name == name == MODES[decision.mode].name
    assert decision.predicted_ms == pytest.approx(MODES[decision.mode].latency_p99_ms)
    assert decision.meets
    assert decision.slowdown == 1.0
    assert decision.time_s == 100.0


def test_nothing_asked_gives_the_most_accurate():
    assert controller(MODES[::-1])[0].choose().name == "1"


def test_without_accuracies_the_slower_mode_stands_for_the_more_accurate():
    modes = [ModeFigures("a", 0.9, 3.0), ModeFigures("b", None, 9.0), ModeFigures("c", None, 6.0)]
    chooser, _ = controller(modes)
    assert [chooser.choose(deadline_ms=ms).name for ms in (12, 9, 5)] == ["b", "c", "a"]


def test_of_equally_accurate_modes_the_faster_one_is_chosen():
    chooser, _ = controller([ModeFigures("slow", 0.9, 9.0), ModeFigures("fast", 0.9, 3.0)])
    assert chooser.choose().name == "fast"


def test_a_deadline_nothing_can_meet_runs_the_fastest_or_raises():
    chooser, _ = controller()
    decision = chooser.choose(deadline_ms=1.5)
    assert (decision.name, decision.meets) == ("1/16", False)
    assert decision.reason == "no mode meets it: the one nearest to it"
    with pytest.raises(
        BudgetError, match=r"`deadline_ms` \(=1.5\): the nearest, '1/16', needs 3.8 ms"
    ):
        chooser.choose(deadline_ms=1.5, strict=True)
    assert (chooser.counters.unmet, chooser.counters.refused, len(chooser.decisions)) == (1, 1, 1)


def test_energy_is_a_limit_like_time():
    chooser, _ = controller()
    assert chooser.choose(max_energy_mj=600).name == "1/2"
    assert chooser.choose(max_energy_mj=600, deadline_ms=8).name == "1/4"
    assert chooser.choose(max_energy_mj=250, deadline_ms=100).name == "1/8"
    least = chooser.choose(max_energy_mj=50)
    assert (least.name, least.meets, least.energy_mj) == ("1/16", False, 200.0)
    with pytest.raises(BudgetError, match=r"`max_energy_mj` \(=50\): .* and 200 mJ"):
        chooser.choose(max_energy_mj=50, strict=True)


def test_energy_is_refused_with_the_reason_where_nothing_was_measured():
    with pytest.raises(ValueError, match=r"no mode has an energy reading \(not measured\)"):
        controller(WITHOUT_ENERGY)[0].choose(max_energy_mj=100)
    modes = [ModeFigures("1", 0.9, 9.0, energy_reason="no meter on this machine")]
    with pytest.raises(ValueError, match="no meter on this machine"):
        controller(modes)[0].choose(max_energy_mj=100)


def test_a_mode_without_energy_is_passed_over_where_others_have_it():
    modes = [ModeFigures("1", 0.9, 9.0), ModeFigures("1/2", 0.8, 5.0, energy_mj=7.0)]
    assert controller(modes)[0].choose(max_energy_mj=1000).name == "1/2"


# What is refused


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0, -1.0, "8"])
def test_limits_and_latencies_are_finite_and_positive(bad):
    chooser, _ = controller()
    for name in ("deadline_ms", "max_energy_mj"):
        with pytest.raises(ValueError, match=rf"`{name}` .* must be a finite number above 0"):
            chooser.choose(**{name: bad})
    with pytest.raises(ValueError, match=r"`latency_ms` .* must be a finite number above 0"):
        chooser.observe("1", bad)
    assert chooser.counters.decisions == chooser.counters.observations == 0


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("1/3", r"`mode` \(='1/3'\) is unknown; allowed: 1, 1/2, 1/4, 1/8, 1/16"),
        (5, r"`mode` \(=5\) must be from 0 to 4"),
        (-1, r"`mode` \(=-1\) must be from 0 to 4"),
    ],
)
def test_unknown_modes_are_refused(mode: str | int, message: str):
    with pytest.raises(ValueError, match=message):
        controller()[0].observe(mode, 5.0)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"target": 1.5}, r"`target` \(=1.5\) must be above 0, below 1"),
        ({"target": math.nan}, "`target`"),
        ({"hysteresis": -0.1}, r"`hysteresis` \(=-0.1\) must be from 0 to below 1"),
        ({"memory_s": 0}, r"`memory_s` \(=0\) must be a finite number above 0"),
        ({"forget_s": math.inf}, "`forget_s`"),
        ({"window": 99}, r"`window` \(=99\) must be at least 100 at a target of 0.99"),
        ({"window": 999, "target": 0.999}, r"`window` \(=999\) must be at least 1000"),
        ({"log_size": 0}, "`log_size`"),
    ],
)
def test_settings_outside_their_range_are_refused(argument: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Controller(MODES, **argument)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"accuracy": 76.0}, r"`accuracy` \(=76.0\) of mode 'x' must be from 0 to 1"),
        ({"accuracy": math.nan}, "`accuracy`"),
        ({"latency_ms": 0.0}, r"`latency_ms` \(=0.0\) of mode 'x' must be a finite number above 0"),
        ({"latency_p99_ms": 4.0}, r"`latency_p99_ms` \(=4.0\) of mode 'x' must be at least"),
        ({"energy_mj": 0.0}, "`energy_mj`"),
    ],
)
def test_figures_outside_their_range_are_refused(figures: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ModeFigures(**{"name": "x", "accuracy": 0.5, "latency_ms": 5.0, **figures})


def test_modes_are_there_and_named_apart():
    with pytest.raises(ValueError, match="`modes` must have at least one mode"):
        Controller([])
    with pytest.raises(ValueError, match="two modes named '1'"):
        Controller([MODES[0], MODES[0]])


# How it learns


def test_two_slow_requests_are_a_load_and_one_is_an_outlier():
    chooser, clock = controller()
    assert {serve(chooser, clock, 1.0) for _ in range(30)} == {"1"}
    serve(chooser, clock, 3.0)
    assert serve(chooser, clock, 1.0) == "1/4"  # one request is careful, in case it is a load
    assert serve(chooser, clock, 1.0) == "1"
    for _ in range(100):
        serve(chooser, clock, 1.0)
    serve(chooser, clock, 2.0)
    serve(chooser, clock, 2.0)
    assert serve(chooser, clock, 2.0) == "1/2"


def test_accurate_modes_come_back_a_moment_after_the_load_goes():
    chooser, clock = controller()
    for _ in range(40):
        serve(chooser, clock, 2.0)
    gone = clock.now_s
    while serve(chooser, clock, 1.0) != "1":
        assert clock.now_s < gone + 0.2
    assert clock.now_s > gone + 0.05


def test_under_a_steady_noisy_load_the_mode_is_kept():
    chooser, clock = controller()
    noise = random.Random(0)
    for _ in range(600):
        serve(chooser, clock, 2.0 * math.exp(noise.gauss(0, 0.05)))
    before = chooser.counters.switches
    for _ in range(600):
        serve(chooser, clock, 2.0 * math.exp(noise.gauss(0, 0.05)))
    assert chooser.counters.switches - before < 12


def test_hysteresis_stops_flapping_at_the_border_between_two_modes():
    def switches(hysteresis: float) -> int:
        # With so long a window the spread stays where it began, and with it the border.
        chooser, clock = controller(hysteresis=hysteresis, window=5000)
        for _ in range(1000):  # until the headroom is at its narrowest
            serve(chooser, clock, 1.29, deadline_ms=100.0)
        before = chooser.counters.switches
        for i in range(400):  # predictions cross the deadline, by little, again and again
            serve(chooser, clock, 1.29 + 0.03 * math.sin(i / 5), deadline_ms=25.25)
        return chooser.counters.switches - before

    assert switches(0.1) <= 2 < 10 < switches(0.0)


def test_an_idle_time_fades_the_slowdown_to_that_of_an_unloaded_machine():
    chooser, clock = controller(memory_s=0.1, forget_s=1.0)
    for _ in range(20):
        serve(chooser, clock, 4.0, deadline_ms=200)
    assert chooser.slowdown == pytest.approx(4.0)
    clock.forward(0.1 + 1.0)
    assert chooser.slowdown == pytest.approx(2.0)
    clock.forward(1.0)
    assert chooser.slowdown == pytest.approx(math.sqrt(2))
    clock.forward(60)
    assert chooser.slowdown == pytest.approx(1.0)


def test_absurd_latencies_do_not_break_it():
    chooser, clock = controller()
    for latency in (1e-300, 1e300) * 20 + (1e300,) * 400:
        clock.forward(0.01)
        chooser.observe("1", latency)
        assert all(0 < predicted < math.inf for predicted in chooser.predictions_ms)
    assert not chooser.choose(deadline_ms=1000).meets
    clock.forward(1)
    for _ in range(400):
        serve(chooser, clock, 1.0)
    assert serve(chooser, clock, 1.0) == "1"


def test_a_mode_that_slows_down_more_than_another_is_learned():
    chooser, clock = controller()
    for _ in range(60):  # under this load the full network is 3 times slower, the small one 2 times
        for mode, ratio in ((0, 3.0), (4, 2.0)):
            latency = MODES[mode].latency_ms * ratio
            clock.forward(latency / 1e3)
            chooser.observe(mode, latency)
    predicted = chooser.predictions_ms
    ratio = (predicted[0] / MODES[0].latency_ms) / (predicted[4] / MODES[4].latency_ms)
    assert ratio == pytest.approx(1.5, rel=0.1)


# What always holds


figures = st.builds(
    lambda accuracy, latency, tail, energy: (accuracy, latency, latency * tail, energy),
    st.floats(0, 1), st.floats(0.5, 50), st.floats(1, 2), st.none() | st.floats(1, 100),
)  # fmt: skip
histories = st.lists(
    st.tuples(st.integers(0, 99), st.floats(0.3, 8), st.floats(0, 0.3)), max_size=40
)


def lived(rows, history, hysteresis: float) -> Controller:
    """Return a controller of these modes that has seen this history."""
    modes = [ModeFigures(str(i), a, ms, p99, mj) for i, (a, ms, p99, mj) in enumerate(rows)]
    chooser, clock = controller(modes, hysteresis=hysteresis)
    for mode, ratio, gap in history:
        clock.forward(gap)
        chooser.observe(mode % len(modes), modes[mode % len(modes)].latency_ms * ratio)
    return chooser


@given(st.lists(figures, min_size=1, max_size=8), histories, st.floats(0, 0.3), st.floats(0.5, 200))
@settings(max_examples=80, deadline=None)
def test_the_choice_is_the_best_of_those_predicted_to_meet(rows, history, hysteresis, deadline_ms):
    chooser = lived(rows, history, hysteresis)
    predicted = chooser.predictions_ms
    decision = chooser.choose(deadline_ms=deadline_ms)
    assert decision.predicted_ms == predicted[decision.mode]
    meeting = [i for i, latency in enumerate(predicted) if latency <= deadline_ms]
    assert decision.meets == bool(meeting)
    if meeting:
        assert decision.mode in meeting
        assert chooser.modes[decision.mode].accuracy == max(rows[i][0] for i in meeting)
    else:
        assert decision.predicted_ms == min(predicted)


@given(
    st.lists(figures, min_size=1, max_size=8),
    histories,
    st.floats(0, 0.3),
    st.lists(st.floats(0.5, 200), min_size=2, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_a_longer_deadline_never_gives_a_less_accurate_mode(rows, history, hysteresis, deadlines):
    """From the same state; the hysteresis does not depend on what is asked, so with it too."""
    chooser = lived(rows, history, hysteresis)
    decisions = [chooser.choose(deadline_ms=ms) for ms in sorted(deadlines)]
    accuracies = [rows[decision.mode][0] for decision in decisions if decision.meets]
    assert accuracies == sorted(accuracies)
    assert [d.meets for d in decisions] == sorted(d.meets for d in decisions)


@given(st.lists(figures, min_size=1, max_size=8), st.floats(0.5, 100), st.floats(0.5, 200))
@settings(max_examples=60, deadline=None)
def test_the_choice_under_an_energy_limit_is_that_of_a_plain_search(rows, most_mj, deadline_ms):
    chooser = lived(rows, [], 0.0)
    if all(row[3] is None for row in rows):
        with pytest.raises(ValueError, match="no mode has an energy reading"):
            chooser.choose(max_energy_mj=most_mj, deadline_ms=deadline_ms)
        return
    decision = chooser.choose(max_energy_mj=most_mj, deadline_ms=deadline_ms)
    predicted = chooser.predictions_ms
    meeting = [
        row[0]
        for row, latency in zip(rows, predicted, strict=True)
        if row[3] is not None and row[3] <= most_mj and latency <= deadline_ms
    ]
    assert decision.meets == bool(meeting)
    assert rows[decision.mode][0] == max(meeting, default=rows[decision.mode][0])
    assert rows[decision.mode][3] is not None


# What it reports, and replays


def test_counters_and_logs_say_what_was_done():
    chooser, clock = controller(log_size=4)
    for ratio in (1.0, 1.0, 2.0, 2.0, 2.0, 2.0):
        serve(chooser, clock, ratio)
    counters = chooser.counters
    assert counters.by_mode == {"1": 3, "1/2": 3, "1/4": 0, "1/8": 0, "1/16": 0}
    assert (counters.decisions, counters.observations, counters.switches) == (6, 6, 1)
    assert (counters.within, counters.late, counters.unmet) == (5, 1, 0)
    assert [d.name for d in chooser.decisions] == ["1", "1/2", "1/2", "1/2"]
    assert [round(o.ratio, 6) for o in chooser.outcomes] == [2.0] * 4
    chooser.observe("1", 5.0)
    assert chooser.counters.within == 5  # no deadline was known


traces = st.lists(
    st.tuples(st.floats(0, 0.2), st.floats(0.5, 5), st.none() | st.floats(1, 60)), max_size=60
)


@given(traces)
@settings(max_examples=40, deadline=None)
def test_a_recorded_trace_replays_to_the_same_decisions(rows):
    now, trace = 100.0, []
    for gap, ratio, deadline_ms in rows:
        now += gap
        trace.append(TraceStep(now, ratio, deadline_ms))
    first, clock = controller()
    served = replay(first, clock, trace)
    again, clock = controller()
    assert replay(again, clock, trace) == served
    assert again.decisions == first.decisions
    assert again.outcomes == first.outcomes
    # and what the controller itself has recorded is a trace too
    recorded = [TraceStep.from_outcome(outcome) for outcome in first.outcomes]
    third, clock = controller()
    replayed = [decision.mode for decision, _ in replay(third, clock, recorded)]
    assert len(replayed) == len(rows)


def test_the_fake_clock_only_moves_forward():
    with pytest.raises(ValueError, match=r"`seconds` \(=-1\) must be finite and at least 0"):
        FakeClock().forward(-1)


def test_many_threads_lose_no_count():
    chooser = Controller(MODES, log_size=100)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        noise = random.Random(seed)
        try:
            for _ in range(300):
                decision = chooser.choose(
                    deadline_ms=noise.uniform(3, 60), max_energy_mj=noise.uniform(100, 999)
                )
                chooser.observe(decision, MODES[decision.mode].latency_ms * noise.uniform(0.5, 2))
                assert len(chooser.predictions_ms) == 5
                counters = chooser.counters
                assert counters.observations <= counters.decisions <= counters.observations + 8
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    counters = chooser.counters
    assert counters.decisions == counters.observations == sum(counters.by_mode.values()) == 2400
    assert counters.within + counters.late == 2400
    assert len(chooser.decisions) == len(chooser.outcomes) == 100
    recent = chooser._machine._recent  # the two orders of the same values are still one
    assert sorted(value for _, value in recent._by_time) == recent._by_size


def test_choosing_among_a_hundred_modes_is_cheap():
    modes = [
        ModeFigures(str(i), 1 - i / 200, 20 - 0.15 * i, None, 100.0 - i / 2) for i in range(100)
    ]
    chooser = Controller(modes)
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(50):
            chooser.choose(deadline_ms=6)
        best = min(best, (time.perf_counter() - start) / 50)
    assert best < 50e-6  # about 6 microseconds where this was written; loose for busy machines
