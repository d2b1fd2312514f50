"""Deploy a network and keep a deadline: train, choose modes, export, and run without torch.

Run it with `python examples/deadline.py`: about a minute on two free cores, or with `--epochs 1` in less.
The second half, `serve`, is all that a device needs: numpy, an engine and the file.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn

import wenable as we
from wenable.data import batches, digits
from wenable.runtime import Session


def make_bundle(path: Path, epochs: int) -> None:
    """Train a network of 64 channels on digits, and export its uniform modes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 64, 3, padding=1)]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    net = we.convert(nn.Sequential(*layers), torch.zeros(1, 1, 8, 8))

    splits = digits()
    loader = batches(splits.train, 64, shuffle_seed=0)
    we.train(net, loader, we.TrainConfig(passes=4, epochs=epochs, learning_rate=0.1))
    modes = net.space.uniform_modes()
    we.calibrate(net, modes, list(batches(splits.train, 256)))
    search = list(batches(splits.search, 300))
    # A session runs the most accurate mode in time, by the accuracies that it is given here.
    accuracies = {mode: {"accuracy": we.evaluate(net, mode, search)} for mode in modes}
    we.export(net, modes, path, readings=accuracies)


def serve(path: Path, requests: int = 100) -> None:
    """Answer requests under a long deadline, and under one that the most accurate mode would miss."""
    image = np.zeros((1, 1, 8, 8), np.float32)
    with Session(path, threads=1) as session:
        session.warm_up()
        for share in (20, 0.5):
            session.run(image, deadline_ms=1000.0)
            best = session.controller().decisions[-1]
            deadline_ms = share * best.predicted_ms
            for _ in range(requests):
                session.run(image, deadline_ms=deadline_ms)
            ran = Counter(each.name for each in list(session.controller().decisions)[-requests:])
            print(
                f"deadline {share} times that of mode {best.name}, {deadline_ms:.2f} ms: {dict(ran)}"
            )
        counters = session.controller().counters
        print(f"in time: {counters.within}, late: {counters.late}")


def main() -> None:
    """Make the file, then run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.wen"
        make_bundle(path, given.epochs)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB for all modes")
        serve(path)


if __name__ == "__main__":
    main()
