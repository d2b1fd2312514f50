"""The layers that write a network's outputs, on networks small enough to know them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wenable as we
from wenable.graph import trace


class Heads(nn.Module):
    """A body of two layers, two heads on it, and what the test makes of what they write."""

    def __init__(self, outputs: Callable[..., object], channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(8, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.one = nn.Conv2d(16, channels, 1)
        self.two = nn.Conv2d(16, channels, 1)
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> object:
        hidden = self.body(torch.relu(self.stem(x)))
        return self.outputs(self.one(hidden), self.two(hidden), hidden, x)


def written_into(parts: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    parts[:, :8] = one
    parts[:, 8:] = two
    return parts


@pytest.mark.parametrize(
    "outputs",
    [
        lambda a, b, h, x: F.pixel_shuffle(a, 2),
        lambda a, b, h, x: F.interpolate(a, scale_factor=2, mode="bilinear"),
        lambda a, b, h, x: F.interpolate(a.softmax(1), size=(5, 5), mode="bicubic"),
        lambda a, b, h, x: a + x,
        lambda a, b, h, x: x - a,
        lambda a, b, h, x: F.normalize(a.mean((2, 3))),
        lambda a, b, h, x: a.view(2, 2, 4, 6, 6).permute(0, 1, 3, 4, 2),
        lambda a, b, h, x: a.reshape(2, 2, 4, 36).sum(-1).argmax(-1),
        lambda a, b, h, x: {"out": a.cumsum(1), "none": None},
        lambda a, b, h, x: a.clone().mul_(0.5).clamp_(0),
        lambda a, b, h, x: torch.fft.rfft(a).abs(),
        lambda a, b, h, x: a.flip(1).roll(1, 1).sort(1).values.topk(2, 1)[0],
        lambda a, b, h, x: a * torch.sigmoid(a),
        lambda a, b, h, x: F.pad(F.avg_pool2d(a, 2), (1, 1)).tanh() * 3 + 1,
        lambda a, b, h, x: torch.where(a > 0, a, x),
        lambda a, b, h, x: F.grid_sample(a, torch.zeros(2, 4, 4, 2), align_corners=False),
    ],
)
def test_whatever_stands_behind_the_last_layer_it_stays(outputs):
    graph = trace(Heads(outputs).eval(), (torch.randn(2, 8, 6, 6),))
    assert graph.classifiers == {"one"}


@pytest.mark.parametrize(
    "outputs",
    [
        lambda a, b, h, x: a + b,
        lambda a, b, h, x: 0.3 * a.relu() - b * 0.7,
        lambda a, b, h, x: torch.stack([a, b]).mean(0),
        lambda a, b, h, x: torch.cat([a.flatten(2), b.flatten(2)], 2).mT,
        lambda a, b, h, x: (a, {"aux": [b]}),
        lambda a, b, h, x: a * b.sigmoid(),
        lambda a, b, h, x: torch.lerp(a, b, 0.3),
        lambda a, b, h, x: torch.einsum("bchw,bdhw->bcd", a, b),
        lambda a, b, h, x: a.flatten(2) @ b.flatten(2).mT,
        lambda a, b, h, x: written_into(torch.zeros(2, 16, 6, 6), a, b),
        lambda a, b, h, x: torch.where(x > 0, a, b),
        lambda a, b, h, x: F.scaled_dot_product_attention(a, b, x),
        # a detector's decoding: centres beside sizes, in units of a grid
        lambda a, b, h, x: torch.cat([(a.sigmoid() + x) * 4, b.exp() * 2], 1).flatten(2),
    ],
)
def test_the_last_layers_on_every_way_stay(outputs):
    graph = trace(Heads(outputs).eval(), (torch.randn(2, 8, 6, 6),))
    assert graph.classifiers == {"one", "two"}
    net = we.convert(Heads(outputs), torch.randn(2, 8, 6, 6))
    assert [each.name for each in net.switchable_layers] == ["stem", "body"]
    chosen = we.WeightEnabling(classifier=True, attention=True)
    every = we.convert(Heads(outputs), torch.randn(2, 8, 6, 6), method=chosen)
    assert [each.name for each in every.switchable_layers] == ["stem", "body", "one", "two"]


def test_what_a_skip_carries_to_the_output_stays_too():
    graph = trace(Heads(lambda a, b, h, x: a + h, 16).eval(), (torch.randn(2, 8, 6, 6),))
    assert graph.classifiers == {"one", "body"}
    # An output of its own, though another is computed from it.
    graph = trace(Heads(lambda a, b, h, x: (a, h), 16).eval(), (torch.randn(2, 8, 6, 6),))
    assert graph.classifiers == {"one", "body"}
    graph = trace(Heads(lambda a, b, h, x: torch.cat([a, h], 1)).eval(), (torch.randn(2, 8, 6, 6),))
    assert graph.classifiers == {"one", "body"}


def test_a_residual_network_without_a_head_keeps_its_end_and_no_more():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x):
            return torch.relu(x + self.b(torch.relu(self.a(x))))

    model = nn.Sequential(nn.Conv2d(8, 16, 1), *[Block() for _ in range(5)]).eval()
    graph = trace(model, (torch.randn(2, 8, 4, 4),))
    assert graph.classifiers == {"5.b", "4.b"}


def test_depthwise_layers_at_the_end_hide_nothing():
    smooth = nn.ConvTranspose2d(8, 8, 4, stride=2, groups=8)
    model = nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1), smooth).eval()
    assert trace(model, (torch.randn(2, 8, 4, 4),)).classifiers == {"1", "2"}


def test_recurrent_layers_are_last_layers():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.lstm = nn.LSTM(8, 8, batch_first=True)

        def forward(self, x):
            return self.lstm(self.b(torch.relu(self.a(x))))[0]

    assert trace(Net().eval(), (torch.randn(2, 5, 8),)).classifiers == {"lstm"}
    net = we.convert(Net(), torch.randn(2, 5, 8))
    assert [each.name for each in net.switchable_layers] == ["a", "b"]


@pytest.mark.parametrize("method", [we.WeightEnabling((1, 2)), we.SwitchablePrecision((32, 8))])
def test_every_head_of_a_detector_and_of_a_segmenter_stays(method):
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.levels = nn.ModuleList(
                nn.Conv2d(8 if i == 0 else 16, 16, 3, 2, 1) for i in range(3)
            )
            self.boxes, self.classes = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 12, 1)

        def forward(self, x):
            boxes, classes = [], []
            for level in self.levels:
                x = torch.relu(level(x))
                boxes.append(self.boxes(x).flatten(2).mT)
                classes.append(
                    self.classes(x).unflatten(1, (2, 6)).permute(0, 3, 4, 1, 2).flatten(1, 3)
                )
            return {"boxes": torch.cat(boxes, 1), "logits": torch.cat(classes, 1).softmax(-1)}

    net = we.convert(Detector(), torch.randn(2, 8, 16, 16), method=method)
    left = {each.name for each in net.left_alone}
    assert {"boxes", "classes"} <= left
    assert {"levels.1", "levels.2"} <= {each.name for each in net.switchable_layers}
