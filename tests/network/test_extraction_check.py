"""The check of an extracted network: rounding passes, another computation does not."""

import pytest
import torch
from torch import nn

import wenable as we


class LooksAtItsLayer(nn.Module):
    """Gives something else once its layer is a plain one: by `single` in float32, by `double` in float64.

    So do networks whose rounding grows from layer to layer, and in float64 those that compute in float32 at
    places.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.in_single = self.in_double = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(self.first(x).relu())
        share = self.in_double if y.dtype == torch.float64 else self.in_single
        largest = y.abs().max().clamp_min(1.0)
        return y if hasattr(self.first, "set_option") else y + share * largest


def extracted(single: float, double: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = LooksAtItsLayer().to(dtype).eval()
    net = we.convert(model, torch.randn(2, 8, dtype=dtype), method=we.WeightEnabling((1, 2)))
    net.in_single, net.in_double = single, double
    return we.extract(net, "1/2")


@pytest.mark.parametrize(
    ("single", "double"),
    [(1e-6, 1.0), (8e-5, 1e-14), (8e-5, 1.04e-8), (8e-5, 7e-7), (5e-3, 9e-7)],
)
def test_rounding_passes(single: float, double: float):
    assert isinstance(extracted(single, double), LooksAtItsLayer)


@pytest.mark.parametrize(
    ("single", "double"),
    [(8e-5, 8e-5), (8e-5, 2e-6), (1e-3, 2e-6), (0.1, 0.1), (float("nan"), 0.1)],
)
def test_another_computation_is_refused(single: float, double: float):
    with pytest.raises(RuntimeError, match="mode 1/2 does not compute the same once extracted"):
        extracted(single, double)


def test_rounding_is_that_of_the_type():
    assert isinstance(extracted(1e-2, 0.1, torch.bfloat16), LooksAtItsLayer)
    with pytest.raises(RuntimeError, match="does not compute the same once extracted"):
        extracted(1e-9, 1e-7, torch.float64)
