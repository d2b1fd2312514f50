"""Requests with a limit, on a made-up engine and clock: what counts, what is chosen, what is learned."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wenable.core.readings import Reading
from wenable.runtime.controller import Controller, ModeFigures
from wenable.runtime.decisions import BudgetError
from wenable.runtime.known_modes import KnownMode
from wenable.runtime.latencies import Latencies
from wenable.runtime.prepared import PreparedModes
from wenable.runtime.replay import FakeClock
from wenable.runtime.requests import LimitedRequests
from wenable.runtime.unloaded import Load, Timed, Watch, time_unloaded

TRUE_MS = (16.0, 8.0, 4.0)  # of one example in each mode
PREPARE_MS = 200.0
NAMES = ("1", "1/2", "1/4")


class World:
    """Three modes of an engine on a device whose time passes only when something is done.

    - `slowdown`: how many times slower than unloaded everything runs; the system tells of it if `told`.
    """

    def __init__(
        self, *, budget: int | None = None, per_batch: bool = False, known: Any = None
    ) -> None:
        self.clock, self.slowdown, self.told = FakeClock(100.0), 1.0, True
        self.waiting_s = 0.0
        self.jobs: list[Callable[[], None]] = []
        self.prepared_for: list[tuple[int, int]] = []
        self.timed_under_load = 0
        self.load = Load()
        self.modes = PreparedModes(
            lambda number: bytes(number + 1), lambda _, *each: self.prepare(*each),
            lambda number, model, batch: 10, largest=3,
            per_batch=per_batch, budget=budget, clock=self.clock,
        )  # fmt: skip
        self.latencies = Latencies(NAMES, TRUE_MS, known or {})
        self.requests = LimitedRequests(
            [
                KnownMode(name, 0.9 - 0.1 * n, TRUE_MS[n], Reading(None, "mJ", reason="no meter"))
                for n, name in enumerate(NAMES)
            ],
            self.modes, self.latencies, self.load, lambda batch: {"x": np.zeros((batch, 1))},
            target=0.99, watch=Watch(self.clock, self.sleep, self.waited), spawn=self.spawn,
        )  # fmt: skip

    def sleep(self, seconds: float) -> None:
        self.clock.forward(seconds)

    def waited(self) -> float | None:
        return self.waiting_s if self.told else None

    def take_time(self, ms: float) -> None:
        self.clock.forward(ms * self.slowdown / 1e3)
        self.waiting_s += ms * (self.slowdown - 1) / 1e3

    def prepare(self, model: bytes, batch: int) -> Any:
        self.take_time(PREPARE_MS)
        self.prepared_for.append((len(model) - 1, batch))

        def runner(inputs: Any) -> Any:
            self.take_time(TRUE_MS[len(model) - 1] * (0.2 + 0.8 * len(inputs["x"])))
            return [np.full(1, len(model) - 1)]

        return runner

    def spawn(self, work: Callable[[], None]) -> Any:
        self.jobs.append(work)

        class Done:
            def is_alive(inner) -> bool:  # noqa: N805
                return work in self.jobs

            def join(inner) -> None:  # noqa: N805
                self.do_jobs()

        return Done()

    def do_jobs(self) -> None:
        while self.jobs:
            self.jobs[0]()
            self.jobs.pop(0)

    def ask(
        self,
        deadline_ms: float | None = 50.0,
        batch: int = 1,
        before_ms: float = 0.0,
        **limits: Any,
    ) -> Any:
        """Run a request that came `before_ms` ago, and return the decision and its outcome."""
        started = self.clock() - before_ms / 1e3
        self.load.running.append(None)
        try:
            self.requests.run(
                {"x": np.zeros((batch, 1))}, batch, started, deadline_ms=deadline_ms,
                **({"max_energy_mj": None, "strict": False} | limits),
            )  # fmt: skip
        finally:
            self.load.running.pop()
            self.load.served += 1
        controller = self.requests.controller(batch)
        return controller.decisions[-1], controller.outcomes[-1]


def readings(*ms: float) -> dict[str, Reading]:
    return {name: Reading(each, "ms", p99=1.1 * each) for name, each in zip(NAMES, ms, strict=True)}


KNOWN = {1: readings(*TRUE_MS)}


def test_the_first_request_prepares_the_cheapest_mode_and_is_counted_from_its_beginning():
    world = World()
    decision, outcome = world.ask(deadline_ms=50)
    assert world.prepared_for == [(2, 1)]
    assert decision.name == "1/4"
    assert not decision.meets
    assert decision.before_ms == pytest.approx(PREPARE_MS + 2 * 4)
    assert outcome.latency_ms == pytest.approx(4)
    assert outcome.total_ms == pytest.approx(PREPARE_MS + 3 * 4)
    counters = world.requests.controller(1).counters
    assert (counters.within, counters.late, counters.unmet) == (0, 1, 1)
    # What follows finds the others ready, and measured.
    world.do_jobs()
    assert world.latencies.is_measured(1)
    assert [each.latency_ms for each in world.requests.controller(1).modes] == pytest.approx(
        TRUE_MS
    )
    decision, outcome = world.ask(deadline_ms=50)
    assert (decision.name, decision.meets) == ("1", True)
    assert outcome.total_ms == pytest.approx(16)


def test_with_time_to_prepare_it_the_most_accurate_mode_is_prepared_and_that_is_counted():
    world = World()
    decision, outcome = world.ask(deadline_ms=2000)
    assert (decision.name, decision.meets) == ("1", True)
    assert world.prepared_for == [(2, 1), (0, 1)]
    assert outcome.total_ms == pytest.approx(2 * PREPARE_MS + 2 * 4 + 16)
    assert world.requests.controller(1).counters.within == 1
    assert world.requests.controller(1).slowdown == 1.0  # nothing is learned from such a call


def test_under_a_budget_for_one_mode_deadlines_are_kept_by_the_mode_that_is_ready():
    """The fault: each request prepared the mode it wanted, missed, and was counted as in time."""
    world = World(budget=10, known=KNOWN)
    world.ask(deadline_ms=50)
    world.do_jobs()
    for _ in range(100):
        decision, outcome = world.ask(deadline_ms=10)
        assert decision.name == "1/4"
        assert outcome.total_ms == pytest.approx(4)
    counters = world.requests.controller(1).counters
    assert (counters.within, counters.late) == (100, 1)
    assert len(world.prepared_for) == 1


def test_what_a_request_waited_for_counts_and_is_chosen_by():
    world = World(known=KNOWN)
    world.requests.warm_up(1)
    assert world.ask(deadline_ms=30)[0].name == "1"
    decision, outcome = world.ask(deadline_ms=30, before_ms=15)
    assert (decision.name, decision.meets) == ("1/2", True)
    assert decision.before_ms == pytest.approx(15)
    assert outcome.total_ms == pytest.approx(23)
    decision, outcome = world.ask(deadline_ms=30, before_ms=29)
    assert (decision.name, decision.meets) == ("1/4", False)
    with pytest.raises(BudgetError, match=r"needs 43.4 ms .*39 ms of it before the mode starts"):
        world.ask(deadline_ms=30, before_ms=39, strict=True)
    assert world.requests.controller(1).counters.late == 1


@pytest.mark.parametrize("per_batch", [False, True])
def test_a_new_size_of_batch_is_estimated_and_measured_off_the_path(per_batch: bool):
    world = World(known=KNOWN, per_batch=per_batch)
    world.requests.warm_up(1)
    before = list(world.prepared_for)
    decision, outcome = world.ask(deadline_ms=500, batch=4)
    assert not world.latencies.is_measured(4)
    assert decision.predicted_ms >= 16 * 3.4  # estimated, and not below what it takes
    if not per_batch:
        assert world.prepared_for == before
        assert outcome.total_ms == pytest.approx(16 * 3.4)  # no more than its own time
    world.do_jobs()
    assert world.latencies.is_measured(4)
    found = [each.latency_ms for each in world.requests.controller(4).modes]
    assert found == pytest.approx([3.4 * each for each in TRUE_MS])
    assert world.requests.controller(4).counters.decisions == 1  # the same controller goes on


def test_one_not_prepared_for_its_batch_costs_what_preparing_costs():
    world = World(known=KNOWN, per_batch=True)
    world.requests.warm_up(1)
    decision, outcome = world.ask(deadline_ms=100, batch=4)
    assert (decision.name, decision.meets) == ("1/4", False)
    assert outcome.total_ms == pytest.approx(PREPARE_MS + 4 * 3.4)
    assert world.requests.controller(4).counters.late == 1


@pytest.mark.parametrize("told", [True, False])
def test_what_is_measured_under_load_is_not_kept_as_the_unloaded_median(told: bool):
    """Another program on the cores, as the system tells; or requests of this session."""
    world = World()
    world.told = told
    world.ask()
    if told:
        world.slowdown = 3.0
    else:
        world.load.running.append(None)
    world.do_jobs()
    assert not world.latencies.is_measured(1)
    world.slowdown = 1.0
    world.load.running.clear()
    world.ask()
    assert not world.jobs  # not at once again
    world.clock.forward(10.0)
    world.ask()
    world.do_jobs()
    assert world.latencies.is_measured(1)
    assert [each.latency_ms for each in world.requests.controller(1).modes] == pytest.approx(
        TRUE_MS
    )


def test_measuring_is_given_up_while_others_keep_the_device_busy():
    world = World()
    world.load.running.append(None)
    world.ask()
    for _ in range(20):
        world.do_jobs()
        world.clock.forward(1000.0)
        world.ask()
    assert not world.jobs
    assert world.ask(deadline_ms=50)[0].meets


def test_warm_up_leaves_nothing_to_do_for_the_first_request():
    world = World(per_batch=True)
    for batch in (1, 8):
        world.requests.warm_up(batch)
        assert world.latencies.is_measured(batch)
    made = len(world.prepared_for)
    for batch in (1, 8):
        decision, outcome = world.ask(deadline_ms=1000, batch=batch)
        assert (decision.name, decision.before_ms) == ("1", 0.0)
        assert outcome.total_ms == outcome.latency_ms
    assert len(world.prepared_for) == made
    assert not world.jobs


def test_warm_up_measures_modes_that_do_not_fit_beside_each_other():
    world = World(budget=10)
    world.requests.warm_up(1)
    assert [each.latency_ms for each in world.requests.controller(1).modes] == pytest.approx(
        TRUE_MS
    )
    assert world.modes.numbers() == [2]  # the cheapest stays
    assert world.ask(deadline_ms=100)[0].name == "1/4"


def test_limits_are_refused_before_anything_is_prepared():
    world = World()
    for deadline_ms in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`deadline_ms`"):
            world.ask(deadline_ms=deadline_ms)
    with pytest.raises(ValueError, match=r"no mode has an energy reading \(no meter\)"):
        world.ask(deadline_ms=None, max_energy_mj=5.0)
    assert world.prepared_for == []


# What is known of other sizes of batch


def test_sizes_between_known_ones_lie_on_a_line_and_never_below_the_smallest():
    known = Latencies(NAMES, TRUE_MS, {2: readings(8, 4, 2), 6: readings(16, 8, 4)})
    figures = {batch: known.figures(batch) for batch in (1, 2, 4, 6, 12)}
    medians = {
        batch: [each[0] for each in (found or {}).values()] for batch, found in figures.items()
    }
    assert medians == {
        1: [8, 4, 2], 2: [8, 4, 2], 4: [12, 6, 3], 6: [16, 8, 4], 12: [32, 16, 8],
    }  # fmt: skip


def test_sizes_that_lack_a_mode_are_not_known():
    partial = {mode: each for mode, each in readings(8, 4, 2).items() if mode != "1"}
    assert Latencies(NAMES, TRUE_MS, {1: partial}).figures(1) is None


def test_what_was_measured_of_some_modes_scales_the_others():
    known = Latencies(NAMES, TRUE_MS, {1: readings(*TRUE_MS)})
    known.measured(2, {"1/4": Reading(12.0, "ms", p99=13.0)})  # three times what it was
    assert known.figures(2) == {"1": (48.0, None), "1/2": (24.0, None), "1/4": (12.0, 13.0)}


# Timing while nothing else runs


def test_a_block_with_a_request_in_it_does_not_count():
    clock, load = FakeClock(), Load()
    calls = []

    def call() -> None:
        clock.forward(0.010)
        calls.append(None)
        if len(calls) == 3:  # a request begins and ends while this runs
            load.served += 1

    watch = Watch(clock, clock.forward, lambda: None)
    found = time_unloaded({0: call}, load, patience_s=60, watch=watch)[0]
    assert found.quiet == pytest.approx([10.0] * 24)
    assert found.loaded == pytest.approx([10.0] * 2)
    assert len(calls) == 3 + 4 * 7  # and it was given up at once


def test_patience_has_an_end():
    clock, load = FakeClock(), Load()
    load.running.append(None)
    watch = Watch(clock, clock.forward, lambda: None)
    found = time_unloaded({0: lambda: None}, load, patience_s=0.1, watch=watch)
    assert found == {0: Timed()}
    assert clock() == pytest.approx(0.1, abs=0.01)


def test_slow_modes_are_timed_each_where_nothing_disturbs_them():
    """Longer than patience, which is for what disturbs: a board of 0.5 s a mode was never measured."""
    clock, load = FakeClock(), Load()
    calls = {n: lambda n=n: clock.forward(0.5 / (n + 1)) for n in range(5)}
    watch = Watch(clock, clock.forward, lambda: None)
    found = time_unloaded(calls, load, patience_s=3.0, watch=watch)
    for number, each in found.items():
        assert each.quiet == pytest.approx([500.0 / (number + 1)] * len(each.quiet))
        assert len(each.quiet) >= 6
        assert not each.loaded


def test_patience_with_what_is_disturbed_ends_although_other_modes_are_slow():
    clock, load = FakeClock(), Load()

    def disturbed() -> None:
        clock.forward(0.2)
        load.served += 1

    calls = {0: lambda: clock.forward(2.0), 1: disturbed}
    watch = Watch(clock, clock.forward, lambda: None)
    found = time_unloaded(calls, load, patience_s=1.0, watch=watch)
    assert not found[1].quiet
    assert clock() < 4 * 7 * 2.0 + 1.5


def test_one_measures_at_a_time_of_those_that_share_cores():
    one = World()
    began, ended = threading.Event(), threading.Event()
    with one.load.alone(lambda: False):
        waiting = threading.Thread(
            target=lambda: (began.set(), one.requests.warm_up(1), ended.set())
        )
        waiting.start()
        assert began.wait(10)
        assert not ended.wait(0.2)
        assert not one.latencies.is_measured(1)
    waiting.join(10)
    assert ended.is_set()
    assert one.latencies.is_measured(1)


def test_who_is_closed_does_not_wait_to_measure():
    load = Load()
    with load.alone(lambda: False), load.alone(lambda: True):
        pass
    with load.alone(lambda: False):  # and what was not held is not released twice
        pass


def test_an_estimate_of_a_size_comes_before_what_follows_from_another():
    known = Latencies(NAMES, TRUE_MS, {1: readings(*TRUE_MS)})
    assert {mode: ms for mode, (ms, _) in known.figures(8).items()} == {
        "1": 128.0, "1/2": 64.0, "1/4": 32.0
    }  # fmt: skip
    known.estimated(8, dict(zip(NAMES, (50.0, 30.0, 20.0), strict=True)))
    assert known.figures(8) == {"1": (50.0, None), "1/2": (30.0, None), "1/4": (20.0, None)}


# The controller


def test_figures_are_replaced_and_counters_stay():
    clock = FakeClock()
    chooser = Controller([ModeFigures("a", 0.9, 10.0), ModeFigures("b", 0.8, 5.0)], clock=clock)
    decision = chooser.choose(deadline_ms=20)
    chooser.observe(decision, 40.0, total_ms=19.0)
    assert chooser.counters.within == 1
    chooser.replace([ModeFigures("a", 0.9, 100.0), ModeFigures("b", 0.8, 5.0)])
    assert chooser.choose(deadline_ms=20).name == "b"
    assert (chooser.counters.decisions, chooser.counters.within) == (2, 1)
    with pytest.raises(ValueError, match="the same modes in the same order"):
        chooser.replace([ModeFigures("b", 0.8, 5.0), ModeFigures("a", 0.9, 100.0)])


def test_modes_that_are_not_ready_are_priced_in():
    modes = [ModeFigures("a", 0.9, 10.0, 10.0), ModeFigures("b", 0.8, 5.0, 5.0)]
    chooser = Controller(modes, clock=FakeClock())
    assert chooser.choose(deadline_ms=20, waits_ms=[11.0, 0.0]).name == "b"
    decision = chooser.choose(deadline_ms=30, waits_ms=[11.0, 0.0], spent_ms=5.0)
    assert decision.name == "a"
    assert (decision.before_ms, decision.predicted_ms) == pytest.approx((16.0, 26.0))
    assert chooser.choose(deadline_ms=4, waits_ms=[0.0, 6.0]).name == "a"  # 10 is nearer than 11
