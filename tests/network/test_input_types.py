"""Inputs of a type that the network's weights do not have: what people get who come from numpy."""

import pytest
import torch
from torch import nn

import wenable as we


@pytest.fixture(scope="module")
def net() -> we.DynamicNetwork:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
    return we.convert(nn.Sequential(*layers).eval(), torch.zeros(2, 8))


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16"])
def test_another_floating_type_is_told_in_one_line(net: we.DynamicNetwork, kind: str) -> None:
    x, labels = torch.randn(6, 8).to(getattr(torch, kind)), torch.arange(6) % 4
    message = (
        rf"`input` \(of {kind}\) does not fit this network, whose weights are float32; give it"
    )
    for use in (
        lambda: net(x),
        lambda: we.evaluate(net, "full", [(x, labels)]),
        lambda: we.train(net, [(x, labels)], we.TrainConfig(passes=2, epochs=1)),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_network_of_that_type_takes_it() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
    model = nn.Sequential(*layers).eval().double()
    net = we.convert(model, torch.zeros(2, 8, dtype=torch.double))
    with torch.no_grad():
        assert net(torch.randn(3, 8, dtype=torch.double)).dtype == torch.double
    with pytest.raises(ValueError, match="whose weights are float64"):
        net(torch.randn(3, 8))
