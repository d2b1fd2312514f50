"""Flexible width: the rounding, what follows for every layer, the norms, the file."""

import copy
import random
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from experiments.methods import METHODS
from experiments.networks import SmallBottleneckResNet
from tests.helpers.networks import (
    IMAGES,
    SmallResNet,
    give_norms_a_past,
    small_resnet,
)
from wenable import zoo
from wenable.layers.batch_norm import SwitchableBatchNorm
from wenable.methods import method_from_json
from wenable.methods.width import active_channels
from wenable.zoo import reference

WIDTHS = (1.0, 0.75, 0.5, 0.25)


def converted(model: nn.Module, shape=IMAGES, method=None) -> we.DynamicNetwork:
    method = we.Slimmable(WIDTHS, divisor=2) if method is None else method
    return we.convert(model, torch.zeros(shape), method=method).eval()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calibrated(net: we.DynamicNetwork, shape) -> we.DynamicNetwork:
    we.calibrate(net, net.space.uniform_modes(), [drawn(*shape, seed=7)])
    return net


# --- rounding -------------------------------------------------------------------------------------


def slow_active(channels: int, width: float, divisor: int) -> int:
    """By search: the nearest multiple (the upper of two), unless it is over 10 % too few."""
    if width >= 1:
        return channels
    wanted = channels * width
    multiples = list(range(divisor, channels + 2 * divisor, divisor))
    nearest = min(multiples, key=lambda n: (abs(n - wanted) - 1e-9 * n, -n))
    allowed = [n for n in multiples if n >= 0.9 * wanted - 1e-6]
    return min(max(nearest, min(allowed)), channels)


hundredths = st.integers(1, 100).map(lambda n: n / 100)


@given(st.integers(1, 2048), hundredths, st.integers(1, 16))
def test_the_rounding_is_that_of_a_slow_search(channels: int, width: float, divisor: int):
    assert active_channels(channels, width, divisor) == slow_active(channels, width, divisor)


@given(st.integers(1, 2048), hundredths, hundredths, st.integers(1, 16))
def test_wider_is_never_narrower(channels: int, a: float, b: float, divisor: int):
    low, high = sorted((a, b))
    narrow, wide = (active_channels(channels, each, divisor) for each in (low, high))
    assert 1 <= narrow <= wide <= channels
    assert narrow == channels or narrow % divisor == 0
    assert narrow >= 0.9 * low * channels - 1e-6


# --- a slow reference: the whole network with zeros where channels are disabled ---------------------


def masked_outputs(
    model: nn.Module, x: torch.Tensor, width: float, divisor: int, classifier: str, norms
) -> torch.Tensor:
    """Run the network that was converted, every layer's and norm's outputs cut by a mask.

    - `norms`: name -> the plain norm of the mode, whose values stand for the enabled channels.
    """
    model = copy.deepcopy(model).eval()

    def cut(channels: int):
        active = slow_active(channels, width, divisor)
        return lambda _module, _inputs, output: (
            output
            * torch.cat([torch.ones(active), torch.zeros(channels - active)]).reshape(
                1, -1, *[1] * (output.ndim - 2)
            )
        )

    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            active = norms[name].num_features
            with torch.no_grad():
                for leaf in ("weight", "bias", "running_mean", "running_var"):
                    getattr(module, leaf)[:active] = getattr(norms[name], leaf)
            module.register_forward_hook(cut(module.num_features))
        elif isinstance(module, nn.Conv2d | nn.Linear) and name != classifier:
            module.register_forward_hook(cut(module.weight.shape[0]))
    with torch.no_grad():
        return model(x)


NETWORKS = {
    "small-bottleneck": (SmallBottleneckResNet, (2, 3, 16, 16), "fc"),
    "resnet18": (torchvision.models.resnet18, (2, 3, 32, 32), "fc"),
    "resnet50": (torchvision.models.resnet50, (2, 3, 32, 32), "fc"),
    "mobilenet-v2": (torchvision.models.mobilenet_v2, (2, 3, 32, 32), "classifier.1"),
    "efficientnet-b0": (torchvision.models.efficientnet_b0, (2, 3, 32, 32), "classifier.1"),
    "digits": (zoo.digits_resnet, (2, 1, 8, 8), "classifier"),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "slimmable") for name in NETWORKS), ("small-bottleneck", "us-net"),
     ("efficientnet-b0", "us-net")],
)  # fmt: skip
def test_a_width_is_the_network_with_the_other_channels_at_zero(name: str, kind: str):
    make, shape, classifier = NETWORKS[name]
    model = give_norms_a_past(make()).eval()
    widths = (1.0, 0.7, 0.3) if kind == "slimmable" else (1.0, 0.65, 0.3)
    method = we.Slimmable(widths) if kind == "slimmable" else we.UniversallySlimmable(0.3, 0.35)
    net, x = converted(model, shape, method), drawn(*shape, seed=3)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    calibrated(net, shape)
    for width, mode in zip(widths, net.space.uniform_modes(), strict=True):
        assert str(mode) == f"{width:g}"
        plain = we.extract(net, mode).eval()
        with torch.no_grad(), net.using(mode):
            found = net(x)
            assert torch.equal(plain(x), found)
        norms = dict(plain.named_modules())
        expected = masked_outputs(model, x, width, 8, classifier, norms)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(found.abs().max()))
        _check_costs(net, mode, plain, x)


