"""What is not switched is listed: every layer and parameter that multiplies, with MACs and reason."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import wenable as we


def left(net) -> dict[str, tuple[int, str]]:
    return {each.name: (each.macs, each.reason) for each in net.left_alone}


METHODS = [we.WeightEnabling((1, 2)), we.SwitchablePrecision((32, 8)), we.Slimmable((1.0, 0.5))]


class Everything(nn.Module):
    """One of every layer with a weight, between two plain ones and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.up1 = nn.ConvTranspose1d(16, 16, 2, stride=2)
        self.conv1, self.conv3 = nn.Conv1d(16, 16, 3, padding=1), nn.Conv3d(16, 16, 1)
        self.up2, self.up3 = nn.ConvTranspose2d(16, 16, 2), nn.ConvTranspose3d(16, 16, 1)
        self.lstm = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(32, 16, batch_first=True)
        self.rnn = nn.RNN(16, 16, batch_first=True)
        self.cells = nn.ModuleList((nn.LSTMCell(16, 16), nn.GRUCell(16, 16), nn.RNNCell(16, 16)))
        self.pair = nn.Bilinear(16, 16, 16)
        self.kernel = nn.Parameter(torch.randn(16, 16, 3) / 7)
        self.mix = nn.Parameter(torch.randn(16, 16) / 4)
        self.register_buffer("blur", torch.ones(16, 1, 3) / 3)
        self.unused = nn.GRU(4, 4)
        self.head = nn.Linear(16, 4)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.second(torch.relu(self.first(self.table(words))))  # (N, 6, 16)
        x = self.conv1(self.up1(x.mT))  # (N, 16, 12)
        x = self.up2(x.unflatten(2, (3, 4)))[:, :, :3, :4]
        x = self.up3(self.conv3(x.unsqueeze(2))).flatten(2)  # (N, 16, 12)
        x = F.conv1d(F.conv1d(x, self.kernel, padding=1), self.blur, padding=1, groups=16).mT
        x = torch.einsum("nti,io->nto", x @ self.mix, self.mix)
        x = self.rnn(self.gru(self.lstm(x)[0])[0])[0][:, -1]
        x = self.cells[0](x)[0] + self.cells[1](x) + self.cells[2](x)
        return self.head(self.pair(x, x))


MACS = {
    "table": 0,
    "up1": 6 * 16 * 16 * 2,
    "conv1": 12 * 16 * 16 * 3,
    "up2": 12 * 16 * 16 * 4,
    "conv3": 12 * 16 * 16,
    "up3": 12 * 16 * 16,
    "kernel": 12 * 16 * 16 * 3,
    "blur": 12 * 16 * 3,
    "mix": 2 * 12 * 16 * 16,
    "lstm": 12 * 2 * 4 * 16 * (16 + 16),
    "gru": 12 * 3 * 16 * (32 + 16),
    "rnn": 12 * 16 * (16 + 16),
    "cells.0": 4 * 16 * 32,
    "cells.1": 3 * 16 * 32,
    "cells.2": 16 * 32,
    "pair": 16 * 16 * 16,
    "unused": 0,
    "head": 64,
}


@pytest.mark.parametrize("method", METHODS[:2])
def test_every_layer_is_switched_or_listed_with_its_own_count(method):
    net = we.convert(Everything(), torch.zeros(3, 6, dtype=torch.long), method=method)
    listed = left(net)
    switched = {each.name: each.macs for each in net.switchable_layers}
    assert {**{name: macs for name, (macs, _) in listed.items()}, **switched} == {
        **MACS,
        "first": 6 * 16 * 16,
        "second": 6 * 16 * 16,
    }
    assert net.macs("full") == sum(MACS.values()) + 2 * 6 * 16 * 16
    if isinstance(method, we.WeightEnabling):
        known = "plain convolution or dense layer of torch.nn"
        assert {"up1", "up2", "up3", "conv1", "conv3"} <= set(switched)
        assert listed["gru"][1] == f"is a GRU, not a {known}"
    else:
        known = "plain torch.nn.Conv2d or Linear"
        for name, kind in (("up1", "ConvTranspose1d"), ("conv3", "Conv3d"), ("gru", "GRU")):
            assert listed[name][1] == f"is a {kind}, not a {known}"
    assert listed["lstm"][1].startswith("is an LSTM, not")
    assert listed["pair"][1].startswith("is a Bilinear, not")
    assert listed["unused"][1] == "is not reached by the example input"
    assert listed["table"][1] == "looks up rows of its weight, and multiplies nothing"
    assert listed["kernel"][1].startswith("is a parameter of Everything, used by conv1d")
    assert listed["mix"][1].startswith("is a parameter of Everything, used by matmul and einsum")
    assert listed["blur"][1].startswith("is a buffer of Everything, used by conv1d")


