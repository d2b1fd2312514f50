"""Groups and bits in one space: the layers, the method, its costs, its searches and its int8 files."""

import copy
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from tests.helpers.algorithm_2 import algorithm_2
from tests.helpers.networks import IMAGES, SmallResNet, Tokens, dense_network, small_resnet
from tests.helpers.references import mask, shuffled_order
from tests.helpers.rounded_integers import slow_product
from tests.methods.test_precision import drawn
from wenable.core.cost_table import BIT_OPERATIONS, tabulated
from wenable.core.space import Knob
from wenable.exporting.int8 import export_int8
from wenable.layers.precision import SwitchablePrecisionConv2d
from wenable.layers.weight_enabled_with_precision import (
    WeightEnabledConv2dWithPrecision,
    WeightEnabledLinearWithPrecision,
)
from wenable.methods import method_from_json
from wenable.search.prefix_reuse import PrefixReuse
from wenable.training import sample_modes

GROUPS, PRECISION = Knob("layer", (1, 2, 4)), Knob("precision", (1, 2, 4))
LOW, HIGH = -1.5, 2.0

# --- layers, beside numpy -------------------------------------------------------------------------


def set_up(layer, groups: int, bits: int):
    for each in layer.input_ranges.values():
        each.running_bounds.copy_(torch.tensor([LOW, HIGH]))
    layer.switch_to(groups)
    layer.set_precision(32 // bits)
    return layer.eval()


def masked_integers_product(x, weight, groups: int, bits: int, shuffle: int) -> np.ndarray:
    """The whole weight with zeros outside the blocks, rounded row by row in numpy.

    - `x`: shape `(rows, channels, kernel)`; `weight`: `(out, channels, kernel)`.
    """
    order = shuffled_order(x.shape[1], shuffle) if groups > 1 else None
    allowed = mask(len(weight), x.shape[1], groups, order).numpy()
    masked = (weight * allowed[:, :, None]).astype(np.float32)
    return slow_product(x.reshape(len(x), -1), masked.reshape(len(masked), -1), LOW, HIGH, bits)


sizes = st.tuples(st.integers(0, 10**6), st.sampled_from([4, 8, 12]), st.sampled_from([4, 8, 20]))
options = st.tuples(
    st.sampled_from([1, 2, 4]), st.sampled_from([16, 8]), st.sampled_from([1, 2, 4])
)


def implementations_tried(layer):
    """Every way that training has for the present option, as written first."""
    for implementation in layer.implementations_of(layer.option):
        layer.use_implementations({layer.option: implementation})
        yield implementation


@given(sizes, options)
@settings(max_examples=40)
def test_a_dense_layer_multiplies_the_integers_of_the_masked_weight(size, chosen):
    (seed, inputs, outputs), (groups, bits, shuffle) = size, chosen
    torch.manual_seed(seed)
    linear, x = nn.Linear(inputs, outputs), 2 * torch.randn(3, inputs)
    layer = WeightEnabledLinearWithPrecision(linear, GROUPS, shuffle, 2, PRECISION)
    set_up(layer, groups, bits)
    weight = linear.weight.detach().numpy()[:, :, None]
    expected = masked_integers_product(x.numpy()[:, :, None], weight, groups, bits, shuffle)
    expected += linear.bias.detach().numpy()
    with torch.no_grad():
        found = layer(x)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.to_plain()(x), found, rtol=1e-5, atol=1e-6)
    for _ in implementations_tried(layer):
        np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@given(sizes, options, st.sampled_from([1, 3]))
