"""Whether inputs are such that a network was converted for; said in a line that names them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from wenable.core.reasons import first_line
from wenable.layers.image_size import ImageSizes
from wenable.modules.example_inputs import ExampleInput, names_of_places


@functools.lru_cache(maxsize=256)
def _places(kind: type[nn.Module], count: int) -> dict[str, Any]:
    return names_of_places(kind.forward, count)


def input_names(kind: type[nn.Module], count: int) -> tuple[str, ...]:
    """Return the names of the first inputs of a network's class, as many as can be given by name."""
    return tuple(_places(kind, count))


def in_places(
    args: tuple[Any, ...], kwargs: dict[str, Any], kind: type[nn.Module], count: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with those of the first `count` inputs by position, whose checks look there.

    What is given to none of them stays a keyword.
    """
    places = _places(kind, count)
    names = list(places)[len(args) :]
    given = [place for place, name in enumerate(names) if name in kwargs]
    between = names[: given[-1] + 1] if given else []
    if any(places[name] is inspect.Parameter.empty and name not in kwargs for name in between):
        return args, kwargs  # the network's own forward says what is missing
    rest = {name: each for name, each in kwargs.items() if name not in between}
    return (*args, *(kwargs.get(name, places[name]) for name in between)), rest


def check_inputs(
    inputs: Sequence[Any], example: Sequence[ExampleInput], sizes: ImageSizes | None
) -> None:
    """Raise `ValueError` for inputs that would mean something else than the example did.

    - `example`: what the network was converted with; `sizes`: of its images, if modes have one.
    """
    # A single image without its batch would pass some layers and mean something else.
    for given, expected in zip(inputs, example, strict=False):
        shape = expected.shape
        if shape and isinstance(given, torch.Tensor) and given.ndim != len(shape):
            raise ValueError(
                f"`input` (of shape {tuple(given.shape)}) must have {len(shape)} dimensions;"
                f" the network was converted for ({', '.join(['N', *map(str, shape[1:])])})"
            )
    if sizes is not None:
        sizes.check(tuple(inputs))


def explained(
    error: Exception,
    inputs: Sequence[Any],
    example: Sequence[ExampleInput],
    floating: torch.dtype | None = None,
) -> str | None:
    """Return a line that names the input, if shape or type are not the example's; None otherwise.

    - `floating`: the type of the network's weights; data from numpy is often of twice the width.
    """
    for given, expected in zip(inputs, example, strict=False):
        wanted = expected.shape
        shape = tuple(getattr(given, "shape", ()))
        if wanted and shape[1:] != wanted[1:]:
            return (
                f"`input` (of shape {shape}) does not fit this network, which was converted for"
                f" ({', '.join(['N', *map(str, wanted[1:])])}): {first_line(error)}"
            )
        found, known = getattr(given, "dtype", None), expected.dtype
        # A network may have been moved to other floats; whole numbers and floats are never the same.
        if found and known and found.is_floating_point != known.is_floating_point:
            kind, other = (str(each).removeprefix("torch.") for each in (found, known))
            return (
                f"`input` (of {kind}) does not fit this network, which was converted for {other}:"
                f" {first_line(error)}"
            )
        if found and known and floating and found.is_floating_point and found != floating:
            kind, own = (str(each).removeprefix("torch.") for each in (found, floating))
            return (
                f"`input` (of {kind}) does not fit this network, whose weights are {own}; give it"
                f" `input.to(torch.{own})`: {first_line(error)}"
            )
    return None
