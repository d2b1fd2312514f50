"""Weights that a network reads and does not own: neither switched nor trained nor saved with it."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import wenable as we


class Closure(nn.Module):
    """Has its middle layer twice: as a module, and in a function that a copy shares with it."""

    def __init__(self) -> None:
        super().__init__()
        middle = nn.Linear(32, 32)
        self.first, self.middle, self.last = nn.Linear(8, 32), middle, nn.Linear(32, 32)
        self.out = nn.Linear(32, 4)
        self.call = lambda x: middle(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.call(torch.relu(self.first(x))))
        return self.out(torch.relu(self.last(x)))


class PlainList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.out = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.layers = [nn.Linear(32, 32)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.layers[0](torch.relu(self.first(x))))
        return self.out(torch.relu(self.last(x)))


class Recurrent(nn.Module):
    """Its layers keep their own weights in lists, and that is no reason for a word."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.steps = nn.Linear(8, 32), nn.LSTM(32, 32, batch_first=True)
        self.wide, self.out = nn.Linear(32, 32), nn.Linear(32, 4)
        self.again = self.wide

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.steps(torch.relu(self.first(x)))[0]
        return self.out(torch.relu(self.again(x)))


@pytest.mark.parametrize("kind", [Closure, PlainList])
def test_a_layer_that_is_no_module_of_the_network_is_told(kind: Any) -> None:
    with pytest.warns(we.ConversionWarning, match="reads 2 weights .*32, 32.* not among its param"):
        we.convert(kind().eval(), torch.randn(2, 8), method=we.WeightEnabling((1, 2)))


def test_weights_in_lists_of_torch_and_under_two_names_are_its_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        we.convert(
            Recurrent().eval(),
            torch.randn(2, 5, 8),
            method=we.WeightEnabling((1, 2), only=["first"]),
        )
