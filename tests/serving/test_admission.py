"""What the queue says to requests before their bodies are read, and what it keeps of their deadlines."""

import math

import pytest

from tests.serving.test_batcher import batcher, example
from wenable.runtime.replay import FakeClock
from wenable.serving.estimate import Estimate
from wenable.serving.recent import ArrivalRate, RecentTimes
from wenable.serving.refusals import RefusedError


def test_what_is_still_read_takes_room_in_the_queue():
    queue, _, _ = batcher(capacity=2)
    queue.submit(example())
    coming = queue.announce()
    with pytest.raises(RefusedError, match="the queue is full: 2 requests wait") as caught:
        queue.announce()
    assert caught.value.status == 429
    coming.end()
    coming.end()
    assert queue.coming == 0
    queue.announce()


def test_a_request_is_counted_once_when_it_waits():
    queue, _, _ = batcher()
    coming = queue.announce()
    assert (queue.coming, queue.length) == (1, 0)
    queue.submit(example(), coming=coming)
    assert (queue.coming, queue.length) == (0, 1)


def test_a_client_that_sends_its_body_slowly_takes_no_room():
    queue, _, clock = batcher(capacity=1)
    queue.announce()
    clock.forward(1.5)
    assert queue.coming == 0
    queue.announce()


def test_a_deadline_that_cannot_be_met_is_refused_before_the_body_is_read():
    queue, _, _ = batcher()
    for _ in range(8):
        queue.submit(example())
    for _ in range(8):
        queue.announce()
    with pytest.raises(RefusedError, match="16 requests wait before it, about 36 ms") as caught:
        queue.announce(deadline_ms=35.0)
    assert caught.value.status == 429
    queue.announce(deadline_ms=37.0)


def test_reading_takes_its_part_of_the_deadline():
    queue, _, clock = batcher()
    for _ in range(20):
        coming, came_s = queue.announce(), clock()
        clock.forward(0.03)
        queue.submit(example(), came_s=came_s, coming=coming)
        queue.run_next()
    queue.announce(deadline_ms=34.0)  # nothing waits: what it will take is tried
    with pytest.raises(RefusedError, match="1 requests wait before it, about 35 ms"):
        queue.announce(deadline_ms=34.0)
    queue.announce(deadline_ms=36.0)


def test_what_still_runs_comes_before_those_that_come():
    queue, session, clock = batcher()
    refused = []

    def run(x, **_):
        for deadline_ms in (12.0, 14.0):  # the batch takes 5 ms, and another one will
            clock.forward(0.0)
            try:
                queue.announce(deadline_ms=deadline_ms).end()
            except RefusedError as error:
                refused.append((deadline_ms, error.status))
        clock.forward(0.005)
        return x

    session.run = run
    queue.submit(example(), deadline_ms=8.0)
    queue.run_next()
    assert refused == []
    queue.submit(
        example(size=8), deadline_ms=13.0
    )  # 12 ms, so that they have 0 and 2 to themselves
    queue.run_next()
    assert refused == [(12.0, 429), (14.0, 429)]


def test_a_stopping_server_refuses_before_the_body_is_read():
    queue, _, _ = batcher()
    queue._thread.start()
    queue.close()
    with pytest.raises(RefusedError, match="the server is stopping") as caught:
        queue.announce()
    assert caught.value.status == 503


def test_time_is_kept_for_the_way_of_the_answer():
    queue, session, clock = batcher()
    for _ in range(10):
        queue.ways.note(20.0)
    queue.submit(example(), deadline_ms=50.0)
    queue.run_next()
    assert session.deadlines == [pytest.approx(30.0)]
    late = queue.submit(example(), deadline_ms=26.0)
    clock.forward(0.002)
    queue.run_next()
    assert not late.result().met  # 7 ms of the 6 that were its own
    clock.forward(1.1)
    queue.submit(example(), deadline_ms=50.0)
    queue.run_next()
    assert session.deadlines[-1] == pytest.approx(50.0)  # what was long ago is forgotten


