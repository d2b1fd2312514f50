"""Switchable precision: the grids, the layers, the method and its cost."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from tests.helpers.networks import IMAGES, SmallResNet, Tokens, dense_network, small_resnet
from tests.helpers.rounded_integers import input_integers, slow_product, weight_integers
from wenable.core.escalation import by_margin, margin
from wenable.core.space import Knob
from wenable.layers.precision import SwitchablePrecisionConv2d, SwitchablePrecisionLinear
from wenable.layers.quantization import InputRange, input_grid, weight_grid
from wenable.methods import SwitchablePrecision

KNOB = Knob("layer", (1, 4, 8, 16))


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- grids ----------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4, 8]), st.floats(1e-3, 1e3))
def test_the_integers_of_weights_equal_numpys(seed: int, bits: int, size: float):
    weight = size * drawn(seed, 5, 7)
    weight[3] = 0
    expected, scales = weight_integers(weight.numpy(), bits)
    grid = weight_grid(weight, bits)
    assert np.array_equal(grid.integers(weight).numpy(), expected)
    np.testing.assert_array_equal(grid.scale.flatten().numpy(), scales)
    assert torch.equal(grid.nearest(weight), torch.tensor(expected) * grid.scale)


thousandths = st.integers(0, 10**4).map(lambda n: n / 1000)


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4, 8]), thousandths, thousandths)
def test_the_integers_of_inputs_equal_numpys(seed: int, bits: int, low: float, width: float):
    x, (low_, high_) = 3 * drawn(seed, 40), torch.tensor([low - 5, low - 5 + width])
    expected, _, zero = input_integers(x.numpy(), low_.numpy(), high_.numpy(), bits)
    grid = input_grid(low_, high_, bits)
    assert np.array_equal(grid.integers(x).numpy(), expected)
    assert int(grid.zero_point) == zero
    assert float(grid.nearest(torch.zeros(()))) == 0.0


@given(st.integers(0, 10**6), st.sampled_from([2, 4, 8]))
def test_what_is_on_a_grid_stays_where_it_is(seed: int, bits: int):
    weight = drawn(seed, 4, 9)
    once = weight_grid(weight, bits).nearest(weight)
    torch.testing.assert_close(weight_grid(once, bits).nearest(once), once, rtol=1e-6, atol=0)
    half = weight_grid(weight, bits).scale / 2
    assert bool(((once - weight).abs() <= half * (1 + 1e-5)).all())


def test_gradients_pass_inside_the_range_and_stop_outside():
    x = torch.tensor([-2.0, 0.3, 0.6, 2.0], requires_grad=True)
    input_grid(torch.tensor(0.0), torch.tensor(1.0), 2).nearest(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1.0, 1.0, 0.0]))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_pass_at_the_ends_of_the_grid(bits: int):
    """The largest weight of an output is always at an end, and must learn like the others."""
    weight = drawn(0, 4, 6).requires_grad_()
    weight_grid(weight, bits).nearest(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(4, 6))
    x = torch.tensor([0.0, 0.1, 1.0], requires_grad=True)
    input_grid(torch.tensor(0.0), torch.tensor(1.0), bits).nearest(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(3))


def test_half_precision_is_rounded_in_single():
    x = torch.linspace(0, 1, 200)
    grid = input_grid(torch.tensor(0.0), torch.tensor(1.0), 8)
    found = grid.nearest(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, grid.nearest(x.bfloat16().float()).bfloat16())


# --- the range of the input -----------------------------------------------------------------------


def test_training_keeps_a_moving_average_of_the_extremes():
    seen = InputRange(torch.zeros(1), momentum=0.5)
    assert not seen.is_known
    seen(torch.tensor([-1.0, 3.0]))
    seen(torch.tensor([-3.0, 5.0]))
    assert seen.running_bounds.tolist() == [-2.0, 4.0]
    seen.eval()
    seen(torch.tensor([-100.0, 100.0]))
    assert seen.running_bounds.tolist() == [-2.0, 4.0]


def test_collecting_takes_the_extremes_and_what_was_never_seen_has_those_of_its_batch():
    seen = InputRange(torch.zeros(1)).eval()
    assert [float(end) for end in seen(torch.tensor([-1.0, 3.0]))] == [-1.0, 3.0]
    assert not seen.is_known
    seen.collecting = True
    for batch in (torch.tensor([-1.0, 3.0]), torch.tensor([-0.5, 4.0])):
        seen(batch)
    assert seen.running_bounds.tolist() == [-1.0, 4.0]


# --- layers ---------------------------------------------------------------------------------------


def with_known_ranges(layer, low: float, high: float):
    for each in layer.input_ranges.values():
        each.running_bounds.copy_(torch.tensor([low, high]))
    return layer.eval()


@pytest.mark.parametrize("option", [4, 8, 16])
def test_a_dense_layer_multiplies_the_integers_of_numpy(option: int):
    linear = nn.Linear(12, 6)
    layer = with_known_ranges(SwitchablePrecisionLinear(linear, KNOB), -1.5, 2.0)
    layer.switch_to(option)
    x = torch.randn(5, 12)
    expected = slow_product(x.numpy(), linear.weight.detach().numpy(), -1.5, 2.0, layer.bits)
    expected += linear.bias.detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-4, atol=1e-5)
        plain = layer.to_plain()
        assert torch.equal(plain(x), layer(x))
    assert type(plain[1]) is nn.Linear


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_multiplies_the_integers_of_numpy(groups: int):
    conv = nn.Conv2d(4, 8, 3, padding=1, groups=groups)
    layer = with_known_ranges(SwitchablePrecisionConv2d(conv, KNOB), 0.0, 2.0)
    layer.switch_to(4)
    x = torch.randn(2, 4, 5, 5)
    weight = conv.weight.detach().numpy()
    columns = nn.functional.unfold(x, 3, padding=1).unflatten(1, (groups, -1)).numpy()
    rows = [
        slow_product(columns[:, g].transpose(0, 2, 1), part.reshape(len(part), -1), 0.0, 2.0, 8)
        for g, part in enumerate(np.split(weight, groups))
    ]
    expected = np.concatenate(rows, 2).transpose(0, 2, 1).reshape(2, 8, 5, 5)
    expected += conv.bias.detach().numpy()[:, None, None]  # pyright: ignore
    with torch.no_grad():
        np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(layer.to_plain()(x), layer(x))


def test_a_layer_at_full_precision_is_the_layer():
    conv = nn.Conv2d(4, 8, 3, padding_mode="circular", padding=1)
    layer, x = SwitchablePrecisionConv2d(conv, KNOB), torch.randn(2, 4, 5, 5)
    assert torch.equal(layer(x), conv(x))
    plain = layer.to_plain()
    assert type(plain) is nn.Conv2d
    assert torch.equal(plain(x), conv(x))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_gradients_reach_the_one_weight_from_every_precision():
    linear = nn.Linear(6, 4)
    layer = SwitchablePrecisionLinear(linear, KNOB).train()
    for option in KNOB.options:
        linear.weight.grad = None
        layer.switch_to(option)
        layer(torch.randn(3, 6)).square().sum().backward()
        assert linear.weight.grad is not None
        assert float(linear.weight.grad.abs().sum()) > 0


def test_a_layer_whose_input_was_never_seen_has_no_plain_form():
    layer = SwitchablePrecisionLinear(nn.Linear(6, 4), KNOB).eval()
    layer.switch_to(4)
    with pytest.raises(ValueError, match="input of 'layer' at 8 bits was never seen"):
        layer.to_plain()
    with pytest.raises(ValueError, match="is not an option of 'layer'; allowed: 1, 4, 8, 16"):
        layer.switch_to(2)


# --- the method -----------------------------------------------------------------------------------

BATCHES = [drawn(seed, 32, *IMAGES[1:]) for seed in (1, 2)]


def converted(model: nn.Module | None = None, **settings) -> we.DynamicNetwork:
    model = small_resnet() if model is None else model
    return we.convert(model, drawn(0, *IMAGES), method=SwitchablePrecision(**settings))


def test_the_full_mode_gives_the_bits_of_the_network():
    model = small_resnet()
    net, x = converted(model), torch.randn(IMAGES)
    assert torch.equal(net(x), model(x))
    assert type(we.extract(net, "32-bit").block1.conv1) is nn.Conv2d  # pyright: ignore
    assert isinstance(net, SmallResNet)


def test_one_knob_for_the_network_or_one_for_each_layer():
    net = converted(bits=(32, 8))
    assert net.space.knobs == (Knob("precision", (1, 4), labels=("32-bit", "8-bit")),)
    assert [layer.name for layer in net.switchable_layers][:2] == ["block1.conv1", "block1.conv2"]
    assert {each.name: each.reason.split(";")[0] for each in net.left_alone} == {
        "stem.0": "is the first layer",
        "fc": "writes the network's output",
    }
    every = converted(bits=(32, 8), tie="none", first_and_last=True)
    assert every.space.names[0] == "stem.0"
    assert every.space.names[-1] == "fc"
    without = converted(exclude="block2.*")
    assert {layer.name.split(".")[0] for layer in without.switchable_layers} == {"block1"}


def test_each_precision_has_norms_of_its_own():
    net = converted(bits=(32, 8, 4))
    assert {norm.options for norm in net.switchable_norms().values()} == {(1, 4, 8)}
    net.set_mode("8-bit")
    assert {norm.slice_options[0] for norm in net.switchable_norms().values()} == {4}
    tied = converted(bits=(32, 8, 4), tie="none")
    tied.set_mode("32-bit,block1.conv2=8-bit")
    set_to = {name: norm.slice_options[0] for name, norm in tied.switchable_norms().items()}
    assert {name for name, n in set_to.items() if n != 1} == {"block1.bn2"}


@given(st.data())
def test_products_stay_and_their_bits_shrink(data):
    net = SPACES
    options = {knob.name: data.draw(st.sampled_from(knob.options)) for knob in net.space.knobs}
    mode = net.space.mode(options)
    assert net.macs(mode) == net.macs("full")
    assert net.parameter_count(mode) == net.parameter_count("full")
    expected = 1024 * net.macs("full")
    for layer in net.switchable_layers:
        bits = 32 // mode[layer.knob]
        expected -= layer.macs * (1024 - bits * bits)
    assert net.bit_operations(mode) == expected
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), net.using(mode):
        net(torch.zeros(1, *IMAGES[1:]))
    assert counter.get_total_flops() == 2 * net.macs(mode)


SPACES = converted(tie="none")


def test_other_methods_compute_in_32_bits():
    net = we.convert(small_resnet(), torch.zeros(IMAGES))
    assert net.bit_operations("1/4") == 1024 * net.macs("1/4")


def test_ranges_are_calibrated_once_and_kept_with_the_network(tmp_path: Path):
    net = converted(dense_network_for_images(), first_and_last=True)
    assert net.is_calibrated("32-bit")
    assert not net.is_calibrated("8-bit")
    with pytest.warns(we.UncalibratedWarning), pytest.raises(ValueError, match="was never seen"):
        we.extract(net, "8-bit")
    we.calibrate(net, ["8-bit", "4-bit"], BATCHES)
    assert net.is_calibrated("8-bit")
    assert not net.is_calibrated("2-bit")
    first = net.get_submodule("1")
    assert isinstance(first, SwitchablePrecisionLinear)
    seen = torch.cat(BATCHES)
    bounds = first.input_ranges["8"].running_bounds.clone()
    assert bounds.tolist() == [float(seen.min()), float(seen.max())]
    we.calibrate(net, "8-bit", [10 * seen])
    assert torch.equal(first.input_ranges["8"].running_bounds, bounds)
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), dense_network_for_images())
    for other in (loaded, copy.deepcopy(net)):
        with net.using("8-bit"), other.using("8-bit"), torch.no_grad():
            assert torch.equal(other(seen), net(seen))


def dense_network_for_images() -> nn.Module:
    layers = list(dense_network().children())
    return nn.Sequential(layers[0], nn.Linear(108, 32), *layers[2:]).eval()


@pytest.mark.parametrize(
    "mode", ["32-bit", "8-bit", "4-bit", "2-bit", "8-bit,block1.conv2=2-bit,stem.0=32-bit"]
)
def test_an_extracted_mode_computes_what_the_network_does(mode: str):
    net = converted(tie="none", first_and_last=True)
    we.calibrate(net, [mode], BATCHES)
    plain, x = we.extract(net, mode), torch.randn(IMAGES)
    with net.using(mode), torch.no_grad():
        torch.testing.assert_close(plain(x), net(x))
    weight = next(
        module for module in plain.modules() if isinstance(module, nn.Conv2d)
    )  # an nn.Conv2d of torch itself, with its weight on the grid
    assert type(weight) is nn.Conv2d


def test_token_networks_switch_too():
    net = converted(Tokens().eval())
    we.calibrate(net, "8-bit", BATCHES)
    assert {layer.name for layer in net.switchable_layers} == {"fc1", "fc2", "on_maps"}
    assert type(we.extract(net, "8-bit")).__name__ == "Tokens"


def test_all_precisions_learn_and_their_ranges_with_them():
    net = converted(bits=(32, 8, 4))
    labels = torch.arange(40) % 5
    x = torch.randn(40, 3, 6, 6) * 0.1 + torch.eye(5)[labels][:, :3, None, None]
    config = we.TrainConfig(passes=3, epochs=15, sampling="macs")
    assert we.train(net, [(x, labels)], config)
    we.calibrate(net, net.space.uniform_modes(), [x])
    for mode in net.space.uniform_modes():
        assert we.evaluate(net, mode, [(x, labels)]).known > 0.6
    layer = net.get_submodule("block1.conv2")
    assert isinstance(layer, SwitchablePrecisionConv2d)
    assert all(each.is_known for each in layer.input_ranges.values())


def test_inputs_escalate_from_a_low_precision_to_the_full_one():
    net = converted(bits=(32, 4))
    we.calibrate(net, "4-bit", BATCHES)
    x = BATCHES[0]

    def stage(mode: str):
        def run(batch: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), net.using(mode):
                return net(batch)

        return run

    costs = [net.bit_operations(mode) for mode in ("4-bit", "32-bit")]
    limit = float(np.median(margin(stage("4-bit")(x))))
    found = by_margin([stage("4-bit"), stage("32-bit")], x, limit, costs)
    share = found.escalated.mean()
    assert 0 < share < 1
    assert found.cost == pytest.approx(costs[0] + share * costs[1])
    full = stage("32-bit")(x).numpy()
    np.testing.assert_allclose(
        found.outputs[found.escalated], full[found.escalated], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": (8, 4)}, r"`bits` \(=\(8, 4\)\) must start at 32"),
        ({"bits": (32, 4, 8)}, "and descend, each once"),
        ({"bits": (32, 8, 8)}, "and descend, each once"),
        ({"bits": (32, 3)}, "allowed: 32, 16, 8, 4, 2"),
        ({"bits": ()}, "must start at 32"),
        ({"tie": "block"}, "`tie` \\(='block'\\) is unknown"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message: str):
    with pytest.raises(ValueError, match=message):
        SwitchablePrecision(**settings)


def test_networks_without_a_layer_to_switch_are_refused():
    with pytest.raises(ValueError, match="has nothing to switch: '0' is the first layer"):
        converted(nn.Sequential(nn.Conv2d(3, 5, 6), nn.Flatten()))
    with pytest.raises(ValueError, match="`exclude` names 'head', which fits no layer"):
        converted(exclude=("head",))


def test_settings_survive_json():
    method = SwitchablePrecision((32, 8), "none", True, ("a.*",))
    assert SwitchablePrecision.from_json(method.to_json()) == method
    with pytest.raises(ValueError, match="is not 'precision'"):
        SwitchablePrecision.from_json({"method": "width"})
    with pytest.raises(ValueError, match="not the JSON form"):
        SwitchablePrecision.from_json({"method": "precision", "bits": [32]})
