"""Detection from end to end: an anchor-free detector, mAP, a front by latency, a bundle, frames in time.

Run it with `python examples/detection.py`, or with `--images 64 --epochs 1 --width 8` to see it work
without learning much. Handwritten digits stand anywhere in a scene, among pieces of others; `--coco
IMAGES ANNOTATIONS` takes a folder of your own in COCO's format instead. The network gives scores and
distances alone; boxes are made of them outside, in numpy (`decode`), by the metric and on the device
alike. The last part, `stream`, is all that a device needs: numpy, an engine and the file.
"""

import argparse
import math
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

import wenable as we
from wenable.data import SceneSettings, coco_folder, scenes, with_boxes
from wenable.measure import NoMeter
from wenable.profiling import ProfilePlan, measure_modes, profile
from wenable.runtime import Session

STRIDE = 4
"""The network looks for a box at every fourth pixel of every fourth row."""

Target = dict[str, torch.Tensor]
"""`boxes`, `(K, 4)`: left, top, right, bottom in pixels; `labels`, `(K,)`."""


# --- the network and its loss ---------------------------------------------------------------------


class Detector(nn.Module):
    """An FCOS with one stride: for each place the scores of all classes, and a box around it."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        shapes = ((channels, width, 2), (width, width, 1), (width, 2 * width, 2))
        shapes += ((2 * width, 2 * width, 1),) * 5
        layers: list[nn.Module] = []
        for inputs, outputs, stride in shapes:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.scores = nn.Conv2d(2 * width, classes, 3, padding=1)
        self.sides = nn.Conv2d(2 * width, 4, 3, padding=1)
        # Nearly every place is background: begin there, as the paper of the focal loss does.
        nn.init.constant_(self.scores.bias, -math.log(99))  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `scores`, `(N, classes, H, W)`, and `sides`, `(N, 4, H, W)`, logarithms of strides."""
        found = self.trunk(x)
        return {"scores": self.scores(found), "sides": self.sides(found)}


def assigned(target: Target, height: int, width: int) -> tuple[torch.Tensor, ...]:
    """Return what each place is to find: whether a box, of which class, and the box itself.

    A place near the middle of a box, and within it, is to find it; of several boxes the smallest.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = STRIDE * (torch.stack([columns, rows], -1).view(-1, 1, 2) + 0.5)
    boxes, labels = target["boxes"].float(), target["labels"]
    if not len(boxes):
        none = torch.zeros(len(places), dtype=torch.long)
        return none.bool(), none, torch.zeros(len(places), 4)
    first, last = boxes[:, :2], boxes[:, 2:]
    within = ((places > first) & (places < last)).all(-1)
    near = ((places - (first + last) / 2).abs() <= 1.5 * STRIDE).all(-1)
    areas = torch.where(within & near, (last - first).prod(-1), math.inf)
    smallest = areas.argmin(1)
    return (within & near).any(1), labels[smallest], boxes[smallest]


def loss(outputs: dict[str, torch.Tensor], targets: list[Target]) -> torch.Tensor:
    """Return the focal loss of all places and the generalised IoU of those that are to find a box."""
    scores, sides = (outputs[name].flatten(2).transpose(1, 2) for name in ("scores", "sides"))
    height, width = outputs["scores"].shape[2:]
    parts = [assigned(target, height, width) for target in targets]
    found, labels, boxes = (torch.stack(each) for each in zip(*parts, strict=True))
    classes = nn.functional.one_hot(labels, scores.shape[2]) * found.unsqueeze(2)
    focal = sigmoid_focal_loss(scores, classes.float(), reduction="sum")
    number = torch.arange(height * width)
    middles = STRIDE * (torch.stack([number % width, number // width], 1) + 0.5)
    reach = STRIDE * sides.clamp(-4, 4).exp()
    told = torch.cat([middles - reach[..., :2], middles + reach[..., 2:]], 2)
    overlap = generalized_box_iou_loss(told[found], boxes[found], reduction="sum")
    return (focal + overlap) / found.sum().clamp(min=1)


# --- from outputs to boxes, in numpy ----------------------------------------------------------------


def decode(
    scores: np.ndarray, sides: np.ndarray, least: float = 0.05, most: int = 100
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes `(D, 4)`, scores `(D,)` and labels `(D,)` of one frame, the surest first.

    - `scores`: `(classes, H, W)`; `sides`: `(4, H, W)`, as the network gives them.
    - `least`: the score under which nothing is a box; `most`: how many of the surest are looked at.
    """
    shares = 1 / (1 + np.exp(-scores.clip(-30, 30)))
    labels, rows, columns = np.nonzero(shares >= least)
    sure = shares[labels, rows, columns]
    order = np.argsort(-sure, kind="stable")[:most]
    labels, rows, columns, sure = labels[order], rows[order], columns[order], sure[order]
    middles = STRIDE * (np.stack([columns, rows], 1) + 0.5)
    reach = STRIDE * np.exp(sides[:, rows, columns].T.clip(-4, 4))
    boxes = np.concatenate([middles - reach[:, :2], middles + reach[:, 2:]], 1)
    kept = apart(boxes, labels)
    return boxes[kept].astype(np.float32), sure[kept], labels[kept]


