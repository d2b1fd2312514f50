"""Segmentation from end to end: a U-Net, mean IoU, a front by latency, a bundle, frames in time.

Run it with `python examples/segmentation.py`, or with `--images 64 --epochs 1 --width 8` to see it work
without learning much. Each pixel of a scene of handwritten digits belongs to one of ten digits or to
the background; the scenes come with their masks. The last part, `stream`, is all that a device needs:
numpy, an engine and the file.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import wenable as we
from wenable.data import SceneSettings, scenes
from wenable.measure import NoMeter
from wenable.profiling import ProfilePlan, measure_modes, profile
from wenable.runtime import Session

CLASSES = 11
"""Ten digits, and the background behind them."""


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Return two convolutions with their norms."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two levels down and up again; what was before a level is put beside what comes back from it."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.second = block(1, width), block(width, 2 * width)
        self.bottom = block(2 * width, 2 * width)
        self.up_second, self.up_first = block(4 * width, width), block(2 * width, width)
        self.head = nn.Conv2d(width, CLASSES, 1)
        self.down, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return class scores for each pixel, `(N, CLASSES, H, W)`."""
        first = self.first(x)
        second = self.second(self.down(first))
        bottom = self.up(self.bottom(self.down(second)))
        second = self.up(self.up_second(torch.cat([second, bottom], 1)))
        return {"masks": self.head(self.up_first(torch.cat([first, second], 1)))}


def loss(outputs: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy over pixels; digits cover few of them and count five times."""
    weight = torch.tensor([5.0] * (CLASSES - 1) + [1.0])
    return nn.functional.cross_entropy(outputs["masks"], pixels, weight)


class MeanIoU:
    """The overlap of what is found with what is there, as a share of their union, mean over classes."""

    higher_is_better = True

    def __init__(self) -> None:
        self.pairs = torch.zeros(CLASSES, CLASSES, dtype=torch.long)

    def update(self, outputs: dict[str, torch.Tensor], pixels: torch.Tensor) -> None:
        """Count the pixels of each class that were taken for each."""
        pairs = CLASSES * pixels + outputs["masks"].argmax(1)
        self.pairs += pairs.flatten().bincount(minlength=CLASSES**2).view(CLASSES, CLASSES)

    def compute(self) -> torch.Tensor:
        """Return the mean over classes; one that is neither there nor found overlaps not at all."""
        both = self.pairs.diagonal()
        return (both / (self.pairs.sum(0) + self.pairs.sum(1) - both).clamp(min=1)).mean()


def split(count: int, part: str, seed: int) -> TensorDataset:
    """Return scenes and the class of each of their pixels."""
    settings = SceneSettings(size=32, distance=(8.0, 12.0))
    found = scenes(count, part=part, settings=settings, seed=seed)  # type: ignore[arg-type]
    pixels = torch.full((count, 32, 32), CLASSES - 1)
    for number in range(found.masks.shape[1]):
        seen = found.masks[:, number]
        pixels[seen] = found.classes[:, number, None, None].expand_as(seen)[seen]
    return TensorDataset((found.images - 0.17) / 0.27, pixels)


def make_bundle(path: Path, images: int, epochs: int, width: int) -> None:
    """Train all modes, find those worth having by mean IoU and latency on the engine, and export them."""
    torch.manual_seed(0)
    training = split(images, "train", 0)
    search = list(DataLoader(split(images // 4, "search", 1), 64))
    net = we.convert(UNet(width), torch.zeros(1, 1, 32, 32), method=we.WeightEnabling((1, 2, 4)))
    loader = DataLoader(training, 32, shuffle=True, drop_last=True)
    config = we.TrainConfig(passes=4, epochs=epochs, learning_rate=0.1)
    we.train(net, loader, config, loss=loss)

    # What each option of each layer takes on this device, on the engine that will run it.
    calibration = list(DataLoader(training, 64))[:2]
    we.calibrate(net, net.space.uniform_modes(), calibration)
    probe = we.export(net, net.space.uniform_modes(), path.with_name("probe.wen"))
    plan, meter = ProfilePlan(mixtures=6, table_modes=20), NoMeter("not asked for")
    measured = profile(probe, engine="onnxruntime", threads=1, plan=plan, meter=meter)

    front = we.explore(
        net, search, calibration, metric=MeanIoU, min_accuracy=0.0,
        cost="latency", table=measured.table, strategy=we.Knapsack(count=4, rounds=1),
    )  # fmt: skip
    for point in front:
        print(f"{point.accuracy}  predicted {point.cost}  mode {point.mode}")
    # A session runs the most accurate mode in time, by the figures that it is given here.
    readings = {point.mode: {"accuracy": point.accuracy} for point in front}
    we.export(net, front.modes, path, readings=readings)


def boxes(masks: np.ndarray) -> list[tuple[int, int, int, int, int]]:
    """Return class and box of each digit in a frame: what a device does with masks, in numpy."""
    found = []
    taken = masks.argmax(0)
    for digit in range(CLASSES - 1):
        rows, columns = np.nonzero(taken == digit)
        if len(rows) >= 12:  # pixels: less is noise
            found.append((digit, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return found


def in_turn(session: Session, frames: np.ndarray, mode: str) -> list[float]:
    """Return how long each frame takes in one mode, in ms, with all that is done to its masks."""
    taken = []
    for frame in frames:
        started = time.perf_counter()
        boxes(session.run(frame[None], mode=mode)["masks"][0])
        taken.append(1e3 * (time.perf_counter() - started))
    return taken


def stream(path: Path, frames: np.ndarray) -> None:
    """Answer frames under a deadline, every third of them a short one, and compare with fixed modes."""
    with Session(path, engine="onnxruntime", threads=1) as session:
        session.warm_up()
        merits = {str(each.mode): each.readings["accuracy"] for each in session.bundle.modes}
        for mode, latency in measure_modes(session).items():
            print(f"measured: {merits[mode]}, {latency}, mode {mode}")
        alone = {mode: in_turn(session, frames, mode) for mode in session.modes}
        typical = {mode: float(np.median(times)) for mode, times in alone.items()}
        slowest, fastest = max(typical.values()), min(typical.values())
        deadlines = np.full(len(frames), 2 * slowest)
        deadlines[2::3] = (slowest + fastest) / 2  # when other work takes the rest of the time

        taken, ran = [], []
        for frame, deadline_ms in zip(frames, deadlines, strict=True):
            started = time.perf_counter()
            boxes(session.run(frame[None], deadline_ms=deadline_ms)["masks"][0])
            taken.append(1e3 * (time.perf_counter() - started))
            ran.append(session.controller().outcomes[-1].name)
        quality = np.mean([merits[mode].known for mode in ran])
        print(f"deadlines of {deadlines.max():.2f} ms, every third of {deadlines.min():.2f} ms")
        hits = np.mean(np.array(taken) <= deadlines)
        print(f"switching: {hits:4.0%} in time, mean IoU {quality:.3f}, {dict(Counter(ran))}")
        for mode, times in alone.items():
            hits = np.mean(np.array(times) <= deadlines)
            print(f"always {mode}: {hits:4.0%} in time, {merits[mode]}, {typical[mode]:.2f} ms")


def main() -> None:
    """Make the file, then run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024, help="training scenes")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=int, default=32, help="channels of the first level")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unet.wen"
        make_bundle(path, given.images, given.epochs, given.width)
        frames = split(60, "test", 2).tensors[0].numpy()
        stream(path, frames)


if __name__ == "__main__":
    main()
