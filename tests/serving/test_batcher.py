"""The queue in front of a session, under a fake clock: order, batches, deadlines, refusals."""

import contextlib
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenable.runtime.replay import FakeClock
from wenable.serving.batcher import Batcher
from wenable.serving.refusals import RefusedError


class FakeSession:
    """Two modes; a call takes 4 ms and 1 ms an example in the fast one, ten times as long in the other."""

    modes, image_sizes = ("1", "1/4"), ("",)

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.calls, self.closed = clock, [], False
        self.deadlines: list[float | None] = []
        self.fails = False

    def controller(self, batch: int, image_size: str | None = None):
        predicted = (10.0 * (4 + batch), 4.0 + batch)
        return SimpleNamespace(predictions_ms=predicted, decisions=[SimpleNamespace(name="1/4")])

    def run(self, x, *, mode=None, deadline_ms=None):
        if self.fails:
            raise RuntimeError("the engine has failed")
        self.calls.append(len(x))
        self.deadlines.append(deadline_ms)
        self.clock.forward((4 + len(x)) / 1e3)
        return x * 2

    def close(self) -> None:
        self.closed = True


def batcher(capacity: int = 64):
    clock = FakeClock()
    session = FakeSession(clock)
    made = Batcher(session, capacity=capacity, clock=clock, start=False)  # pyright: ignore
    return made, session, clock


def example(value: float = 1.0, size: int = 1) -> tuple[np.ndarray, ...]:
    return (np.full((size, 2), value, np.float32),)


def test_each_request_gets_its_own_rows_of_a_batch():
    queue, session, _ = batcher()
    futures = [queue.submit(example(k)) for k in range(5)]
    queue.run_next()
    queue.run_next()
    assert session.calls == [4, 1]  # sizes that were warmed up
    assert [each.result().outputs[0][0, 0] for each in futures] == [0, 2, 4, 6, 8]
    assert [each.result().batch for each in futures] == [4, 4, 4, 4, 1]


def test_a_batch_is_no_larger_than_its_earliest_deadline_allows():
    queue, session, _ = batcher()
    futures = [queue.submit(example(), deadline_ms=7.0) for _ in range(1)]
    futures += [queue.submit(example(), deadline_ms=1000.0) for _ in range(3)]
    queue.run_next()  # four would take 8 ms in the fastest mode
    assert session.calls == [2]
    assert [each.result().met for each in futures[:2]] == [True, True]


def test_the_deadline_of_a_batch_is_the_earliest_less_what_waiting_took():
    queue, session, clock = batcher()
    queue.submit(example(), deadline_ms=50.0)
    clock.forward(0.01)
    queue.submit(example(), deadline_ms=30.0)
    clock.forward(0.005)
    queue.run_next()
    assert session.deadlines == [pytest.approx(25.0)]


def test_those_behind_get_their_time_too():
    queue, session, _ = batcher()
    queue.submit(example(), deadline_ms=500.0)
    queue.submit((np.zeros((1, 3), np.float32),), deadline_ms=40.0)  # of another shape: not joined
    queue.run_next()
    assert session.deadlines[0] == pytest.approx(40.0 - 12 / 8)


def test_modes_and_shapes_are_not_mixed():
    queue, session, _ = batcher()
    futures = [queue.submit(example(), mode="1"), queue.submit(example(), mode="1/4")]
    queue.run_next()
    queue.run_next()
    assert session.calls == [1, 1]
    assert [each.result().mode for each in futures] == ["1", "1/4"]


def test_a_full_queue_refuses_at_once():
    queue, _, _ = batcher(capacity=2)
    queue.submit(example())
    queue.submit(example())
    with pytest.raises(RefusedError, match="the queue is full: 2 requests wait") as caught:
        queue.submit(example())
    assert caught.value.status == 429


def test_a_deadline_that_the_queue_leaves_no_time_for_is_refused_at_once():
    queue, _, _ = batcher()
    for _ in range(16):
        queue.submit(example())
    with pytest.raises(RefusedError, match="cannot be met: 16 requests wait before it, about 36"):
        queue.submit(example(), deadline_ms=30.0)
    queue.submit(example(), deadline_ms=40.0)


