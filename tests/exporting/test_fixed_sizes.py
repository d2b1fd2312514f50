"""Networks whose code names their sizes (`view(b, c, 1, 1)`): a narrower mode has a graph of its own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wenable as we
from tests.helpers.networks import give_norms_a_past
from wenable.runtime import Session
from wenable.runtime.bundle import Bundle


class Network(nn.Module):
    """Two layers beside each other, an operation that names sizes, and a head."""

    def __init__(self, middle: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.middle = middle
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.gate, self.dense = nn.Linear(8, 8), nn.Linear(20, 8)
        self.norm, self.head = nn.BatchNorm2d(20), nn.Conv2d(20, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.middle(self, x)


def joined(net, x: torch.Tensor) -> torch.Tensor:
    return net.norm(torch.cat([net.one(x), net.two(x)], 1))


def excited(net, x: torch.Tensor) -> torch.Tensor:
    """Squeeze-and-excitation as many networks write it."""
    first = net.one(x)
    b, c, _, _ = first.shape
    scale = torch.sigmoid(net.gate(F.adaptive_avg_pool2d(first, 1).view(b, c))).view(b, c, 1, 1)
    return net.head(net.norm(torch.cat([first * scale, net.two(x)], 1)))


def tokens(net, x: torch.Tensor) -> torch.Tensor:
    return net.dense(joined(net, x).flatten(2).transpose(1, 2))


def folded(net, x: torch.Tensor) -> torch.Tensor:
    """Every place of every image is a row."""
    rows = joined(net, x).permute(0, 2, 3, 1)
    return net.dense(rows.reshape(-1, rows.shape[3])).view(x.shape[0], -1)


def expanded(net, x: torch.Tensor) -> torch.Tensor:
    x = joined(net, x)
    b, c, h, w = x.shape
    return net.head(x + x.mean((2, 3), keepdim=True).expand(b, c, h, w))


def scaled(net, x: torch.Tensor) -> torch.Tensor:
    """As attention is: by the square root of how many channels there are."""
    x = joined(net, x)
    return net.head(x / x.shape[1] ** 0.5)


def averaged(net, x: torch.Tensor) -> torch.Tensor:
    x = joined(net, x)
    return net.head(x - x.sum(1, keepdim=True) / x.size(1))


METHODS = {
    "slimmable": we.Slimmable((1.0, 0.75), divisor=2),
    "with precision": [
        we.UniversallySlimmable(0.5, 0.5, divisor=2), we.SwitchablePrecision((32, 8)),
    ],
}  # fmt: skip


def exported(net: we.DynamicNetwork, modes, x: torch.Tensor, folder: Path) -> Path:
    we.calibrate(net, modes, [x])
    return we.export(net, modes, folder / "net.wen")


def check(net: we.DynamicNetwork, modes, path: Path, x: torch.Tensor, atol: float = 1e-5) -> None:
    for engine in ("onnxruntime", "openvino"):
        with Session(path, engine=engine, threads=1) as session:
            for mode in modes:
                for batch in (1, 3):
                    with torch.no_grad(), net.using(mode):
                        expected = net(x[:batch]).numpy()
                    found = session.run(x[:batch].numpy(), mode=mode)
                    assert np.abs(found - expected).max() <= atol * np.abs(expected).max()


MIDDLES = [excited, tokens, folded, expanded, scaled, averaged]


@pytest.mark.parametrize("middle", MIDDLES, ids=lambda f: f.__name__)
def test_sizes_in_the_code_are_those_of_each_width(middle, tmp_path: Path):
    model, x = give_norms_a_past(Network(middle)).eval(), torch.randn(3, 3, 4, 4)
    net = we.convert(model, x[:1], method=METHODS["slimmable"]).eval()
    modes = net.space.uniform_modes()
    path = exported(net, modes, x, tmp_path)
    check(net, modes, path, x)


def test_widths_that_one_graph_fits_share_it(tmp_path: Path):
    def plain(net, x: torch.Tensor) -> torch.Tensor:
        return net.head(joined(net, x))

    numbers = {}
    for middle in (plain, excited, scaled):
        x = torch.randn(2, 3, 4, 4)
        net = we.convert(Network(middle), x[:1], method=METHODS["slimmable"]).eval()
        path = exported(net, net.space.uniform_modes(), x, tmp_path)
        numbers[middle] = [mode.graph for mode in Bundle(path).modes]
    assert numbers == {plain: [0, 0], excited: [0, 1], scaled: [0, 1]}


@pytest.mark.parametrize("middle", [excited, scaled], ids=lambda f: f.__name__)
def test_widths_with_graphs_of_their_own_run_in_every_precision(middle, tmp_path: Path):
    x = torch.randn(3, 3, 4, 4)
    net = we.convert(Network(middle), x[:1], method=METHODS["with precision"]).eval()
    modes = ["full", "width=0.5", "width=0.5,precision=8-bit"]
    path = exported(net, modes, x, tmp_path)
    check(net, modes, path, x, atol=2e-2)
    assert [mode.graph for mode in Bundle(path).modes] == [0, 1, 1]
