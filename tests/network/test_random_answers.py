"""Networks that draw random numbers in eval mode: variational, noisy, with dropout that stays on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import wenable as we
from wenable.exporting.int8 import export_int8


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.mean, self.width = nn.Linear(32, 8), nn.Linear(32, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        mean = self.mean(x)
        return self.decoder(mean + torch.randn_like(mean) * self.width(x).exp())


class StaysOn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.out = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(nn.functional.dropout(self.body(x), 0.5, training=True))


KINDS = pytest.mark.parametrize("kind", [Variational, StaysOn])


def converted(kind: Callable[[], nn.Module]) -> we.DynamicNetwork:
    torch.manual_seed(0)
    return we.convert(kind().eval(), torch.randn(2, 16), method=we.WeightEnabling((1, 2)))


@KINDS
def test_a_mode_is_extracted_and_draws_as_the_network_does(kind: Callable[[], nn.Module]) -> None:
    net, x = converted(kind), torch.randn(3, 16)
    for mode in ("full", "1/2"):
        plain = we.extract(net, mode)
        with torch.no_grad(), net.using(mode):
            torch.manual_seed(1)
            expected = net(x)
            torch.manual_seed(1)
            torch.testing.assert_close(plain(x), expected)


@KINDS
def test_it_is_not_exported_and_told_why(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it draws random numbers in eval mode"):
        we.export(converted(kind), ["full"], tmp_path / "net.wen")
    narrow = we.convert(kind().eval(), torch.randn(2, 16), method=we.SwitchablePrecision((32, 8)))
    with pytest.raises(ValueError, match="draw them outside of the network and give them to it"):
        export_int8(narrow, "8-bit", tmp_path / "net.onnx")
    assert not any(tmp_path.iterdir())
