"""What a session makes of its engine: one that is not there, fails, or refuses a model."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.helpers.sessions import Counting, images, opened, small_bundle
from wenable.runtime.building import ModeWeights, build_model
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import installed_engines, open_engine
from wenable.runtime.graph import LINEAR, NORM, Graph, Node, TensorType
from wenable.runtime.implementations import BundleLayer, Implementation
from wenable.runtime.onnx_writer import onnx_model
from wenable.runtime.session import Session

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("runtime"))


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