@settings(max_examples=40)
def test_a_convolution_multiplies_the_integers_of_the_masked_weight(size, chosen, kernel: int):
    (seed, inputs, outputs), (groups, bits, shuffle) = size, chosen
    torch.manual_seed(seed)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    x = 2 * torch.randn(2, inputs, 4, 4)
    layer = WeightEnabledConv2dWithPrecision(conv, GROUPS, shuffle, PRECISION)
    set_up(layer, groups, bits)
    columns = nn.functional.unfold(x, kernel, padding=kernel // 2)  # (N, channels * kernel, 16)
    rows = columns.transpose(1, 2).reshape(2 * 16, inputs, -1).numpy()
    weight = conv.weight.detach().flatten(2).numpy()
    expected = masked_integers_product(rows, weight, groups, bits, shuffle)
    expected += conv.bias.detach().numpy()  # pyright: ignore
    expected = expected.reshape(2, 16, outputs).transpose(0, 2, 1).reshape(2, outputs, 4, 4)
    with torch.no_grad():
        found = layer(x)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.to_plain()(x), found, rtol=1e-5, atol=1e-6)
    for _ in implementations_tried(layer):
        np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_enabled_weights_and_no_others():
    linear = nn.Linear(8, 8)
    layer = set_up(WeightEnabledLinearWithPrecision(linear, GROUPS, 2, 2, PRECISION), 2, 8).train()
    layer(torch.randn(6, 8)).square().sum().backward()
    assert linear.weight.grad is not None
    enabled = mask(8, 8, 2, shuffled_order(8, 2)) > 0
    assert bool((linear.weight.grad[enabled] != 0).all())
    assert bool((linear.weight.grad[~enabled] == 0).all())


def test_what_a_layer_lacks_is_refused():
    layer = WeightEnabledConv2dWithPrecision(nn.Conv2d(4, 8, 3), GROUPS, 1, PRECISION).eval()
    with pytest.raises(ValueError, match="is not an option of 'precision'; allowed: 1, 2, 4"):
        layer.set_precision(8)
    layer.set_precision(4)
    with pytest.raises(ValueError, match="input of 'layer' at 8 bits was never seen"):
        layer.to_plain()


# --- the method -----------------------------------------------------------------------------------

BATCHES = [drawn(seed, 32, *IMAGES[1:]) for seed in (1, 2)]
MODES = (
    "1",
    "1/4,precision=8-bit",
    "1/4,precision=8-bit",
    "8-bit",
    "1/8,precision=8-bit,block1.*=1/2",
)


def converted(model: nn.Module | None = None, **settings) -> we.DynamicNetwork:
    model = small_resnet() if model is None else model
    settings = {"groups": (1, 2, 4, 8)} | settings
    return we.convert(model, drawn(0, *IMAGES), method=we.WeightEnablingWithPrecision(**settings))


