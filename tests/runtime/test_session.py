"""The runtime refuses what it cannot run, keeps its modes within a budget, and needs no torch."""

import contextlib
import json
import math
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import wenable as we
from tests.helpers.engines import KERNELS_ARE_BUILT, SESSION_ENGINES
from tests.helpers.networks import converted, small_resnet
from wenable.runtime.building import ModeWeights, build_model
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import installed_engines, open_engine
from wenable.runtime.graph import LINEAR, NORM, Graph, Node, TensorType
from wenable.runtime.implementations import BundleLayer, Implementation
from wenable.runtime.onnx_writer import onnx_model
from wenable.runtime.prepared import ClosedError
from wenable.runtime.session import Session

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = converted(small_resnet()).eval()
    modes = [*net.space.uniform_modes(), net.space.sample(random.Random(3))]
    images = torch.randn(
        16, *net.example_batch[0].shape[1:], generator=torch.Generator().manual_seed(5)
    )
    we.calibrate(net, modes, [images])
    return we.export(net, modes, tmp_path_factory.mktemp("runtime") / "net.wen")


def opened(path: Path, **settings: Any) -> Session:
    return Session(path, engine="onnxruntime", threads=1, **settings)


def images(count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 6, 6), dtype=np.float32)


class Counting:
    """An engine that counts how often it prepares each model."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.prepared = engine, Counter[bytes]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def prepare(self, model: bytes) -> Any:
        self.prepared[model] += 1
        return self.engine.prepare(model)


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

    counted = [session._held_bytes(number, len(session.model(number)), 2) for number in range(3)]
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


def test_an_engine_that_fails_can_be_tried_again(path: Path):
    session = opened(path)
    engine = session.engine

    class Failing(Counting):
        def prepare(self, model: bytes) -> Any:
            raise EngineError("no memory")

    session.engine = Failing(engine)
    with pytest.raises(EngineError, match="no memory"):
        session.run(images(), mode="1/2")
    assert not session.prepared_modes
    session.engine = engine
    assert session.run(images(), mode="1/2").shape == (2, 5)


def test_engines_that_are_not_there_are_named_with_the_remedy(path: Path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"`engine` \(='tflite'\) is unknown; allowed: onnxruntime, "
    ):
        Session(path, engine="tflite")
    with pytest.raises(EngineError, match="ONNX Runtime has no provider 'NoProvider' here; it has"):
        Session(path, engine="onnxruntime:NoProvider")
    with pytest.raises(ValueError, match=r"has no providers; use 'openvino'|is not installed"):
        Session(path, engine="openvino:GPU")
    assert "onnxruntime" in installed_engines()
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    for name in ("onnxruntime", "openvino", "native"):
        with pytest.raises(
            EngineError, match=rf"is not installed: pip install 'wenable\[{name}\]'"
        ):
            Session(path, engine=name)
    assert installed_engines() == ()
    with pytest.raises(EngineError, match="no engine is installed: pip install"):
        Session(path, engine="auto")


def test_what_the_host_computes_is_as_before(path: Path):
    code = """
import sys
import numpy as np
from wenable.runtime.session import Session
session = Session(sys.argv[1], engine="onnxruntime", threads=1)
session.run(np.zeros((1, 3, 6, 6), np.float32))
assert np.float64(5e-324) * 1.0 > 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stderr=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0


def test_a_named_provider_runs(path: Path):
    session = Session(path, engine="onnxruntime:CPUExecutionProvider", threads=1)
    np.testing.assert_array_equal(session.run(images()), opened(path).run(images()))


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_not_there_or_does_not_start_is_an_error(
    path: Path, monkeypatch, provider: str
):
    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"{provider} is here")
    with pytest.raises(
        EngineError, match=rf"has no provider '{provider}' here; it has .*CPUExecutionProvider"
    ):
        Session(path, engine=f"onnxruntime:{provider}")
    # Built in, but its libraries are missing: ONNX Runtime would go on with the CPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    session = Session(path, engine=f"onnxruntime:{provider}", threads=1)
    with pytest.raises(
        EngineError, match=f"could not start the provider '{provider}' and took CPU"
    ):
        session.run(images())


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 10**12])
def test_threads_that_are_no_number_are_refused(path: Path, threads: Any):
    with pytest.raises(ValueError, match=r"`threads` .* must be from 1 to 1024, or None"):
        Session(path, engine="onnxruntime", threads=threads)


