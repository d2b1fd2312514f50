"""The runtime refuses what it cannot run, keeps its modes within a budget, and needs no torch."""

import contextlib
import json
import math
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.engines import KERNELS_ARE_BUILT, SESSION_ENGINES
from tests.helpers.sessions import Counting, images, opened, small_bundle
from wenable.runtime.engines import installed_engines
from wenable.runtime.prepared import ClosedError
from wenable.runtime.session import Session

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("runtime"))


BLOCKED = """
import json, sys, time
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnx", "matplotlib", "scipy", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np
import onnxruntime
started = time.process_time()
from wenable.runtime.session import Session
seconds = time.process_time() - started
session = Session(sys.argv[1], engine="onnxruntime", threads=1)
x = np.load(sys.argv[2])
answers = {mode: session.run(x, mode=mode).tolist() for mode in session.modes}
known = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"seconds": seconds, "answers": answers, "modules": known}))
"""


def test_without_torch_it_runs_and_is_imported_fast(path: Path, tmp_path: Path):
    x, session, seconds = images(), opened(path), []
    np.save(tmp_path / "x.npy", x)
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", BLOCKED, str(path), str(tmp_path / "x.npy")],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        seconds.append(found["seconds"])
        for mode, answer in found["answers"].items():
            np.testing.assert_allclose(answer, session.run(x, mode=mode), rtol=1e-5, atol=1e-6)
        assert set(found["modules"]).isdisjoint({"torch", "onnx", "matplotlib", "scipy", "timm"})
    assert min(seconds) < 0.3


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3, 6, 5), np.float32), r"of shape \(2, 3, 6, 5\)\) must have shape \(N, 3, 6, 6\)"),
        (np.zeros((3, 6, 6), np.float32), r"must have shape \(N, 3, 6, 6\), N above 0"),
        (np.zeros((), np.float32), r"of shape \(\)\) must have shape \(N, 3, 6, 6\)"),
        (np.zeros((1, 2, 3, 6, 6), np.float32), r"must have shape \(N, 3, 6, 6\)"),
        (np.zeros((0, 3, 6, 6), np.float32), "N above 0"),
        (np.zeros((2, 3, 6, 6)), r"\(float64\) must be a numpy array of float32"),
        (np.zeros((2, 3, 6, 6), np.int64), r"\(int64\) must be a numpy array of float32"),
        (np.zeros((2, 3, 6, 6), object), r"\(object\) must be a numpy array of float32"),
        (np.zeros((2, 3, 6, 6), ">f4"), r"must be a numpy array of float32"),
        ([[0.0]], r"\(list\) must be a numpy array of float32"),
        (torch.zeros(2, 3, 6, 6), r"\(torch.float32\) must be a numpy array of float32"),
        (None, r"\(NoneType\) must be a numpy array"),
        ((), "must be 1 arrays, not 0"),
        ((images(), images()), "must be 1 arrays, not 2"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(path: Path, x: Any, message: str):
    session = opened(path)
    with pytest.raises(ValueError, match=message) as caught:
        session.run(x)
    assert "`x`" in str(caught.value)
    assert not session.prepared_modes  # nothing was prepared for it


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_wherever_it_stands(path: Path, value: float):
    session = opened(path)
    for position in (0, 100, 215):
        x = images()
        x.flat[position] = value
        with pytest.raises(ValueError, match="`x` holds NaN or infinity"):
            session.run(x)
    large = np.full((1, 3, 6, 6), 3e38, np.float32)  # its sum is above what float32 holds
    assert session.run(large).shape == (1, 5)


def test_inputs_in_any_layout_and_batch_give_the_same(path: Path):
    session, x = opened(path), images(4)
    expected = session.run(x)
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    apart = np.repeat(x, 2, 0)[::2]
    frozen = x.copy()
    frozen.flags.writeable = False
    for other in (turned, apart, frozen, np.asfortranarray(x)):
        np.testing.assert_array_equal(session.run(other), expected)
    for number in range(4):
        one = session.run(x[number : number + 1])
        np.testing.assert_allclose(one, expected[number : number + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("nonsense", "'nonsense', which is no option; write 1 or 1/n"),
        ("1/3", r"was not exported; .*net.wen has 1, 1/2, 1/4|is not an option"),
        ("1,1/2*6", r"`mode` \(=1,1/2\*6\) was not exported; .*net.wen has 1, 1/2, 1/4"),
        ("1/2,nothing=1", "'nothing', which is no knob of this network"),
        (4, "must be a mode, a text as '1/4', or a dict"),
        ({}, "says nothing of 'block1.conv1'"),
    ],
)
def test_modes_that_are_not_there_are_refused_with_those_that_are(path, mode, message):
    session = opened(path)
    for use in (lambda: session.run(images(), mode=mode), lambda: session.prepare(mode)):
        if mode == "1/3":
            continue  # the nearest uniform option is 1/2, which there is
        with pytest.raises(ValueError, match=message):
            use()
    assert not session.prepared_modes


def test_the_first_mode_runs_where_nothing_is_said(path: Path):
    session = opened(path)
    np.testing.assert_array_equal(session.run(images()), session.run(images(), mode="full"))
    assert session.prepared_modes == ("1",)


def test_modes_unused_for_longest_are_dropped_beyond_the_budget(path: Path):
    session = opened(path)
    expected = {mode: session.run(images(), mode=mode) for mode in session.modes}
    assert session.prepared_modes == session.modes
    session.run(images(), mode=session.modes[0])
    assert session.prepared_modes == (*session.modes[1:], session.modes[0])

    roomy = opened(path, memory_budget_mb=1000)
    counted = [roomy._held_bytes(number, len(roomy.model(number)), 2) for number in range(3)]
    session = opened(path, memory_budget_mb=(sum(counted) + 100) / 2**20)
    session.engine = counting = Counting(session.engine)
    first, second, third, fourth = session.modes[:4]
    for mode in (first, second, third, first):
        session.prepare(mode, 2)
    assert session.prepared_modes == (second, third, first)
    session.run(images(), mode=fourth)
    assert session.prepared_modes[-2:] == (first, fourth)
    assert second not in session.prepared_modes
    for _ in range(2):
        for mode in session.modes:
            np.testing.assert_array_equal(session.run(images(), mode=mode), expected[mode])
            assert session.prepared_modes[-1] == mode
    assert max(counting.prepared.values()) > 1


def test_the_present_mode_stays_whatever_the_budget(path: Path):
    session = opened(path, memory_budget_mb=1e-6)
    for mode in session.modes:
        assert session.run(images(), mode=mode).shape == (2, 5)
        assert session.prepared_modes == (mode,)


@pytest.mark.parametrize("budget", [None, 1e-6])
def test_many_threads_get_the_answers_of_one(path: Path, budget: float | None):
    session = opened(path)
    batches = [images(1 + seed % 3, seed) for seed in range(6)]
    expected = {
        (mode, seed): session.run(batch, mode=mode)
        for mode in session.modes
        for seed, batch in enumerate(batches)
    }
    session = opened(path, memory_budget_mb=budget)
    session.engine = counting = Counting(session.engine)
    calls = 5 * list(expected)
    random.Random(0).shuffle(calls)
    together = threading.Barrier(8)

    def work(part: int) -> list[tuple[Any, np.ndarray]]:
        together.wait()
        return [(key, session.run(batches[key[1]], mode=key[0])) for key in calls[part::8]]

    with ThreadPoolExecutor(8) as pool:
        found = [each for part in pool.map(work, range(8)) for each in part]
    assert len(found) == len(calls)
    for key, answer in found:
        np.testing.assert_array_equal(answer, expected[key])
    if budget is None:
        assert len(counting.prepared) == len(session.modes)
        assert set(counting.prepared.values()) == {1}


def test_a_mode_that_many_threads_want_first_is_prepared_once(path: Path):
    session = opened(path)
    session.engine = counting = Counting(session.engine)
    together = threading.Barrier(8)

    def work(_: int) -> None:
        together.wait()
        session.prepare("1/4")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert list(counting.prepared.values()) == [1]


def test_choosing_and_dispatching_a_mode_is_cheap(path: Path):
    session, x, answer = opened(path), images(1), [np.zeros((1, 5), np.float32)]
    session.controller()
    for held in session._prepared._modes.values():
        held.runner = lambda inputs: answer  # what is left is all but the engine's own time
    best = math.inf
    for _ in range(20):
        start = time.thread_time()  # of this thread alone: other programs take no part in it
        for _ in range(50):
            session.run(x, deadline_ms=5.0)
        best = min(best, (time.thread_time() - start) / 50)
    # The goal is 50 microseconds, and it took about 20 where this was written; machines are shared.
    assert best < 200e-6


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 10**12])
def test_threads_that_are_no_number_are_refused(path: Path, threads: Any):
    with pytest.raises(
        ValueError, match=r"`threads` .* must be a whole number from 1 to 1024, or None"
    ):
        Session(path, engine="onnxruntime", threads=threads)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), True, np.bool_(True), "64"])
