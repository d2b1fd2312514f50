"""Networks by name, from torchvision, timm, this package or any function."""

import pytest
import torch

import wenable as we
from wenable.zoo import Source, build, digits_resnet, scenes_resnet


@pytest.mark.parametrize(
    ("name", "full_name", "module"),
    [
        ("resnet18", "torchvision:resnet18", "torchvision"),
        ("timm:resnet18", "timm:resnet18", "timm"),
        ("tiny_vit_5m_224", "timm:tiny_vit_5m_224", "timm"),
        ("wenable.zoo:digits_resnet", "wenable.zoo:digits_resnet", "wenable"),
        ("tests.helpers.networks:dense_network", "tests.helpers.networks:dense_network", "torch"),
    ],
)
def test_names_are_resolved_and_remembered(name: str, full_name: str, module: str):
    model = build(name)
    assert type(model).__module__.split(".")[0] == module
    assert model.wenable_source == Source(full_name, {})


def test_arguments_are_passed_on():
    model = build("torchvision:resnet18", num_classes=7)
    assert model.fc.out_features == 7
    assert model.wenable_source.arguments == {"num_classes": 7}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_net", "is known to neither torchvision nor timm"),
        ("timm:no_such_net", "is not known to timm"),
        ("torchvision:no_such_net", "is not known to torchvision"),
        ("no.such.module:f", "cannot be imported"),
        ("wenable.zoo:nothing", "cannot be imported"),
        ("wenable.measure:describe_device", "returned a str, not a torch.nn.Module"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        build(name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "os:system", "arguments": {}}, "is not of torchvision, timm or wenable.zoo"),
        ({"name": "wenable.zoo:build", "arguments": {}}, "is no reference network"),
        ({"name": "timm:hf-hub:somebody/net", "arguments": {}}, "is not known to timm"),
        ({"name": "timm:local-dir:x", "arguments": {}}, "is not known to timm"),
        ({"name": "timm:resnet18", "arguments": {"pretrained": True}}, "no weights"),
        ({"name": "timm:resnet18", "arguments": {"checkpoint_path": "x"}}, "no weights"),
        ({"name": "timm:resnet18", "arguments": {"act_layer": "x"}}, "only numbers are taken"),
        ({"name": "timm:resnet18"}, "is not of torchvision, timm or"),
    ],
)
def test_what_a_file_may_build_is_bounded(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Source.from_json(values)


def test_a_source_forgets_where_weights_came_from():
    source = Source("timm:resnet18", {"pretrained": True, "num_classes": 7})
    assert Source.from_json(source.to_json()) == Source("timm:resnet18", {"num_classes": 7})


def test_the_digits_network_has_six_switchable_convolutions_of_64_channels_or_more():
    convs = [m for m in digits_resnet().blocks.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 6
    assert all(min(conv.in_channels, conv.out_channels) >= 64 for conv in convs)


def test_the_scenes_network_has_ten_switchable_convolutions_of_64_channels_or_more():
    model = scenes_resnet()
    net = we.convert(model, torch.zeros(1, *model.input_size))
    assert len(net.space.names) == 10
    assert [layer.name for layer in net.left_alone] == ["stem.0", "classifier"]
    convs = [m for m in model.blocks.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 10
    assert all(min(conv.in_channels, conv.out_channels) >= 64 for conv in convs)
    assert model.blocks(model.stem(torch.zeros(2, 1, 24, 24))).shape == (2, 128, 3, 3)
