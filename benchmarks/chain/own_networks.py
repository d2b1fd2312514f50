"""Small networks of tasks beyond classification, each with something that a classifier lacks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def block(
    dimensions: int,
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: int | None = None,
) -> nn.Sequential:
    """Return a convolution over one, two or three dimensions with its norm and activation."""
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    same = (kernel - 1) * dilation // 2
    layer = convolution(
        inputs, outputs, kernel, stride, same if padding is None else padding, dilation, groups,
        bias=False,
    )  # fmt: skip
    return nn.Sequential(layer, norm(outputs), nn.ReLU())


class UNet(nn.Module):
    """Two scales with transposed convolutions and skips, in two or three dimensions."""

    def __init__(self, dimensions: int = 2, width: int = 16) -> None:
        super().__init__()
        transposed = nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d
        self.pool = nn.MaxPool2d(2) if dimensions == 2 else nn.MaxPool3d(2)
        self.down1 = nn.Sequential(block(dimensions, 1, width), block(dimensions, width, width))
        self.down2 = block(dimensions, width, 2 * width)
        self.bottom = block(dimensions, 2 * width, 4 * width)
        self.up2 = transposed(4 * width, 2 * width, 2, stride=2)
        self.join2 = block(dimensions, 4 * width, 2 * width)
        self.up1 = transposed(2 * width, width, 2, stride=2)
        self.join1 = block(dimensions, 2 * width, width)
        self.head = (nn.Conv2d if dimensions == 2 else nn.Conv3d)(width, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return three scores for every place of the input."""
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.up2(self.bottom(self.pool(two)))
        x = self.up1(self.join2(torch.cat([x, two], 1)))
        return self.head(self.join1(torch.cat([x, one], 1)))


class SuperResolution(nn.Module):
    """ESPCN: convolutions, then every pixel becomes 2 x 2 by a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(2, 1, 32, 5), block(2, 32, 32), block(2, 32, 32))
        self.last = nn.Conv2d(32, 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image at twice its size."""
        return self.shuffle(self.last(self.body(x)))


class SpaceToDepth(nn.Module):
    """Denoising at half the resolution: pixels to channels, a residual body, channels to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fold, self.unfold = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
        self.first = block(2, 12, 32)
        self.body = nn.Sequential(block(2, 32, 32), nn.Conv2d(32, 32, 3, padding=1))
        self.last = nn.Conv2d(32, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image without its noise."""
        features = self.first(self.fold(x))
        return x + self.unfold(self.last(features + self.body(features)))


class DSCNN(nn.Module):
    """Keyword spotting: depthwise separable convolutions over time and frequency."""

    def __init__(self, classes: int = 6, width: int = 32) -> None:
        super().__init__()
        self.stem = block(2, 1, width, 5, stride=2)
        parts = []
        for _ in range(3):
            parts += [block(2, width, width, 3, groups=width), block(2, width, width, 1)]
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores for spectrograms `(N, 1, frames, bands)`."""
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class TCN(nn.Module):
    """A causal network over sequences: dilated convolutions with residuals."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv1d(8, width, 1)
        self.layers = nn.ModuleList(
            block(1, width, width, 3, dilation=d, padding=2 * d) for d in (1, 2, 4)
        )
        self.head = nn.Conv1d(width, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores for every step of `(N, 8, steps)`."""
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)[..., : x.shape[-1]]
        return self.head(x)


class Video(nn.Module):
    """Action recognition: convolutions over time, height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            block(3, 3, 16), nn.MaxPool3d((1, 2, 2)), block(3, 16, 32), block(3, 32, 32)
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores for clips `(N, 3, frames, height, width)`."""
        return self.head(F.adaptive_avg_pool3d(self.body(x), 1).flatten(1))


class Siamese(nn.Module):
    """Two images through one branch, and how alike they are."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(block(2, 3, 16, stride=2), block(2, 16, 32), block(2, 32, 32))
        self.embed = nn.Linear(32, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        """Return how unlike two images are, shape `(N, 1)`."""
        a, b = (self.embed(self.branch(x).mean((2, 3))) for x in (one, two))
        return self.head((a - b).abs())


class ConvLSTM(nn.Module):
    """Convolutions over a sequence, then a recurrent layer, and a decision at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(block(1, 8, 64, 5), block(1, 64, 64))
        self.lstm = nn.LSTM(64, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores for every step, shape `(N, steps, 4)`."""
        return self.head(self.lstm(self.features(x).transpose(1, 2))[0])


class TwoInputs(nn.Module):
    """An image and a vector of readings, joined for a class and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(block(2, 3, 16, stride=2), block(2, 16, 32))
        self.readings = nn.Sequential(
            nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32)
        )
        self.classes, self.number = nn.Linear(64, 5), nn.Linear(64, 1)

    def forward(self, image: torch.Tensor, readings: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return class scores and a number."""
        joined = torch.cat([self.image(image).mean((2, 3)), self.readings(readings)], 1)
        return {"classes": self.classes(joined), "number": self.number(joined)}


class Autoencoder(nn.Module):
    """Waveforms to a few numbers and back: strided convolutions, then transposed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            block(1, 1, 16, 8, stride=4, padding=2), block(1, 16, 32, 8, stride=4, padding=2)
        )
        self.middle = block(1, 32, 32)
        self.up = nn.Sequential(
            nn.ConvTranspose1d(32, 16, 8, stride=4, padding=2), nn.BatchNorm1d(16), nn.ReLU(),
            nn.ConvTranspose1d(16, 1, 8, stride=4, padding=2),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the waveform as it keeps it."""
        return self.up(self.middle(self.down(x)))


class Heatmaps(nn.Module):
    """Pose: a small backbone, transposed convolutions with norms, one map for each joint."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            block(2, 3, 16, stride=2), block(2, 16, 32, stride=2), block(2, 32, 64)
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 32, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Conv2d(32, 7, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a map for each of seven joints."""
        return self.head(self.up(self.body(x)))


class Generator(nn.Module):
    """Images out of vectors, by transposed convolutions alone (DCGAN)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Unflatten(1, (16, 1, 1))]
        for inputs, outputs, kernel, stride, padding in (
            (16, 32, 4, 1, 0),
            (32, 32, 4, 2, 1),
            (32, 16, 4, 2, 1),
        ):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.last = nn.ConvTranspose2d(16, 1, 4, 2, 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return an image for each vector."""
        return torch.tanh(self.last(self.body(z)))


class SharedHead(nn.Module):
    """A one-stage detector: two scales of a pyramid, read by one head (as RetinaNet's)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(2, 3, 16, stride=2), block(2, 16, width, stride=2))
        self.deeper = block(2, width, width, stride=2)
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.tower = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.classes, self.boxes = (
            nn.Conv2d(width, 4, 3, padding=1),
            nn.Conv2d(width, 4, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return scores and boxes for the places of both scales."""
        fine = self.stem(x)
        coarse = self.lateral[1](self.deeper(fine))
        fine = self.lateral[0](fine) + F.interpolate(coarse, scale_factor=2.0)
        levels = [self.tower(each) for each in (fine, coarse)]
        return {
            "classes": joined([self.classes(each) for each in levels]),
            "boxes": joined([self.boxes(each) for each in levels]),
        }


def joined(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the maps of several scales as one list of places, shape `(N, places, channels)`."""
    return torch.cat([each.flatten(2).transpose(1, 2) for each in levels], 1)
