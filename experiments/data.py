"""The images of an experiment, read once and kept: every method sees the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.budget import Budget
from wenable.data import ImageBatches
from wenable.data.image_folder import ImageFiles
from wenable.data.transforms import evaluation_transform
from wenable.training.data_sets import load_data

MOST_KEPT_BYTES = 4 * 2**30
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class ExperimentData:
    """The splits of a comparison.

    - `training`: batch size and seed -> a loader; `calibration`: of training images, not augmented.
    - `search`: training never saw it; modes and fronts are chosen on it. `test`: only reported.
    """

    training: Callable[[int, int], Any]
    calibration: Batches | ImageBatches
    search: Batches | ImageBatches
    test: Batches | ImageBatches
    example: torch.Tensor


def load(folder: Path, budget: Budget) -> ExperimentData:
    """Return the data under `folder` (`train/CLASS/*`, `test/CLASS/*`), as a budget wants them.

    Raises `FileNotFoundError` where the folder is missing, with where to put the data.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`--data` (={folder}) does not exist; it must hold train/CLASS/* and test/CLASS/* images"
        )
    recipe = budget.recipe_for(0)
    assert recipe.images is not None
    data, look = load_data(str(folder), recipe), evaluation_transform(recipe.images)
    return ExperimentData(
        data.training_batches,
        _kept(data.calibration.files, None, look),
        _kept(data.search.files, budget.search_images, look),
        _kept(data.test.files, budget.test_images, look),
        torch.zeros(2, *data.example.shape[1:]),
    )


def _kept(
    files: ImageFiles, count: int | None, look: Callable[[Any], torch.Tensor]
) -> Batches | ImageBatches:
    """Return all images of a split, or `count` at random, always the same.

    They are decoded once and kept, unless they would fill the memory: then they are read each time.
    """
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    samples = tuple(files.samples[i] for i in order[:count].sort().values.tolist())
    some = ImageBatches(ImageFiles(samples, files.classes), look, min(250, len(samples)))
    first = next(iter(some))[0][0]
    if first.numel() * first.element_size() * len(samples) > MOST_KEPT_BYTES:
        return some
    return list(some)
