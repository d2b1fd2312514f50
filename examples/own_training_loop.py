"""Train all modes with a loss and a loop of your own: here several labels for each image.

Run it with `python examples/own_training_loop.py`: seconds on two cores. `we.train` takes any loss; if
you have a loop of your own, Algorithm 1 is a few lines in it.
"""

import random

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import wenable as we
from wenable.data import batches, digits


def properties(digit: torch.Tensor) -> torch.Tensor:
    """Return what is asked of each digit, shape `(N, 3)`: is it even, above 4, a multiple of 3?"""
    return torch.stack([digit % 2 == 0, digit > 4, digit % 3 == 0], dim=1).float()


def train(net: we.DynamicNetwork, loader: torch.utils.data.DataLoader, epochs: int) -> None:
    """Make four passes a step: the full mode, the smallest, and two that are drawn."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    rng = random.Random(0)
    net.train()
    for _ in range(epochs):
        for images, digit in loader:
            optimizer.zero_grad()
            drawn = [net.space.sample(rng) for _ in range(2)]
            for mode in (net.space.full, net.space.smallest, *drawn):
                net.set_mode(mode)
                # The gradients of all modes add up before the weights move once.
                binary_cross_entropy_with_logits(net(images), properties(digit)).backward()
            optimizer.step()
    net.set_mode("full")
    net.eval()


@torch.no_grad()
def accuracy(net: we.DynamicNetwork, mode: we.Mode, loader: torch.utils.data.DataLoader) -> float:
    """Return the share of properties that a mode tells right."""
    with net.using(mode):
        right = [(net(images) > 0) == properties(digit).bool() for images, digit in loader]
    return torch.cat(right).float().mean().item()


def main() -> None:
    """Train, calibrate the uniform modes, and print their accuracy on the test split."""
    torch.manual_seed(0)
    splits = digits()
    layers = [nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 3))
    net = we.convert(model, torch.zeros(1, 1, 8, 8))

    train(net, batches(splits.train, 64, shuffle_seed=0), epochs=4)
    modes = net.space.uniform_modes()
    we.calibrate(net, modes, list(batches(splits.train, 256)))
    for mode in modes:
        found = accuracy(net, mode, batches(splits.test, 250))
        print(f"{mode!s:>5}  {net.macs(mode) / 1e6:5.2f} M MACs  {found:.1%} of the labels right")


if __name__ == "__main__":
    main()