def test_budgets_that_are_none_are_refused(path: Path, budget: Any):
    with pytest.raises(
        ValueError, match=r"`memory_budget_mb` .* must be a number above 0, below inf"
    ):
        opened(path, memory_budget_mb=budget)


@pytest.mark.parametrize("budget", [np.float32(64), np.int16(64), Fraction(64), 64.0])
def test_numbers_of_other_kinds_are_taken_as_what_they_are(path: Path, budget: Any):
    x = np.zeros((2, 3, 6, 6), np.float32)
    kinds: Any = {"threads": np.int64(1), "batch": np.int32(2), "deadline_target": np.float32(0.9)}
    session = Session(path, engine="onnxruntime", memory_budget_mb=budget, **kinds)
    two: Any = np.int64(2)
    session.prepare("1/2", batch=two)
    session.warm_up([two])
    assert session.controller(two) is session.controller(2)
    assert type(session.engine.threads) is int
    plain = Session(path, engine="onnxruntime", threads=1, memory_budget_mb=64, batch=2)
    np.testing.assert_array_equal(session.run(x), plain.run(x))
    assert session._prepared._budget == plain._prepared._budget == 64 * 2**20


@pytest.mark.parametrize("budget", [10**400, 1e305])
def test_a_budget_above_all_memory_holds_everything(path: Path, budget: float):
    session = Session(path, engine="onnxruntime", threads=1, memory_budget_mb=budget)
    session.prepare("1/2")
    assert session.prepared_modes


