"""Small networks that tests share."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

import wenable as we


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut, as the paper's ResNet-50 has them."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class SmallResNet(nn.Module):
    """Two bottlenecks behind a stem of 3 channels; every size a multiple of 4."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.block1 = Bottleneck(16, 8, 32)
        self.block2 = Bottleneck(32, 16, 32)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.block1(torch.relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


def give_norms_a_past(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and an affine that change what passes through."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    drawn = torch.rand(tensor.shape, generator=generator)
                    tensor.data.copy_(low + (high - low) * drawn)
    return model


def small_resnet() -> nn.Module:
    return give_norms_a_past(SmallResNet()).eval()


def dense_network() -> nn.Module:
    """Fig. 2: dense layers only, with a batch norm between two of them."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(48, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 64),
        nn.ReLU(),
        nn.Linear(64, 5),
    )


class Tokens(nn.Module):
    """Dense layers over the last of three dimensions, as in a transformer, and then of four."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.norm = nn.LayerNorm(16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.on_maps = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))
        x = self.on_maps(x.unflatten(1, (3, 3)))
        return self.head(x.mean((1, 2)))


class Dense(nn.Module):
    """Dense connections: each norm reads the concatenation of all before it, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.BatchNorm2d(8 + 8 * i), nn.Conv2d(8 + 8 * i, 8, 3, padding=1)])
            for i in range(3)
        )
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for norm, conv in self.layers:
            features.append(conv(torch.relu(norm(torch.cat(features, 1)))))
        return self.head(torch.relu(self.norm(torch.cat(features, 1))).mean((2, 3)))


IMAGES = (2, 3, 6, 6)


def converted(model: nn.Module | None = None, **method) -> we.DynamicNetwork:
    """A network, or a new small one, made dynamic by `WeightEnabling` with these settings."""
    if model is None:
        return copied_if_made_before(
            f"converted {sorted(method.items())}", lambda: converted(small_resnet(), **method)
        )
    return we.convert(model, torch.zeros(IMAGES), method=we.WeightEnabling(**method))


_MADE: dict[tuple[str, bytes], tuple[we.DynamicNetwork, torch.Tensor]] = {}


def copied_if_made_before(name: str, make: Callable[[], we.DynamicNetwork]) -> we.DynamicNetwork:
    """Return what `make` returns; from the second time on a copy of it, which is made six times faster.

    Networks of the same name and of other random numbers are others. The caller finds the random numbers
    behind those that making it takes.
    """
    key = (name, torch.get_rng_state().numpy().tobytes())
    if key not in _MADE:
        net = make()
        _MADE[key] = copy.deepcopy(net), torch.get_rng_state()
        return net
    net, state = _MADE[key]
    torch.set_rng_state(state)
    return copy.deepcopy(net)
