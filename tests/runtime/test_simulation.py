"""Simulated loads: when work ends, what waits, and a controller's run that is the same every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.deadline_traces import arrivals, traces
from tests.runtime.test_controller import WITHOUT_ENERGY
from wenable.runtime.controller import Controller, ModeFigures
from wenable.runtime.replay import FakeClock
from wenable.runtime.simulation import Arrival, Controlled, Fixed, LoadTrace, simulate

SQUARE = LoadTrace("square", 0.5, (1.0, 2.0))


@pytest.mark.parametrize(
    ("start_s", "work_s", "end_s"),
    [(0.0, 0.5, 0.5), (0.0, 0.6, 0.7), (0.5, 0.25, 1.0), (0.25, 0.75, 1.25), (10.9, 0.05, 11.0)],
)
def test_work_takes_as_long_as_the_load_lasts(start_s: float, work_s: float, end_s: float):
    assert SQUARE.end_s(start_s, work_s, 0.0) == pytest.approx(end_s)


def test_a_mode_that_waits_for_memory_feels_the_memory():
    hog = LoadTrace("hog", 1.0, (1.0,), (3.0,))
    assert hog.slowdown(0.5, 0.0) == 1.0
    assert hog.slowdown(0.5, 0.5) == 2.0
    assert hog.end_s(0.0, 0.1, 1.0) == pytest.approx(0.3)


def test_edges_are_where_the_load_comes_or_goes():
    assert SQUARE.edges_s == (0.0, 0.5)
    assert LoadTrace("even", 1.0, (2.0, 2.1)).edges_s == ()


def test_a_request_that_waits_loses_its_time():
    modes = [ModeFigures("1", 0.9, 10.0)]
    waiting = [Arrival(0.0, 12.0), Arrival(0.001, 12.0)]
    first, second = simulate(Fixed(0), modes, LoadTrace("none", 1.0, (1.0,)), waiting)
    assert (first.met, second.met) == (True, False)
    assert second.total_ms == pytest.approx(19.0)


@pytest.mark.parametrize(
    "columns", [((),), ((1.0, 0.0),), ((1.0, 2.0), (1.0,)), ((1.0, float("nan")),)]
)
def test_a_trace_without_sense_is_refused(columns: tuple):
    with pytest.raises(ValueError, match="'bad'"):
        LoadTrace("bad", 1.0, *columns)


@pytest.mark.parametrize("trace", traces(), ids=lambda trace: trace.name)
def test_traces_survive_json_and_runs_are_the_same_every_time(trace: LoadTrace):
    assert LoadTrace.from_json(trace.to_json()) == trace

    def run() -> tuple:
        clock = FakeClock()
        chooser = Controlled(Controller(WITHOUT_ENERGY, clock=clock), clock)
        return simulate(chooser, WITHOUT_ENERGY, trace, arrivals(300, 27.0, period_ms=30.0))

    assert run() == run()


def turns_of_a_millisecond(others: int, start_ms: int, work_ms: int, slice_ms: int) -> int:
    """Return when work ends, by asking for each millisecond whose turn it is."""
    now, left, others_left = start_ms, work_ms, 0
    turn_ends = start_ms
    while turn_ends < start_ms + slice_ms // 4 or turn_ends % slice_ms:
        turn_ends += 1
    while left:
        if others_left:
            others_left -= 1
            turn_ends = now + 1 + slice_ms
        else:
            left -= 1
            if now + 1 == turn_ends and left:
                others_left = others * slice_ms
        now += 1
    return now


@given(st.integers(0, 3), st.integers(0, 60), st.integers(1, 90))
def test_processes_that_take_slices_of_a_core_run_in_turn(others: int, start_ms: int, work_ms: int):
    slices = LoadTrace("slices", 0.2, (1.0 + others,), slice_s=0.008)
    expected = turns_of_a_millisecond(others, start_ms, work_ms, 8)
    took = slices.end_s(start_ms / 1e3, work_ms / 1e3, 0.0)
    assert took == pytest.approx(expected / 1e3, abs=1e-9)


def test_slices_end_with_the_load():
    load = LoadTrace("slices", 0.1, (2.0, 1.0), slice_s=0.01)
    assert load.end_s(0.0, 0.05, 0.0) == pytest.approx(0.09)  # five turns, and four of the other
    assert load.end_s(0.095, 0.05, 0.0) == pytest.approx(0.155)  # the last slice of the other
    with pytest.raises(ValueError, match="`slice_s`"):
        LoadTrace("bad", 1.0, (1.0,), slice_s=-0.1)


@pytest.mark.parametrize("columns", [((0.4,),), ((1.0, 1.5),), ((2.0,), (2.0,))])
def test_slices_are_of_whole_processes_that_compute(columns: tuple):
    with pytest.raises(ValueError, match=r"'bad' has slices of time: `compute` must be whole"):
        LoadTrace("bad", 1.0, *columns, slice_s=0.004)


@given(st.lists(st.floats(1, 4), min_size=1, max_size=6), st.floats(0, 9), st.floats(0.001, 3))
def test_work_ends_between_the_least_and_the_most_slowdown(steps, start_s, work_s):
    took_s = LoadTrace("any", 0.3, tuple(steps)).end_s(start_s, work_s, 0.0) - start_s
    assert work_s * min(steps) * (1 - 1e-9) - 1e-9 <= took_s <= work_s * max(steps) + 1e-9
