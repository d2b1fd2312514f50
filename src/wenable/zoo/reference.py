"""The reference networks that examples, experiments and the demo use."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is an average pooling where the size halves."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else nn.AvgPool2d(stride)

    def forward(self, x: Any) -> Any:
        """Map `(N, width, H, W)` to `(N, width, H / stride, W / stride)`."""
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A small residual network for 8x8 grey images: a stem, three basic blocks, a classifier.

    - `width`: the channels of every layer; each block but the first halves the size.
    """

    input_size: ClassVar = (1, 8, 8)

    def __init__(self, width: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(BasicBlock(width, stride) for stride in (1, 2, 2)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Any) -> Any:
        """Map `(N, 1, 8, 8)` to logits `(N, classes)`."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


def digits_resnet(width: int = 128, classes: int = 10) -> DigitsResNet:
    """Return a network for single digits: six switchable convolutions, of 128 channels by default."""
    return DigitsResNet(width, classes)


class ScenesResNet(nn.Module):
    """A small residual network for 24x24 grey images: a stem, five basic blocks, a classifier.

    The stem looks at overlapping patches of 6x6 pixels, which leaves 6x6 places; the second block halves
    that to 3x3. The classifier reads each of these places, so that it can tell where a digit stands.

    - `width`: the channels of every layer.
    """

    input_size: ClassVar = (1, 24, 24)

    def __init__(self, width: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 6, stride=4, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(BasicBlock(width, stride) for stride in (1, 2, 1, 1, 1)))
        self.classifier = nn.Linear(9 * width, classes)

    def forward(self, x: Any) -> Any:
        """Map `(N, 1, 24, 24)` to logits `(N, classes)`."""
        return self.classifier(self.blocks(self.stem(x)).flatten(1))


def scenes_resnet(width: int = 128, classes: int = 10) -> ScenesResNet:
    """Return the network of `wenable demo`: ten switchable convolutions, of 128 channels by default."""
    return ScenesResNet(width, classes)


class PaddedShortcut(nn.Module):
    """A shortcut without weights: every second pixel, and zero channels on both sides.

    Source: option A of the residual networks for CIFAR-10 (He et al., 2016).
    """

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Any) -> Any:
        """Map `(N, C, H, W)` to `(N, C + added, H / 2, W / 2)`."""
        half = self.added // 2
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.added - half))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut that has no weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else PaddedShortcut(outputs - inputs)

    def forward(self, x: Any) -> Any:
        """Map `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """The residual network for 32x32 images: three stages of 16, 32 and 64 channels.

    - `blocks`: basic blocks in each stage; 3 make ResNet-20.

    Source: He et al., 2016, section 4.2.
    """

    input_size: ClassVar = (3, 32, 32)

    def __init__(self, blocks: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Any) -> Any:
        """Map `(N, 3, 32, 32)` to logits `(N, classes)`."""
        x = nn.functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = CifarBlock(inputs, outputs, 1 if inputs == outputs else 2)
    return nn.Sequential(first, *(CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def cifar_resnet20(classes: int = 10) -> CifarResNet:
    """Return ResNet-20 for 32x32 images: 18 switchable convolutions besides the stem."""
    return CifarResNet(3, classes)


REFERENCE_NETWORKS = ("digits_resnet", "scenes_resnet", "cifar_resnet20")
