"""The further sizes of images that a bundle is to take: checked, and the network's inputs at each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from wenable.core.reasons import first_line
from wenable.modules.copying import copy_network
from wenable.modules.outputs import tensors_of
from wenable.modules.passes import in_eval_mode, same_random_numbers
from wenable.network.dynamic_network import DynamicNetwork

Sides = tuple[int, int]
"""Height and width."""
_MOST = 64
_IMAGE_RANK = 4


def checked_sizes(net: DynamicNetwork, image_sizes: Iterable[Any]) -> list[Sides]:
    """Return the sizes that a bundle takes besides the example's.

    Raises `ValueError` for what is no height and width, a network without images or whose modes have
    sizes of their own, and a size that the network does not run on, or makes other outputs of.
    """
    wanted = [_sides(each) for each in image_sizes]
    if not wanted:
        return []
    if len(wanted) > _MOST:
        raise ValueError(f"`image_sizes` has {len(wanted)} sizes; allowed: up to {_MOST}")
    if net._wenable.plan.image_sizes is not None:
        raise ValueError(
            "`image_sizes` was given, and the modes of `net` have image sizes of their own"
            " (wenable.ImageSize); allowed: one of the two"
        )
    images = {tuple(each.shape[2:]) for each in net.example_batch if _is_image(each)}
    if len(images) != 1:
        raise ValueError(
            "`image_sizes` was given, and the example of `net` has"
            f" {'no images (N, C, H, W)' if not images else 'images of several sizes'}"
        )
    found = [each for each in dict.fromkeys(wanted) if each not in images]
    for sides in found:
        _try(net, sides)
    return found


def at_size(example: Iterable[Any], sides: Sides | None) -> tuple[Any, ...]:
    """Return inputs with images of another size, random numbers; all else as it is.

    - `sides`: None for the inputs themselves.
    """
    if sides is None:
        return tuple(example)
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(*each.shape[:2], *sides, generator=generator).to(each)
        if _is_image(each)
        else each
        for each in example
    )


def _is_image(each: Any) -> bool:
    is_tensor = isinstance(each, torch.Tensor)
    return is_tensor and each.ndim == _IMAGE_RANK and each.is_floating_point()


def _sides(size: Any) -> Sides:
    is_pair = isinstance(size, tuple | list) and len(size) == 2
    if not is_pair or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(
            f"`image_sizes` holds {size!r}; allowed: pairs of a height and a width, whole numbers"
            " above 0"
        )
    return int(size[0]), int(size[1])


def _try(net: DynamicNetwork, sides: Sides) -> None:
    """Run the network at a size; refuses one that it cannot take."""
    tried = copy_network(net)
    size = "x".join(map(str, sides))
    with torch.no_grad(), in_eval_mode(tried), same_random_numbers(tried):
        first = tensors_of(tried(*tried.example_batch))
        try:
            other = tensors_of(tried(*at_size(tried.example_batch, sides)))
        except Exception as error:  # the network's own code raises whatever it likes
            raise ValueError(
                f"`image_sizes` holds {sides}, and the network does not run on images of {size}:"
                f" {first_line(error)}"
            ) from error
    if [(each.ndim, each.dtype) for each in first] != [(each.ndim, each.dtype) for each in other]:
        raise ValueError(
            f"`image_sizes` holds {sides}, and the outputs for images of {size} have another structure"
            " than for the example"
        )