def test_a_network_of_transposed_convolutions_is_told_what_it_has():
    model = nn.Sequential(nn.ConvTranspose2d(8, 8, 2), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2))
    with pytest.raises(ValueError, match="nothing to switch: '0' is a ConvTranspose2d, not"):
        we.convert(model, torch.randn(1, 8, 4, 4), method=METHODS[1])
    net = we.convert(model, torch.randn(1, 8, 4, 4), method=METHODS[0])
    assert [layer.name for layer in net.switchable_layers] == ["0"]
    with pytest.raises(ValueError, match="nothing in it multiplies with a weight"):
        we.convert(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), torch.randn(1, 8, 4, 4))


class Scaled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 0.5


def low_rank(layer: nn.Module) -> nn.Module:
    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(64, 2)), nn.Parameter(torch.ones(2, 32))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + self.a @ self.b

    parametrize.register_parametrization(layer, "weight", LowRank())
    return layer


def scaled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Scaled())
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (parametrizations.weight_norm, "WeightNorm"),
        (parametrizations.spectral_norm, "SpectralNorm"),
        (parametrizations.orthogonal, "Orthogonal"),
        (scaled, "Scaled"),
        (low_rank, "LowRank"),
        (nn.utils.weight_norm, "WeightNorm"),
        (nn.utils.spectral_norm, "SpectralNorm"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "L1Unstructured"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_layer_with_a_computed_weight_says_so_and_costs_what_it_does(wrap, name, method, rows):
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), wrap(nn.Linear(32, 64)), nn.ReLU())
    model.extend([nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)])
    if isinstance(method, we.Slimmable):
        with pytest.raises(ValueError, match="computed"):
            we.convert(model, torch.randn(rows, 16), method=method)
        return
    net = we.convert(model, torch.randn(rows, 16), method=method)
    macs, reason = left(net)["2"]
    assert macs == 32 * 64
    assert f"weight computed by a parametrization ({name})" in reason.replace("_", "")
    assert net.macs("full") == 16 * 32 + 32 * 64 + 2 * 64 * 64 + 64 * 3


def test_weights_that_a_layer_standardises_itself_are_no_parametrization():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, weight, self.bias)

    model = nn.Sequential(
        nn.Conv2d(4, 8, 1), Standardised(8, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
    )
    net = we.convert(model, torch.randn(2, 4, 6, 6))
    macs, reason = left(net)["1"]
    assert macs == 16 * 8 * 8 * 9
    assert reason == "has its weight computed before its use, or used in another way besides"


def test_kernels_made_from_the_input_count_for_the_module_that_mixes_them():
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.route = nn.Parameter(torch.randn(2, 8 * 8 * 9)), nn.Linear(8, 2)

        def forward(self, x):
            kernels = self.route(x.mean((2, 3))).sigmoid() @ self.weight
            kernels = kernels.view(-1, 8, 3, 3)
            n = len(x)
            return F.conv2d(x.flatten(0, 1)[None], kernels, groups=n, padding=1).view(x.shape)

    model = nn.Sequential(nn.Conv2d(8, 8, 1), Conditional(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    net = we.convert(model, torch.randn(2, 8, 6, 6))
    assert left(net)["1"][0] == 2 * 8 * 8 * 9 + 36 * 8 * 8 * 9
    assert [each.name for each in net.switchable_layers][:1] == ["0"]  # upstream stays what it is


def test_torchs_own_attention_is_listed_whole():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(16, 16), nn.Linear(16, 2)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            x = torch.relu(self.a(x))
            return self.head(self.attention(x, x, x)[0])

    net = we.convert(Net(), torch.randn(2, 10, 16))
    assert left(net)["attention.in_proj_weight"][0] == 10 * 16 * 48
    assert left(net)["attention.out_proj"][0] == 10 * 16 * 16
    listed = sum(macs for macs, _ in left(net).values())
    assert net.macs("full") == listed + 10 * 16 * 16 + 2 * 10 * 10 * 16  # and its products
