"""Answers of an engine are held against the network's own, and against what rounding does to those."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from wenable.core.space import Knob, Space
from wenable.exporting import writing
from wenable.exporting.agreement import MOST, TOLERANCE, check_agreement
from wenable.runtime import engines
from wenable.runtime.engine import EngineError
from wenable.runtime.session import Session

MODE = Space((Knob("a", (1, 2)),)).full


class Steep(nn.Module):
    """Takes a difference of large numbers, so that its last digits become the answer."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.offset) - self.offset


def check(plain: nn.Module, x: torch.Tensor, found: np.ndarray) -> None:
    check_agreement(plain, (x,), [found], MODE, "an engine")


def test_a_network_that_rounding_hardly_moves_gets_the_tolerance_and_no_more():
    x = torch.randn(4, 8)
    largest = float(x.abs().max())
    check(nn.Identity(), x, (x + 0.9 * TOLERANCE * largest).numpy())
    with pytest.raises(RuntimeError, match=r"mode 1 differs on an engine .* more than 1\.0e-04"):
        check(nn.Identity(), x, (x + 1.1 * TOLERANCE * largest).numpy())


def test_an_engine_may_round_as_badly_as_the_network_itself():
    x = torch.randn(4, 8)
    steep = Steep(4096.0)  # 12 of 24 bits are lost
    with torch.no_grad():
        off = float((steep(x) - x).abs().max() / steep(x).abs().max())
    assert off > TOLERANCE / 2
    check(steep, x, x.numpy())  # an engine that computes it exactly
    with pytest.raises(RuntimeError, match="nothing was written"):
        check(steep, x, (x * (1 + 10 * off + 10 * TOLERANCE)).numpy())


def test_no_rounding_excuses_answers_that_are_wrong():
    x = torch.rand(4, 8) + 0.5
    steep = Steep(2.0**22)  # all but the first bits are lost
    with pytest.raises(RuntimeError, match=f"more than {MOST:.1e}"):
        check(steep, x, (x + 0.1).numpy())


@pytest.mark.parametrize(
    "wrong", [np.full((4, 8), np.nan, np.float32), np.zeros((4, 1), np.float32)]
)
def test_what_is_no_number_or_of_another_shape_is_refused(wrong: np.ndarray):
    with pytest.raises(RuntimeError, match="differs on an engine"):
        check(nn.Identity(), torch.randn(4, 8), wrong)


def test_a_missing_output_is_refused():
    with pytest.raises(RuntimeError, match="an engine gives 0 outputs, the network 1"):
        check_agreement(nn.Identity(), (torch.zeros(1, 2),), [], MODE, "an engine")


class Masked(nn.Module):
    """A network whose last two classes are ruled out, with what else its answer is made of."""

    def __init__(self, more: str = "") -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.dense, self.more = nn.Linear(16, 5), more
        self.register_buffer("out", torch.arange(5) > 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.more == "chance":
            x = x + torch.randn_like(x)
        y = self.dense(self.second(self.first(x).relu()).relu().mean((2, 3)))
        if self.more == "root":
            y = y + (-1 - x.abs().mean((1, 2, 3))[:, None]).sqrt()
        return y.masked_fill(self.out, float("-inf"))  # pyright: ignore[reportArgumentType]


def converted(more: str = "") -> we.DynamicNetwork:
    torch.manual_seed(0)
    example, method = torch.zeros(1, 3, 8, 8), we.WeightEnabling((1, 2))
    return we.convert(Masked(more).eval(), example, method=method)


def test_a_network_that_answers_minus_infinity_is_exported(tmp_path: Path):
    net = converted()
    path = we.export(net, ["full", "1/2"], tmp_path / "net.wen")
    x = torch.randn(2, 3, 8, 8)
    with Session(path, engine="onnxruntime", threads=1) as session, torch.no_grad():
        for mode in session.modes:
            expected = we.extract(net, mode).eval()(x).numpy()
            np.testing.assert_allclose(session.run(x.numpy(), mode=mode), expected, atol=1e-5)


@pytest.mark.parametrize(("more", "message"), [("chance", "other answers"), ("root", "NaN")])
def test_chance_and_nan_are_refused_beside_infinities(more: str, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        we.export(converted(more), ["full"], tmp_path / "net.wen")
    assert not list(tmp_path.iterdir())


def test_infinities_must_be_the_same_and_do_not_loosen_the_tolerance():
    x = torch.randn(4, 8)
    x[0, 0], x[1, 1] = -torch.inf, torch.inf
    check(nn.Identity(), x, x.numpy())
    largest = float(x[x.isfinite()].abs().max())
    off = x.clone()
    off[2, 2] += 2 * TOLERANCE * largest
    elsewhere, turned = x.clone(), x.clone()
    elsewhere[3, 3], turned[0, 0] = -torch.inf, torch.inf
    for wrong in (off, elsewhere, turned, x.nan_to_num()):
        with pytest.raises(RuntimeError, match="differs on an engine"):
            check(nn.Identity(), x, wrong.numpy())


class Overflowing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x[:, :1] * 0 + 3e38 * 10], 1)


def test_a_number_that_float64_alone_can_hold_does_not_loosen_the_tolerance():
    x = torch.randn(4, 8)
    expected = Overflowing()(x)
    assert bool(expected.isinf().any())
    check(Overflowing(), x, expected.numpy())
    with pytest.raises(RuntimeError, match=r"more than 1\.0e-04"):
        check(Overflowing(), x, (expected + 5 * TOLERANCE * x.abs().max()).numpy())


@pytest.mark.parametrize("engine", ["foo", None, "openvino"])
def test_an_engine_that_cannot_check_is_refused_before_anything_is_traced(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "is_installed", lambda name: name != "openvino")
    monkeypatch.setattr(writing, "_bundle", lambda *_, **__: pytest.fail("it was traced"))
    with pytest.raises((ValueError, EngineError), match=r"`engine` \(="):
        we.export(converted(), ["full"], tmp_path / "net.wen", engine=engine)
