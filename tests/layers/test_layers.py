"""The layers against independent references: masked dense layers and batch norm in numpy."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers import references
from wenable.core.space import Knob
from wenable.layers import (
    SwitchableBatchNorm1d,
    SwitchableBatchNorm2d,
    WeightEnabledConv2d,
    WeightEnabledLinear,
)
from wenable.layers.batch_norm import Moments, Statistics
from wenable.layers.blocks import diagonal_blocks
from wenable.layers.permutation import is_identity_shuffle, shuffle_permutation

CHAINS = [(1, 2, 4), (1, 3, 6), (1, 2, 4, 8, 16), (1, 5)]


def knob(options: tuple[int, ...]) -> Knob:
    return Knob("layer", options)


@given(st.integers(1, 8), st.integers(1, 8))
def test_the_shuffle_is_the_papers(groups: int, size: int):
    channels = groups * size
    order = shuffle_permutation(channels, groups).tolist()
    assert order == references.shuffled_order(channels, groups)
    assert (order == list(range(channels))) == is_identity_shuffle(channels, groups)
    # torch's own channel shuffle moves channels the same way
    marked = torch.arange(float(channels)).view(1, channels, 1, 1)
    assert nn.ChannelShuffle(groups)(marked).flatten().tolist() == order


def test_a_shuffle_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"`groups` \(=4\) of a shuffle must divide .* \(=6\)"):
        shuffle_permutation(6, 4)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, tuple[int, ...], int, torch.Tensor]:
    chain = draw(st.sampled_from(CHAINS))
    inputs = chain[-1] * draw(st.integers(1, 3))
    outputs = chain[-1] * draw(st.integers(1, 3))
    shuffle = draw(st.sampled_from([g for g in range(1, inputs + 1) if inputs % g == 0]))
    torch.manual_seed(draw(st.integers(0, 100)))
    conv = nn.Conv2d(
        inputs,
        outputs,
        kernel_size=draw(st.sampled_from([1, 2, 3, (1, 3)])),
        stride=draw(st.sampled_from([1, 2])),
        padding=draw(st.sampled_from([0, 1])),
        dilation=draw(st.sampled_from([1, 2])),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "circular"])),
    )
    return conv, chain, shuffle, torch.randn(2, inputs, 7, 6)


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_a_grouped_convolution_is_a_masked_dense_one(drawn):
    conv, chain, shuffle, x = drawn
    layer = WeightEnabledConv2d(conv, knob(chain), shuffle)
    order = references.shuffled_order(conv.in_channels, shuffle)
    for n in chain:
        layer.switch_to(n)
        masked = nn.Conv2d(**_arguments(conv))
        weight = conv.weight if n == 1 else references.masked_weight(conv.weight, n, order)
        masked.load_state_dict(
            {"weight": weight.detach(), **({"bias": conv.bias} if conv.bias is not None else {})}
        )
        torch.testing.assert_close(layer(x), masked(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.to_plain()(x), layer(x))
    layer.switch_to(1)
    assert torch.equal(layer(x), conv(x))


def _arguments(conv: nn.Conv2d) -> dict:
    names = "in_channels out_channels kernel_size stride padding dilation padding_mode".split()
    return {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None}


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(CHAINS),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([(3,), (2, 3), (2, 3, 2), ()]),
)
def test_a_grouped_dense_layer_is_a_masked_one(chain, inputs, outputs, bias, leading):
    inputs, outputs = inputs * chain[-1], outputs * chain[-1]
    linear = nn.Linear(inputs, outputs, bias)
    layer = WeightEnabledLinear(linear, knob(chain), shuffle_groups=chain[-1])
    order = references.shuffled_order(inputs, chain[-1])
    x = torch.randn(*leading, inputs)
    for n in chain:
        layer.switch_to(n)
        weight = linear.weight if n == 1 else references.masked_weight(linear.weight, n, order)
        expected = nn.functional.linear(x, weight, linear.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
        layer.dimensions = x.ndim
        if x.ndim > 1:
            torch.testing.assert_close(layer.to_plain()(x), expected, rtol=1e-4, atol=1e-5)


@given(st.sampled_from(CHAINS), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_blocks_nest_and_are_the_diagonal(chain, inputs, outputs, shuffled):
    inputs, outputs = inputs * chain[-1], outputs * chain[-1]
    order = references.shuffled_order(inputs, chain[-1]) if shuffled else list(range(inputs))
    permutation = torch.tensor(order) if shuffled else None
    names = torch.arange(float(inputs * outputs)).view(outputs, inputs)
    enabled = []
    for n in chain:
        found = {int(v) for v in diagonal_blocks(names, n, permutation).flatten()}
        allowed = references.mask(outputs, inputs, n, order)
        assert found == {int(v) for v in names[allowed.bool()]}
        enabled.append(found)
    for coarse, fine in pairwise(enabled):
        assert fine < coarse


def test_gradients_reach_exactly_the_enabled_weights():
    conv = nn.Conv2d(8, 4, 3, padding=1).double()
    layer = WeightEnabledConv2d(conv, knob((1, 2, 4)), shuffle_groups=4)
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    order = references.shuffled_order(8, 4)
    for n in (2, 4):
        layer.switch_to(n)
        assert torch.autograd.gradcheck(layer, (x,))
        conv.weight.grad = None
        layer(x).sum().backward()
        assert conv.weight.grad is not None
        touched = conv.weight.grad.abs().sum((2, 3)) > 0
        assert torch.equal(touched, references.mask(4, 8, n, order).bool())


def test_the_gradient_of_a_block_is_that_of_the_masked_weight():
    linear = nn.Linear(12, 6).double()
    layer = WeightEnabledLinear(linear, knob((1, 3, 6)), shuffle_groups=6)
    x = torch.randn(5, 12, dtype=torch.float64)
    layer.switch_to(3)
    (layer(x) ** 2).sum().backward()
    weight = linear.weight.detach().clone().requires_grad_()
    masked = references.masked_weight(weight, 3, references.shuffled_order(12, 6))
    (nn.functional.linear(x, masked, linear.bias) ** 2).sum().backward()
    torch.testing.assert_close(linear.weight.grad, weight.grad)


def test_layers_share_the_parameters_they_were_made_from():
    conv = nn.Conv2d(4, 4, 1)
    layer = WeightEnabledConv2d(conv, knob((1, 2)))
    assert layer.weight is conv.weight
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_options_a_layer_lacks_are_refused():
    layer = WeightEnabledConv2d(nn.Conv2d(8, 8, 1), Knob("c", (1, 2), (("input channels", 8),)))
    with pytest.raises(ValueError, match=r"`groups` \(=3\) must divide the input channels \(=8\)"):
        layer.switch_to(3)
    assert layer.option == 1
    with pytest.raises(ValueError, match=r"'c' already has `groups` \(=2\)"):
        WeightEnabledConv2d(nn.Conv2d(4, 4, 1, groups=2), Knob("c", (1, 2)))


# --- batch norm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_each_option_normalises_by_its_own_statistics(training: bool):
    norm = SwitchableBatchNorm2d(nn.BatchNorm2d(6), (1, 2, 4)).train(training)
    for n in (1, 2, 4):
        own = norm.of_option(n)
        own.running_mean.copy_(torch.randn(6))
        own.running_var.copy_(torch.rand(6) + 0.5)
        own.weight.data.copy_(torch.randn(6))
        own.bias.data.copy_(torch.randn(6))
    for n in (4, 1, 2):
        norm.switch_to(n)
        own, x = norm.of_option(n), torch.randn(8, 6, 5, 5)
        mean, var = own.running_mean.clone(), own.running_var.clone()
        others = {m: norm.of_option(m).running_mean.clone() for m in (1, 2, 4) if m != n}
        out = norm(x)
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        expected = references.batch_norm(
            x.numpy(), mean, var, own.weight.detach(), own.bias.detach(), norm.eps
        )
        np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
        for m, before in others.items():
            assert torch.equal(norm.of_option(m).running_mean, before)


def test_option_one_is_the_norm_it_was_made_from():
    plain = nn.BatchNorm2d(4)
    norm = SwitchableBatchNorm2d(plain, (1, 2))
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(norm(x), plain(x))
    assert norm.weight is plain.weight
    assert list(norm.state_dict())[:5] == list(plain.state_dict())


def test_calibrated_statistics_serve_eval_mode_only():
    norm = SwitchableBatchNorm1d(nn.BatchNorm1d(3), (1,))
    x = torch.randn(16, 3)
    norm.use_statistics(Statistics(torch.ones(3), torch.full((3,), 4.0)))
    trained = norm(x)
    np.testing.assert_allclose(trained.detach().mean(0).numpy(), 0, atol=1e-6)
    norm.eval()
    expected = references.batch_norm(x.numpy(), [1] * 3, [4] * 3, [1] * 3, [0] * 3, norm.eps)
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        norm.to_plain().eval()(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6
    )
    norm.use_statistics(None)
    assert not torch.allclose(norm(x), torch.tensor(expected, dtype=torch.float32))


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.sampled_from([(), (2,), (2, 3)]))
def test_moments_are_those_of_all_batches_together(sizes: list[int], rest: tuple[int, ...]):
    batches = [np.random.default_rng(i).normal(3, 2, (n, 4, *rest)) for i, n in enumerate(sizes)]
    moments = Moments()
    for batch in batches:
        moments.add(torch.tensor(batch))
    values = np.concatenate([b.swapaxes(0, 1).reshape(4, -1) for b in batches], axis=1)
    if values.shape[1] < 2:
        with pytest.raises(ValueError, match="at least 2 values"):
            moments.statistics(torch.float64)
        return
    found = moments.statistics(torch.float64)
    np.testing.assert_allclose(found.mean.numpy(), values.mean(1), rtol=1e-9)
    np.testing.assert_allclose(found.var.numpy(), values.var(1, ddof=1), rtol=1e-7)


@pytest.mark.parametrize("training", [True, False])
def test_slices_in_different_options_are_as_many_norms(training: bool):
    whole = nn.BatchNorm2d(9)
    give = torch.Generator().manual_seed(0)
    norm = SwitchableBatchNorm2d(whole, (1, 2, 4), widths=(2, 3, 4)).train(training)
    for n in (1, 2, 4):
        own = norm.of_option(n)
        for tensor in (own.weight.data, own.bias.data, own.running_mean, own.running_var):
            tensor.copy_(torch.rand(9, generator=give) + 0.5)
    for options in ((1, 4, 2), (4, 4, 1), (2, 2, 2)):
        for part, n in enumerate(options):
            norm.switch_to(n, part)
        apart = []
        for n, start, stop in zip(options, (0, 2, 5), (2, 5, 9), strict=True):
            own, single = norm.of_option(n), nn.BatchNorm2d(stop - start).train(training)
            single.load_state_dict(
                {
                    k: v[start:stop] if v.ndim else v
                    for k, v in own.state_dict().items()
                    if "." not in k
                }
            )
            apart.append(single)
        tracked = {n: int(norm.of_option(n).num_batches_tracked) for n in (1, 2, 4)}
        x = torch.randn(6, 9, 3, 3)
        expected = torch.cat([s(p) for s, p in zip(apart, x.split([2, 3, 4], 1), strict=True)], 1)
        torch.testing.assert_close(norm(x), expected)
        for n, start, stop, single in zip(options, (0, 2, 5), (2, 5, 9), apart, strict=True):
            for name in ("running_mean", "running_var"):
                found = getattr(norm.of_option(n), name)[start:stop]
                torch.testing.assert_close(found, getattr(single, name))
        for n in (1, 2, 4):
            expected_count = tracked[n] + (training and n in options)
            assert int(norm.of_option(n).num_batches_tracked) == expected_count
        plain = norm.to_plain().eval()
        torch.testing.assert_close(plain(x), norm.eval()(x))
        norm.train(training)


def test_norms_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="without running statistics"):
        SwitchableBatchNorm2d(nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(
        ValueError, match=r"`widths` \(=\(1, 2\)\) must add up to the channels \(=4\)"
    ):
        SwitchableBatchNorm2d(nn.BatchNorm2d(4), (1,), (1, 2))
    with pytest.raises(ValueError, match=r"`n` \(=8\) is no option of this batch norm"):
        SwitchableBatchNorm2d(nn.BatchNorm2d(4), (1, 2)).switch_to(8)


def test_a_norm_without_affine_switches_its_statistics():
    norm = SwitchableBatchNorm2d(nn.BatchNorm2d(4, affine=False), (1, 2))
    norm.switch_to(2)
    out = norm(torch.randn(9, 4, 3, 3) * 5 + 2)
    assert math.isclose(float(out.detach().std()), 1.0, abs_tol=0.05)
    assert list(norm.parameters()) == []
