"""The families of torchvision's networks, as shallow as their code allows: a block of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torchvision.models import (
    densenet,
    efficientnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    squeezenet,
    vgg,
)


def _resnet(block: Any, **settings: int) -> nn.Module:
    """The stem and two of four stages: the others are like the second, and wider."""
    model = resnet.ResNet(block, [2, 1, 1, 1], **settings)
    model.layer3 = model.layer4 = nn.Sequential()
    model.fc = nn.Linear(128 * block.expansion, 10)
    return model


def _mobilenet_v3() -> nn.Module:
    config = partial(mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    settings = [
        config(16, 3, 16, 16, True, "RE", 2, 1),
        config(16, 3, 72, 24, False, "RE", 2, 1),
        config(24, 5, 96, 40, True, "HS", 2, 1),
        config(40, 5, 240, 40, True, "HS", 1, 2),
    ]
    return mobilenetv3.MobileNetV3(settings, last_channel=64, num_classes=10)


def _efficientnet() -> nn.Module:
    config = efficientnet.MBConvConfig
    settings = [config(1, 3, 1, 32, 16, 1), config(6, 3, 2, 16, 24, 2), config(6, 5, 2, 24, 40, 2)]
    return efficientnet.EfficientNet(settings, dropout=0.2, last_channel=64, num_classes=10)


def _regnet() -> nn.Module:
    settings = regnet.BlockParams(
        [1, 1, 2, 1], [16, 32, 48, 64], [8, 8, 8, 8], [1.0] * 4, [2] * 4, se_ratio=0.25
    )
    return regnet.RegNet(settings, num_classes=10)


def _squeezenet() -> nn.Module:
    model = squeezenet.SqueezeNet("1_1", num_classes=10)
    model.features = model.features[:5]  # up to the second fire module
    model.classifier[1] = nn.Conv2d(128, 10, 1)
    return model


def _vgg() -> nn.Module:
    model = vgg.VGG(vgg.make_layers([16, "M", 32, "M", 64, "M"], True), num_classes=10)
    model.classifier = nn.Sequential(nn.Linear(64 * 49, 32), nn.ReLU(), nn.Linear(32, 10))
    return model


def _mobilenet_v2() -> nn.Module:
    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    return mobilenetv2.MobileNetV2(
        num_classes=10, width_mult=0.5, inverted_residual_setting=settings
    )


SMALL_FAMILIES: Mapping[str, Callable[[], nn.Module]] = {
    "resnet": partial(_resnet, resnet.Bottleneck),
    "basic resnet": partial(_resnet, resnet.BasicBlock),
    "resnext": partial(_resnet, resnet.Bottleneck, groups=8, width_per_group=8),
    "regnet": _regnet,
    "mobilenet v2": _mobilenet_v2,
    "mobilenet v3": _mobilenet_v3,
    "efficientnet": _efficientnet,
    "shufflenet v2": lambda: shufflenetv2.ShuffleNetV2(
        [2, 1, 1], [24, 48, 96, 192, 256], num_classes=10
    ),
    "squeezenet": _squeezenet,
    "densenet": lambda: densenet.DenseNet(8, (2, 2), 16, num_classes=10),
    "vgg": _vgg,
}
