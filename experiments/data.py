"""The images of an experiment, read once and kept: every method sees the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.budget import Budget
from wenable.cli.work import load_data

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class ExperimentData:
    """The splits of a comparison.

    - `training`: batch size and seed -> a loader; `calibration`: of training images, not augmented.
    - `search`: training never saw it; modes and fronts are chosen on it. `test`: only reported.
    """

    training: Callable[[int, int], Any]
    calibration: Batches
    search: Batches
    test: Batches
    example: torch.Tensor


def load(folder: Path, budget: Budget) -> ExperimentData:
    """Return the data under `folder` (`train/CLASS/*`, `test/CLASS/*`), as a budget wants them.

    Raises `FileNotFoundError` where the folder is missing, with where to put the data.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`--data` (={folder}) does not exist; it must hold train/CLASS/* and test/CLASS/* images"
        )
    data = load_data(str(folder), budget.recipe_for(0))
    return ExperimentData(
        data.training_batches,
        _kept(data.calibration, None),
        _kept(data.search, budget.search_images),
        _kept(data.test, budget.test_images),
        torch.zeros(2, *data.example.shape[1:]),
    )


def _kept(batches: Any, count: int | None) -> Batches:
    """Return all images of a split, or `count` at random, always the same, decoded once."""
    images, labels = map(torch.cat, zip(*batches, strict=True))
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:count]
    order = chosen.sort().values
    return list(zip(images[order].split(250), labels[order].split(250), strict=True))