def test_a_request_whose_time_is_over_is_given_up_without_running():
    queue, session, clock = batcher()
    late = queue.submit(example(), deadline_ms=5.0)
    fine = queue.submit(example(), deadline_ms=50.0)
    clock.forward(0.006)
    queue.run_next()
    assert session.calls == [1]
    assert fine.result().met
    with pytest.raises(RefusedError, match="passed while the request waited") as caught:
        late.result()
    assert caught.value.status == 504


def test_a_client_that_has_gone_is_passed_over():
    queue, session, _ = batcher()
    gone, other = queue.submit(example()), queue.submit(example())
    assert gone.cancel()
    queue.run_next()
    assert session.calls == [1]
    assert other.result().batch == 1


def test_a_failure_reaches_whoever_waits_and_the_next_goes_on():
    queue, session, _ = batcher()
    session.fails = True
    lost = queue.submit(example())
    queue.run_next()
    with pytest.raises(RuntimeError, match="the engine has failed"):
        lost.result()
    session.fails = False
    found = queue.submit(example())
    queue.run_next()
    assert found.result().batch == 1


def test_closing_answers_what_waits_and_refuses_what_comes():
    clock = FakeClock()
    session = FakeSession(clock)
    queue = Batcher(session, clock=clock)  # pyright: ignore[reportArgumentType]
    futures = [queue.submit(example(k)) for k in range(20)]
    queue.close()
    assert [each.result().outputs[0][0, 0] for each in futures] == [2 * k for k in range(20)]
    assert session.closed
    with pytest.raises(RefusedError, match="the server is stopping") as caught:
        queue.submit(example())
    assert caught.value.status == 503


def test_another_session_takes_over_between_two_batches():
    clock = FakeClock()
    old, new = FakeSession(clock), FakeSession(clock)
    queue = Batcher(old, clock=clock)  # pyright: ignore[reportArgumentType]
    queue.submit(example()).result(10)
    queue.replace(new, (1, 2))  # pyright: ignore[reportArgumentType]
    queue.submit(example()).result(10)
    queue.close()
    assert (old.calls, new.calls, old.closed, new.closed) == ([1], [1], True, True)


def test_from_many_threads_none_is_lost_and_none_gets_anothers_answer():
    clock = FakeClock()
    queue = Batcher(FakeSession(clock), clock=clock, capacity=10_000)  # pyright: ignore
    wrong = []

    def client(seed: int) -> None:
        for k in range(50):
            value = float(1000 * seed + k)
            if queue.submit(example(value)).result(30).outputs[0][0, 0] != 2 * value:
                wrong.append(value)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    queue.close()
    assert not wrong


sizes = st.lists(
    st.tuples(st.integers(1, 9), st.none() | st.floats(1, 200), st.sampled_from(["", "1"])),
    max_size=20,
)


@given(sizes)
@settings(max_examples=50, deadline=None)
def test_every_request_is_answered_or_refused_with_a_reason(requests):
    queue, _, _ = batcher(capacity=12)
    taken = []
    for size, deadline_ms, mode in requests:
        with contextlib.suppress(RefusedError):
            future = queue.submit(example(size, size), deadline_ms=deadline_ms, mode=mode)
            taken.append((size, future))
    for _ in range(len(requests)):
        queue.run_next()
    for size, future in taken:
        error = future.exception(timeout=0)
        if error is None:
            assert future.result().outputs[0].shape == (size, 2)
            assert math.isfinite(future.result().total_ms)
        else:
            assert isinstance(error, RefusedError)
            assert error.status == 504


def test_a_deadline_counts_from_when_the_request_came():
    queue, session, clock = batcher()
    clock.forward(1.0)
    now_s = clock()
    with pytest.raises(RefusedError, match="passed before the request was read") as refused:
        queue.submit(example(), deadline_ms=20.0, came_s=now_s - 0.02)
    assert refused.value.status == 504
    found = queue.submit(example(), deadline_ms=500.0, came_s=now_s - 0.1)
    queue.run_next()
    assert session.deadlines == [pytest.approx(400.0)]
    answer = found.result()
    assert answer.waited_ms == pytest.approx(100.0)
    assert answer.total_ms == pytest.approx(105.0)
