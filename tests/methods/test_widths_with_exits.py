"""Widths with early exits: narrower networks up to an exit, by hand and as torchvision builds them."""

import copy
import itertools
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from tests.helpers.networks import IMAGES, give_norms_a_past, small_resnet
from tests.methods.test_width import drawn, half_mobilenet, sliced_into
from wenable.cascades.early_exits import run_with_exits
from wenable.network.mode_costs import macs_parts, weights_parts

WIDTHS = (1.0, 0.5, 0.25)
METHODS = {
    "slimmable": we.Slimmable(WIDTHS, divisor=4),
    "us-net": we.UniversallySlimmable(0.25, 0.25, divisor=4),
}
EXITS = ("block1", "stem")
RESNET = (2, 3, 32, 32)


def converted(model: nn.Module, method, exits, shape=IMAGES, widths=WIDTHS) -> Any:
    """A network with both methods, calibrated in every mode of `widths`."""
    torch.manual_seed(3)  # branches are drawn
    net = we.convert(model, torch.zeros(shape), method=[method, we.EarlyExits(exits)]).eval()
    calibrated = [each for each in modes(exits, widths) if net.space.mode(each) != net.space.full]
    we.calibrate(net, calibrated, [drawn(8, *shape[1:], seed=7)])
    return net


def modes(exits, widths=WIDTHS) -> list[str]:
    ends = ["", *(f",exit={name}" for name in exits)]
    return [f"{width:g}{end}" for width, end in itertools.product(widths, ends)]


@pytest.fixture(scope="module", params=METHODS)
def net(request) -> Any:
    return converted(small_resnet(), METHODS[request.param], EXITS)


@pytest.fixture(scope="module")
def resnet() -> Any:
    model = give_norms_a_past(torchvision.models.resnet18()).eval()
    return converted(model, we.Slimmable(WIDTHS), ("layer1", "layer3"), RESNET)


