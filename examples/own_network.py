"""Make a network of your own dynamic, train all its modes, and pick one for a budget.

Run it with `python examples/own_network.py`: well under a minute on two cores.
"""

import torch
from torch import nn

import wenable as we
from wenable.data import batches, digits


def make_network() -> nn.Module:
    """Return any network: here a plain stack of convolutions for 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4, 10),
    )


def main() -> None:
    """Convert, train, calibrate, and take the most accurate mode under a budget of MACs."""
    torch.manual_seed(0)
    splits = digits()
    net = we.convert(make_network(), torch.zeros(1, 1, 8, 8))
    for each in net.left_alone:
        print(f"left alone: {each.name} {each.reason}")
    loader = batches(splits.train, 32, shuffle_seed=0)
    we.train(net, loader, we.TrainConfig(passes=4, epochs=3))

    modes = net.space.uniform_modes()
    we.calibrate(net, modes, list(batches(splits.train, 256)))
    found = {mode: we.evaluate(net, mode, batches(splits.search, 300)) for mode in modes}
    for mode, reading in found.items():
        print(f"{mode!s:>5}  {net.macs(mode) / 1e6:5.2f} M MACs  {reading}")

    budget = net.macs("full") / 3
    affordable = [mode for mode in modes if net.macs(mode) <= budget]
    best = max(affordable, key=lambda mode: found[mode].known)
    tested = we.evaluate(net, best, batches(splits.test, 500))
    print(f"under {budget / 1e6:.2f} M MACs: mode {best}, on the test split {tested}")


if __name__ == "__main__":
    main()
