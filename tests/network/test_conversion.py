"""Converting, switching and extracting: the same bits in the full mode, the right ones in others."""

import copy
import random

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from tests.helpers import references
from tests.helpers.networks import (
    IMAGES,
    Dense,
    SmallResNet,
    Tokens,
    converted,
    dense_network,
    give_norms_a_past,
    small_resnet,
)
from wenable.layers.weight_enabled import WeightEnabled
from wenable.zoo import build

POLICIES = ["first", "all", "none"]


def flops(model: nn.Module, *inputs: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(*inputs)
    return counter.get_total_flops()


def random_modes(net: we.DynamicNetwork, count: int = 3) -> list[we.Mode]:
    rng = random.Random(5)
    return [net.space.full, net.space.smallest, *(net.space.sample(rng) for _ in range(count))]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [small_resnet, dense_network, Tokens, Dense])
@pytest.mark.parametrize("training", [True, False])
def test_the_full_mode_gives_the_very_bits(make, policy: str, training: bool):
    model = give_norms_a_past(make()).train(training)
    untouched = copy.deepcopy(model)
    shape = (4, 3, 4, 4) if make is dense_network else IMAGES
    net = we.convert(model, torch.zeros(shape), method=we.WeightEnabling(shuffle=policy))
    x = torch.randn(shape)
    assert torch.equal(net(x), copy.deepcopy(untouched)(x))
    assert [m.training for m in model.modules()] == [m.training for m in untouched.modules()]
    assert all(
        torch.equal(a, b) and name == other
        for (name, a), (other, b) in zip(
            model.state_dict().items(), untouched.state_dict().items(), strict=True
        )
    )
    assert type(model) is type(untouched)


def test_weights_keep_their_names_and_order():
    model = small_resnet()
    net = converted(model)
    names = list(model.state_dict())
    kept = [name for name in net.state_dict() if name in set(names)]
    assert kept == names
    assert all(torch.equal(net.state_dict()[n], t) for n, t in model.state_dict().items())
    extra = [name for name in net.state_dict() if name not in set(names)]
    assert all(".by_pattern." in name for name in extra)
    assert isinstance(net, SmallResNet)
    assert isinstance(net, we.DynamicNetwork)


def test_no_mode_holds_a_copy_of_a_weight():
    net = converted()
    in_layers = sum(
        p.numel()
        for m in net.modules()
        for n, p in m.named_parameters(recurse=False)
        if isinstance(m, WeightEnabled)
    )
    assert in_layers == sum(layer.weights for layer in net.switchable_layers)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnet50",
        "torchvision:mobilenet_v2",
        "torchvision:efficientnet_b0",
        "timm:resnet50",
        "timm:mobilenetv2_100",
        "timm:efficientnet_b0",
    ],
)
def test_the_papers_networks(name: str):
    model = give_norms_a_past(build(name)).eval()
    # Half the networks at random: the others' policies are covered by the small network.
    net = we.convert(model, torch.zeros(1, 3, 64, 64), method=we.WeightEnabling(shuffle="all"))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
        mode = net.space.sample(random.Random(1))
        with pytest.warns(we.UncalibratedWarning):
            plain = we.extract(net, mode)
        with net.using(mode):
            torch.testing.assert_close(plain(x), net(x), rtol=1e-4, atol=1e-4)
            masked = masked_network(model, net, mode)
            torch.testing.assert_close(net(x), masked(x), rtol=1e-3, atol=1e-3)
    assert flops(plain, x) == 2 * net.macs(mode)
    assert sum(p.numel() for p in plain.parameters()) == net.parameter_count(mode)
    assert flops(model, x) == 2 * net.macs("full")


