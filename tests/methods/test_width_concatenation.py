"""Flexible width behind concatenations: what reads them has the first channels of each part."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import wenable as we
from tests.helpers.networks import Dense, give_norms_a_past
from tests.methods.test_width import calibrated, drawn, slow_active
from wenable.runtime import Session


def block(inputs: int, outputs: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """What goes down is read again on the way up, beside what comes from below."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(3, 16), block(16, 24), block(24, 32)])
        self.up, self.last = nn.ConvTranspose2d(32, 24, 2, 2), block(40, 16)
        self.middle, self.head = block(48, 24), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        third = self.down[2](F.max_pool2d(second, 2))
        x = self.middle(torch.cat([self.up(third), second], 1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return self.head(self.last(torch.cat([x, first], 1)))


class Branches(nn.Module):
    """Branches beside the input itself, then a norm, a depthwise convolution, and a dense layer."""

    def __init__(self, sizes: list[int], multiplier: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, size, 1) for size in sizes)
        joined = 3 + sum(sizes)
        self.norm = nn.BatchNorm2d(joined)
        self.depthwise = nn.Conv2d(
            joined, joined * multiplier, 3, padding=1, groups=joined, bias=bias
        )
        self.beside = nn.Conv2d(joined, 8, 1)
        self.head = nn.Linear((joined * multiplier + 8) * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [branch(x) for branch in self.branches]
        joined = self.norm(torch.cat([parts[0], x, *parts[1:]], 1))
        x = torch.cat([self.depthwise(joined), torch.relu(self.beside(joined))], 1)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


def masked_outputs(
    model: nn.Module, x: torch.Tensor, width: float, divisor: int, last: str, plain: nn.Module
) -> torch.Tensor:
    """Run the network that was converted, channels that the width leaves out at zero.

    A layer writes its first ones. What keeps channels apart writes what it has a channel for: one that is
    zero everywhere is left out. That knows nothing of parts. Norms have the values of the plain network.
    """
    model, norms = copy.deepcopy(model).eval(), dict(plain.named_modules())

    def first(module, inputs, output):
        rows = module.weight.shape[0 if isinstance(module, nn.Conv2d | nn.Linear) else 1]
        mask = torch.arange(rows) < slow_active(rows, width, divisor)
        return output * mask.reshape(1, -1, *[1] * (output.ndim - 2))

    def there(inputs):
        (x,) = inputs
        return x.transpose(0, 1).flatten(1).abs().amax(1) > 0

    def grouped(module, inputs, output):
        mask = there(inputs).repeat_interleave(module.out_channels // module.in_channels)
        return output * mask[:, None, None]

    def values(module, inputs, name):
        mask = there(inputs)
        with torch.no_grad():
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                getattr(module, leaf)[mask] = getattr(norms[name], leaf)
            module.weight[~mask], module.bias[~mask], module.running_mean[~mask] = 0, 0, 0

    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(lambda m, i, name=name: values(m, i, name))
        elif isinstance(module, nn.Conv2d) and module.groups > 1:
            module.register_forward_hook(grouped)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and name != last:
            module.register_forward_hook(first)
    with torch.no_grad():
        return model(x)


def check(model: nn.Module, x: torch.Tensor, method, last: str) -> None:
    model = give_norms_a_past(model).eval()
    net = we.convert(model, x[:1], method=method).eval()
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    calibrated(net, x.shape)
    for mode in net.space.uniform_modes():
        plain = we.extract(net, mode).eval()
        with torch.no_grad(), net.using(mode):
            found = net(x)
        with torch.no_grad():
            assert torch.equal(plain(x), found)
        assert net.parameter_count(mode) == sum(p.numel() for p in plain.parameters())
        expected = masked_outputs(model, x, float(str(mode)), method.divisor, last, plain)
        atol = 1e-3 * float(found.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=atol)


NETWORKS = {
    "u-net": (UNet, (2, 3, 16, 16), "head"),
    "dense": (Dense, (2, 3, 6, 6), "head"),
    "densenet": (
        lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5), (2, 3, 64, 64), "classifier",
    ),
    "squeezenet": (
        lambda: torchvision.models.squeezenet1_1(num_classes=5), (2, 3, 64, 64), "classifier.1",
    ),
}  # fmt: skip
WIDTHS = (1.0, 0.75, 0.25)
KINDS = {
    "slimmable": we.Slimmable(WIDTHS, divisor=4),
    "us-net": we.UniversallySlimmable(0.25, 0.25, divisor=4),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_width_is_the_network_with_the_other_channels_at_zero(name: str, kind: str):
    make, shape, last = NETWORKS[name]
    check(make(), drawn(*shape, seed=3), KINDS[kind], last)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 24), min_size=1, max_size=4), st.integers(1, 3), st.booleans(),
    st.sampled_from([(1.0, 0.5), (1.0, 0.6, 0.3)]), st.integers(1, 3), st.booleans(),
)  # fmt: skip
def test_branches_of_any_sizes(sizes, multiplier: int, bias: bool, widths, divisor: int, private):
    model = Branches(sizes, multiplier, bias)
    method = we.Slimmable(widths, divisor)
    if not private and len(widths) == 2:
        method = we.UniversallySlimmable(0.5, 0.5, divisor)
    check(model, drawn(2, 3, 4, 4, seed=5), method, "head")


