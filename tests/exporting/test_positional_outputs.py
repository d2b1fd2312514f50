"""Outputs in a tuple: one of them twice, an input, what no input has a part in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from wenable.runtime import Session
from wenable.runtime.engines import installed_engines


class ManyOutputs(nn.Module):
    anchors: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.out = nn.Linear(32, 4)
        self.register_buffer("anchors", torch.arange(6.0).reshape(3, 2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.out(self.body(x))
        penalty = self.out.weight.square().sum().reshape(1)
        return y, y, x, penalty, self.anchors, self.anchors + 1, y > 0


@pytest.mark.parametrize("engine", installed_engines())
def test_they_are_exported_in_their_places(engine: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = we.convert(ManyOutputs().eval(), torch.randn(2, 8), method=we.WeightEnabling((1, 2)))
    path = we.export(net, ["full", "1/2"], tmp_path / "net.wen")
    x = torch.randn(3, 8)
    with Session(path, engine=engine, threads=1) as session:
        for mode in ("full", "1/2"):
            with torch.no_grad(), net.using(mode):
                expected = net(x)
            found = session.run(x.numpy(), mode=mode)
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-5)
