"""What follows what, on networks small enough to know the answer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.networks import IMAGES, small_resnet
from wenable.graph import shared_modules, trace


def traced(model: nn.Module, *shape: int):
    return trace(model.eval(), (torch.zeros(shape),))


def origin_of(graph, module: str):
    return next(call.input for call in (*graph.layers, *graph.norms) if call.module == module)


class Net(nn.Module):
    """Layers a, b (8 channels each from 4) and a reader; `forward` is given by the test."""

    def __init__(self, join, reads: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)
        self.join = join
        self.norm = nn.BatchNorm2d(reads)
        self.reader = nn.Conv2d(reads, 2, 1)

    def forward(self, x):
        return self.reader(self.norm(self.join(self.a(x), self.b(x))))


@pytest.mark.parametrize(
    ("join", "reads", "slices"),
    [
        (lambda a, b: a + 0 * b.sum(), 8, None),
        (lambda a, b: F.relu(a), 8, [(8, {"a"}, False)]),
        (lambda a, b: F.max_pool2d(F.silu(a * 2 + 1), 2), 8, [(8, {"a"}, False)]),
        (lambda a, b: a + b, 8, [(8, {"a", "b"}, True)]),
        (lambda a, b: torch.cat([a, b], 1), 16, [(8, {"a"}, False), (8, {"b"}, False)]),
        (lambda a, b: torch.cat([a, b], 1)[:, 4:12], 8, [(4, {"a"}, False), (4, {"b"}, False)]),
        (lambda a, b: torch.cat([a, b], 1).chunk(2, 1)[1], 8, [(8, {"b"}, False)]),
        (lambda a, b: torch.cat([a, b], 2), 8, [(8, {"a", "b"}, True)]),
        (lambda a, b: a * torch.sigmoid(b.mean((2, 3), keepdim=True)), 8, [(8, {"a"}, False)]),
        (lambda a, b: torch.sigmoid(b.mean((2, 3), keepdim=True)) * a, 8, [(8, {"a"}, False)]),
        (lambda a, b: a * b, 8, [(8, {"a", "b"}, True)]),
        (lambda a, b: a.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 8, [(8, {"a"}, False)]),
        (lambda a, b: a.flatten(2).unflatten(2, (4, 4)), 8, [(8, {"a"}, False)]),
        (lambda a, b: a.transpose(1, 2).transpose(2, 1), 8, [(8, {"a"}, False)]),
        (lambda a, b: a[:, :, ::2, ::2], 8, [(8, {"a"}, False)]),
        (lambda a, b: F.pad(a, (1, 1, 1, 1)), 8, [(8, {"a"}, False)]),
        (
            lambda a, b: F.pad(a, (0, 0, 0, 0, 1, 3)),
            12,
            [(1, set(), False), (8, {"a"}, False), (3, set(), False)],
        ),
        # what mixes channels, or reorders them, has no origin
        (lambda a, b: a.flip(1), 8, None),
        (lambda a, b: a.flip(2), 8, [(8, {"a"}, False)]),
        (lambda a, b: a.roll((1, 1), (2, 3)), 8, [(8, {"a"}, False)]),
        (lambda a, b: F.pad(a, (0, 0, 0, 0, 1, -1)), 8, None),
        (lambda a, b: a.pow(b), 8, [(8, {"a", "b"}, True)]),
        (lambda a, b: a.roll(1, 1), 8, None),
        (lambda a, b: F.channel_shuffle(a, 2), 8, None),
        (lambda a, b: F.pixel_shuffle(a, 2), 2, None),
        (lambda a, b: a.softmax(1).cumsum(1), 8, None),
        (lambda a, b: a[:, ::2], 4, None),
    ],
)
def test_channels_are_followed(join, reads: int, slices):
    graph = traced(Net(join, reads), 2, 4, 4, 4)
    for module in ("norm", "reader"):
        origin = origin_of(graph, module)
        found = origin and [(s.width, set(s.producers), s.combined) for s in origin.slices]
        assert found == slices


def test_writing_to_a_part_makes_the_whole_unknown():
    def join(a, b):
        a[:, :4] = b[:, :4]
        return a

    assert origin_of(traced(Net(join, 8), 2, 4, 4, 4), "norm") is None


def test_a_product_of_two_gates_is_written_by_both():
    def join(a, b):
        return a.mean((2, 3), keepdim=True) * b.mean((2, 3), keepdim=True)

    origin = origin_of(traced(Net(join, 8), 2, 4, 4, 4), "norm")
    assert origin.single_producer is None
    assert origin.producers == {"a", "b"}


def test_a_norm_along_another_dimension_follows_nobody():
    class OverTokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(5)

        def forward(self, x):
            return self.norm(self.fc(x))

    assert origin_of(traced(OverTokens(), 2, 5, 8), "norm") is None


def test_a_weight_that_is_used_twice_is_named():
    class TiedDecoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(8, 4)

        def forward(self, x):
            return self.encoder(x) @ self.encoder.weight

    assert traced(TiedDecoder(), 2, 8).computed_weights == {"encoder"}


def test_in_place_operations_change_what_later_readers_see():
    def join(a, b):
        a.add_(b)
        return a

    origin = origin_of(traced(Net(join, 8), 2, 4, 4, 4), "norm")
    assert origin.single_producer is None
    assert origin.producers == {"a", "b"}


def test_a_depthwise_layer_keeps_every_channel():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
    )
    graph = traced(model, 1, 4, 6, 6)
    assert origin_of(graph, "2").single_producer == "0"
    assert origin_of(graph, "3").width == 16
    # a grouped layer that mixes channels within its groups is a producer of its own
    mixing = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8))
    assert origin_of(traced(mixing, 1, 4, 6, 6), "2").single_producer == "1"


def test_flattened_maps_keep_their_channels_together():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8 * 16, 10))
    origin = origin_of(traced(model, 2, 3, 4, 4), "2")
    assert [(s.width, set(s.producers)) for s in origin.slices] == [(128, {"0"})]


def test_tokens_keep_their_channels_in_the_last_dimension():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 2, 2)
            self.norm = nn.LayerNorm(8)
            self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            return self.fc2(F.gelu(self.fc1(self.norm(x))))

    graph = traced(Tokens(), 2, 3, 4, 4)
    assert origin_of(graph, "fc1").single_producer == "patches"
    assert origin_of(graph, "fc2").single_producer == "fc1"
    assert graph.classifiers == {"fc2"}


def test_the_classifier_is_what_writes_the_output():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softplus())
    assert traced(model, 2, 4).classifiers == {"2"}
    for last in (nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()):
        assert traced(nn.Sequential(model[:3], last), 2, 4).classifiers == {"0.2"}
    headless = Net(lambda a, b: a + b, 8)
    headless.reader = nn.Identity()
    assert traced(headless, 2, 4, 4, 4).classifiers == {"a", "b"}


def test_weights_that_are_computed_are_named():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    graph = traced(nn.Sequential(Standardised(4, 4, 1), nn.Conv2d(4, 4, 1)), 1, 4, 3, 3)
    assert graph.computed_weights == {"0"}
    assert [call.module for call in graph.layers] == ["1"]


def test_shared_parameters_and_modules_are_found():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert shared_modules(nn.Sequential(first, second)) == {"0", "1"}
    assert shared_modules(nn.Sequential(first, nn.ReLU(), first)) == {"0", "2"}
    assert shared_modules(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))) == frozenset()


def test_calls_past_a_modules_own_forward_are_told_apart():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            x = self.norm(F.linear(x, self.fc.weight))
            norm = self.norm
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    graph = traced(Functional(), 2, 4)
    assert [(call.module, call.direct) for call in graph.layers] == [("fc", False)]
    assert [(call.module, call.direct) for call in graph.norms] == [("norm", True), ("norm", False)]


def test_a_tied_weight_is_known_by_the_module_that_runs():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    graph = traced(nn.Sequential(first, nn.ReLU(), second, first), 2, 4)
    assert [call.module for call in graph.layers] == ["0", "2", "0"]


def test_what_cannot_be_traced_is_refused_in_one_line():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="`model` \\(=Branching\\) cannot be traced") as caught:
        traced(Branching(), 2, 4)
    assert "\n" not in str(caught.value)


def test_where_each_module_is_done():
    ends = trace(small_resnet(), (torch.zeros(IMAGES),)).ends
    assert ends["block1"].shape == (2, 32, 6, 6)
    assert ends[""].shape == (2, 5)
    order = ["stem.0", "stem", "block1.conv1", "block1", "block2.conv3", "block2", "fc"]
    assert sorted(order, key=lambda name: ends[name].position) == order
    # one that is called several times is done with its last call
    assert ends["block1.relu"].position == ends["block1"].position
