"""The networks of the experiments: for images of 32x32 pixels, and the paper's for 224x224."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut with a 1x1 convolution.

    Maps `(N, inputs, H, W)` to `(N, 4 * width, H / stride, W / stride)`.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Sequential(
            nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
        )

    def forward(self, x: Any) -> Any:
        """Return the sum of both ways, rectified."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class SmallBottleneckResNet(nn.Module):
    """ResNet-50 in small: a stem and three bottlenecks, for `(N, 3, 32, 32)`; logits `(N, classes)`.

    The stem halves the size, so that a pass is short enough for two processor cores.

    - `blocks`: how many bottlenecks, 2 or 3.
    """

    def __init__(self, width: int = 16, classes: int = 10, blocks: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = Bottleneck(width, width, 1)
        self.layer2 = Bottleneck(4 * width, 2 * width, 2)
        self.layer3 = Bottleneck(8 * width, 4 * width, 2) if blocks == 3 else nn.Identity()
        self.fc = nn.Linear(16 * width if blocks == 3 else 8 * width, classes)

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def _resnet50() -> nn.Module:
    model = torchvision.models.resnet50(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return model


def _mobilenet_v2(width: float, early_stride: int) -> nn.Module:
    model = torchvision.models.mobilenet_v2(num_classes=10, width_mult=width)
    _set_stride(model.get_submodule("features.0.0"), 1)
    _set_stride(model.get_submodule("features.2.conv.1.0"), early_stride)
    return model


def _efficientnet_b0() -> nn.Module:
    model = torchvision.models.efficientnet_b0(num_classes=10)
    _set_stride(model.get_submodule("features.0.0"), 1)
    _set_stride(model.get_submodule("features.2.0.block.1.0"), 1)
    return model


def _set_stride(convolution: nn.Module, stride: int) -> None:
    assert isinstance(convolution, nn.Conv2d)
    convolution.stride = (stride, stride)


def _timm(name: str, classes: int = 10) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=classes)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tiny-bottleneck-resnet": lambda: SmallBottleneckResNet(blocks=2),
    "small-bottleneck-resnet": SmallBottleneckResNet,
    "mobilenet-v2-0.35": lambda: _mobilenet_v2(0.35, early_stride=2),
    "resnet50": _resnet50,
    "mobilenet-v2": lambda: _mobilenet_v2(1.0, early_stride=1),
    "efficientnet-b0": _efficientnet_b0,
    "mobilenetv3-small-050": lambda: _timm("mobilenetv3_small_050"),
    "lcnet-050": lambda: _timm("lcnet_050"),
    "imagenet-resnet50": lambda: torchvision.models.resnet50(num_classes=1000),
    "imagenet-mobilenet-v2": lambda: torchvision.models.mobilenet_v2(num_classes=1000),
    "imagenet-efficientnet-b0": lambda: torchvision.models.efficientnet_b0(num_classes=1000),
    "imagenet-mobilenetv3-small-050": lambda: _timm("mobilenetv3_small_050", 1000),
    "imagenet-lcnet-050": lambda: _timm("lcnet_050", 1000),
}
"""Name -> a network with random weights and ten classes, or the thousand of ImageNet.

torchvision's networks keep their widths; for small images their first strides are 1, as is usual. timm's
are as they come.
"""

OFF_THE_SHELF = ("mobilenetv3-small-050", "lcnet-050")


def off_the_shelf(scale: str) -> tuple[str, ...]:
    """Return the small networks that stand beside the dynamic ones at a scale."""
    prefix = "imagenet-" if scale == "imagenet" else ""
    return tuple(prefix + name for name in OFF_THE_SHELF)
