"""Flexible width of transposed convolutions: a slow reference, what they keep, training, the bundle."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

import wenable as we
from tests.helpers.networks import give_norms_a_past
from tests.methods.test_width import calibrated, converted, drawn, slow_active
from wenable.core.space import Knob
from wenable.graph import run_counted
from wenable.layers.slimmable import LayerWidth
from wenable.layers.slimmable_transposed import SlimmableConvTranspose2d
from wenable.runtime.bundle import Bundle, BundleError
from wenable.runtime.bundle_file import read_bundle_file
from wenable.runtime.engines import installed_engines
from wenable.runtime.session import Session

WIDTHS = (1.0, 0.5, 0.25)


class Decoder(nn.Module):
    """Down and up again over one, two or three dimensions, the depthwise way in between."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        at = dimensions - 1
        plain: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[at]
        up: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[at]
        norm: Any = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[at]
        self.down = plain(3, 16, 3, 2, 1)
        self.up = up(16, 8, 3, 2, 1, output_padding=1)
        self.norm = norm(8)
        self.depthwise = up(8, 16, 2, 2, groups=8, bias=False)
        self.join = plain(16, 8, 1)
        self.last = up(8, 3, 3, padding=1, dilation=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.up(torch.relu(self.down(x)))))
        return self.last(torch.relu(self.join(self.depthwise(x))))


def inputs(dimensions: int, seed: int = 0) -> torch.Tensor:
    return drawn(2, 3, *(8, 6, 4)[:dimensions], seed=seed)


@pytest.fixture(scope="module", params=[1, 2, 3])
def net(request: pytest.FixtureRequest) -> we.DynamicNetwork:
    torch.manual_seed(0)
    model = give_norms_a_past(Decoder(request.param)).eval()
    x = inputs(request.param)
    made = converted(model, x.shape, we.Slimmable(WIDTHS, divisor=2))
    assert torch.equal(made(x), model(x))
    return calibrated(made, x.shape)


def ahead(x: torch.Tensor, layer: Any, keep: int, weight: torch.Tensor) -> torch.Tensor:
    """A transposed convolution entry by entry, its outputs zero from `keep` on.

    Each value goes, times the kernel, to where the convolution that it is the transpose of had read.
    """
    rank = x.ndim - 2
    outputs = weight.shape[1] * layer.groups
    sizes = [
        (size - 1) * s + d * (k - 1) + 1
        for size, s, d, k in zip(
            x.shape[2:], layer.stride, layer.dilation, layer.kernel_size, strict=True
        )
    ]
    spread = torch.zeros(len(x), outputs, *map(sum, zip(sizes, layer.output_padding, strict=True)))
    fan = weight.shape[0] // layer.groups
    for tap in torch.cartesian_prod(*map(torch.arange, layer.kernel_size)).reshape(-1, rank):
        at = [int(t) * d for t, d in zip(tap, layer.dilation, strict=True)]
        places = tuple(
            slice(a, a + (size - 1) * s + 1, s)
            for a, size, s in zip(at, x.shape[2:], layer.stride, strict=True)
        )
        for i in range(x.shape[1]):
            for o in range(weight.shape[1]):
                to = i // fan * weight.shape[1] + o
                spread[(slice(None), to, *places)] += x[:, i] * weight[(i, o, *map(int, tap))]
    for axis, pad in enumerate(layer.padding):
        spread = spread.narrow(2 + axis, pad, spread.shape[2 + axis] - 2 * pad)
    if layer.bias is not None:
        spread = spread + layer.bias.reshape(1, -1, *[1] * rank)
    spread[:, keep:] = 0
    return spread


def masked(net: we.DynamicNetwork, plain: Any, x: torch.Tensor, width: float) -> torch.Tensor:
    """The whole network with zeros where channels are disabled, and the mode's own norm."""

    def kept(channels: int) -> int:
        return slow_active(channels, width, 2)

    parts: Any = net
    with torch.no_grad():
        x = parts.down.convolve(x, parts.down.weight, parts.down.bias, 2, 1)
        x[:, kept(16) :] = 0
        x = ahead(torch.relu(x), parts.up, kept(8), parts.up.weight)
        x[:, : kept(8)] = plain.norm(x[:, : kept(8)])
        x = ahead(torch.relu(x), parts.depthwise, 2 * kept(8), parts.depthwise.weight)
        x = parts.join.convolve(x, parts.join.weight, parts.join.bias)
        x[:, kept(8) :] = 0
        return ahead(torch.relu(x), parts.last, 3, parts.last.weight)


def test_a_width_is_the_network_with_the_other_channels_at_zero(net: we.DynamicNetwork):
    x = inputs(net.example_batch[0].ndim - 2, seed=3)
    for width, mode in zip(WIDTHS, net.space.uniform_modes(), strict=True):
        plain = we.extract(net, mode).eval()
        with torch.no_grad(), net.using(mode):
            found = net(x)
            assert torch.equal(plain(x), found)
        torch.testing.assert_close(found, masked(net, plain, x, width), rtol=1e-4, atol=1e-5)
        assert run_counted(plain, (x,))[1] == 2 * net.macs(mode)
        assert net.parameter_count(mode) == sum(p.numel() for p in plain.parameters())


