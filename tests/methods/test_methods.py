"""Weight-enabling: which layers switch, which norms follow, where the shuffle goes."""

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import converted, dense_network, small_resnet
from wenable.graph import trace
from wenable.layers import SwitchableBatchNorm2d
from wenable.methods.weight_enabling import WeightEnabling


def plan_of(model: nn.Module, *shape: int, **settings):
    model = model.eval()
    return WeightEnabling(**settings).plan(model, trace(model, (torch.zeros(shape),)))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((), r"`groups` \(=\(\)\) is empty"),
        ((1, 2, 2), "repeats an option"),
        ((2, 4), "does not start at 1"),
        ((1, 3, 4), "does not nest: 3 does not divide 4"),
        ((1, 4, 2), "does not nest: 4 does not divide 2"),
        ((1, 0), "whole numbers above 0"),
        ((1, 2.0), "whole numbers above 0"),
    ],
)
def test_chains_that_do_not_nest_are_refused(groups, message: str):
    with pytest.raises(ValueError, match=message):
        WeightEnabling(groups=groups)


def test_settings_survive_json_and_unknown_ones_are_refused():
    method = WeightEnabling((1, 3, 6), "all", True, True, "a.*", ["b"], {"c": [1, 2]}, tie="block")
    assert WeightEnabling.from_json(method.to_json()) == method
    with pytest.raises(ValueError, match="`shuffle` \\(='some'\\) is unknown"):
        WeightEnabling(shuffle="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`method` \\(='width'\\) is unknown"):
        WeightEnabling.from_json({"method": "width"})
    with pytest.raises(ValueError, match="not the JSON form"):
        WeightEnabling.from_json({"method": "weight-enabling", "groups": [1]})


def shuffles(net: we.DynamicNetwork) -> dict[str, tuple[int, bool]]:
    return {
        layer.name: (layer.shuffle.groups, layer.shuffle.is_identity)
        for layer in net.switchable_layers
        if layer.shuffle
    }


def test_the_first_shuffle_of_a_block_is_the_papers():
    net = converted()
    # conv2 reads what the first 1x1 convolution of its bottleneck wrote (section IV-B); with 8
    # inner channels and 8 groups the permutation is the identity, with 16 and 16 too.
    assert shuffles(net) == {"block1.conv2": (8, True), "block2.conv2": (16, True)}
    four = converted(groups=(1, 2, 4))
    assert shuffles(four) == {"block1.conv2": (4, False), "block2.conv2": (4, False)}


def test_shuffle_everywhere_and_nowhere():
    everywhere = shuffles(converted(groups=(1, 2, 4), shuffle="all"))
    assert list(everywhere) == [
        "block1.conv2",
        "block1.conv3",
        "block2.conv1",  # reads the sum of block1.conv3 and its downsample
        "block2.conv2",
        "block2.conv3",
    ]
    assert shuffles(converted(shuffle="none")) == {}


def test_a_shuffle_has_the_groups_of_the_layer_that_wrote():
    model = nn.Sequential(nn.Conv2d(4, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.Conv2d(16, 4, 1))
    plan = plan_of(model, 1, 4, 3, 3)
    shuffle = plan.layers[1].shuffle
    # the writer has 4 inputs, so it runs in 4 groups at most though the reader can in 16
    assert plan.layers[1].options == (1, 2, 4, 8, 16)
    assert shuffle is not None
    assert (shuffle.groups, shuffle.channels) == (4, 32)


def test_norms_follow_the_layer_that_wrote_what_they_read():
    net = converted(groups=(1, 2, 4))
    options = {name: norm.options for name, norm in net.switchable_norms().items()}
    assert options.pop("stem.1") == (1,)  # the stem has 3 input channels and does not switch
    assert set(options.values()) == {(1, 2, 4)}
    net.set_mode("1,block1.conv2=1/4")
    set_to = {name: norm.slice_options[0] for name, norm in net.switchable_norms().items()}
    assert {name for name, n in set_to.items() if n != 1} == {"block1.bn2"}


def test_a_norm_behind_a_depthwise_layer_follows_the_layer_before():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
    )
    plan = plan_of(model, 1, 4, 5, 5, classifier=True)
    assert followers(plan) == {"0": ["0", "1", "3"], "4": ["4"]}


