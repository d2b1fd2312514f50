"""Bundles whose outputs have not one row for each example: no request gets a part, or another's."""

from pathlib import Path

import numpy as np
import pytest
import torch

import wenable as we
from wenable.runtime import Session
from wenable.runtime.bundle import Bundle
from wenable.serving.batcher import Batcher
from wenable.serving.server import ServeOptions, _warmed_up


class Boxes(torch.nn.Module):
    """Eight rows for each example, or a mean over all of them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.kind = torch.nn.Conv2d(3, 16, 3, padding=1), kind
        self.second, self.last = torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.last(self.second(self.first(x).relu()).mean(3).transpose(1, 2))
        if self.kind == "flat":
            return places.reshape(-1, 4)
        return places.mean(1).mean(0) if self.kind == "mean" else places.mean(1)


def exported(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / f"{kind}.wen"
    we.export(we.convert(Boxes(kind).eval(), torch.zeros(1, 3, 8, 8)), ["1", "1/4"], path)
    return path


@pytest.mark.parametrize(("kind", "rows"), [("flat", False), ("mean", False), ("rows", True)])
def test_each_request_gets_the_whole_outputs_of_its_own_examples(kind, rows, tmp_path: Path):
    path = exported(kind, tmp_path)
    assert Bundle(path).answers_row_by_row is rows
    session = Session(path, engine="onnxruntime", threads=1)
    batches = _warmed_up(session, ServeOptions(max_batch=4))
    queue = Batcher(session, batches=batches, start=False)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    futures = [queue.submit((x,)) for x in inputs]
    for _ in inputs:
        queue.run_next()
    for x, future in zip(inputs, futures, strict=True):
        answer = future.result(timeout=0)
        assert answer.batch == (4 if rows else 1)
        np.testing.assert_allclose(answer.outputs[0], session.run(x), rtol=1e-5, atol=1e-6)
    queue.close()