def apart(boxes: np.ndarray, labels: np.ndarray, most: float = 0.5) -> list[int]:
    """Return which boxes stay: none that a surer one of its class overlaps by more than `most` (IoU)."""
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    sizes = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clip(0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    both = sizes.prod(2)
    overlap = both / (areas[:, None] + areas[None] - both)
    rivals = (overlap > most) & (labels[:, None] == labels[None])
    kept: list[int] = []
    for i in range(len(boxes)):
        if not rivals[i, kept].any():
            kept.append(i)
    return kept


def detections(
    outputs: dict[str, torch.Tensor], targets: list[Target]
) -> tuple[list[Target], list[Target]]:
    """Return what the metric compares: boxes as a device decodes them, and those of the targets."""
    found = []
    for scores, sides in zip(outputs["scores"].numpy(), outputs["sides"].numpy(), strict=True):
        boxes, sure, labels = map(torch.from_numpy, decode(scores, sides))
        found.append({"boxes": boxes, "scores": sure, "labels": labels})
    return found, targets


MAP = we.Metric(MeanAveragePrecision(), key="map", name="mAP", adapt=detections)


# --- data -------------------------------------------------------------------------------------------


def digits_in_clutter(count: int, part: str, seed: int) -> list[tuple[torch.Tensor, Target]]:
    """Return scenes with the boxes of their digits; one that is hardly seen counts as clutter."""
    places = {"shift": 14.0, "distance": (12.0, 22.0), "scale": (1.4, 2.0)}
    settings = SceneSettings(size=48, digits=2, fragments=3, brightness=(0.7, 1.0), **places)
    found = scenes(count, part=part, settings=settings, seed=seed)  # type: ignore[arg-type]
    seen = found.masks.flatten(2).sum(2) >= 20  # pixels
    images = (found.images - 0.17) / 0.27
    return [
        (images[i], {"boxes": found.boxes[i][seen[i]].float(), "labels": found.classes[i][seen[i]]})
        for i in range(count)
    ]


def splits(images: int, coco: list[str] | None) -> tuple[list[Any], int]:
    """Return the data for training, search and stream, and how many classes there are."""
    if coco is None:
        counts = {"train": images, "search": images // 4, "test": 60}
        parts = [digits_in_clutter(n, part, i) for i, (part, n) in enumerate(counts.items())]
        return parts, 10
    found = coco_folder(*coco, side=128)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    ends = int(0.7 * len(order)), int(0.85 * len(order))
    parts = [order[: ends[0]][:images], order[ends[0] : ends[1]], order[ends[1] :][:60]]
    return [Subset(found, each) for each in parts], len(found.classes)


# --- the whole way ----------------------------------------------------------------------------------


def make_bundle(path: Path, parts: list[Any], classes: int, epochs: int, width: int) -> None:
    """Train all modes, find those worth having by mAP and latency on the engine, and export them."""
    torch.manual_seed(0)
    example = parts[0][0][0].unsqueeze(0)
    model = Detector(example.shape[1], classes, width)
    net = we.convert(model, example, method=we.WeightEnabling((1, 2, 4)))
    loader = DataLoader(parts[0], 16, shuffle=True, drop_last=True, collate_fn=with_boxes)
    config = we.TrainConfig(
        passes=4, epochs=epochs, optimizer="adamw", learning_rate=5e-3, clip_grad=10.0
    )
    we.train(net, loader, config, loss=loss)

    # What each option of each layer takes on this device, on the engine that will run it.
    calibration = list(DataLoader(parts[0], 64, collate_fn=with_boxes))[:2]
    we.calibrate(net, net.space.uniform_modes(), calibration)
    probe = we.export(net, net.space.uniform_modes(), path.with_name("probe.wen"))
    plan, meter = ProfilePlan(mixtures=6, table_modes=20), NoMeter("not asked for")
    measured = profile(probe, engine="onnxruntime", threads=1, plan=plan, meter=meter)

    search = list(DataLoader(parts[1], 64, collate_fn=with_boxes))
    front = we.explore(
        net, search, calibration, metric=MAP, min_accuracy=0.0,
        cost="latency", table=measured.table, strategy=we.Knapsack(count=4, rounds=1),
    )  # fmt: skip
    for point in front:
        print(f"{point.accuracy}  predicted {point.cost}  mode {point.mode}")
    # A session runs the most accurate mode in time, by the figures that it is given here.
    readings = {point.mode: {"accuracy": point.accuracy} for point in front}
    we.export(net, front.modes, path, readings=readings)


def answered(session: Session, frame: np.ndarray, **how: Any) -> tuple[float, float]:
    """Return how long a frame takes, in ms, and how much of that goes into making boxes of the outputs."""
    started = time.perf_counter()
    found = session.run(frame[None], **how)
    ran = time.perf_counter()
    decode(found["scores"][0], found["sides"][0], least=0.3)
    ended = time.perf_counter()
    return 1e3 * (ended - started), 1e3 * (ended - ran)


def stream(path: Path, frames: np.ndarray) -> None:
    """Answer frames under a deadline, every third of them a short one, and compare with fixed modes."""
    with Session(path, engine="onnxruntime", threads=1) as session:
        session.warm_up()
        merits = {str(each.mode): each.readings["accuracy"] for each in session.bundle.modes}
        for mode, latency in measure_modes(session).items():
            print(f"measured: {merits[mode]}, {latency}, mode {mode}")
        alone = {
            mode: np.array([answered(session, frame, mode=mode) for frame in frames])
            for mode in session.modes
        }
        typical = {mode: float(np.median(times[:, 0])) for mode, times in alone.items()}
        slowest, fastest = max(typical.values()), min(typical.values())
        deadlines = np.full(len(frames), 2 * slowest)
        deadlines[2::3] = (slowest + fastest) / 2  # when other work takes the rest of the time
        # The session knows its own part only: it gets what decoding leaves of a deadline.
        decoding = float(
            np.quantile(np.concatenate([times[:, 1] for times in alone.values()]), 0.9)
        )

        taken, ran = [], []
        for frame, deadline_ms in zip(frames, deadlines, strict=True):
            left_ms = max(deadline_ms - decoding, 0.01)
            taken.append(answered(session, frame, deadline_ms=left_ms)[0])
            ran.append(session.controller().outcomes[-1].name)
        quality = np.mean([merits[mode].known for mode in ran])
        print(
            f"deadlines of {deadlines.max():.2f} ms, every third of {deadlines.min():.2f} ms, of which"
            f" decoding takes {decoding:.2f} ms"
        )
        hits = np.mean(np.array(taken) <= deadlines)
        print(f"switching: {hits:4.0%} in time, mAP {quality:.3f}, {dict(Counter(ran))}")
        for mode, times in alone.items():
            hits = np.mean(times[:, 0] <= deadlines)
            print(f"always {mode}: {hits:4.0%} in time, {merits[mode]}, {typical[mode]:.2f} ms")


def main() -> None:
    """Make the file, then run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024, help="training images, at most")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--width", type=int, default=16, help="channels of the first layers")
    parser.add_argument("--coco", nargs=2, metavar=("IMAGES", "ANNOTATIONS"), help="your own data")
    given = parser.parse_args()
    parts, classes = splits(given.images, given.coco)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.wen"
        make_bundle(path, parts, classes, given.epochs, given.width)
        stream(path, np.stack([np.asarray(image) for image, _ in parts[2]]))


if __name__ == "__main__":
    main()