@pytest.mark.parametrize("budget", [0, -1, float("nan")])
def test_budgets_that_are_none_are_refused(path: Path, budget: float):
    with pytest.raises(
        ValueError, match=r"`memory_budget_mb` .* must be a number above 0, below inf"
    ):
        opened(path, memory_budget_mb=budget)


def test_a_model_that_an_engine_refuses_is_an_engine_error():
    engine = open_engine("onnxruntime", 1)
    x = TensorType("x", "float32", (None, 2))
    wrong = onnx_model([x], [x], [Node("Nonsense", ("x",), ("y",))], {}, 20)
    for model in (b"", b"no model", wrong):
        with pytest.raises(EngineError, match="ONNX Runtime refuses the model") as caught:
            engine.prepare(model)
        assert "\n" not in str(caught.value)
    y = TensorType("y", "float32", (None, 2))
    node = Node("Reshape", ("x", "shape"), ("y",))
    runner = engine.prepare(onnx_model([x], [y], [node], {"shape": np.array([7, 2])}, 20))
    with pytest.raises(EngineError, match="ONNX Runtime cannot run the model") as caught:
        runner({"x": np.zeros((3, 2), np.float32)})
    assert "\n" not in str(caught.value)


def ran(
    graph: Graph, tensors: dict[str, np.ndarray], x: np.ndarray, norms: Any = None
) -> np.ndarray:
    """What ONNX Runtime makes of a graph with one switchable layer "a" of 4 inputs, in option 2."""
    layers = {"a": BundleLayer("a", "a", (1, 2), 4, 4)}
    model = build_model(
        graph, layers, ModeWeights({"a": 2}, tensors, norms or {}), {"a": Implementation(2)}
    )
    return open_engine("onnxruntime", 1).prepare(model)({"x": x})[0]


def test_weights_keep_apart_from_values_of_their_name():
    x, y = TensorType("x", "float32", (None, 4)), TensorType("y", "float32", (None, 3))
    nodes = (
        Node(LINEAR, ("x", "a.weight"), ("linear",), {"input": [4]}, "a"),
        Node("MatMul", ("linear", "linear.weight"), ("y",)),
    )
    rng = np.random.default_rng(0)
    first, second, batch = (
        rng.standard_normal(shape, np.float32) for shape in ((4, 4), (4, 3), (2, 4))
    )
    tensors = {"a.weight": first, "linear.weight": second}
    enabled = first * np.kron(np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32))
    found = ran(Graph((x,), (y,), nodes, 20), tensors, batch)
    np.testing.assert_allclose(found, batch @ enabled.T @ second, rtol=1e-5, atol=1e-5)


def test_a_convolution_whose_weight_is_computed_runs_as_it_is():
    x, y = (TensorType(name, "float32", (None, 1, 2, 2)) for name in "xy")
    nodes = (
        Node("Add", ("stored", "stored"), ("weight",)),
        Node("Conv", ("x", "weight"), ("made",)),
        Node(NORM, ("made",), ("y",), {"rank": 4}, "norm"),
    )
    tensors = {"stored": np.full((1, 1, 1, 1), 2, np.float32)}
    norms = {"norm": (np.array([3], np.float32), np.array([1], np.float32))}
    batch = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    found = ran(Graph((x,), (y,), nodes, 20), tensors, batch, norms)
    np.testing.assert_allclose(found, 12 * batch + 1)


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


@pytest.mark.parametrize("engine", installed_engines())
def test_engines_say_why_they_refuse_a_model(engine: str):
    x = TensorType("x", "float32", (None, 2))
    wrong = onnx_model([x], [TensorType("y", "float32", (None, 2))],
                       [Node("Nonsense", ("x",), ("y",))], {}, 20)  # fmt: skip
    with pytest.raises(EngineError, match="Nonsense") as caught:
        open_engine(engine, 1).prepare(wrong)
    assert "Exception from" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
