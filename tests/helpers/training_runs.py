"""A small training run, and what its networks hold."""

import torch
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, converted, small_resnet
from wenable.training import (
    TrainConfig,
)


def batches(count: int = 3, size: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(size, *IMAGES[1:], generator=generator),
            torch.randint(5, (size,), generator=generator),
        )
        for _ in range(count)
    ]


SETTINGS = TrainConfig(passes=3, epochs=3, ema_decay=0.9, learning_rate=0.02)


def with_dropout() -> we.DynamicNetwork:
    torch.manual_seed(0)
    model = small_resnet()
    model.fc = nn.Sequential(nn.Dropout(0.5), model.fc)
    return converted(model)


def weights_of(net: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in net.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