def test_a_closed_session_refuses_in_one_line_and_holds_nothing(path: Path):
    with opened(path) as session:
        assert session.run(images()).shape == (2, 5)
        session.run(images(), deadline_ms=1000.0)
    assert session.prepared_modes == ()
    assert session.prepared_mb == 0
    for use in (
        lambda: session.run(images()),
        lambda: session.run(images(), mode="1/4"),
        lambda: session.run(images(), deadline_ms=1000.0),
        lambda: session.prepare("1/2"),
        lambda: session.warm_up(),
        lambda: session.controller(),
        session.__enter__,
    ):
        with pytest.raises(ClosedError, match=r"^the session is closed; open the bundle again$"):
            use()
    session.close()  # once more does nothing


@pytest.mark.parametrize("engine", SESSION_ENGINES)
def test_closing_ends_the_threads_and_calls_that_run_come_to_their_end(path: Path, engine: str):
    before = threading.active_count()
    session = Session(path, engine=engine, threads=2)
    expected, answers = session.run(images(64)), list[np.ndarray]()
    together = threading.Barrier(5)

    def work() -> None:
        together.wait()
        with contextlib.suppress(ClosedError):
            for _ in range(200):
                answers.append(session.run(images(64)))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for each in workers:
        each.start()
    session.run(images(), deadline_ms=1000.0)  # something begins in the background
    together.wait()
    session.close()
    assert not any(each.name == "wenable-prepare" for each in threading.enumerate())
    for each in workers:
        each.join()
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)
    assert threading.active_count() == before


def test_a_session_that_was_not_closed_does_not_keep_a_program_from_ending(path: Path):
    code = """
import sys
from wenable.runtime import Session
session = Session(sys.argv[1], engine=sys.argv[2], threads=2)
session.run(session.example(), deadline_ms=1000.0)
"""
    for engine in (*installed_engines(), *(["native"] if KERNELS_ARE_BUILT else [])):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), engine], cwd=ROOT, timeout=120, check=False
        )
        assert done.returncode == 0


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "2", None])
def test_sizes_of_batch_are_whole_numbers(path: Path, batch: Any):
    session = opened(path)
    for use in (
        lambda: session.warm_up([batch]),
        lambda: session.controller(batch),
        lambda: session.prepare("1/2", batch),
    ):
        with pytest.raises(ValueError, match=r"`batch` .* must be a whole number above 0"):
            use()
    assert not session.prepared_modes


@pytest.mark.parametrize("engine", SESSION_ENGINES)
def test_warm_up_prepares_all_modes_for_sizes_of_batch(path: Path, engine: str):
    session = Session(path, engine=engine, threads=1)
    session.warm_up(batches=(1, 3))
    prepared = session.prepared_mb
    for batch in (1, 3):
        assert session.run(images(batch), deadline_ms=1e5).shape == (batch, 5)
        decision = session.controller(batch).decisions[-1]
        assert decision.name == session.modes[0]
        assert decision.before_ms < 50  # nothing was prepared in it
    assert session.prepared_mb == prepared


@pytest.mark.parametrize("engine", SESSION_ENGINES)
def test_a_deadline_counts_from_the_call_of_run(path: Path, engine: str):
    """On a real engine: the first request prepares a mode, and that is part of its time."""
    session = Session(path, engine=engine, threads=1, memory_budget_mb=1e-3)
    for number in range(6):
        begun = time.perf_counter()
        session.run(images(), deadline_ms=0.01)
        took_ms = 1e3 * (time.perf_counter() - begun)
        outcome = session.controller(2).outcomes[-1]
        assert outcome.latency_ms <= outcome.total_ms <= took_ms
        if number == 0:
            assert outcome.total_ms > 2 * outcome.latency_ms  # it was prepared in it
    counters = session.controller(2).counters
    assert (counters.within, counters.late) == (0, 6)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda s: s.escalate(s.example(), None), r"`threshold` \(=None\) must be a number"),
        (lambda s: s.escalate(s.example(), "high"), r"`threshold` \(='high'\) must be a number"),
        (lambda s: s.escalate(s.example(), [0.5, None]), r"`threshold` \(=.*\) must be a number"),
        (lambda s: s.run([s.example()[0]]), r"`x` \(list of float32\) must be one array; use np.stack"),
        (lambda s: s.run([1.0]), r"`x` \(list\) must be a numpy array of float32"),
        (lambda s: s.warm_up(1), r"`batches` \(=1\) must be sizes of batch"),
        (lambda s: s.prepare("1/2", image_size=16), r"`image_size` \(=16\) is none .* allowed: "),
    ],
)  # fmt: skip
def test_what_is_of_no_use_is_refused_by_name(path: Path, use: Any, message: str):
    with opened(path) as session, pytest.raises(ValueError, match=message):
        use(session)
