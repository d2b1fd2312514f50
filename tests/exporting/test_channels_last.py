"""Networks in channels_last: their graphs are those of the same networks in contiguous memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from wenable.exporting.global_pooling import GlobalPoolingAsMean
from wenable.runtime import Session
from wenable.runtime.engines import installed_engines, is_installed

METHODS = {
    "groups": we.WeightEnabling((1, 2, 4)),
    "widths": we.Slimmable((1.0, 0.5)),
    "precision": we.SwitchablePrecision((32, 8)),
    "groups and sizes": [we.WeightEnabling((1, 2)), we.ImageSize((8, 4))],
}


def pooled_network() -> nn.Module:
    """A network that ends in a pooling to one pixel, which torch traces by how memory lies."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


class InItsForward(nn.Sequential):
    """Asks for the memory format in its code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class ByPermutation(nn.Sequential):
    """Permutes its features, as a norm over channels does: they lie in channels_last from there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self[5](self[4](self[3](self[2](self[1](self[0](x))))))
        return self[8](self[7](self[6]((x.permute(0, 2, 3, 1) * 2.0).permute(0, 3, 1, 2))))


def exported(method, memory_format: torch.memory_format, path: Path) -> Path:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net = we.convert(pooled_network(), x, method=method)
    net.to(memory_format=memory_format)
    we.calibrate(net, ["full", "smallest"], [x])
    return we.export(net, ["full", "smallest"], path)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_bundle_has_the_graphs_of_the_contiguous_network(method, tmp_path: Path) -> None:
    there = exported(method, torch.channels_last, tmp_path / "there.wen")
    here = exported(method, torch.contiguous_format, tmp_path / "here.wen")
    assert operations(there) == operations(here)


def operations(path: Path) -> list[list[str]]:
    with Session(path) as session:
        bundle = session.bundle
        return [
            [node.op for node in bundle.graph_of(number).nodes]
            for number in range(len(bundle.modes))
        ]


@pytest.mark.parametrize(
    ("kind", "ours"), [(InItsForward, True), (ByPermutation, False)], ids=["code", "permutation"]
)
def test_a_network_that_makes_its_features_so_is_run_without_a_gathering(
    kind, ours: bool, tmp_path: Path
) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net = we.convert(kind(*pooled_network()), x, method=we.Slimmable((1.0, 0.5)))
    we.calibrate(net, ["full", "smallest"], [x])
    path = we.export(net, ["full", "smallest"], tmp_path / "net.wen")
    with torch.no_grad(), net.using("smallest"):
        expected = net.eval()(x).numpy()
    # Our own kernels permute no pixels.
    engines = (*installed_engines(), *filter(is_installed, ["native"] if ours else []))
    for engine in engines:
        with Session(path, engine=engine) as session:
            found = session.run(x.numpy(), mode="smallest")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not {"Gather", "Range"} & {op for graph in operations(path) for op in graph}


def test_a_pooling_to_one_pixel_is_the_mean_and_others_stay() -> None:
    x = torch.randn(2, 4, 6, 6, 6).to(memory_format=torch.channels_last_3d)
    with GlobalPoolingAsMean():
        pooled = nn.functional.adaptive_avg_pool3d(x, (1, 1, 1))
        halved = nn.functional.adaptive_avg_pool2d(x[0], output_size=(3, None))
    torch.testing.assert_close(pooled, x.mean((2, 3, 4), keepdim=True))
    torch.testing.assert_close(halved, x[0].unfold(2, 2, 2).mean(-1))
