"""Images made smaller before a network's first layer: two products with small matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wenable.core.resampling import resampling_weights

INPUTS = "<inputs>"
"""Stands for the inputs of a network among the modules that a knob sets: for its `ImageSizes`."""

Sides = tuple[int, int]
"""Height and width of an image, in pixels."""


class SmallerImages(nn.Module):
    """Makes images `(N, C, H, W)` smaller to `(N, C, h, w)`, antialiased; those of `(h, w)` pass through.

    - `before`, `after`: height and width.

    The matrices are the buffers `rows`, `(h, H)`, and `columns`, `(W, w)`, those of
    `wenable.core.resampling`, and an image becomes `rows @ image @ columns`. Raises `ValueError` for an
    image of any other size.

    >>> smaller = SmallerImages((6, 8), (3, 4))
    >>> smaller(torch.ones(2, 3, 6, 8)).shape, smaller(torch.ones(2, 3, 3, 4)).shape
    (torch.Size([2, 3, 3, 4]), torch.Size([2, 3, 3, 4]))
    """

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, before: Sides, after: Sides) -> None:
        super().__init__()
        self.before, self.after = before, after
        heights, widths = zip(before, after, strict=True)
        self.register_buffer("rows", torch.tensor(resampling_weights(*heights)))
        self.register_buffer("columns", torch.tensor(resampling_weights(*widths)).T.contiguous())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Make images smaller, in their own type, whatever `torch.autocast` says."""
        given = (images.shape[-2], images.shape[-1])
        if given == self.after:
            return images
        if given != self.before:
            raise ValueError(_refusal(given, self.before, self.after))
        with torch.autocast(images.device.type, enabled=False):
            return self.rows.to(images) @ images @ self.columns.to(images)

    def extra_repr(self) -> str:
        """Tell the sizes."""
        return f"{self.before} to {self.after}"


class SmallerImagesFirst(nn.Module):
    """A network behind `SmallerImages`: what `extract` returns for a mode with a smaller image.

    - `network`: takes positional inputs. `place`: which of them are the images.

    >>> network = SmallerImagesFirst(nn.Conv2d(3, 8, 1), SmallerImages((6, 8), (3, 4)), place=0)
    >>> network(torch.ones(2, 3, 6, 8)).shape
    torch.Size([2, 8, 3, 4])
    """

    def __init__(self, network: nn.Module, smaller: SmallerImages, place: int) -> None:
        super().__init__()
        self.smaller, self.network, self.place = smaller, network, place
        self.training = network.training

    def forward(self, *inputs: Any) -> Any:
        """Make the images smaller and run the network."""
        return self.network(*_replaced(inputs, self.place, self.smaller(inputs[self.place])))


class ImageSizes:
    """What the inputs of a dynamic network go through: images as large as the present option says.

    It is no module of the network: one that runs its children in a row would run it too.

    - `place`: which positional input is the images. `sides`: option -> height and width, the full
      option first.
    """

    def __init__(self, place: int, sides: Mapping[int, Sides]) -> None:
        self.place, self.sides = place, dict(sides)
        self.option = self.full = next(iter(self.sides))
        before = self.sides[self.full]
        self._smaller = {n: SmallerImages(before, after) for n, after in self.sides.items()}
        # Type and device -> the matrices there: copied to a GPU once and not in every pass.
        self._there: dict[Any, dict[int, SmallerImages]] = {}

    def set_option(self, n: int) -> None:
        """Set an option that is known to be one of these."""
        self.option = n

    def check(self, inputs: tuple[Any, ...]) -> None:
        """Raise `ValueError` for images that are neither of the full size nor of the present one."""
        images = inputs[self.place] if self.place < len(inputs) else None
        if not isinstance(images, torch.Tensor):
            raise ValueError(
                f"input {self.place} must be given by position, a tensor of images, since the mode says"
                " how large they are"
            )
        given = (images.shape[-2], images.shape[-1])
        full, present = self.sides[self.full], self.sides[self.option]
        if given not in (full, present):
            raise ValueError(_refusal(given, full, present))

    def __call__(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs with images of the present size, as `check` allows them."""
        images = inputs[self.place]
        return _replaced(inputs, self.place, self._on(images)[self.option](images))

    def _on(self, images: torch.Tensor) -> dict[int, SmallerImages]:
        place = (images.device, images.dtype)
        if place not in self._there:
            # Made in inference mode, they could take part in no training.
            with torch.inference_mode(False):
                self._there[place] = {
                    n: SmallerImages(each.before, each.after).to(*place)
                    for n, each in self._smaller.items()
                }
        return self._there[place]

    def to_plain(self, network: nn.Module) -> nn.Module:
        """Return a plain network with what makes images smaller before it; in the full size itself."""
        if self.option == self.full:
            return network
        smaller = SmallerImages(self.sides[self.full], self.sides[self.option])
        like = next((each for each in network.parameters() if each.is_floating_point()), None)
        if like is not None:
            smaller.to(like.device, like.dtype)
        return SmallerImagesFirst(network, smaller.train(network.training), self.place)


def _refusal(given: Sides, full: Sides, present: Sides) -> str:
    """Return why images of a size are refused."""
    also = "" if present == full else f", or {_text(present)}, the present mode's"
    return (
        f"`input` (images of {_text(given)}) must be {_text(full)}, the size that the network was"
        f" converted for{also}"
    )


def _text(sides: Sides) -> str:
    return f"{sides[0]}x{sides[1]}"


def _replaced(inputs: tuple[Any, ...], place: int, images: torch.Tensor) -> tuple[Any, ...]:
    return (*inputs[:place], images, *inputs[place + 1 :])
