"""What was set on an instance of a network or a layer is neither lost nor passes the modes by."""

import types

import pytest
import torch
from torch import nn

import wenable as we
from wenable.methods import EarlyExits

X = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.norm(self.body(self.stem(x))) * getattr(self.body, "gain", 1.0)
        return self.head(x.mean((2, 3)))


METHODS = [
    we.WeightEnabling((1, 2)),
    we.SwitchablePrecision((32, 8), first_and_last=True),
    we.Slimmable((1.0, 0.5)),
]


def negative(self, x):
    return -type(self).forward(self, x)


def set_forward(layer: nn.Module) -> None:
    layer.forward = types.MethodType(negative, layer)


def set_attribute(layer: nn.Module) -> None:
    vars(layer)["gain"] = 3.0


def set_buffer(layer: nn.Module) -> None:
    layer.register_buffer("gain", torch.tensor(3.0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_forward, "a `forward` of its own, which would be lost"),
        (set_attribute, "an attribute 'gain' of its own, which would be lost"),
        (set_buffer, "an attribute 'gain' of its own, which would be lost"),
    ],
)
def test_a_layer_with_parts_of_its_own_stays(method, change, reason: str):
    model = Small().eval()
    plain = model(X)
    change(model.body)
    assert not torch.equal(model(X), plain)
    if isinstance(method, we.Slimmable):  # all layers would have to switch with it
        with pytest.raises(ValueError, match=reason):
            we.convert(model, X, method=method)
        return
    net = we.convert(model, X, method=method)
    assert torch.equal(net(X), model(X))
    assert {each.name: each.reason for each in net.left_alone}["body"] == f"has {reason}"
    assert type(net.body) is nn.Conv2d


@pytest.mark.parametrize("method", [*METHODS, we.ImageSize((6, 5))])
def test_a_network_whose_forward_was_set_on_it_is_refused(method):
    model = Small().eval()
    set_forward(model)
    with pytest.raises(ValueError, match=r"`model` \(=Small\) has a `forward` of its own"):
        we.convert(model, X, method=method)


def test_norms_and_exits_whose_forward_was_set_on_them_are_refused():
    model = Small().eval()
    set_forward(model.norm)
    with pytest.raises(ValueError, match="batch norm 'norm' has a `forward` of its own"):
        we.convert(model, X, method=METHODS[0])
    model = Small().eval()
    set_forward(model.body)
    with pytest.raises(ValueError, match="`exits` names 'body', which has a `forward` of its own"):
        we.convert(model, X, method=EarlyExits(("body",)))


def test_a_tensor_of_a_layers_own_counts_whatever_its_name():
    model = Small().eval()
    model.body.register_buffer("_scale", torch.ones(1))
    net = we.convert(model, X, method=METHODS[0])
    assert {each.name: each.reason for each in net.left_alone}["body"].startswith(
        "has an attribute '_scale'"
    )
