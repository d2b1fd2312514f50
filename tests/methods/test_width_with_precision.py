"""Widths and bits in one space: the layers and whole networks beside slices rounded by hand."""

import copy
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from tests.helpers.networks import (
    IMAGES,
    SmallResNet,
    copied_if_made_before,
    give_norms_a_past,
    small_resnet,
)
from tests.helpers.rounded_integers import input_integers, weight_integers
from tests.helpers.small_families import SMALL_FAMILIES
from tests.methods.test_precision import drawn
from tests.methods.test_width import Flattened, slow_active
from wenable import zoo
from wenable.core.cost_table import BIT_OPERATIONS
from wenable.core.space import Knob
from wenable.layers.precision import PrecisionLayer, SwitchablePrecisionConv2d
from wenable.layers.slimmable import LayerWidth
from wenable.layers.slimmable_with_precision import (
    SlimmableConv2dWithPrecision,
    SlimmableLinearWithPrecision,
)
from wenable.network.mode_costs import macs_table, tables_of_each
from wenable.training import sample_modes

WIDTH, PRECISION = Knob("width", (1, 2, 3)), Knob("precision", (1, 2, 4))
LOW, HIGH = -1.5, 2.0


# --- a slow reference: slices of the whole weight, rounded in numpy --------------------------------


def rounded(x: torch.Tensor, weight: torch.Tensor, bounds: Any, bits: int):
    """An input and a weight on their grids; at 32 bits as they are."""
    if bits == 32:
        return x, weight
    q, scale, zero = input_integers(x.numpy(), *bounds, bits)
    rows = weight.reshape(len(weight), -1).numpy()
    integers, scales = weight_integers(rows, bits)
    on_grid = (integers * scales[:, None]).reshape(weight.shape)
    values = (q - zero).astype(np.float32) * scale
    return torch.from_numpy(values), torch.from_numpy(on_grid.astype(np.float32))