def masked_network(model: nn.Module, net: we.DynamicNetwork, mode: we.Mode) -> nn.Module:
    """The original network with the weights that the mode disables set to zero: slow and dense."""
    masked = copy.deepcopy(model)
    for layer in net.switchable_layers:
        order = None
        if layer.shuffle:
            order = references.shuffled_order(layer.shuffle.channels, layer.shuffle.groups)
        weight = masked.get_submodule(layer.name).weight
        if mode[layer.name] > 1:
            weight.data = references.masked_weight(weight.data, mode[layer.name], order)
    return masked


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [small_resnet, dense_network, Tokens, Dense])
def test_every_mode_is_the_masked_dense_network(make, policy: str):
    model = give_norms_a_past(make()).eval()
    shape = (4, 3, 4, 4) if make is dense_network else IMAGES
    net = we.convert(model, torch.zeros(shape), method=we.WeightEnabling(shuffle=policy))
    x = torch.randn(shape)
    for mode in random_modes(net):
        net.set_mode(mode)
        # Fresh options have copies of the full option's norm, so nothing else differs.
        torch.testing.assert_close(
            net(x), masked_network(model, net, mode)(x), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [small_resnet, dense_network, Tokens, Dense])
def test_extract_equals_the_network_in_that_mode(make, policy: str):
    shape = (4, 3, 4, 4) if make is dense_network else IMAGES
    net = we.convert(make(), torch.zeros(shape), method=we.WeightEnabling(shuffle=policy))
    give_norms_a_past(net).eval()
    x = torch.randn(shape)
    modes = random_modes(net)
    if net.switchable_norms():
        we.calibrate(net, modes, [torch.randn(16, *shape[1:])])
    for mode in modes:
        plain = we.extract(net, mode).eval()
        with net.using(mode):
            torch.testing.assert_close(plain(x), net(x), rtol=1e-4, atol=1e-5)
        assert type(plain) is type(make())
        leaves = [m for m in plain.modules() if not list(m.children())]
        assert all(type(m).__module__.startswith(("torch.nn", "torchvision.ops")) for m in leaves)
        assert flops(plain, x) == 2 * shape[0] * net.macs(mode)
        assert sum(p.numel() for p in plain.parameters()) == net.parameter_count(mode)


def test_macs_are_those_of_the_closed_form():
    model = small_resnet()
    net = converted(model)
    for mode in random_modes(net):
        expected = 32 * 5  # the classifier
        for name, conv in model.named_modules():
            if isinstance(conv, nn.Conv2d):
                expected += references.convolution_macs(conv, 6, 6, mode.get(name, 1))
        assert net.macs(mode) == expected


