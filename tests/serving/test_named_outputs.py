"""Networks that give back a dict: the queue and a server answer as for any other."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import wenable as we
from tests.serving.test_server import Server
from wenable.runtime import Session
from wenable.serving.batcher import Batcher


class Named(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3)
        self.classes, self.places = torch.nn.Linear(16, 5), torch.nn.Linear(16, 2)

    def forward(self, input: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = self.second(self.first(input).relu()).relu().mean((2, 3))
        return {"places": self.places(pooled), "classes": self.classes(pooled)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    net = we.convert(Named().eval(), torch.zeros(1, 3, 8, 8))
    return we.export(net, ["1", "1/4"], tmp_path_factory.mktemp("named") / "net.wen")


@pytest.fixture
def queue(bundle: Path) -> Iterator[tuple[Batcher, Session]]:
    session = Session(bundle, engine="onnxruntime", threads=1)
    session.warm_up([1, 2, 4])
    made = Batcher(session, batches=(1, 2, 4))
    yield made, session
    made.close()


def examples(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(count)]


def test_each_request_gets_its_rows_of_every_named_output(queue):
    made, session = queue
    inputs = examples(9)
    futures = [made.submit((x,)) for x in inputs]
    for x, future in zip(inputs, futures, strict=True):
        expected = session.run(x)
        places, classes = future.result(timeout=30).outputs
        np.testing.assert_allclose(places, expected["places"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(classes, expected["classes"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", ["_answer", "_deadline_ms", "_joining"])
def test_a_failure_beside_the_engine_is_told_and_the_next_request_is_answered(
    queue, step, monkeypatch: pytest.MonkeyPatch
):
    made, _ = queue
    [x] = examples(1)

    def fail(*_: object) -> None:
        raise TypeError("no such output")

    with monkeypatch.context() as broken:
        broken.setattr(made, step, fail)
        futures = [made.submit((x,)) for _ in range(5)]
        for each in futures:
            with pytest.raises(TypeError, match="no such output"):
                each.result(timeout=30)
    assert [each.shape for each in made.submit((x,)).result(timeout=30).outputs] == [(1, 2), (1, 5)]


def test_a_server_answers_one_request_and_many_and_stops(bundle: Path):
    [x] = examples(1)
    data = {"name": "input", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": x.ravel().tolist()}
    with Session(bundle, engine="onnxruntime", threads=1) as session:
        expected = session.run(x)
    running = Server(bundle)
    try:
        with ThreadPoolExecutor(8) as clients:
            first = running.infer({"inputs": [data]})
            found = [first, *clients.map(lambda _: running.infer({"inputs": [data]}), range(8))]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
    finally:
        running.process.kill()
        running.process.communicate()
    for status, answer in found:
        assert status == 200, answer
        for name, output in zip(("places", "classes"), answer["outputs"], strict=True):
            np.testing.assert_allclose(output["data"], expected[name].ravel(), rtol=1e-4, atol=1e-5)
