"""Answers of an engine are held against the network's own, and against what rounding does to those."""

import numpy as np
import pytest
import torch
from torch import nn

from wenable.core.space import Knob, Space
from wenable.exporting.agreement import MOST, TOLERANCE, check_agreement

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
