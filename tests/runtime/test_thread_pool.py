"""Sessions that share a pool of threads take turns, and lose nothing by it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import wenable as we
from tests.helpers.engines import NEEDS_KERNELS, SESSION_ENGINES
from tests.helpers.networks import converted, small_resnet
from wenable.runtime import Session, ThreadPool

LIMIT_S = 120


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, found = tmp_path_factory.mktemp("pool"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = converted(small_resnet()).eval()
        modes = net.space.uniform_modes()
        we.calibrate(net, modes, [torch.randn(8, *net.example_batch[0].shape[1:])])
        found.append(we.export(net, modes, folder / f"net-{seed}.wen"))
    return found


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, 6, 6), dtype=np.float32)


def begun(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def ended(threads: list[threading.Thread]) -> bool:
    until = time.monotonic() + LIMIT_S
    for each in threads:
        each.join(max(0.0, until - time.monotonic()))
    return not any(each.is_alive() for each in threads)


def test_turns_come_one_at_a_time_in_the_order_in_which_they_were_asked_for() -> None:
    pool, order, inside = ThreadPool(1), list[int](), list[int]()

    def work(number: int) -> None:
        with pool.turn:
            inside.append(number)
            assert inside == [number]
            order.append(number)
            inside.pop()

    with pool.turn, pool.turn:  # whoever has it may take it again
        waiting = []
        for number in range(8):
            waiting.append(begun(lambda number=number: work(number)))
            time.sleep(0.02)  # so that they ask one after another
        assert not order
    assert ended(waiting)
    assert order == list(range(8))


def test_many_threads_never_hold_the_turn_together() -> None:
    pool, inside, most = ThreadPool(1), list[None](), list[int]()

    def work() -> None:
        for _ in range(200):
            with pool.turn:
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    assert ended([begun(work) for _ in range(6)])
    assert len(most) == 6 * 200
    assert max(most) == 1


INTERRUPTED = """
import os, signal, threading, time
from wenable.runtime import ThreadPool
pool, held, leave = ThreadPool(1), threading.Event(), threading.Event()
def hold():
    with pool.turn:
        held.set()
        leave.wait()
def interrupt():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
threads = [threading.Thread(target=hold), threading.Thread(target=interrupt)]
signal.signal(signal.SIGINT, signal.default_int_handler)
threads[0].start()
held.wait()
threads[1].start()
try:
    with pool.turn:
        print("a turn that another has")
except KeyboardInterrupt:
    print("interrupted")
leave.set()
[each.join() for each in threads]
with pool.turn:
    print("free")
