"""Data sets by name or folder, as training, calibration, searches and tests go through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wenable.core.outcomes import Outcomes
from wenable.core.preprocessing import Preprocessing
from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.data import ImageBatches, TensorBatches, batches, image_folder
from wenable.data.image_folder import FolderSplits, ImageFiles
from wenable.data.kept import KeptBatches
from wenable.data.summary import summary
from wenable.data.transforms import ImageSettings, evaluation_transform, training_transform
from wenable.modules.processes import rank, world_size
from wenable.network.calibration import calibrate
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.evaluation import evaluate_each
from wenable.training.config import TrainConfig
from wenable.training.in_memory import IN_MEMORY
from wenable.training.recipes import Recipe, recipe_named

SEARCH_CALIBRATION = (256, 2048)
"""The fewest and the most images on which a search calibrates a mode where nothing is said."""


@dataclass(frozen=True)
class Data:
    """The splits of a data set, ready to go through.

    - `training_batches`: batch size and seed -> a loader for `train`.
    - `calibration`, `search`, `test`: batches that can be gone through again and again.
    - `example`: a batch of one image of zeros.
    - `preprocessing`: how an image becomes the network's input, where images are read from files.
    - `summary`: lines that say what the folder of images holds.
    """

    training_batches: Callable[[int, int], Any]
    calibration: Any
    search: Any
    test: Any
    example: torch.Tensor
    preprocessing: Preprocessing | None = None
    summary: tuple[str, ...] = ()


def load_data(
    name: str,
    recipe: Recipe | None = None,
    *,
    splits: FolderSplits | None = None,
    workers: int = 0,
    skip_bad: bool = False,
) -> Data:
    """Return a data set by name, or the images under a folder.

    - `splits`: those of the folder, where they are known already.
    - `recipe`: says how images of a folder are prepared, and how many serve calibration.
    - `workers`, `skip_bad`: as in `ImageBatches`.

    Raises `ValueError` for an unknown name, `FileNotFoundError` for a folder without images.
    """
    if name in IN_MEMORY:
        return _in_memory(name)
    splits = find_splits(name) if splits is None else splits
    recipe = recipe_named("cifar") if recipe is None else recipe
    if recipe.images is None:
        raise ValueError(f"`data` (={name!r}) is a folder of images, which this recipe is not for")
    learn, look = training_transform(recipe.images), evaluation_transform(recipe.images)
    common: dict[str, Any] = {"workers": workers, "skip_bad": skip_bad}

    def training_batches(size: int, seed: int) -> ImageBatches:
        if size % world_size():
            raise ValueError(
                f"`batch_size` (={size}) must be a multiple of the {world_size()} processes"
            )
        own = size // world_size()
        return ImageBatches(splits.train, learn, own, shuffle=True, seed=seed, **share, **common)

    def evaluated(files: ImageFiles, **share: int) -> ImageBatches:
        size = min(256, len(files) // share.get("processes", 1))
        return ImageBatches(files, look, size, **share, **common)

    share = {"process": rank(), "processes": world_size()}
    some = splits.train.some(recipe.calibration_images)
    return Data(
        training_batches,
        evaluated(some, **share),  # pooled over the processes
        evaluated(splits.search),
        evaluated(splits.test),
        torch.zeros(1, 3, recipe.images.size, recipe.images.size),
        recipe.images.preprocessing(splits.train.classes),
        tuple(summary(splits)),
    )


def find_splits(name: str) -> FolderSplits:
    """Return the images under a folder; raises as `image_folder` does, for other names too."""
    if not Path(name).is_dir():
        allowed = ", ".join(IN_MEMORY)
        raise ValueError(
            f"`data` (={name!r}) is unknown; allowed: {allowed}, or a folder of images"
        )
    return image_folder(name)


def load_data_to_search(
    net: DynamicNetwork,
    name: str,
    calibration_images: int | None = None,
    *,
    skip_bad: bool = False,
) -> Data:
    """Return a data set for a search, which goes through its images for every mode: kept in memory.

    - `calibration_images`: how many training images each mode is calibrated on. By default as many as
      the search split has, so that neither takes much longer than the other, from 256 to 2,048.
    - `skip_bad`: leave out images of a folder that cannot be read.

    Raises `ValueError` where that is below 1, and as `load_data_for`.
    """
    if calibration_images is not None and calibration_images < 1:
        raise ValueError(f"`calibration_images` (={calibration_images}) must be at least 1")
    if name in IN_MEMORY:
        data = _in_memory(name, calibration_images)
    else:
        splits = find_splits(name)
        least, most = SEARCH_CALIBRATION
        count = calibration_images or min(max(len(splits.search), least), most)
        data = load_data_for(net, name, calibration_images=count, splits=splits, skip_bad=skip_bad)
    kept = [KeptBatches(each) for each in (data.calibration, data.search)]
    return replace(data, calibration=kept[0], search=kept[1])


def load_data_for(
    net: DynamicNetwork,
    name: str,
    *,
    calibration_images: int | None = None,
    splits: FolderSplits | None = None,
    skip_bad: bool = False,
) -> Data:
    """Return a data set by name or folder, its images prepared as a saved network wants them.

    - `calibration_images`: how many training images serve calibration; 2,048 by default.
    - `splits`: those of the folder, if they were looked for before.
    - `skip_bad`: leave out images of a folder that cannot be read.

    Raises `ValueError` where the network does not say how, or has other classes.
    """
    if name in IN_MEMORY:
        return load_data(name)
    wanted = net.preprocessing
    if wanted is None:
        raise ValueError(
            "the network does not say how its images are prepared: set `net.preprocessing` before"
            " it is saved; `wenable train` does"
        )
    recipe = Recipe(TrainConfig(), ImageSettings.of_evaluation(wanted), batch_size=1)
    if calibration_images is not None:
        recipe = replace(recipe, calibration_images=calibration_images)
    data = load_data(name, recipe, splits=splits, skip_bad=skip_bad)
    found = data.preprocessing.labels if data.preprocessing else ()
    if wanted.labels and found != wanted.labels:
        raise ValueError(
            f"`data` (={name!r}) has {len(found)} classes ({', '.join(found[:3])}, ...), the network"
            f" was trained for {len(wanted.labels)} ({', '.join(wanted.labels[:3])}, ...)"
        )
    return data


def _in_memory(name: str, calibration: int | None = None) -> Data:
    """Return a data set that is made in memory; `calibration`: how many images serve that."""
    if world_size() > 1:
        raise ValueError(f"`data` (={name!r}) is too small a set for several processes; use one")
    known = IN_MEMORY[name]
    splits = known.make()
    images = range(min(calibration or known.calibration, len(splits.train)))
    first = torch.utils.data.Subset(splits.train, images)

    def training_batches(size: int, seed: int) -> TensorBatches:
        return TensorBatches(splits.train, size, seed=seed)

    return Data(
        training_batches,
        list(torch.utils.data.DataLoader(first, known.calibration)),
        list(batches(splits.search, 300)),
        list(batches(splits.test, 250)),
        torch.zeros_like(splits.train[0][0]).unsqueeze(0),
    )


def accuracies(
    net: DynamicNetwork, modes: Iterable[Mode], data: Data, split: str
) -> dict[Mode, Reading]:
    """Calibrate each mode where it is not yet, and return its accuracy on a split."""
    return {mode: each[0] for mode, each in evaluations(net, modes, data, split).items()}


def evaluations(
    net: DynamicNetwork, modes: Iterable[Mode], data: Data, split: str
) -> dict[Mode, tuple[Reading, Outcomes]]:
    """Calibrate each mode where it is not yet; return its accuracy, and which examples were right."""
    found: dict[Mode, tuple[Reading, Outcomes]] = {}
    examples = data.test if split == "test" else data.search
    for mode in dict.fromkeys(modes):
        if not net.is_calibrated(mode):
            calibrate(net, mode, data.calibration)
        found[mode] = evaluate_each(net, mode, examples, split=f"the {split} split")
    return found
