"""Convolutions of one to three dimensions, transposed ones too, against masked dense ones."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from tests.helpers import references
from wenable.core.space import Knob
from wenable.graph import run_counted
from wenable.layers.batch_norm import Statistics
from wenable.layers.frozen_norm import SwitchableFrozenBatchNorm2d
from wenable.methods.switchable_kinds import _CONVOLUTIONS

KINDS: list[Any] = list(_CONVOLUTIONS)
SIZES = {1: (9,), 2: (7, 5), 3: (4, 6, 5)}
OPTIONS = (1, 2, 4)
GEOMETRIES = [
    {"kernel_size": 3},
    {"kernel_size": 2, "stride": 2, "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2},
    {"kernel_size": 1},
]
SHUFFLES = [4, 1, 2, 4]


def dimensions(kind: Any) -> int:
    return int(kind.__name__[-2])


def made(kind: Any, geometry: dict[str, Any], shuffle: int = 1) -> tuple[Any, Any, torch.Tensor]:
    """A convolution, its switchable form, and an input in float64."""
    torch.manual_seed(0)
    extra = (
        {"output_padding": 1} if kind.__name__.startswith("ConvT") and "stride" in geometry else {}
    )
    layer = kind(8, 12, **geometry, **extra).double()
    switchable = _CONVOLUTIONS[kind](layer, Knob("layer", OPTIONS), shuffle)
    return layer, switchable, torch.randn(2, 8, *SIZES[dimensions(kind)]).double()


def masked(layer: Any, option: int, order: list[int] | None) -> Any:
    """The dense layer with zeros where the option enables nothing; columns of a mask are inputs."""
    mask = references.mask(12, 8, option, order).double()
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    mask = (mask.t() if transposed else mask).view(
        *layer.weight.shape[:2], *[1] * (layer.weight.ndim - 2)
    )
    names = "kernel_size stride padding dilation".split()
    more = {"output_padding": layer.output_padding} if transposed else {}
    dense = type(layer)(
        8, 12, bias=layer.bias is not None, **{n: getattr(layer, n) for n in names}, **more
    ).double()
    dense.load_state_dict({**layer.state_dict(), "weight": layer.weight.detach() * mask})
    return dense


@pytest.mark.parametrize(
    ("kind", "case"), list(itertools.product(KINDS, zip(GEOMETRIES, SHUFFLES, strict=True)))
)
def test_every_convolution_in_groups_is_a_masked_dense_one(kind, case):
    geometry, shuffle = case
    layer, switchable, x = made(kind, geometry, shuffle)
    order = references.shuffled_order(8, shuffle)
    for option in OPTIONS:
        switchable.switch_to(option)
        dense = masked(layer, option, order if option > 1 else None)
        expected = dense(x)
        torch.testing.assert_close(switchable(x), expected)
        with torch.no_grad():  # blocks that were packed
            torch.testing.assert_close(switchable(x), expected.detach())
        torch.testing.assert_close(switchable.to_plain()(x), expected)
        for way in switchable.implementations_of(option):
            switchable.use_implementations({option: way})
            torch.testing.assert_close(switchable(x), expected, msg=way)
        switchable.use_implementations({})
        # Gradients reach the enabled weights, and are the masked layer's.
        layer.weight.grad = None
        switchable(x).square().sum().backward()
        dense(x).square().sum().backward()
        kept = (dense.weight != 0).double()
        torch.testing.assert_close(layer.weight.grad, dense.weight.grad * kept)
        macs = run_counted(switchable, (x,))[1]
        assert macs * option == closed_form(layer, x, expected)
        assert run_counted(switchable.to_plain(), (x,))[1] == macs
    switchable.switch_to(1)
    assert torch.equal(switchable(x), layer(x))


def closed_form(layer: Any, x: torch.Tensor, y: torch.Tensor) -> int:
    """Of a transposed convolution each input goes to a kernel's worth of every output channel."""
    positions = x if isinstance(layer, nn.modules.conv._ConvTransposeNd) else y
    return len(x) * 8 * 12 * math.prod(positions.shape[2:]) * math.prod(layer.kernel_size)


def test_channels_last_volumes_keep_their_order():
    layer, switchable, x = made(nn.Conv3d, {"kernel_size": 3})
    layer.to(memory_format=torch.channels_last_3d)
    switchable.switch_to(2)
    with torch.no_grad():
        found = switchable(x.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(found, masked(layer, 2, None)(x).detach())
    assert switchable.to_plain().weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_transposed_convolution_takes_an_output_size():
    layer, switchable, x = made(nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2})
    for option in OPTIONS:
        switchable.switch_to(option)
        found = switchable(x, output_size=[16, 12])
        torch.testing.assert_close(found, masked(layer, option, None)(x, output_size=[16, 12]))
    _, shuffled, _ = made(nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2}, shuffle=4)
    with pytest.raises(ValueError, match=r"'layer' is called with `output_size` .*exclude it"):
        shuffled(x, output_size=[16, 12])


def test_grouped_ones_are_refused():
    with pytest.raises(ValueError, match=r"'layer' already has `groups` \(=2\)"):
        _CONVOLUTIONS[nn.ConvTranspose2d](
            nn.ConvTranspose2d(4, 4, 1, groups=2), Knob("layer", (1, 2)), 1
        )


def test_a_frozen_norm_stays_frozen_at_option_1_and_is_a_norm_of_its_own_at_others():
    frozen = FrozenBatchNorm2d(4)
    for buffer in frozen.buffers():
        buffer.copy_(torch.rand(4) + 0.5)
    names, x = list(frozen.state_dict()), 3 * torch.randn(8, 4, 5, 5) + 1
    expected = frozen(x)
    norm = SwitchableFrozenBatchNorm2d(frozen, (1, 2))
    assert list(norm.state_dict())[:4] == names
    for training in (True, False):
        norm.train(training).switch_to(1)
        norm.use_statistics(Statistics(torch.zeros(4), torch.ones(4)))  # of a calibrated mode
        assert torch.equal(norm(x), expected)
        assert torch.equal(norm.to_plain()(x), expected)
        torch.testing.assert_close(norm.plain_norm().eval()(x), expected)
    norm.use_statistics(None)
    norm.train().switch_to(2)
    assert norm(x).mean((0, 2, 3)).sub(norm.of_option(2).bias).abs().max() < 1e-5
    norm.eval().use_statistics(Statistics(x.mean((0, 2, 3)), x.var((0, 2, 3))))
    torch.testing.assert_close(norm.to_plain().eval()(x), norm(x))
    assert not torch.allclose(norm(x), expected, atol=0.1)
    # The checkpoint that it froze has a count besides, and loads.
    norm.load_state_dict({**norm.state_dict(), "num_batches_tracked": torch.tensor(3)})
    assert [name for name, _ in norm.named_parameters()] == [
        "by_pattern.2.weight",
        "by_pattern.2.bias",
    ]