"""


def test_whoever_is_interrupted_while_waiting_takes_no_turn() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=LIMIT_S, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["interrupted", "free"], done.stderr


@pytest.mark.parametrize("engine", SESSION_ENGINES)
def test_sessions_of_a_pool_answer_as_they_do_alone(paths: list[Path], engine: str) -> None:
    pool, x = ThreadPool(2), images()
    alone, shared = [], [Session(path, engine=engine, threads=pool) for path in paths]
    for path in paths:
        with Session(path, engine=engine, threads=2) as session:
            alone.append([session.run(x, mode=mode) for mode in session.modes])
    found: list[list[np.ndarray]] = [[], []]

    def work(place: int) -> None:
        found[place].extend(shared[place].run(x, mode=mode) for mode in shared[place].modes)

    assert ended([begun(lambda place=place: work(place)) for place in (0, 1)])
    for expected, given in zip(alone, found, strict=True):
        np.testing.assert_array_equal(np.stack(given), np.stack(expected))
    shared[0].close()
    shared[1].run(x, deadline_ms=1000)  # the other one goes on
    shared[1].close()


@pytest.mark.parametrize("engine", SESSION_ENGINES)
@pytest.mark.parametrize("how", ["mode", "deadline", "escalate"])
def test_a_call_waits_for_its_turn(paths: list[Path], engine: str, how: str) -> None:
    pool = ThreadPool(1)
    with Session(paths[0], engine=engine, threads=pool) as session:
        session.warm_up()
        call: Callable[[], object] = {
            "mode": lambda: session.run(images(), mode="1/4"),
            "deadline": lambda: session.run(images(), deadline_ms=1e4),
            "escalate": lambda: session.escalate(images(), 0.5),
        }[how]
        call()
        with pool.turn:
            thread = begun(call)
            thread.join(0.3)
            assert thread.is_alive()
        assert ended([thread])


def test_waiting_for_a_turn_counts_towards_the_deadline(paths: list[Path]) -> None:
    pool = ThreadPool(1)
    with Session(paths[0], engine="onnxruntime", threads=pool) as session:
        session.warm_up()
        with pool.turn:
            thread = begun(lambda: session.run(images(), deadline_ms=100.0))
            time.sleep(0.3)
        assert ended([thread])
        counters = session.controller().counters
        assert (counters.decisions, counters.late) == (1, 1)


def test_under_a_budget_nobody_waits_for_somebody_who_waits_for_a_turn(paths: list[Path]) -> None:
    pool = ThreadPool(1)
    with Session(
        paths[0], engine="onnxruntime", threads=pool, memory_budget_mb=0.001
    ) as session:  # holds one mode

        def work(seed: int) -> None:
            for number in range(10):
                if (seed + number) % 2:
                    session.run(images(), mode=session.modes[number % len(session.modes)])
                else:
                    session.run(images(), deadline_ms=5.0)

        assert ended([begun(lambda seed=seed: work(seed)) for seed in range(4)])


def test_sessions_of_a_pool_keep_the_provider_that_each_was_asked_for(paths: list[Path]) -> None:
    pool, providers = ThreadPool(1), onnxruntime.get_available_providers()
    opened = [Session(paths[0], engine=f"onnxruntime:{each}", threads=pool) for each in providers]
    if len(opened) < 2:
        pytest.skip("this build of ONNX Runtime has one provider")
    assert [getattr(each.engine, "provider", "") for each in opened] == providers


@NEEDS_KERNELS
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="nothing tells the threads here")
def test_our_kernels_have_one_set_of_threads_for_the_whole_pool(paths: list[Path]) -> None:
    def threads() -> int:
        """Return how many there are, once those that end have ended."""
        counts = [-1]
        while len(counts) < 3 or len(set(counts[-3:])) > 1:
            counts.append(len(list(Path("/proc/self/task").iterdir())))
            time.sleep(0.1)
        return counts[-1]

    def grown(first: int | ThreadPool, second: int | ThreadPool) -> int:
        with Session(paths[0], engine="native", threads=first) as one:
            one.run(images())
            before = threads()
            with Session(paths[1], engine="native", threads=second) as other:
                other.run(images())
                return threads() - before

    pool = ThreadPool(3)
    assert grown(pool, pool) == 0
    assert grown(3, 3) > 0


FORKED = """
import os, sys, threading
import numpy as np
from wenable.runtime import Session, ThreadPool
pool, x = ThreadPool(1), np.ones((1, 3, 6, 6), np.float32)
session = Session(sys.argv[1], engine="onnxruntime", threads=pool)
session.run(x)
held, leave = threading.Event(), threading.Event()
def hold():
    with pool.turn:
        held.set()
        leave.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
if not (pid := os.fork()):
    session.run(x)
    os._exit(7)
print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
leave.set()
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_does_not_wait_for_a_turn_that_its_parent_had(paths: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, str(paths[0])],
        capture_output=True, text=True, timeout=LIMIT_S, check=True,
    )  # fmt: skip
    assert done.stdout == "status 7\n", done.stderr


@pytest.mark.parametrize("threads", [0, -1, 2.0, "2", True, 10_000])
def test_a_number_of_threads_out_of_range_is_refused(threads: int) -> None:
    with pytest.raises(
        ValueError, match=r"`threads` \(=.*\) must be a whole number from 1 to 1024, or None"
    ):
        ThreadPool(threads)