def test_a_norm_behind_a_sum_has_one_affine():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x):
            return self.norm(self.a(x) + self.b(x))

    plan = plan_of(Sum(), 1, 4, 3, 3, classifier=True)
    norm = plan.replacements["norm"]
    assert isinstance(norm, SwitchableBatchNorm2d)
    assert norm.options == (1,)


def test_a_norm_called_twice_follows_nobody():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.b(self.norm(self.a(x))))

    plan = plan_of(Twice(), 1, 4, 3, 3, classifier=True)
    assert followers(plan) == {"a": ["a"], "b": ["b"]}


class Block(nn.Module):
    """A transformer's block: attention by hand, then a gated MLP."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj((q @ k.transpose(-1, -2)).softmax(-1) @ v)
        gate, value = self.fc1(self.norm2(x)).chunk(2, -1)
        return x + self.fc2(nn.functional.silu(gate) * value)


def transformer() -> nn.Module:
    return nn.Sequential(Block(), Block(), nn.Linear(16, 4))


def test_transformers_switch_their_mlps_and_attention_by_choice():
    plan = plan_of(transformer(), 2, 5, 16, groups=(1, 2, 4))
    assert [layer.name for layer in plan.layers] == ["0.fc1", "0.fc2", "1.fc1", "1.fc2"]
    reason = "serves attention; `attention=True` switches it"
    assert [n for n, why in reasons(plan).items() if why == reason] == [
        "0.qkv", "0.proj", "1.qkv", "1.proj",
    ]  # fmt: skip
    # the second layer reads the hidden neurons shuffled, though a gate stands between
    assert [bool(layer.shuffle) for layer in plan.layers] == [False, True, False, True]
    everything = plan_of(transformer(), 2, 5, 16, groups=(1, 2, 4), attention=True)
    assert len(everything.layers) == 8


def test_attention_of_one_call_is_known_as_well():
    from wenable.zoo import build

    plan = plan_of(build("timm:vit_tiny_patch16_224", img_size=32, depth=2), 1, 3, 32, 32)
    assert [layer.name for layer in plan.layers] == [
        f"blocks.{i}.mlp.fc{j}" for i in (0, 1) for j in (1, 2)
    ]
    assert reasons(plan)["blocks.0.attn.qkv"].startswith("serves attention")
    assert reasons(plan)["blocks.0.attn.proj"].startswith("serves attention")


class SelfAttention(nn.Module):
    """Attention over the pixels of a map, without a projection of its output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))

    def forward(self, x):
        q, k, v = (each(x).flatten(2) for each in (self.q, self.k, self.v))
        return (v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)).view(x.shape)


def test_what_reads_attention_in_the_place_of_a_convolution_switches():
    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv3 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
            self.middle = SelfAttention(4)

        def forward(self, x):
            return x + self.conv3(self.middle(self.conv1(x)))

    plan = plan_of(
        nn.Sequential(Bottleneck(), Bottleneck(), nn.Flatten(), nn.Linear(72, 2)), 2, 8, 3, 3
    )
    assert [layer.name for layer in plan.layers] == ["0.conv1", "0.conv3", "1.conv1", "1.conv3"]
    assert all(".middle." in name or name == "3" for name in reasons(plan))


def switched(**settings) -> list[str]:
    return [layer.name for layer in plan_of(small_resnet(), 1, 3, 6, 6, **settings).layers]


def test_layers_are_chosen_by_name_option_or_function():
    everything = switched()
    block1 = [name for name in everything if name.startswith("block1")]
    assert switched(only="block1.*") == block1
    assert switched(only=["block1.*", "block2.conv1"]) == [*block1, "block2.conv1"]
    assert switched(exclude="block1.*") == [n for n in everything if n not in block1]
    assert switched(only=lambda name, layer: getattr(layer, "kernel_size", None) == (3, 3)) == [
        "block1.conv2", "block2.conv2",
    ]  # fmt: skip
    assert switched(exclude=lambda name, _: name != "block1.conv1") == ["block1.conv1"]
    plan = plan_of(small_resnet(), 1, 3, 6, 6, only="block1.*", exclude="*.conv1")
    assert reasons(plan)["block2.conv2"] == "is not among `only`"
    assert reasons(plan)["block1.conv1"] == "is among `exclude`"