class Windows(nn.Module):
    """Folds the windows of an image into the batch, and hands a parameter to a module."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3 * 4, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)
        self.token = nn.Parameter(torch.zeros(1, 8))
        self.first = nn.Identity()

    def forward(self, x):
        n = len(x)
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        features = self.fc2(torch.relu(self.fc1(windows))).view(n, -1, 8).mean(1)
        return self.head(features + self.first(self.token))


def test_macs_of_layers_that_see_several_windows_of_each_example():
    for examples in (1, 3):
        net = we.convert(Windows(), torch.zeros(examples, 3, 6, 6))
        assert net.macs("full") == 9 * (12 * 16 + 16 * 8) + 8 * 5
        assert net.macs("1/4") == 9 * (12 * 16 + 16 * 8) // 4 + 8 * 5
        assert all(parameter.requires_grad for parameter in net.parameters())


def test_rounding_that_a_network_makes_much_of_is_no_difference():
    class Amplifies(nn.Module):
        """What rounding changed, it changes ten thousand times as much."""

        def forward(self, x):
            return torch.sin(x * 1e4)

    torch.manual_seed(0)
    layers = [nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), Amplifies()]
    net = we.convert(nn.Sequential(*layers, nn.Conv2d(32, 4, 1)), torch.zeros(1, 32, 9, 9))
    linear = we.convert(
        nn.Sequential(
            nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), Amplifies(), nn.Linear(512, 3)
        ),
        torch.zeros(1, 512),
    )
    for each in (net, linear):
        we.extract(each, "1/4")


def test_a_network_may_look_at_the_type_of_a_layers_weight():
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.fc2(torch.relu(self.fc1(x.to(self.fc1.weight.dtype))))

    net = we.convert(Looks(), torch.ones(2, 8))
    plain = we.extract(net, "1/4")
    assert [name for name, _ in plain.named_parameters()] == [
        "fc1.1.weight", "fc1.1.bias", "fc2.weight", "fc2.bias",
    ]  # fmt: skip
    assert copy.deepcopy(plain).half()(torch.randn(2, 8)).dtype == torch.float16


def test_a_network_that_overflows_on_the_example_is_extracted_all_the_same():
    class Overflow(nn.Module):
        def forward(self, x):
            return torch.cat([x, x * 1e38 * 1e38, x - x * 1e38 * 1e38 * 0], 1)

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), Overflow())
    net = we.convert(model, torch.ones(2, 8), method=we.WeightEnabling(classifier=True))
    x = torch.randn(3, 8)
    net.set_mode("1/4")
    torch.testing.assert_close(we.extract(net)(x)[:, :4], net(x)[:, :4])


def test_extract_leaves_no_trace_and_shares_nothing():
    model = small_resnet()
    model.wenable_source = "where it was built"
    net = converted(model)
    state = torch.get_rng_state()
    plain = we.extract(net, "full")
    assert torch.equal(state, torch.get_rng_state())
    assert not [name for name in vars(plain) if "wenable" in name]
    theirs = {p.data_ptr() for p in plain.parameters()}
    assert not theirs & {p.data_ptr() for p in net.parameters()}


def test_gradients_of_a_mode_reach_its_own_norms_and_weights():
    net = converted(groups=(1, 2, 4)).train()
    net.set_mode("1/4")
    net(torch.randn(IMAGES)).sum().backward()
    used = {name for name, p in net.named_parameters() if p.grad is not None}
    assert "block1.bn1.by_pattern.4.weight" in used
    assert "block1.bn1.weight" not in used
    assert "block1.bn1.by_pattern.2.weight" not in used
    assert {"block1.conv2.weight", "stem.0.weight", "stem.1.weight", "fc.weight"} <= used


def test_using_puts_the_former_mode_back_even_after_an_error():
    net = converted()
    net.set_mode("1/2")

    def fail_in_another_mode() -> None:
        with net.using("1/4"):
            assert str(net.mode) == "1/4"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_another_mode()
    assert net.mode == net.space.uniform(2)


def test_a_refused_mode_changes_nothing():
    net = converted(groups=(1, 2, 4))
    net.set_mode("1/2")
    with pytest.raises(ValueError, match=r"`groups` \(=3\) must divide the input channels"):
        net.set_mode("1/4,block1.conv2=1/3")
    assert net.mode == net.space.uniform(2)


def test_networks_copy_and_move_with_their_state():
    net = converted()
    we.calibrate(net, "1/4", [torch.randn(8, 3, 6, 6)])
    net.set_mode("1/4")
    twin = copy.deepcopy(net)
    x = torch.randn(IMAGES)
    assert torch.equal(twin(x), net(x))
    twin.set_mode("full")
    assert net.mode == net.space.uniform(4)
    assert twin.is_calibrated("1/4")
    double = copy.deepcopy(net).double()
    double.set_mode("1/2")
    double.set_mode("1/4")
    torch.testing.assert_close(double(x.double()).float(), net(x), rtol=1e-3, atol=1e-4)
    # Other bits are other weights: their statistics count as never estimated.
    assert not double.is_calibrated("1/4")
    with pytest.warns(we.UncalibratedWarning):
        plain = we.extract(double, "1/4")
    assert {t.dtype for t in plain.state_dict().values()} == {torch.float64, torch.int64}


def test_frozen_parameters_and_memory_format_stay():
    model = small_resnet().to(memory_format=torch.channels_last).requires_grad_(False)
    net = converted(model)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    plain = we.extract(net, "full")
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert plain.block1.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert net.block1.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_stays_half():
    net = we.convert(small_resnet().bfloat16(), torch.zeros(IMAGES, dtype=torch.bfloat16)).eval()
    x = torch.randn(IMAGES, dtype=torch.bfloat16)
    we.calibrate(net, "1/4", [x])
    with net.using("1/4"):
        assert net(x).dtype == torch.bfloat16
    assert we.extract(net, "1/4")(x).dtype == torch.bfloat16


def test_a_network_may_call_its_own_parts_layers():
    assert len(we.convert(Dense(), torch.zeros(IMAGES)).layers) == 3


def test_inputs_that_may_vary_are_not_held_to_the_example():
    words = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 4))
    net = we.convert(words, torch.zeros(1, 3, dtype=torch.long))
    assert net(torch.zeros(2, 7, dtype=torch.long)).shape == (2, 7, 4)


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x, y):
            return self.head(self.norm(self.b(torch.relu(self.a(x)))) + y)

    net = we.convert(Two(), (torch.zeros(2, 8), torch.zeros(2, 8)))
    batch = ((torch.randn(9, 8), torch.randn(9, 8)), torch.arange(9) % 3)
    we.train(net, [batch], we.TrainConfig(passes=2, epochs=1))
    we.calibrate(net, "1/4", [batch])
    assert we.evaluate(net, "1/4", [batch]).count == 9


def test_a_conversion_that_computes_something_else_is_not_handed_back():
    class Wrong(we.WeightEnabling):
        def plan(self, model, graph):
            plan = super().plan(model, graph)
            with torch.no_grad():
                next(iter(plan.replacements.values())).weight[0, 0] += 1e-3
            return plan

    with pytest.raises(RuntimeError, match="does not compute what the original did"):
        we.convert(small_resnet(), torch.ones(IMAGES), method=Wrong())
    net = we.convert(small_resnet(), torch.ones(IMAGES), method=Wrong(), check=False)
    assert isinstance(net, we.DynamicNetwork)


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_transformer_layers_do_not_run_past_the_modes(batch_first: bool):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(3, 5, 16)
    net = we.convert(model, x)
    # The last one writes the output: an encoder without a head keeps it whole.
    assert [each.name for each in net.switchable_layers] == [
        "layers.0.linear1", "layers.0.linear2", "layers.1.linear1",
    ]  # fmt: skip
    assert "layers.1.linear2" in {each.name for each in net.left_alone}
    with torch.no_grad():  # where torch would take its fused path
        torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-5)
        net.set_mode("1/4")
        reference = masked_network(model, net, net.mode)
        assert not torch.allclose(net(x), model(x), atol=1e-2)
    torch.testing.assert_close(net(x), reference(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(we.extract(net)(x), reference(x), rtol=1e-4, atol=1e-5)


def test_a_vision_transformer_of_torchvision_switches_its_mlps():
    model = torchvision.models.VisionTransformer(32, 8, 3, 2, 48, 96, num_classes=5).eval()
    nn.init.normal_(model.heads[0].weight)
    x = torch.randn(2, 3, 32, 32)
    net = we.convert(model, x)
    assert [each.name.rpartition(".mlp.")[2] for each in net.switchable_layers] == ["0", "3"] * 3
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
        net.set_mode("1/16")
        torch.testing.assert_close(we.extract(net)(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["first", "all", "none"])
def test_residual_networks_with_padded_shortcuts_keep_every_bit(policy: str):
    model = give_norms_a_past(build("wenable.zoo:cifar_resnet20")).eval()
    x = torch.randn(8, 3, 32, 32)
    net = we.convert(model, x[:2], method=we.WeightEnabling(shuffle=policy))
    assert len(net.switchable_layers) == 18
    assert torch.equal(net(x), model(x))
    net.set_mode("1/8")
    net.set_mode("full")
    assert torch.equal(net(x), model(x))


def test_networks_that_timm_fills_with_pretrained_weights(tmp_path):
    torch.manual_seed(0)
    trained = give_norms_a_past(timm.create_model("resnet10t")).eval()
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    model = timm.create_model(
        "resnet10t",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors")},
    ).eval()
    x = torch.randn(2, 3, 64, 64)
    net = we.convert(model, x)
    assert torch.equal(net(x), trained(x))