def test_the_extracted_layers_are_torchs_own_and_narrow(net: we.DynamicNetwork):
    plain: Any = we.extract(net, "0.5")
    assert plain.up.weight.shape[:2] == (8, 4)
    assert (plain.depthwise.groups, *plain.depthwise.weight.shape[:2]) == (4, 4, 2)
    assert plain.last.weight.shape[:2] == (4, 3)
    assert {type(each).__module__ for each in (plain.up, plain.depthwise, plain.last)} == {
        "torch.nn.modules.conv"
    }
    kinds = {each.name: each.kind for each in net.switchable_layers}
    assert kinds["up"] == kinds["depthwise"] == kinds["last"] == "transposed convolution"


def test_gradients_reach_what_a_width_enables_and_nothing_else(net: we.DynamicNetwork):
    dimensions = net.example_batch[0].ndim - 2
    with net.using("0.5"):
        for name, reads in (("up", 8), ("depthwise", 4), ("last", 4)):
            layer: Any = net.get_submodule(name)
            layer.zero_grad()
            layer(drawn(2, reads, *(4, 3, 3)[:dimensions], seed=4)).square().sum().backward()
            for leaf, enabled in layer.enabled_entries().items():
                assert torch.equal(layer.get_parameter(leaf).grad != 0, enabled), (name, leaf)
            layer.zero_grad()


@pytest.mark.parametrize("engine", installed_engines())
def test_a_bundle_gives_the_answers_of_every_width(net: we.DynamicNetwork, engine: str, tmp_path):
    path = we.export(net, net.space.uniform_modes(), tmp_path / "net.wen")
    x = inputs(net.example_batch[0].ndim - 2, seed=5)
    with Session(path, engine=engine, threads=1) as session:
        for mode in (*net.space.uniform_modes(), net.space.full):
            with torch.no_grad(), net.using(mode):
                expected = net(x).numpy()
            found = session.run(x.numpy(), mode=mode)
            assert abs(found - expected).max() < 1e-4 * abs(expected).max()


def test_groups_of_a_view_that_do_not_fit_its_weight_are_refused(net: we.DynamicNetwork, tmp_path):
    path = we.export(net, ["full", "0.5"], tmp_path / "net.wen")
    manifest, tensors = read_bundle_file(path)
    views = manifest["modes"][1]["views"]
    assert views["depthwise.weight"] == {"rows": 4, "columns": 2, "groups": 4}
    views["depthwise.weight"]["groups"] = 3
    text = json.dumps(manifest)
    digest = hashlib.sha256(text.encode()).hexdigest()
    save_file(dict(tensors), path, {"wenable": text, "sha256": digest})
    with pytest.raises(BundleError, match=r"a mode has 3 groups for 'depthwise\.weight'"):
        Bundle(path)


def test_it_is_saved_loaded_and_trained(net: we.DynamicNetwork, tmp_path: Path):
    dimensions = net.example_batch[0].ndim - 2
    path, x = we.save(net, tmp_path / "net.we"), inputs(dimensions, seed=6)
    loaded = we.load(path, Decoder(dimensions)).eval()
    for mode in net.space.uniform_modes():
        with torch.no_grad(), net.using(mode), loaded.using(mode):
            assert torch.equal(net(x), loaded(x))
    with torch.no_grad():
        target = loaded(x)
    config = we.TrainConfig(passes=3, epochs=2, learning_rate=0.01)
    steps: list[Any] = []
    we.train(loaded, [(x, target)], config, loss=F.mse_loss, on_step=steps.append)
    assert len(steps) == 2


def test_a_size_named_in_the_call_is_kept():
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 3, 2, 1)
            self.last = nn.Conv2d(8, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.up(self.down(x), output_size=x.shape[2:]))

    net, x = converted(Sized(), (1, 3, 8, 8), we.Slimmable(WIDTHS, divisor=2)), drawn(2, 3, 8, 8)
    for mode in net.space.uniform_modes():
        with torch.no_grad(), net.using(mode):
            found = net(x)
            assert found.shape == x.shape
            assert torch.equal(we.extract(net, mode)(x), found)
    parts: Any = net
    down, up, last = parts.down, parts.up, parts.last
    with net.using("0.5"), torch.no_grad():
        half = F.conv2d(x, down.weight[:4], down.bias[:4], 2, 1)
        half = F.conv_transpose2d(half, up.weight[:4, :4], up.bias[:4], 2, 1, 1)
        torch.testing.assert_close(net(x), F.conv2d(half, last.weight[:, :4], last.bias))


def test_it_writes_all_channels_for_what_cannot_be_followed():
    """Such a network could be converted before these layers had widths."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.hidden = nn.ConvTranspose1d(4, 16, 2, 2), nn.Linear(16, 8)
            self.head = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            joined = torch.cat([self.up(x), F.interpolate(x, scale_factor=2)], 1)
            return self.head(torch.relu(self.hidden(joined[:, :16].mean(-1))))

    net = converted(Skip(), (1, 4, 6))
    reasons = {each.name: each.reason for each in net.left_alone}
    assert list(reasons) == ["up"]
    assert "it takes part of its channels by number" in reasons["up"]
    assert [each.name for each in net.switchable_layers] == ["hidden", "head"]


def test_its_own_words_for_channels_that_do_not_fit():
    widths = {1: LayerWidth(4, 8), 2: LayerWidth(2, 4)}
    layer = SlimmableConvTranspose2d(
        nn.ConvTranspose2d(4, 8, 3), Knob("width", (1, 2)), widths, "up"
    )
    layer.switch_to(2)
    with pytest.raises(ValueError, match="'up' reads 2 channels at width 1/2, and was given 4"):
        layer(torch.ones(1, 4, 5, 5))