class Narrow:
    """A ResNet-18 at a width, in torch's functional operations on the first entries of its weights."""

    def __init__(self, net: Any, mode: str, width: float) -> None:
        self.weights = {name: each.detach() for name, each in net.named_parameters()}
        self.statistics = net.calibration(mode).statistics
        self.norms = net.switchable_norms()
        self.width, self.option = width, net.space.mode(mode)["width"]

    def convolved(self, x: torch.Tensor, name: str, norm: str, stride: int = 1) -> torch.Tensor:
        weight = self.weights[f"{name}.weight"]
        outputs = int(weight.shape[0] * self.width)
        x = F.conv2d(x, weight[:outputs, : x.shape[1]], None, stride, weight.shape[-1] // 2)
        affine = norm if self.option == 1 else f"{norm}.by_pattern.{self.option}"
        if self.statistics is None:  # those that the network came with
            mean, variance = self.norms[norm].running_mean, self.norms[norm].running_var
        else:
            mean, variance = self.statistics[norm].mean, self.statistics[norm].var
        return F.batch_norm(
            x, mean, variance, self.weights[f"{affine}.weight"], self.weights[f"{affine}.bias"]
        )

    def block(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        y = F.relu(self.convolved(x, f"{name}.conv1", f"{name}.bn1", stride))
        y = self.convolved(y, f"{name}.conv2", f"{name}.bn2")
        if stride > 1:
            x = self.convolved(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        return F.relu(x + y)

    def answer(self, x: torch.Tensor, stages: int) -> torch.Tensor:
        """Run the stem and so many stages, and the dense layer behind them."""
        x = F.max_pool2d(F.relu(self.convolved(x, "conv1", "bn1", 2)), 3, 2, 1)
        for stage in range(1, stages + 1):
            x = self.block(x, f"layer{stage}.0", 1 if stage == 1 else 2)
            x = self.block(x, f"layer{stage}.1", 1)
        head = ("fc.weight", "fc.bias")
        if stages < 4:
            head = (f"layer{stages}.exit_weight", f"layer{stages}.exit_bias")
        weight, bias = (self.weights[name] for name in head)
        means = x.sum((2, 3)) / x[0, 0].numel()
        return means @ weight[:, : x.shape[1]].T + bias


def macs_of_resnet18(width: float, stages: int, side: int = 8, classes: int = 1000) -> int:
    """Count a ResNet-18 up to a stage: `side` is that of the maps behind its stem."""
    channels = int(64 * width)
    macs = (2 * side) ** 2 * 49 * 3 * channels
    for stage in range(stages):
        positions, inputs = (side >> stage) ** 2, channels
        channels = int(64 * width) << stage
        inputs = channels if stage == 0 else channels // 2
        macs += positions * 9 * (inputs * channels + 3 * channels * channels)
        macs += positions * inputs * channels if stage else 0  # the shortcut
    return macs + channels * classes


def test_a_narrow_resnet18_up_to_an_exit_is_the_one_by_hand(resnet):
    x = drawn(*RESNET)
    for mode, (width, stages) in zip(
        modes(("layer1", "layer3")), itertools.product(WIDTHS, (4, 1, 3)), strict=True
    ):
        with torch.no_grad(), resnet.using(mode):
            found, expected = resnet(x), Narrow(resnet, mode, width).answer(x, stages)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert resnet.macs(mode) == macs_of_resnet18(width, stages), mode


def test_a_narrow_mobilenet_up_to_an_exit_is_torchvisions_of_that_width():
    model = give_norms_a_past(torchvision.models.mobilenet_v2()).eval()
    exits, shape = ("features.6", "features.13"), (2, 3, 32, 32)
    net, x = converted(model, METHODS["us-net"], exits, shape, (0.5,)), drawn(*shape)
    for name in exits:
        mode = f"0.5,exit={name}"
        point: Any = net.get_submodule(name)
        half: Any = sliced_into(half_mobilenet(), net, mode)
        small = half.features[: int(name.removeprefix("features.")) + 1]
        with torch.no_grad(), net.using(mode):
            features = small(x).mean((2, 3))
            weight = point.exit_weight[:, : features.shape[1]]
            expected = F.linear(features, weight, point.exit_bias)
            torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)
        assert weight.shape[1] < point.exit_weight.shape[1]


@pytest.mark.parametrize("mode", modes(EXITS))
def test_an_extracted_mode_is_of_standard_layers_and_costs_what_torch_counts(net, mode: str):
    plain, x = we.extract(net, mode), drawn(3, 3, 9, 7)  # another size than was traced
    with net.using(mode), torch.no_grad():
        torch.testing.assert_close(plain(x), net(x))
    assert not any("wenable" in type(module).__module__ for module in plain.modules())
    assert not any("exit_weight" in name for name, _ in plain.named_parameters())
    assert sum(each.numel() for each in plain.parameters()) == net.parameter_count(mode)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        plain(torch.zeros(1, *IMAGES[1:]))
    assert counter.get_total_flops() == 2 * net.macs(mode)
    assert macs_parts(net).cost(mode) == net.macs(mode)
    assert weights_parts(net).cost(mode) == 4 * net.parameter_count(mode) / 1024


def test_a_step_has_the_gradients_of_the_extracted_networks(net):
    net, labels = copy.deepcopy(net), torch.tensor([1, 3])
    stem = torch.zeros_like(net.stem[0].weight)
    branch = torch.zeros_like(net.block1.exit_weight)
    for mode in ("0.5,exit=stem", "0.5,exit=block1", "0.25,exit=block1"):
        plain = we.extract(net, mode).eval()
        F.cross_entropy(plain(drawn(*IMAGES)), labels).backward()
        gradients: Any = {name: each.grad for name, each in plain.named_parameters()}
        part = gradients["stem.0.weight"]
        stem[: len(part)] += part
        if "block1" in mode:
            part = gradients["exit_head.2.weight"]
            branch[:, : part.shape[1]] += part
        with net.using(mode):
            F.cross_entropy(net(drawn(*IMAGES)), labels).backward()
    torch.testing.assert_close(net.stem[0].weight.grad, stem, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.block1.exit_weight.grad, branch, rtol=1e-4, atol=1e-5)
    assert not net.block1.exit_weight.grad[:, 16:].any()


def test_a_branch_behind_channels_that_stay_is_that_of_exits_alone():
    """A layer of `divisor` channels has as many at every width, and so has the branch behind it."""
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    methods = [we.Slimmable((1.0, 0.5), divisor=8), we.EarlyExits(("0", "1"))]
    net, x = we.convert(model, torch.zeros(IMAGES), method=methods).eval(), drawn(*IMAGES)
    stem = 16 * 27 * 8
    expected = {
        "1,exit=0": stem + 8 * 4,
        "0.5,exit=0": stem + 8 * 4,
        "1,exit=1": stem + 4 * 72 * 16 + 16 * 4,
        "0.5,exit=1": stem + 4 * 72 * 8 + 8 * 4,
    }
    assert {mode: net.macs(mode) for mode in expected} == expected
    for mode in expected:
        plain = we.extract(net, mode)
        with torch.no_grad(), net.using(mode):
            assert torch.equal(plain(x), net(x))
        assert sum(each.numel() for each in plain.parameters()) == net.parameter_count(mode)


def test_inputs_leave_a_narrower_network_on_the_way(net):
    x, answers, macs = drawn(20, 3, 6, 6), [], []
    for mode in ("0.5,exit=stem", "0.5,exit=block1", "0.5"):
        with net.using(mode), torch.no_grad():
            answers.append(net(x))
            macs.append(net.macs())
    shares = [each.softmax(1) for each in answers[:2]]
    limits = [float(-(each * each.log()).sum(1).median()) + 1e-4 for each in shares]
    with net.using("0.5"):
        found = run_with_exits(net, x, limits)
        assert str(net.mode) == "0.5"
    assert {0, 2} <= set(found.stages.tolist())
    branches, cost = (8 * 5, 16 * 5), 0
    for number, stage in enumerate(found.stages):
        torch.testing.assert_close(torch.from_numpy(found.outputs[number]), answers[stage][number])
        cost += macs[stage] + sum(branches[:stage])
    assert found.cost == pytest.approx(cost / len(x))
