"""Modules that stand in a network under several names are exported by the first of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import give_norms_a_past
from wenable.runtime import Session


class Named(nn.Module):
    """A layer and a norm beside the list that runs them, as a network keeps them for later."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.again = self.features
        self.norm, self.last = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)
        self.zeroth = nn.ModuleDict({"norm": self.norm, "last": self.last})
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.zeroth["norm"](torch.cat([self.again(x), self.features(2 * x)], 1))
        return self.head(torch.relu(self.zeroth["last"](x)))


@pytest.mark.parametrize(
    "method",
    [we.Slimmable((1.0, 0.5), divisor=2), we.SwitchablePrecision((32, 16), first_and_last=True)],
    ids=["width", "precision"],
)
def test_they_switch_in_a_bundle(method, tmp_path: Path):
    model, x = give_norms_a_past(Named()).eval(), torch.randn(2, 3, 5, 5)
    net = we.convert(model, x[:1], method=method).eval()
    modes = net.space.uniform_modes()
    we.calibrate(net, modes, [x])
    path = we.export(net, modes, tmp_path / "net.wen")
    with Session(path, engine="onnxruntime", threads=1) as session:
        for mode in modes:
            with torch.no_grad(), net.using(mode):
                np.testing.assert_allclose(session.run(x.numpy(), mode=mode), net(x), atol=1e-3)