@pytest.mark.parametrize("setting", ["only", "exclude", "groups_of"])
def test_names_that_fit_no_layer_are_refused(setting: str):
    value = {"blok1.*": (1, 2)} if setting == "groups_of" else "blok1.*"
    message = rf"`{setting}` names 'blok1.\*', which fits no layer of the network; its 9 layers"
    with pytest.raises(ValueError, match=message):
        switched(**{setting: value})


def test_layers_may_have_options_of_their_own():
    groups_of = {"block1.*": (1, 2), "block1.conv3": (1, 4, 8)}
    plan = plan_of(small_resnet(), 1, 3, 6, 6, groups_of=groups_of)
    options = {layer.name: layer.options for layer in plan.layers}
    assert options["block1.conv1"] == (1, 2)
    assert options["block1.conv3"] == (1, 4, 8)
    assert options["block2.conv2"] == (1, 2, 4, 8, 16)
    with pytest.raises(ValueError, match="does not nest"):
        WeightEnabling(groups_of={"x": (1, 3, 4)})


def test_layers_of_a_block_can_be_tied_to_one_knob():
    net = converted(tie="block")
    assert net.space.names == ("block1", "block2")
    # the smallest layer decides: block1 has 8 inner channels
    assert [knob.options for knob in net.space.knobs] == [(1, 2, 4, 8), (1, 2, 4, 8, 16)]
    net.set_mode("1,block1=1/4")
    assert {layer.name: net.get_submodule(layer.name).option for layer in net.switchable_layers} == {
        "block1.conv1": 4, "block1.conv2": 4, "block1.conv3": 4, "block1.downsample.0": 4,
        "block2.conv1": 1, "block2.conv2": 1, "block2.conv3": 1,
    }  # fmt: skip
    free = converted()
    assert net.macs() == free.macs("1,block1.*=1/4")
    with pytest.raises(ValueError, match="`tie` \\(='stage'\\) is unknown"):
        WeightEnabling(tie="stage")  # type: ignore[arg-type]


def test_a_function_is_saved_as_the_names_it_chose():
    net = converted(only=lambda name, _: name.startswith("block2"))
    names = ["block2.conv1", "block2.conv2", "block2.conv3"]
    assert net.conversion_method.to_json()["only"] == names
    with pytest.raises(ValueError, match="cannot be written down where they are functions"):
        WeightEnabling(only=lambda *_: True).to_json()


class NormByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var)


@pytest.mark.parametrize("norm", [NormByHand(), nn.InstanceNorm2d(8, track_running_stats=True)])
def test_running_statistics_outside_batch_norm_are_refused(norm: nn.Module):
    model = nn.Sequential(nn.Conv2d(4, 8, 1), norm, nn.Conv2d(8, 2, 1))
    with pytest.raises(ValueError, match=r"'1' is a \w+ with running statistics, which cannot be"):
        plan_of(model, 1, 4, 3, 3)


def test_a_norm_without_momentum_behind_a_concatenation_has_one_affine():
    model = Concatenation()
    model.norm.momentum = None
    plan = plan_of(model, 1, 8, 3, 3)
    assert plan.replacements["norm"].options == (1,)


def test_hooks_are_not_lost_silently():
    model = small_resnet()
    model.block1.conv1.register_full_backward_hook(lambda *_: None)
    assert reasons(plan_of(model, 1, 3, 6, 6))["block1.conv1"] == "has hooks, which would be lost"
    model.block1.bn1.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"batch norm 'block1.bn1' has hooks, which would be lost"):
        plan_of(model, 1, 3, 6, 6)


def followers(plan) -> dict[str, list[str]]:
    """Each knob and what it sets; a slice is written `norm[1]`."""
    return {
        knob: [f.module if f.part is None else f"{f.module}[{f.part}]" for f in each]
        for knob, each in plan.followers.items()
    }


