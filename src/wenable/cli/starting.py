"""A network by name and the data it is trained on, made to fit each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from wenable.cli.opening import Opened, Wanted, open_network
from wenable.data import FolderSplits, ImageSettings
from wenable.data.summary import common_size
from wenable.training.data_sets import Data, find_splits, load_data
from wenable.training.in_memory import IN_MEMORY
from wenable.training.recipes import Recipe
from wenable.zoo import MadeFor

_SMALL = 64  # up to this size images are shifted and flipped, larger ones cropped at random scale


@dataclass(frozen=True)
class Start:
    """What a run starts with, and the lines that say so."""

    model: torch.nn.Module
    data: Data
    recipe: Recipe
    lines: list[str]


def network_and_data(
    name: str,
    data_name: str,
    recipe: Recipe,
    wanted: Wanted,
    *,
    recipe_named: bool,
    workers: int = 0,
    skip_bad: bool = False,
) -> Start:
    """Return a network with as many classes as the data has, and the data as the network wants it.

    - `recipe_named`: whether the user named the recipe: then its images count before those that the
      network was made for.

    Raises `ValueError` where they do not fit, `FileNotFoundError` without the data.
    """
    if data_name in IN_MEMORY:
        known = IN_MEMORY[data_name]
        if wanted.image_size is not None:
            raise ValueError(
                f"`--image-size` (={wanted.image_size}) is for folders of images; the {data_name} are"
                f" {known.side}x{known.side}"
            )
        opened, classes = _opened(name, wanted, known.classes, f"the {data_name}")
        data = load_data(data_name, recipe)
        return Start(opened.model, data, recipe, [f"{name}: {classes}", *opened.notes])
    splits = find_splits(data_name)
    opened, classes = _opened(name, wanted, len(splits.train.classes), data_name)
    images, why = image_settings(
        opened, splits, wanted.image_size, recipe.images if recipe_named else None
    )
    recipe = replace(recipe, images=images)
    data = load_data(data_name, recipe, splits=splits, workers=workers, skip_bad=skip_bad)
    line = f"{name}: {classes}, images of {images.size}x{images.size} pixels ({why})"
    return Start(opened.model, data, recipe, [line, *opened.notes, *data.summary])


def _opened(name: str, wanted: Wanted, found: int, where: str) -> tuple[Opened, str]:
    """Return the network with as many classes as are wanted or found, and words for their number."""
    asked = wanted.classes
    if asked is not None and asked < found:
        raise ValueError(
            f"`--num-classes` (={asked}) must be at least the {found} classes of {where}"
        )
    opened = open_network(name, replace(wanted, classes=asked or found))
    return opened, f"{asked or found} classes ({'as asked for' if asked else f'those of {where}'})"


def image_settings(
    opened: Opened, splits: FolderSplits, image_size: int | None, recipe: ImageSettings | None
) -> tuple[ImageSettings, str]:
    """Return how the images of a folder are prepared for a network, and where its size comes from.

    - `recipe`: the settings of a recipe that was named, which count before the network's own.

    Raises `ValueError` where nothing tells a size, or the network reads no images of three channels.
    """
    told = opened.made_for
    if told is not None and told.input_size[0] != 3:
        raise ValueError(
            f"the network reads inputs of shape {told.input_size}; images of a folder have 3 channels"
        )
    if recipe is not None:
        if image_size is None:
            return recipe, "of the recipe"
        return replace(recipe, size=image_size), "as asked for"
    size, why = _size(told, splits, image_size)
    small = size <= _SMALL
    settings = ImageSettings(
        size, crops="padded" if small else "resized", crop_pct=1.0 if small else 0.875
    )
    own: dict[str, Any] = {}
    for key in ("mean", "std", "crop_pct", "interpolation"):
        if told is not None and getattr(told, key) is not None:
            own[key] = getattr(told, key)
    return replace(settings, **own), why


def _size(told: MadeFor | None, splits: FolderSplits, asked: int | None) -> tuple[int, str]:
    if asked is not None:
        return asked, "as asked for"
    if told is not None:
        sides = told.input_size[1:]
        if len(sides) != 2 or sides[0] != sides[1]:
            raise ValueError(
                f"the network was made for inputs of shape {told.input_size}; name the size of square"
                " images by --image-size"
            )
        return sides[0], "what the network was made for"
    size = common_size(splits.train)
    if size is None:
        raise ValueError(
            "the network does not say for which images it was made, and the images differ in size:"
            " name one by --image-size, or give the network an attribute `input_size`, as (3, 224, 224)"
        )
    return size, "the size of the images"