def by_hand(layer: Any, outputs: int, bounds: Any, bits: int, x: torch.Tensor) -> torch.Tensor:
    """What a layer gives for so few inputs, if it has so few outputs."""
    weight, bias = layer.weight.detach(), None
    if layer.bias is not None:
        bias = layer.bias.detach()[:outputs]
    if isinstance(layer, nn.Linear):
        x, weight = rounded(x, weight[:outputs, : x.shape[-1]], bounds, bits)
        return F.linear(x, weight, bias)
    groups = max(layer.groups * x.shape[1] // layer.in_channels, 1)
    x, weight = rounded(x, weight[:outputs, : x.shape[1] // groups], bounds, bits)
    padding = layer.padding
    if layer.padding_mode != "zeros":
        across, down = padding[::-1]
        x, padding = F.pad(x, (across, across, down, down), mode=layer.padding_mode), 0
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, groups)


# --- layers ----------------------------------------------------------------------------------------


def set_up(layer, option: int, bits: int):
    for each in layer.input_ranges.values():
        each.running_bounds.copy_(torch.tensor([LOW, HIGH]))
    layer.switch_to(option)
    layer.set_precision(32 // bits)
    return layer.eval()


def check_layer(layer, whole: nn.Module, x: torch.Tensor, bits: int) -> None:
    with torch.no_grad():
        found, plain = layer(x), layer.to_plain()
        expected = by_hand(whole, layer.width.outputs, (LOW, HIGH), bits, x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain(x), found, rtol=1e-5, atol=1e-5)
    held = sum(parameter.numel() for parameter in plain.parameters())
    assert held == sum(int(mask.sum()) for mask in layer.enabled_entries().values())
    view = layer.views().get("weight")
    assert (view.rounding.bits if view and view.rounding else 32) == bits


chosen = st.tuples(st.integers(0, 10**6), st.sampled_from([1, 2, 3]), st.sampled_from([32, 16, 8]))


@given(chosen, st.sampled_from([(4, 8), (12, 4), (9, 15)]), st.booleans())
@settings(max_examples=30)
def test_a_dense_layer_rounds_the_corner_of_its_weight(drawing, sizes, bias: bool):
    (seed, option, bits), (inputs, outputs) = drawing, sizes
    torch.manual_seed(seed)
    widths = {n: LayerWidth(-(-inputs // n), -(-outputs // n)) for n in (1, 2, 3)}
    linear = nn.Linear(inputs, outputs, bias)
    layer = set_up(SlimmableLinearWithPrecision(linear, WIDTH, widths, PRECISION), option, bits)
    check_layer(layer, linear, 2 * torch.randn(2, 3, layer.width.inputs), bits)


CONVOLUTIONS = {
    "plain": {}, "strided": {"stride": 2, "bias": False}, "pointwise": {"kernel_size": 1},
    "depthwise": {"groups": 12}, "grouped": {"groups": 3}, "dilated": {"dilation": 2, "padding": 2},
    "reflecting": {"padding_mode": "reflect"}, "same": {"padding": "same"},
}  # fmt: skip


@given(chosen, st.sampled_from(list(CONVOLUTIONS)), st.sampled_from([12, 24]))
@settings(max_examples=40)
def test_a_convolution_rounds_the_corner_of_its_weight(drawing, kind: str, outputs: int):
    seed, option, bits = drawing
    torch.manual_seed(seed)
    shape = {"kernel_size": 3, "padding": 1} | CONVOLUTIONS[kind]
    conv = nn.Conv2d(12, outputs, **shape)
    kept = {1: 12, 2: 8, 3: 4}  # channels that are whole groups of four, or of one
    widths = {
        n: LayerWidth(c, outputs * c // 12, conv.groups * c // 12 if conv.groups > 1 else 1)
        for n, c in kept.items()
    }
    layer = set_up(SlimmableConv2dWithPrecision(conv, WIDTH, widths, PRECISION), option, bits)
    check_layer(layer, conv, 2 * torch.randn(2, kept[option], 6, 5), bits)


def test_gradients_reach_the_enabled_weights_and_no_others():
    linear, widths = (
        nn.Linear(8, 8),
        {1: LayerWidth(8, 8), 2: LayerWidth(4, 6), 3: LayerWidth(2, 2)},
    )
    layer = set_up(SlimmableLinearWithPrecision(linear, WIDTH, widths, PRECISION), 2, 8).train()
    layer(torch.randn(6, 4)).square().sum().backward()
    assert linear.weight.grad is not None
    reached = torch.zeros(8, 8, dtype=torch.bool)
    reached[:6, :4] = True
    assert torch.equal(linear.weight.grad != 0, reached)


def test_what_a_layer_lacks_is_refused():
    widths = {n: LayerWidth(4, 8) for n in (1, 2, 3)}
    layer = SlimmableConv2dWithPrecision(
        nn.Conv2d(4, 8, 3), WIDTH, widths, PRECISION, "stem"
    ).eval()
    with pytest.raises(ValueError, match="is not an option of 'precision'; allowed: 1, 2, 4"):
        layer.set_precision(8)
    layer.set_precision(4)
    with pytest.raises(ValueError, match="input of 'stem' at 8 bits was never seen"):
        layer.to_plain()
    with pytest.raises(ValueError, match="'stem' reads 4 channels at width 1, and was given 3"):
        layer(torch.ones(1, 3, 5, 5))


# --- whole networks --------------------------------------------------------------------------------

NETWORKS = {
    "small resnet": (small_resnet, IMAGES, "fc"),
    "digits": (lambda: zoo.digits_resnet(32), (2, 1, 8, 8), "classifier"),
    "mobilenet v2": (SMALL_FAMILIES["mobilenet v2"], (2, 3, 32, 32), "classifier.1"),
    "flattened": (Flattened, IMAGES, "head"),
}
METHODS = {
    "slimmable": we.Slimmable((1.0, 0.5, 0.25), divisor=4),
    "us-net": we.UniversallySlimmable(0.25, 0.25, divisor=4),
}
BITS = we.SwitchablePrecision((32, 8))


def converted(model: nn.Module | None = None, shape=IMAGES, method=None, bits=BITS) -> Any:
    """A network of widths and bits in eval mode, or a small one."""
    method = METHODS["slimmable"] if method is None else method
    if model is None:
        name = f"widths and bits {method} {bits}"
        return copied_if_made_before(name, lambda: converted(small_resnet(), shape, method, bits))
    return we.convert(model, torch.zeros(shape), method=[method, bits]).eval()


def network_by_hand(model: nn.Module, net: we.DynamicNetwork, mode: str, ends: tuple[str, str]):
    """The network that was converted, its layers sliced and rounded by hand, its norms those of a mode.

    - `ends`: the first layer and the last, which are not rounded; the last keeps its outputs.
    """
    option, bits = net.space.mode(mode)["width"], 32 // net.space.mode(mode)["precision"]
    width = float(net.space.knobs[0].text(option))
    slow = copy.deepcopy(model).eval()
    for name, module in list(slow.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with net.using(mode):
                slow.set_submodule(name, net.get_submodule(name).to_plain())  # pyright: ignore
        elif isinstance(module, nn.Conv2d | nn.Linear):
            outputs = len(module.weight)
            outputs = outputs if name == ends[1] else slow_active(outputs, width, 4)
            own, bounds = (32 if name in ends else bits), (0, 0)
            if own < 32:
                bounds = kept_range(net, name, f"{own}_{option}").numpy()
            module.forward = partial(by_hand, module, outputs, bounds, own)  # pyright: ignore
    return slow


def kept_range(net: nn.Module, layer: str, key: str) -> torch.Tensor:
    """A copy of what a layer has seen of its input in one precision and width."""
    return net.get_buffer(f"{layer}.input_ranges.{key}.running_bounds").clone()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "slimmable") for name in NETWORKS),
        ("small resnet", "us-net"),
        ("flattened", "us-net"),
    ],
)
def test_a_mode_is_the_network_sliced_and_rounded_by_hand(name: str, kind: str):
    make, shape, last = NETWORKS[name]
    torch.manual_seed(0)
    model = give_norms_a_past(make()).eval()
    net, x = converted(model, shape, METHODS[kind]), drawn(3, *shape)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    modes = [
        f"width={w},precision={b}" for w in net.space.knobs[0].labels for b in ("32-bit", "8-bit")
    ]
    we.calibrate(net, modes, [drawn(7, 16, *shape[1:])])
    first = next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    for mode in modes:
        plain, slow = we.extract(net, mode).eval(), network_by_hand(model, net, mode, (first, last))
        with torch.no_grad(), net.using(mode):
            found = net(x)
            torch.testing.assert_close(plain(x), found)
            torch.testing.assert_close(
                found, slow(x), rtol=1e-3, atol=1e-3 * float(found.abs().max())
            )
        check_costs(net, mode, plain, x)


def check_costs(net: we.DynamicNetwork, mode: str, plain: nn.Module, x: torch.Tensor) -> None:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, net.using(mode):
        net(x)
    macs = counter.get_total_flops() // (2 * len(x))
    assert net.macs(mode) == macs
    assert net.parameter_count(mode) == sum(p.numel() for p in plain.parameters())
    chosen, bits = net.space.mode(mode), 32 // net.space.mode(mode)["precision"]
    rounding = [n for n, m in net.named_modules() if isinstance(m, PrecisionLayer)]
    own = sum(each.macs_in(chosen) for each in net.switchable_layers if each.name in rounding)
    assert net.bit_operations(mode) == (macs - own) * 1024 + own * bits * bits


# --- the method ------------------------------------------------------------------------------------

BATCHES = [drawn(seed, 32, *IMAGES[1:]) for seed in (1, 2)]


def test_knobs_and_the_text_of_modes():
    net = converted()
    assert net.space.names == ("width", "precision")
    assert [str(mode) for mode in net.space.uniform_modes()] == ["1", "0.5", "0.25"]
    assert str(net.space.smallest) == "0.25,precision=8-bit"
    for text in ("width=0.5,precision=8-bit", "0.5,precision=8-bit", "1,width=0.5,precision=8-bit"):
        assert net.space.mode(text) == net.space.mode({"width": 2, "precision": 4})
    assert str(net.space.mode("precision=8-bit")) == "1,precision=8-bit"
    own = converted(bits=we.SwitchablePrecision((32, 16, 8), "none"))
    assert own.space.names[:3] == ("width", "precision.block1.conv1", "precision.block1.conv2")
    mode = own.space.mode("0.25,precision.block1.*=8-bit,precision.block2.conv1=16-bit")
    assert own.space.mode(str(mode)) == mode
    with pytest.raises(ValueError, match="'8-bit', which is no option of 'width'; allowed: 1, 0"):
        net.space.mode("8-bit")


def test_norms_follow_the_width_and_statistics_the_whole_mode():
    for kind, private in (("slimmable", True), ("us-net", False)):
        net = converted(method=METHODS[kind])
        modes = [net.space.mode(text) for text in ("0.25,precision=8-bit", "0.25")]
        we.calibrate(net, modes, BATCHES)
        norm, means, weights = net.switchable_norms()["block1.bn2"], [], []
        for mode in modes:
            net.set_mode(mode)
            means.append(norm.present_statistics().mean)
            weights.append(norm._affine()[0])
        assert weights[0].data_ptr() == weights[1].data_ptr()
        assert (weights[0].data_ptr() != norm.weight.data_ptr()) == private
        assert not torch.equal(means[0], means[1])


def test_a_floating_point_mode_is_that_of_the_widths_alone():
    model, x = small_resnet(), torch.randn(IMAGES)
    net, alone = converted(model), we.convert(model, x, method=METHODS["slimmable"]).eval()
    for text in ("0.5", "0.25"):
        for each in (net, alone):
            we.calibrate(each, text, BATCHES)
        with net.using(text), alone.using(text), torch.no_grad():
            assert torch.equal(net(x), alone(x))


def test_ranges_belong_to_a_width_and_a_precision():
    net = converted(bits=we.SwitchablePrecision((32, 16, 8)))
    we.calibrate(net, "0.25,precision=8-bit", BATCHES)
    assert net.is_calibrated("0.25,precision=8-bit")
    assert net.knows_input_ranges("0.5")
    for text in ("0.5,precision=8-bit", "0.25,precision=16-bit", "1,precision=8-bit"):
        assert not net.knows_input_ranges(text)
    kept = kept_range(net, "block1.conv2", "8_3")
    we.calibrate(net, ["1,precision=8-bit", "0.5,precision=8-bit"], BATCHES)
    assert torch.equal(kept_range(net, "block1.conv2", "8_3"), kept)


def test_layers_that_only_one_of_the_methods_switches():
    net = converted(bits=we.SwitchablePrecision((32, 8), exclude=("block1.conv1",)))
    kinds = {name: type(module).__name__ for name, module in net.named_modules()}
    assert kinds["block1.conv1"] == kinds["stem.0"] == "SlimmableConv2d"
    assert kinds["block1.conv2"] == "SlimmableConv2dWithPrecision"
    every = converted(bits=we.SwitchablePrecision((32, 8), first_and_last=True))
    assert isinstance(every.get_submodule("fc"), SlimmableLinearWithPrecision)
    assert isinstance(net, SmallResNet)
    assert "precision" not in {each.knob for each in net.switchable_layers}

    class Widened(SmallResNet):
        """Its first convolution reads and writes what keeps its channels, and so has bits alone."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.inner(x))

    fixed = converted(
        give_norms_a_past(Widened()).eval(),
        bits=we.SwitchablePrecision((32, 8), first_and_last=True),
    )
    assert type(fixed.get_submodule("inner")) is SwitchablePrecisionConv2d
    assert "inner" not in {each.name for each in fixed.left_alone}


@pytest.mark.parametrize("kind", METHODS)
def test_a_saved_network_is_the_same_again(kind: str, tmp_path: Path):
    model, x = small_resnet(), torch.randn(IMAGES)
    net, modes = converted(model, method=METHODS[kind]), ("0.25,precision=8-bit", "precision=8-bit")
    we.calibrate(net, modes, BATCHES)
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), model)
    assert loaded.conversion_method == net.conversion_method
    for mode in modes:
        assert loaded.is_calibrated(mode)
        with net.using(mode), torch.no_grad():
            expected = net(x)
        for other in (loaded, copy.deepcopy(net)):
            with other.using(mode), torch.no_grad():
                assert torch.equal(other(x), expected)


@pytest.mark.parametrize("kind", METHODS)
def test_all_modes_learn(kind: str):
    net = converted(method=METHODS[kind])
    labels = torch.arange(40) % 3
    x = torch.randn(40, 3, 6, 6) * 0.1 + torch.eye(3)[labels][:, :, None, None]
    assert we.train(net, [(x, labels)], we.TrainConfig(passes=4, epochs=20))
    modes = ["1", "0.5,precision=8-bit", "0.25", "0.25,precision=8-bit", "precision=8-bit"]
    assert net.knows_input_ranges("smallest")
    we.calibrate(net, modes, [x])
    for mode in modes:
        assert we.evaluate(net, mode, [(x, labels)]).known > 0.6, mode


def test_drawing_by_macs_draws_precisions_too():
    net, config = converted(), we.TrainConfig(passes=3, sampling="macs")
    modes = [sample_modes(net, config, step, 100)[2] for step in range(60)]
    assert {tuple(mode.values()) for mode in modes} == set(itertools.product((2, 3), (1, 4)))


# --- searches --------------------------------------------------------------------------------------


def searched(net: we.DynamicNetwork, **settings) -> we.Front:
    batch = (BATCHES[0][:8], torch.arange(8) % 5)
    return we.explore(net, [batch], [BATCHES[0]], min_accuracy=0.0, **settings)


@pytest.mark.parametrize(
    ("strategy", "cost"),
    [("knapsack", "macs"), ("knapsack", "bit_operations"), ("greedy", "macs"),
     ("greedy", "bit_operations"), ("nsga2", "bit_operations")],
)  # fmt: skip
def test_the_joint_space_is_searched(strategy: str, cost: str):
    net = converted()
    front = searched(net, strategy=strategy, cost=cost)
    count = net.macs if cost == "macs" else net.bit_operations
    for point in (*front.points, *front.path, *front.explored):
        assert point.cost.known == count(point.mode)
    if cost == "bit_operations":
        assert {point.mode["precision"] for point in front.explored} == {1, 4}


def test_macs_are_a_sum_and_bit_operations_one_at_each_precision():
    net = converted()
    assert macs_table(net).cost("0.25,precision=8-bit") == net.macs("0.25")
    tables = tables_of_each(net, "bit_operations")
    assert len(tables) == 2
    for table, bits in zip(tables, ("32-bit", "8-bit"), strict=True):
        assert table.unit == BIT_OPERATIONS
        for width in ("1", "0.5", "0.25"):
            mode = net.space.mode(f"{width},precision={bits}")
            assert table.cost(dict(mode)) == net.bit_operations(mode)
    own = converted(bits=we.SwitchablePrecision((32, 8), "none"))
    assert tables_of_each(own, "bit_operations") == ()
    front = searched(own, cost="bit_operations")
    assert (front.strategy, front.cost) == ("greedy", "bit_operations")


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [(32, 4), (32, 8, 2)])
@pytest.mark.parametrize("kind", METHODS)
def test_fewer_than_8_bits_are_refused_with_the_reason(kind: str, bits):
    with pytest.raises(
        ValueError, match=r"SwitchablePrecision with `bits` .* below 8, where each precision needs"
        r" norms of its own, and the widths have them here; allowed: 32, 16, 8"
    ):  # fmt: skip
        converted(method=METHODS[kind], bits=we.SwitchablePrecision(bits))