class Concatenation(nn.Module):
    """A norm over two layers' outputs, the input itself between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.norm = nn.BatchNorm2d(20)
        self.out = nn.Conv2d(20, 2, 1)

    def forward(self, x):
        return self.out(self.norm(torch.cat([self.a(x), x, self.b(x)], 1)))


def test_behind_a_concatenation_each_slice_follows_its_layer():
    plan = plan_of(Concatenation(), 1, 8, 3, 3)
    norm = plan.replacements["norm"]
    assert norm.widths == (8, 8, 4)
    assert norm.options == (1, 2, 4, 8)
    assert followers(plan) == {"a": ["a", "norm[0]"], "b": ["b", "norm[2]"]}


def reasons(plan) -> dict[str, str]:
    return {each.name: each.reason for each in plan.left_alone}


def test_what_is_left_alone_says_why():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))

    class Odd(nn.Conv2d):
        pass

    hooked = nn.Conv2d(8, 8, 1)
    hooked.register_forward_hook(lambda *_: None)
    tied, twin = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    twin.weight = tied.weight
    shared = nn.Conv2d(8, 8, 1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 1, groups=4),
        Gate(),
        Odd(8, 8, 1),
        hooked,
        tied,
        twin,
        shared,
        shared,
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )
    model.add_module("unused", nn.Identity())
    model.unused.layer = nn.Linear(4, 4)
    plan = plan_of(model, 1, 3, 6, 6)
    assert reasons(plan) == {
        "0": "has 3 input channels and 8 output channels, which no option above 1 divides",
        "2": "is depthwise",
        "3": "already has 4 groups",
        "4.fc": "works on a 1x1 map",
        "5": "is a Odd, not a plain convolution or dense layer of torch.nn",
        "6": "has hooks, which would be lost",
        "7": "shares its weight with another layer",
        "8": "shares its weight with another layer",
        "9": "shares its weight with another layer",
        "12": "is the classifier; `classifier=True` switches it",
        "unused.layer": "is not reached by the example input",
    }
    assert [layer.name for layer in plan.layers] == ["1"]


def test_dense_networks_switch_all_but_the_classifier():
    plan = plan_of(dense_network(), 2, 3, 4, 4)
    assert [(layer.name, layer.kind) for layer in plan.layers] == [("1", "dense"), ("4", "dense")]
    assert followers(plan) == {"1": ["1", "2"], "4": ["4"]}


def test_the_classifier_switches_by_choice():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert [layer.name for layer in plan_of(model, 1, 8, classifier=True).layers] == ["0", "2"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 1)), "nothing to switch: '0' has|nothing to switch: '0' is"),
        (nn.Sequential(nn.ReLU()), "nothing in it multiplies with a weight"),
    ],
)
def test_a_network_with_nothing_to_switch_is_refused(model, message: str):
    with pytest.raises(ValueError, match=message):
        plan_of(model, 1, 3, 4, 4)


def test_an_unknown_batch_norm_is_refused_by_name():
    class Strange(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.Conv2d(4, 8, 1), Strange(8), nn.Conv2d(8, 2, 1))
    with pytest.raises(ValueError, match="'1' is a Strange with running statistics"):
        plan_of(model, 1, 4, 3, 3)


@pytest.mark.parametrize("policy", ["first", "all"])
@pytest.mark.parametrize(
    ("torchvision_name", "timm_name", "knobs"),
    [
        ("resnet50", "resnet50", 52),
        ("mobilenet_v2", "mobilenetv2_100", 34),
        ("efficientnet_b0", "efficientnet_b0", 32),
    ],
)
def test_the_papers_networks_are_the_same_from_both_libraries(
    torchvision_name: str, timm_name: str, knobs: int, policy: str
):
    from wenable.zoo import build

    plans = [
        plan_of(build(name), 1, 3, 64, 64, shuffle=policy)
        for name in (f"torchvision:{torchvision_name}", f"timm:{timm_name}")
    ]
    found = [
        sorted(
            str((layer.inputs, layer.outputs, layer.macs, layer.options, layer.shuffle))
            for layer in plan.layers
        )
        for plan in plans
    ]
    assert len(found[0]) == knobs
    assert found[0] == found[1]
    lengths = [sorted(len(each) for each in plan.followers.values()) for plan in plans]
    assert lengths[0] == lengths[1]


def test_every_batch_norm_of_the_papers_networks_follows_its_layer():
    from wenable.zoo import build

    for name, unkeyed in (("resnet50", 1), ("mobilenet_v2", 2), ("efficientnet_b0", 2)):
        plan = plan_of(build(name), 1, 3, 64, 64)
        norms = {n for n, m in plan.replacements.items() if isinstance(m, SwitchableBatchNorm2d)}
        keyed = {name for names in followers(plan).values() for name in names} & norms
        # only the stem's norm, and the one behind the depthwise layer that reads the stem, are not
        assert len(norms - keyed) == unkeyed
