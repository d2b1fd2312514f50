"""What the detector's example does outside the network: boxes to targets and back, overlap, the loss."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, generalized_box_iou_loss

import wenable as we

PATH = Path(__file__).parents[2] / "examples" / "detection.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(PATH), run_name="detection")


def perfect(example: dict[str, Any], target: dict[str, torch.Tensor], cells: int) -> dict[str, Any]:
    """Outputs that are as sure and as right as can be, written place by place."""
    scores, sides = torch.full((1, 10, cells, cells), -20.0), torch.zeros(1, 4, cells, cells)
    for row in range(cells):
        for column in range(cells):
            x, y = (4 * (each + 0.5) for each in (column, row))
            here = [
                ((r - a) * (b - t), label, (x - a, y - t, r - x, b - y))
                for (a, t, r, b), label in zip(
                    target["boxes"].tolist(), target["labels"].tolist(), strict=True
                )
                if a < x < r and t < y < b
                and abs(x - (a + r) / 2) <= 6 and abs(y - (t + b) / 2) <= 6
            ]  # fmt: skip
            if here:
                _, label, reach = min(here)
                scores[0, label, row, column] = 20.0
                sides[0, :, row, column] = (torch.tensor(reach) / 4).log()
    return {"scores": scores, "sides": sides}


def test_perfect_outputs_are_the_boxes_that_they_were_made_of(example):
    data = example["digits_in_clutter"](12, "test", 3)
    for _, target in data:
        outputs = perfect(example, target, 12)
        assert float(example["loss"](outputs, [target])) < 1e-3
        boxes, _, labels = example["decode"](
            outputs["scores"][0].numpy(), outputs["sides"][0].numpy()
        )
        order = np.lexsort((*boxes.T, labels))
        wanted = np.concatenate([target["boxes"], target["labels"][:, None]], 1)
        wanted = wanted[np.lexsort((*wanted[:, :4].T, wanted[:, 4]))]
        assert np.allclose(np.concatenate([boxes, labels[:, None]], 1)[order], wanted, atol=1e-3)
    # The metric says the same of all of them together.
    metric: we.Metric = example["MAP"]
    judge = metric.fresh()
    for _, target in data:
        judge.update(*metric.arguments(perfect(example, target, 12), [target]))
    assert metric.number(judge.compute()) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_overlapping_boxes_are_left_out_as_torchvision_does(example, seed):
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 30, (60, 2))
    boxes = np.concatenate([first, first + rng.uniform(4, 25, (60, 2))], 1).astype(np.float32)
    labels, sure = rng.integers(0, 3, 60), np.sort(rng.uniform(0, 1, 60))[::-1].copy()
    wanted = batched_nms(*map(torch.from_numpy, (boxes, sure.astype(np.float32), labels)), 0.5)
    assert example["apart"](boxes, labels) == wanted.tolist()
    assert example["apart"](boxes[:0], labels[:0]) == []


def test_the_loss_is_that_of_the_places_one_by_one(example):
    torch.manual_seed(0)
    (_, one), (_, two) = example["digits_in_clutter"](2, "train", 0)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    targets = [one, two, none]
    outputs = {"scores": torch.randn(3, 10, 12, 12), "sides": torch.randn(3, 4, 12, 12)}
    focal = overlap = found = 0.0
    for i, target in enumerate(targets):
        sure = perfect(example, target, 12)
        for row in range(12):
            for column in range(12):
                there = sure["scores"][0, :, row, column] > 0
                share = outputs["scores"][i, :, row, column].sigmoid()
                right = torch.where(there, share, 1 - share)
                weight = torch.where(there, 0.25, 0.75)
                focal += float((-weight * (1 - right) ** 2 * right.log()).sum())
                if there.any():
                    middle = 4 * (torch.tensor([column, row]) + 0.5)
                    boxes = []
                    for each in (
                        outputs["sides"][i, :, row, column],
                        sure["sides"][0, :, row, column],
                    ):
                        reach = 4 * each.exp()
                        boxes.append(torch.cat([middle - reach[:2], middle + reach[2:]]))
                    overlap += float(generalized_box_iou_loss(*boxes))
                    found += 1
    assert found > 0
    assert float(example["loss"](outputs, targets)) == pytest.approx(
        (focal + overlap) / found, rel=1e-4
    )


def test_images_without_boxes_have_a_loss_too(example):
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    outputs = {
        "scores": torch.zeros(1, 10, 4, 4, requires_grad=True),
        "sides": torch.zeros(1, 4, 4, 4, requires_grad=True),
    }
    value = example["loss"](outputs, [none])
    value.backward()
    assert value > 0
    assert bool(outputs["sides"].grad.isfinite().all())