def _check_costs(net: we.DynamicNetwork, mode: we.Mode, plain: nn.Module, x: torch.Tensor) -> None:
    counter = FlopCounterMode(display=False)
    for parameter in plain.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad(), counter:
        plain(x)
    assert net.macs(mode) * 2 * len(x) == counter.get_total_flops()
    assert net.parameter_count(mode) == sum(p.numel() for p in plain.parameters())


# --- networks built at the width --------------------------------------------------------------------


def sliced_into(small: nn.Module, net: we.DynamicNetwork, mode: str) -> nn.Module:
    """Load the first entries of every weight, and the mode's own norms, into a smaller network."""
    whole = dict(net.named_parameters())
    norms = {
        name: module.to_plain()
        for name, module in net.named_modules()
        if isinstance(module, SwitchableBatchNorm)
    }
    with torch.no_grad(), net.using(mode):
        for name, module in small.named_modules():
            if name in norms:
                module.load_state_dict(net.get_submodule(name).to_plain().state_dict())
            else:
                for leaf, parameter in module.named_parameters(recurse=False):
                    wide = whole[f"{name}.{leaf}"]
                    parameter.copy_(wide[tuple(slice(size) for size in parameter.shape)])
    return small.eval()


def half_mobilenet() -> nn.Module:
    """torchvision's own at half the width; it would keep the last convolution at 1280 channels."""
    model = torchvision.models.mobilenet_v2(width_mult=0.5, round_nearest=4)
    model.features[18] = torchvision.ops.Conv2dNormActivation(
        160, 640, kernel_size=1, norm_layer=nn.BatchNorm2d, activation_layer=nn.ReLU6
    )
    model.classifier[1] = nn.Linear(640, 1000)
    return model


class HalfCifarResNet(reference.CifarResNet):
    """ResNet-20 with 8, 16 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layer1, self.layer2 = reference._stage(8, 8, 3), reference._stage(8, 16, 3)
        self.layer3, self.linear = reference._stage(16, 32, 3), nn.Linear(32, 10)


@pytest.mark.parametrize("kind", ["slimmable", "us-net"])
@pytest.mark.parametrize(
    ("whole", "half", "shape"),
    [
        (lambda: SmallBottleneckResNet(16), lambda: SmallBottleneckResNet(8), (2, 3, 16, 16)),
        (lambda: zoo.digits_resnet(32), lambda: zoo.digits_resnet(16), (2, 1, 8, 8)),
        (zoo.cifar_resnet20, HalfCifarResNet, (2, 3, 16, 16)),
        (torchvision.models.mobilenet_v2, half_mobilenet, (2, 3, 32, 32)),
    ],
    ids=["bottleneck", "digits", "cifar", "mobilenet"],
)
def test_half_the_width_is_the_network_built_at_half_the_width(kind, whole, half, shape):
    method = {
        "slimmable": we.Slimmable((1.0, 0.5), divisor=4),
        "us-net": we.UniversallySlimmable(0.5, 0.5, divisor=4),
    }[kind]
    net = calibrated(converted(give_norms_a_past(whole()), shape, method), shape)
    x, small = drawn(*shape), sliced_into(half(), net, "0.5")
    with torch.no_grad(), net.using("0.5"):
        torch.testing.assert_close(net(x), small(x), rtol=1e-5, atol=1e-5)
        plain = we.extract(net)
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in small.named_parameters()
    }


# --- other shapes of networks ----------------------------------------------------------------------


class Flattened(nn.Module):
    """Maps that are flattened into a dense layer, as in VGG, behind grouped convolutions."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect")
        self.conv2 = nn.Conv2d(16, 32, 3, 2, padding="valid", groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 64, 1, groups=32)
        self.hidden, self.norm1d, self.head = (
            nn.Linear(256, 24),
            nn.BatchNorm1d(24),
            nn.Linear(24, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv2(torch.relu(self.conv1(x)))))
        x = self.depthwise(x).flatten(1)
        return self.head(torch.relu(self.norm1d(self.hidden(x))))