def test_the_ways_never_take_a_whole_deadline():
    queue, session, _ = batcher()
    queue.ways.note(1e6)
    queue.submit(example(), deadline_ms=40.0)
    queue.run_next()
    assert session.deadlines == [pytest.approx(10.0)]


def test_what_cannot_be_in_time_is_given_up_before_it_runs():
    queue, session, clock = batcher()
    hopeless = queue.submit(example(), deadline_ms=10.0)
    fine = queue.submit(example(), deadline_ms=50.0)
    clock.forward(0.006)
    queue.run_next()  # 4 ms are left, and one takes 5
    with pytest.raises(RefusedError, match="cannot be met any more: 4 ms are left, about 5") as no:
        hopeless.result()
    assert no.value.status == 504
    assert fine.result().met
    assert session.calls == [1]


def test_the_last_that_waits_is_tried():
    queue, _, clock = batcher()
    only = queue.submit(example(), deadline_ms=10.0)
    clock.forward(0.006)
    queue.run_next()
    assert only.result().met is False


def test_a_machine_that_becomes_slow_and_recovers_is_followed():
    clock = FakeClock()
    times = RecentTimes(clock)
    seen = []
    for took in (5.0,) * 100 + (60.0,) * 20 + (5.0,) * 130:
        clock.forward(0.01)
        times.note(took)
        seen.append(times.ms)
    assert seen[99] == 5.0
    assert seen[104] == 60.0  # after five of them
    assert seen[210] == 60.0
    assert seen[225] == 5.0  # a second after the last
    clock.forward(5.0)
    assert times.ms == 0.0


def test_the_rate_of_arrivals_rises_in_a_burst_and_falls_after_it():
    clock = FakeClock()
    rate = ArrivalRate(clock)
    for _ in range(30):
        clock.forward(0.02)
        rate.note()
    assert rate.per_ms == pytest.approx(0.05, rel=0.1)
    for _ in range(16):
        clock.forward(0.005)
        rate.note()
    assert rate.per_ms == pytest.approx(0.2, rel=0.1)
    clock.forward(0.8)
    assert rate.per_ms < 0.02


def estimate() -> Estimate:
    return Estimate(batcher()[1], (1, 2, 4, 8))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("examples", "ms"), [(1, 5), (3, 8), (8, 12), (9, 24), (16, 24), (23, 36)])
def test_a_queue_needs_what_its_batches_take_in_the_fastest_mode(examples: int, ms: float):
    assert estimate().needed_ms(examples) == ms


def test_sizes_that_were_not_warmed_up_are_taken_from_those_that_were():
    assert estimate().fastest_ms(3) == 8
    assert estimate().fastest_ms(16) == 24
    assert estimate().needed_ms(0) == 0


@pytest.mark.parametrize(
    ("deadline_ms", "mode", "ms"),
    [(1000, "", 50), (49, "", 5), (1, "", 5), (math.inf, "", 50), (math.inf, "1/4", 5)],
)
def test_a_batch_takes_what_the_mode_takes_that_is_chosen(deadline_ms, mode, ms):
    assert estimate().batch_ms(1, deadline_ms, mode) == ms


def test_a_batch_uses_all_its_time_only_while_few_come():
    allowed = estimate().allowed_ms
    assert allowed(1, 100.0, (), 0.0) == 100.0
    assert allowed(1, 100.0, (), 0.005) == pytest.approx(100 / 1.0075)
    assert allowed(1, 100.0, (), 0.01) == pytest.approx(80.0)
    assert allowed(4, 100.0, (), 0.2) == pytest.approx(100 / 1.3 / 2)
    assert allowed(8, 100.0, (), 0.1) == pytest.approx(64.0)  # as eight others take to come
    assert allowed(4, 100.0, (90.0,), 0.2) == pytest.approx(16.0)
    assert allowed(1, math.inf, (), 0.2) == math.inf  # nobody asked for a deadline
    assert allowed(1, math.inf, (math.inf,), 0.2) == math.inf