class WithDepthwise(nn.Module):
    """A depthwise layer between pointwise ones, which has bits to switch and no groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.project(self.depthwise(self.expand(self.stem(x))))
        return self.fc(x.mean((2, 3)))


def test_the_full_mode_gives_the_bits_of_the_network():
    model = small_resnet()
    net, x = converted(model), torch.randn(IMAGES)
    assert torch.equal(net(x), model(x))
    assert isinstance(net, SmallResNet)
    assert [n for n, _ in net.named_parameters() if "by_pattern" not in n] == [
        n for n, _ in model.named_parameters()
    ]


def test_knobs_stand_in_execution_order_and_their_names_say_what_they_set():
    net = converted()
    assert net.space.names[:3] == ("precision", "block1.conv1", "block1.conv2")
    assert net.space.knobs[0].options == (1, 4)
    mode = net.space.mode("1/2,precision=8-bit")
    assert set(mode.values()) == {2, 4}
    assert net.space.size == 2 * converted_size()
    own = converted(tie="none")
    assert own.space.names[:4] == (
        "precision.block1.conv1", "block1.conv1", "precision.block1.conv2", "block1.conv2",
    )  # fmt: skip
    groups_only = own.space.mode("1,block1.*=1/2")
    assert {n for name, n in groups_only.items() if name.startswith("precision.")} == {1}


def converted_size() -> int:
    method = we.WeightEnabling(groups=(1, 2, 4, 8))
    return we.convert(small_resnet(), torch.zeros(IMAGES), method=method).space.size


def test_layers_without_groups_follow_the_precision_alone():
    for tie, knob in (("network", "precision"), ("none", "precision.depthwise.0")):
        net = converted(WithDepthwise().eval(), tie=tie)
        assert type(net.get_submodule("depthwise.0")) is SwitchablePrecisionConv2d
        layer = next(each for each in net.switchable_layers if each.name == "depthwise.0")
        assert (layer.knob, layer.precision_knob, layer.options) == (knob, "", (1, 4))
        assert "depthwise.0" not in {each.name for each in net.left_alone}
    kept = converted(WithDepthwise().eval(), exclude="depthwise.*")
    assert "depthwise.0" in {each.name for each in kept.left_alone}


def test_a_floating_point_mode_is_that_of_weight_enabling_alone():
    model, x = small_resnet(), torch.randn(IMAGES)
    net = converted(model)
    alone = we.convert(model, torch.zeros(IMAGES), method=we.WeightEnabling(groups=(1, 2, 4, 8)))
    for text in ("1/8", "1,block2.*=1/4"):
        we.calibrate(net, text, BATCHES)
        we.calibrate(alone, text, BATCHES)
        with net.using(text), alone.using(text), torch.no_grad():
            assert torch.equal(net(x), alone(x))


def test_norms_follow_the_groups_and_statistics_the_whole_mode():
    net = converted()
    assert {norm.options for norm in net.switchable_norms().values()} == {
        (1,), (1, 2, 4, 8),
    }  # fmt: skip
    modes = [net.space.mode(text) for text in ("1/4,precision=8-bit", "1/4")]
    we.calibrate(net, modes, BATCHES)
    norm, means, weights = net.switchable_norms()["block1.bn2"], [], []
    for mode in modes:
        net.set_mode(mode)
        means.append(norm.present_statistics().mean)
        weights.append(norm._affine()[0])
    assert weights[0] is weights[1]
    assert not torch.equal(means[0], means[1])


@given(st.data())
@settings(max_examples=20)
def test_costs_are_those_of_both(data):
    net = SPACE
    options = {knob.name: data.draw(st.sampled_from(knob.options)) for knob in net.space.knobs}
    mode = net.space.mode(options)
    fixed = net.macs("full") - sum(layer.macs for layer in net.switchable_layers)
    macs, operations = fixed, fixed * 1024
    for layer in net.switchable_layers:
        grouped = layer.name in options
        bits = 32 // options[f"precision.{layer.name}"]
        own = layer.macs // (options[layer.name] if grouped else 1)
        macs, operations = macs + own, operations + own * bits * bits
    assert (net.macs(mode), net.bit_operations(mode)) == (macs, operations)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), net.using(mode):
        net(torch.zeros(1, *IMAGES[1:]))
    assert counter.get_total_flops() == 2 * macs


SPACE = converted(WithDepthwise().eval(), tie="none")


@pytest.mark.parametrize("mode", MODES)
def test_an_extracted_mode_computes_what_the_network_does(mode: str):
    net, x = converted(), torch.randn(IMAGES)
    we.calibrate(net, mode, BATCHES)
    plain = we.extract(net, mode)
    with net.using(mode), torch.no_grad():
        torch.testing.assert_close(plain(x), net(x))
    assert sum(p.numel() for p in plain.parameters()) == net.parameter_count(mode)
    assert type(plain.block1.conv1 if mode == "1" else nn.Conv2d(1, 1, 1)) is nn.Conv2d  # pyright: ignore


@pytest.mark.parametrize("make", [dense_network, Tokens, WithDepthwise])
def test_other_networks_are_extracted_saved_and_copied(make, tmp_path: Path):
    def model() -> nn.Module:
        if make is not dense_network:
            return make().eval()
        layers = list(dense_network().children())
        return nn.Sequential(layers[0], nn.Linear(108, 32), *layers[2:]).eval()

    net, x = converted(model(), first_and_last=True), torch.randn(IMAGES)
    we.calibrate(net, ["1/4,precision=8-bit", "1/2,precision=8-bit"], BATCHES)
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), model())
    assert loaded.conversion_method == net.conversion_method
    for mode in ("1/4,precision=8-bit", "1/2,precision=8-bit"):
        assert loaded.is_calibrated(mode)
        with net.using(mode), torch.no_grad():
            expected = net(x)
        torch.testing.assert_close(we.extract(net, mode)(x), expected)
        for other in (loaded, copy.deepcopy(net)):
            with other.using(mode), torch.no_grad():
                assert torch.equal(other(x), expected)


def test_ranges_belong_to_a_option_and_a_precision():
    net = converted()
    we.calibrate(net, "1/4,precision=8-bit", BATCHES)
    assert net.knows_input_ranges("1/4,precision=8-bit")
    assert net.knows_input_ranges("1")
    assert not net.knows_input_ranges("1/2,precision=8-bit")
    assert not net.is_calibrated("8-bit")


def test_all_modes_learn():
    net = converted(groups=(1, 2))
    labels = torch.arange(40) % 5
    x = torch.randn(40, 3, 6, 6) * 0.1 + torch.eye(5)[labels][:, :3, None, None]
    config = we.TrainConfig(passes=3, epochs=15, sampling="macs")
    assert we.train(net, [(x, labels)], config)
    modes = ["1", "1/2", "1/2,precision=8-bit", "8-bit"]
    we.calibrate(net, modes, [x])
    for mode in modes:
        assert we.evaluate(net, mode, [(x, labels)]).known > 0.6


# --- searches -------------------------------------------------------------------------------------


def searched(net: we.DynamicNetwork, **settings) -> we.Front:
    batch = (BATCHES[0][:8], torch.arange(8) % 5)
    return we.explore(net, [batch], [BATCHES[0]], min_accuracy=0.0, **settings)


@pytest.mark.parametrize("strategy", ["knapsack", "greedy", "nsga2"])
def test_searches_by_macs_take_both_knobs(strategy):
    net = converted(groups=(1, 4), exclude="block2.*")
    front = searched(net, strategy=strategy)
    assert {point.cost.known for point in front.points} <= {
        float(net.macs(point.mode)) for point in front.points
    }


def test_affordable_greedy_is_the_plain_one_and_leaves_its_modes_calibrated():
    fronts, model = [], small_resnet()
    for search in (partial(we.explore, strategy="greedy"), algorithm_2):
        net = converted(model, groups=(1, 4), exclude="block2.*")
        batch = (BATCHES[0][:8], torch.arange(8) % 5)
        front = search(net, [batch], [BATCHES[0]], min_accuracy=0.0)
        assert all(net.is_calibrated(point.mode) for point in front.points)
        fronts.append([str(point.mode) for point in front.path])
    assert fronts[0] == fronts[1]


@pytest.mark.parametrize("tie", ["network", "none"])
def test_what_runs_before_a_knob_is_reused_and_counted_right(tie):
    net, x = converted(tie=tie), torch.randn(IMAGES)
    for norm in net.switchable_norms().values():
        norm.use_statistics(None)
    reuse = PrefixReuse(net)
    with torch.no_grad(), reuse.recording(len(x)) as outputs:
        net(x)
    for knob in net.space.knobs:
        mode = net.space.full.replace({knob.name: knob.options[-1]})
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), net.using(mode):
            with reuse.replaying(knob.name, outputs, len(x)), counter:
                found = net(x)
            assert torch.equal(found, net(x)), knob.name
        assert counter.get_total_flops() == 2 * len(x) * reuse.macs(mode, knob.name, len(x))


def test_macs_before_a_knob_of_precision_are_whole():
    """In low precision a layer takes as many products as in full precision."""
    method = we.SwitchablePrecision((32, 8), "none")
    net, x = we.convert(small_resnet(), drawn(0, *IMAGES), method=method), torch.randn(IMAGES)
    reuse, last = PrefixReuse(net), net.space.names[-1]
    mode = net.space.mode("8-bit")
    with torch.no_grad(), net.using(mode):
        with reuse.recording(len(x), [last]) as outputs:
            net(x)
        counter = FlopCounterMode(display=False)
        with reuse.replaying(last, outputs, len(x)), counter:
            net(x)
    assert counter.get_total_flops() == 2 * len(x) * reuse.macs(mode, last, len(x))


def test_drawing_by_macs_draws_precisions_too():
    """They change no MACs, so that a walk to a number of MACs would never reach them."""
    config = we.TrainConfig(passes=3, sampling="macs")
    for tie in ("network", "none"):
        net = converted(tie=tie)
        drawn_modes = [sample_modes(net, config, step, 100)[2] for step in range(30)]
        for knob in net.space.knobs:
            if knob.name.startswith("precision"):
                share = sum(mode[knob.name] > 1 for mode in drawn_modes) / 30
                assert 0.2 < share < 0.8
        assert len({net.macs(mode) for mode in drawn_modes}) > 10


def test_bit_operations_are_searched_step_by_step_if_each_layer_has_a_precision():
    net = converted(groups=(1, 4), exclude="block2.*", tie="none")
    front = searched(net, cost="bit_operations")
    assert (front.strategy, front.cost) == ("greedy", "bit_operations")
    for point in front.path:
        assert point.cost.known == net.bit_operations(point.mode)
        assert point.cost.unit == BIT_OPERATIONS
    assert {point.mode["precision.block1.conv1"] for point in front.path} == {1, 4}
    with pytest.raises(ValueError, match="`cost` is no sum over knobs"):
        tabulated(net.space, net.bit_operations, BIT_OPERATIONS)
    with pytest.raises(ValueError, match=r"`strategy` \(='knapsack'\) needs costs that are sums"):
        searched(net, cost="bit_operations", strategy="knapsack")


@pytest.mark.parametrize("strategy", ["knapsack", "greedy"])
def test_bit_operations_of_one_precision_for_all_are_sums_at_each(strategy):
    net = converted(groups=(1, 4), exclude="block2.*")
    front = searched(net, cost="bit_operations", strategy=strategy)
    for point in (*front.points, *front.path):
        assert point.cost.known == net.bit_operations(point.mode)
    assert {point.mode["precision"] for point in front.explored} == {1, 4}


@pytest.mark.parametrize("strategy", ["knapsack", "greedy"])
def test_bit_operations_of_one_knob_a_layer_are_a_sum(strategy):
    method = we.SwitchablePrecision((32, 8), "none", exclude="block2.*")
    net = we.convert(small_resnet(), drawn(0, *IMAGES), method=method)
    front = searched(net, cost="bit_operations", strategy=strategy)
    assert front.cost == "bit_operations"
    for point in (*front.points, *front.path):
        assert point.cost.known == net.bit_operations(point.mode)


# --- engines --------------------------------------------------------------------------------------


def operators(path: Path, folder: Path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, onnx.load(folder / "optimized.onnx").graph.node


@pytest.mark.parametrize("make", [small_resnet, WithDepthwise])
@pytest.mark.parametrize("shuffle", ["first", "all", "none"])
def test_a_grouped_mode_of_8_bits_runs_as_integers(tmp_path: Path, make, shuffle: str):
    net = converted(make().eval(), shuffle=shuffle)
    we.calibrate(net, "1/4,precision=8-bit", BATCHES)
    path = export_int8(net, "1/4,precision=8-bit", tmp_path / "net.int8.onnx")
    session, nodes = operators(path, tmp_path)
    groups = Counter(
        attribute.i
        for node in nodes
        if node.op_type == "QLinearConv"
        for attribute in node.attribute
        if attribute.name == "group"
    )
    assert groups[4] >= (2 if make is small_resnet else 1)
    x = torch.randn(5, *IMAGES[1:])
    with net.using("1/4,precision=8-bit"), torch.no_grad():
        expected = net(x).numpy()
    found = session.run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_grouped_dense_layers_of_8_bits_are_written_too(tmp_path: Path):
    net = converted(Tokens().eval())
    we.calibrate(net, "1/4,precision=8-bit", BATCHES)
    session, _ = operators(
        export_int8(net, "1/4,precision=8-bit", tmp_path / "net.int8.onnx"), tmp_path
    )
    x = torch.randn(5, *IMAGES[1:])
    with net.using("1/4,precision=8-bit"), torch.no_grad():
        expected = net(x).numpy()
    found = session.run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_floating_point_modes_are_no_int8(tmp_path: Path):
    net = converted()
    we.calibrate(net, "1/4", BATCHES)
    with pytest.raises(ValueError, match="has no layer of 8 bits"):
        export_int8(net, "1/4", tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"bits": (32, 4)},
            r"`bits` \(=\(32, 4\)\) goes below 8, where each precision needs norms",
        ),
        ({"bits": (8,)}, r"`bits` \(=\(8,\)\) must start at 32"),
        ({"groups": (1, 3, 4)}, "does not nest"),
        ({"shuffle": "some"}, "`shuffle` \\(='some'\\) is unknown"),
        ({"tie": "all"}, "`tie` \\(='all'\\) is unknown; allowed: 'network', 'none'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message: str):
    with pytest.raises(ValueError, match=message):
        we.WeightEnablingWithPrecision(**settings)


def test_settings_survive_json():
    method = we.WeightEnablingWithPrecision(
        [1, 4],
        [32, 16, 8],
        "all",
        "none",
        True,
        True,
        "a.*",  # type: ignore[arg-type]
    )
    assert method_from_json(method.to_json()) == method
    with pytest.raises(ValueError, match="is not 'weight-enabling-with-precision'"):
        we.WeightEnablingWithPrecision.from_json({"method": "width"})
    with pytest.raises(ValueError, match="not the JSON form"):
        we.WeightEnablingWithPrecision.from_json({"method": "weight-enabling-with-precision"})