class Rearranged(nn.Module):
    """Dense layers over the last dimension, and what else keeps channels apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 2, 2), nn.BatchNorm2d(16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(F.max_pool2d(self.bn(self.stem(x)), 2, 1), (1, 0, 0, 1))
        x = torch.cat([x[..., :2], 2 * x[:, :, :, 1:].flip(2)], 3).roll(1, 2)
        gate = torch.sigmoid(x.mean((2, 3), keepdim=True) - x.amax(1, keepdim=True))
        x = (x * gate).flatten(2).transpose(1, 2).contiguous()
        x = x + self.fc2(F.gelu(self.fc1(x)))
        first, second = x.split([2, x.shape[1] - 2], 1)
        return self.head(first.mean(1) + second.permute(1, 0, 2)[0])


@pytest.mark.parametrize(
    ("model", "classifier"),
    [(Flattened(), "head"), (SmallResNet(), "fc")],
    ids=["flattened", "residual"],
)
def test_small_networks_equal_their_masked_selves(model: nn.Module, classifier: str):
    model = give_norms_a_past(model).eval()
    net = calibrated(converted(model, method=we.Slimmable((1.0, 0.5, 0.25), divisor=4)), IMAGES)
    x = drawn(*IMAGES)
    for width, mode in zip((1.0, 0.5, 0.25), net.space.uniform_modes(), strict=True):
        plain = we.extract(net, mode).eval()
        with torch.no_grad(), net.using(mode):
            expected = masked_outputs(model, x, width, 4, classifier, dict(plain.named_modules()))
            torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)
        _check_costs(net, mode, plain, x)


def test_dense_layers_over_the_last_dimension():
    net, x = calibrated(converted(Rearranged()), IMAGES), drawn(*IMAGES)
    for mode in net.space.uniform_modes():
        plain = we.extract(net, mode).eval()
        with torch.no_grad(), net.using(mode):
            assert torch.equal(plain(x), net(x))
        _check_costs(net, mode, plain, x)
    assert we.extract(net, "0.5").fc1.weight.shape == (16, 8)


def test_padded_features_shrink_in_proportion():
    class Pad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.pad(x, (4, 8))

    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 12), Pad(), nn.Linear(24, 5))
    net, x = converted(model, method=we.Slimmable((1.0, 0.5), divisor=2)), drawn(*IMAGES)
    first, last = net[1], net[3]
    with torch.no_grad(), net.using("0.5"):
        hidden = F.pad(F.linear(x.flatten(1), first.weight[:6], first.bias[:6]), (2, 4))
        expected = F.linear(hidden, last.weight[:, :12], last.bias)
        torch.testing.assert_close(net(x), expected)
        plain = we.extract(net)
        assert torch.equal(plain(x), net(x))


def test_what_writes_the_output_keeps_its_channels():
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return (self.a(x) + self.b(x)).unflatten(1, (2, 8))

    net = converted(Summed())
    assert {each.name for each in net.switchable_layers} == {"stem", "a", "b"}
    plain = we.extract(net, "0.5")
    assert (plain.stem.out_channels, plain.a.in_channels, plain.a.out_channels) == (4, 4, 16)


# --- modes, norms, training, files ------------------------------------------------------------------


def test_widths_that_change_nothing_are_one():
    net = converted(small_resnet(), method=we.Slimmable((1.0, 0.99, 0.5, 0.49), divisor=8))
    assert [str(mode) for mode in net.space.uniform_modes()] == ["1", "0.5"]
    assert net.space.names == ("width",)
    many = we.UniversallySlimmable()
    assert (len(many.widths), many.widths[1], many.widths[-1]) == (31, 0.975, 0.25)
    assert we.UniversallySlimmable(0.3, 0.4).widths == (1.0, 0.6, 0.3)
    with pytest.raises(ValueError, match=r"`mode` \(='0.6'\) holds '0.6', .*allowed: 1, 0.5"):
        net.set_mode("0.6")
    with pytest.raises(ValueError, match="no option of 'width'"):
        net.set_mode("1/2")
    with pytest.raises(ValueError, match=r"option 3 of 'width' .*allowed: 1 \(1\), 2 \(0.5\)"):
        net.set_mode({"width": 3})


def test_the_model_is_untouched_and_its_names_stay():
    model = small_resnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net = converted(model, method=we.UniversallySlimmable(0.25, 0.25, 2))
    assert list(net.state_dict()) == list(before)
    net.set_mode("0.25")
    net.train()(drawn(*IMAGES))
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    private = converted(model)
    added = set(private.state_dict()) - set(before)
    assert added
    assert all(".by_pattern." in name for name in added)
    assert private.get_parameter("block1.bn1.by_pattern.4.weight").shape == (2,)


@pytest.mark.parametrize(
    "method", [we.Slimmable(WIDTHS, 2), we.UniversallySlimmable(0.25, 0.25, 2)]
)
def test_disabled_weights_get_no_gradient(method):
    net = converted(small_resnet(), method=method).train()
    net.set_mode("0.5")
    net(drawn(*IMAGES)).sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    weight = gradients["block2.conv2.weight"]
    assert bool(weight[:8, :8].abs().sum(1).bool().any())
    assert not weight[8:].any()
    assert not weight[:, 8:].any()
    assert not gradients["fc.weight"][:, 16:].any()
    norm = gradients["block2.bn2.weight"]
    if isinstance(method, we.Slimmable):
        assert norm is None
        assert gradients["block2.bn2.by_pattern.3.weight"].shape == (8,)
    else:
        assert bool(norm[:8].any())
        assert not norm[8:].any()


def test_one_affine_keeps_the_averages_of_the_full_width():
    net = converted(small_resnet(), method=we.UniversallySlimmable(0.5, 0.5, 2)).train()
    norm = net.get_submodule("block1.bn1")
    before = norm.running_mean.clone()
    net.set_mode("0.5")
    net(drawn(*IMAGES))
    assert torch.equal(norm.running_mean, before)
    net.set_mode("1")
    net(drawn(*IMAGES))
    assert not torch.equal(norm.running_mean, before)
    # Without calibration a narrower width is normalised by the first of these averages.
    net.eval().set_mode("0.5")
    plain = we_extract_uncalibrated(net)
    assert torch.equal(plain.get_submodule("block1.bn1").running_mean, norm.running_mean[:4])


def we_extract_uncalibrated(net: we.DynamicNetwork) -> nn.Module:
    with pytest.warns(we.UncalibratedWarning):
        return we.extract(net)


def test_calibration_is_that_of_the_narrow_network():
    """Statistics of the narrow network, gathered by torch itself with cumulative averages."""
    net = converted(small_resnet(), method=we.UniversallySlimmable(0.5, 0.5, 2))
    images = drawn(64, *IMAGES[1:])
    we.calibrate(net, "0.5", [images])
    assert net.is_calibrated("0.5")
    plain = we.extract(net, "0.5").train()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        plain(images)
    plain.eval()
    x = drawn(*IMAGES, seed=5)
    with torch.no_grad(), net.using("0.5"):
        torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["us-net", "slimmable"])
def test_training_both_saving_and_loading(method: str, tmp_path: Path):
    net = converted(small_resnet(), method=METHODS[method]())
    batch = drawn(16, *IMAGES[1:]), torch.randint(5, (16,))
    steps = []
    config = we.TrainConfig(passes=3, epochs=4, distillation=True, learning_rate=0.01)
    assert we.train(net, [batch], config, on_step=steps.append)
    assert all(report.modes[:2] == (net.space.full, net.space.smallest) for report in steps)
    modes = list(net.space.uniform_modes())[::2]
    we.calibrate(net, modes, [batch[0]])
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), SmallResNet())
    assert loaded.space == net.space
    assert loaded.conversion_method == net.conversion_method
    assert method_from_json(net.conversion_method.to_json()) == net.conversion_method
    random.Random(1).shuffle(modes)
    x = drawn(*IMAGES, seed=9)
    for mode in (*modes, *modes[::-1]):
        assert loaded.is_calibrated(mode)
        with torch.no_grad(), net.using(mode), loaded.using(str(mode)):
            assert torch.equal(net(x), loaded(x))


@pytest.mark.parametrize("strategy", ["knapsack", "greedy", "greedy-lazy", "nsga2"])
def test_exploring_widths(strategy):
    net = converted(small_resnet(), method=we.UniversallySlimmable(0.25, 0.125, 2))
    batch = drawn(20, *IMAGES[1:]), torch.arange(20) % 5
    front = we.explore(net, [batch], [batch[0]], min_accuracy=0.01, cost="macs", strategy=strategy)
    assert front.modes
    for point in front.points:
        assert point.cost.known == net.macs(point.mode)
        assert we.Front.from_json(front.to_json()).modes == front.modes


def test_halves_and_channels_last_follow():
    net = converted(small_resnet())
    net.to(memory_format=torch.channels_last).double()
    x = drawn(*IMAGES).double()
    we.calibrate(net, "0.5", [x])
    with torch.no_grad(), net.using("0.5"):
        plain = we.extract(net)
        assert plain(x).dtype == torch.float64
        assert torch.equal(plain(x), net(x))