def test_a_layer_reads_the_first_columns_of_each_part():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(3, 8, 1),
                nn.Conv2d(15, 2, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([self.one(x), self.two(x), x], 1))

    net = we.convert(Joined(), torch.zeros(1, 3, 2, 2), method=we.Slimmable((1.0, 0.5), divisor=2))
    columns = [0, 1, 4, 5, 6, 7, 12, 13, 14]
    with net.using("0.5"):
        assert torch.equal(net.head.enabled()[0], net.head.weight[:, columns])
        assert net.head.views()["weight"].columns == ((0, 2), (4, 8), (12, 15))
    assert torch.equal(we.extract(net, "0.5").head.weight, net.head.weight[:, columns])


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_is_saved_and_leaves_disabled_weights_alone(kind: str, tmp_path: Path):
    net = we.convert(UNet(), torch.zeros(1, 3, 8, 8), method=KINDS[kind])
    x, y = drawn(4, 3, 8, 8), torch.randint(4, (4, 8, 8))
    with net.using("0.25"):
        net.train()(x).square().mean().backward()
        enabled = {
            f"{name}.{leaf}": mask
            for name, module in net.named_modules()
            if hasattr(module, "enabled_entries")
            for leaf, mask in module.enabled_entries().items()
        }
    for name, parameter in net.named_parameters():
        if name in enabled and parameter.grad is not None:
            assert not parameter.grad[~enabled[name]].any(), name
            assert parameter.grad[enabled[name]].any(), name
    net.zero_grad()
    losses: list[float] = []
    config = we.TrainConfig(passes=3, epochs=6, learning_rate=0.05)
    we.train(
        net, [(x, y)], config, loss=F.cross_entropy, on_step=lambda r: losses.append(r.losses[0])
    )
    assert losses[-1] < losses[0]
    we.calibrate(net, "0.25", [x])
    we.save(net, tmp_path / "net.safetensors")
    loaded = we.load(tmp_path / "net.safetensors", UNet())
    with torch.no_grad(), net.using("0.25"), loaded.using("0.25"):
        assert torch.equal(loaded(x), net(x))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_answer_as_the_network(engine: str, tmp_path: Path):
    model, x = give_norms_a_past(UNet()).eval(), drawn(2, 3, 16, 16)
    methods = [KINDS["us-net"], we.ImageSize((16, 8))]
    net = calibrated(we.convert(model, x[:1], method=methods).eval(), x.shape)
    modes = ["full", "width=0.5", "width=0.25,size=8"]
    we.calibrate(net, modes, [x])
    path = we.export(net, modes, tmp_path / "net.wen")
    with Session(path, engine=engine, threads=1) as session:
        for mode in modes:
            with torch.no_grad(), net.using(mode):
                expected = net(x).numpy()
            found = session.run(x.numpy(), mode=mode)
            assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_exits_behind_a_concatenation_read_its_parts(tmp_path: Path):
    """The branch of an exit averages over the channels that both parts of a fire module leave."""
    model = torchvision.models.squeezenet1_1(num_classes=5).eval()
    x = drawn(2, 3, 64, 64)
    net = we.convert(model, x[:1], method=[KINDS["slimmable"], we.EarlyExits(("features.3",))])
    mode = "width=0.25,exit=features.3"
    with net.using(mode), torch.no_grad():
        found = net.eval()(x)
        plain = we.extract(net, mode).eval()
        assert torch.equal(plain(x), found)
    point = net.get_submodule("features.3")
    columns = [*range(16), *range(64, 80)]
    with torch.no_grad():
        features = x
        for number in range(4):  # up to and with the fire module
            features = plain.get_submodule(f"features.{number}")(features)
        expected = features.mean((2, 3)) @ point.exit_weight[:, columns].T + point.exit_bias
    torch.testing.assert_close(found, expected)
    path = we.export(net, ["full", mode], tmp_path / "net.wen")
    with Session(path, engine="onnxruntime", threads=1) as session:
        np.testing.assert_allclose(session.run(x.numpy(), mode=mode), found, rtol=1e-4, atol=1e-6)
