"""Scenes made from scikit-learn's handwritten digits: whole digits and fragments, in noise.

Every whole digit comes with its class, its pixels and its box, so that one generator serves
classification, segmentation and detection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.data import TensorDataset

from wenable.data.digits import Originals, split_originals
from wenable.data.splits import Splits

Part = Literal["train", "search", "test"]
Range = tuple[float, float]

_INK = 0.25  # a pixel at least this bright belongs to the digit that is brightest there
_SIDE = 8  # of an original, in pixels
_PIECE = 5  # the side of a fragment, in pixels of the original
_AT_ONCE = 256  # scenes; what is held for them is some 50 MB at the default settings


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """What a scene holds and how it is drawn. Ink is 1, paper 0; lengths are in pixels.

    - `size`: the side of the square image.
    - `digits`, `fragments`: how many whole digits, and how many pieces cut out of digits.
    - `scale`: the range of factors by which digits of 8x8 pixels are enlarged.
    - `turn`: the largest rotation either way, in degrees.
    - `shift`: how far the middle of the first digit may lie from that of the image, along each axis.
    - `distance`: the range of distances of all other pieces from the middle of the image.
    - `brightness`: the range of factors for the ink of a piece.
    - `noise`: the standard deviation of the noise that is added to each pixel.

    The defaults are the demo's task: which digit stands in the middle? For detection, let the digits
    stand anywhere: `SceneSettings(size=40, shift=14.0, distance=(0.0, 18.0))`.

    Raises `ValueError` for a setting outside its range.
    """

    size: int = 24
    digits: int = 3
    fragments: int = 4
    scale: Range = (1.1, 1.5)
    turn: float = 25.0
    shift: float = 1.5
    distance: Range = (9.0, 13.0)
    brightness: Range = (0.6, 1.0)
    noise: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("size", _SIDE), ("digits", 1), ("fragments", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least {least}")
        for name, most in (("turn", 180.0), ("shift", self.size / 2), ("noise", 1e3)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be from 0 to {most:g}")
        for name, least, most in (
            ("scale", 0.25, self.size / _SIDE),
            ("distance", 0.0, self.size),
            ("brightness", 2 * _INK, 1.0),
        ):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"`{name}` (={(low, high)}) must be two numbers from {least:g} to {most:g},"
                    " the smaller first"
                )


@dataclass(frozen=True, slots=True)
class Scenes:
    """Images and what is in them: N scenes with K whole digits each, the one in the middle first.

    - `images`: `(N, 1, size, size)`; ink is about 1, paper about 0, noise added.
    - `classes`: `(N, K)`, 0 to 9.
    - `masks`: `(N, K, size, size)`, true where that digit is what one sees. A pixel belongs to one digit
      at most, and to none where a fragment is brighter.
    - `boxes`: `(N, K, 4)`: left, top, right, bottom of the mask in whole pixels, the latter two exclusive;
      all 0 if nothing of the digit is seen.
    - `originals`: `(N, K)`, the place of each digit among scikit-learn's 1,797.
    """

    images: torch.Tensor
    classes: torch.Tensor
    masks: torch.Tensor
    boxes: torch.Tensor
    originals: torch.Tensor

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)


def scenes(
    count: int, *, part: Part = "train", settings: SceneSettings | None = None, seed: int = 0
) -> Scenes:
    """Return scenes made from the digits of one part, the same for the same arguments.

    - `part`: whose originals are used, those of `digits()` of that name. No original is in two parts,
      whatever the seeds; fragments are cut from the same part.
    - `settings`: see `SceneSettings`. `seed`: of everything that is random.

    Raises `ValueError` for a count below 1 and an unknown part.

    >>> found = scenes(4, part="test", settings=SceneSettings(size=40, digits=2))
    >>> found.images.shape, found.classes.shape, found.masks.shape, found.boxes.shape
    (torch.Size([4, 1, 40, 40]), torch.Size([4, 2]), torch.Size([4, 2, 40, 40]), torch.Size([4, 2, 4]))
    """
    settings = SceneSettings() if settings is None else settings
    if count < 1:
        raise ValueError(f"`count` (={count}) must be at least 1")
    if part not in get_args(Part):
        allowed = ", ".join(map(repr, get_args(Part)))
        raise ValueError(f"`part` (={part!r}) must be one of {allowed}")
    originals = split_originals()[part]
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        _draw(min(_AT_ONCE, count - start), originals, settings, generator)
        for start in range(0, count, _AT_ONCE)
    ]
    fields = ("images", "classes", "masks", "boxes", "originals")
    return Scenes(**{name: torch.cat([getattr(some, name) for some in drawn]) for name in fields})


def middle_digits(
    train: int,
    search: int,
    test: int,
    *,
    settings: SceneSettings | None = None,
    seed: int = 0,
) -> Splits:
    """Return scenes in three splits, each labelled with the class of the digit in the middle.

    - `train`, `search`, `test`: how many scenes, each from the originals of that part.

    Pixels are scaled to about zero mean and unit deviation.

    >>> [len(part) for part in (lambda s: (s.train, s.search, s.test))(middle_digits(9, 5, 7))]
    [9, 5, 7]
    """
    parts: list[TensorDataset] = []
    for number, (part, count) in enumerate(zip(get_args(Part), (train, search, test), strict=True)):
        found = scenes(count, part=part, settings=settings, seed=3 * seed + number)
        parts.append(TensorDataset((found.images - 0.17) / 0.27, found.classes[:, 0].clone()))
    return Splits(*parts)


def _draw(
    count: int, originals: Originals, settings: SceneSettings, generator: torch.Generator
) -> Scenes:
    """Draw some scenes: pieces are laid one over the other, and the brightest is seen."""
    pieces = settings.digits + settings.fragments
    chosen = torch.randint(len(originals.classes), (count, pieces), generator=generator)
    ink = originals.images[chosen] * _kept(count, settings, generator)
    ink = ink * _between(settings.brightness, (count, pieces, 1, 1), generator)
    layers = _placed(ink, settings, generator)
    seen, first = layers.max(1)
    owner = torch.where(seen >= _INK, first, pieces)
    masks = owner.unsqueeze(1) == torch.arange(settings.digits).view(1, -1, 1, 1)
    noise = torch.randn(seen.shape, generator=generator) * settings.noise
    digits = chosen[:, : settings.digits]
    return Scenes(
        (seen + noise).unsqueeze(1),
        originals.classes[digits],
        masks,
        boxes_of(masks),
        originals.places[digits],
    )


def _kept(count: int, settings: SceneSettings, generator: torch.Generator) -> torch.Tensor:
    """Return what is kept of each piece: all of a digit, a square of a fragment; (N, P, 8, 8)."""
    corners = torch.randint(
        _SIDE - _PIECE + 1, (count, settings.fragments, 2, 1), generator=generator
    )
    inside = (torch.arange(_SIDE) >= corners) & (torch.arange(_SIDE) < corners + _PIECE)
    squares = inside[:, :, 0].unsqueeze(3) & inside[:, :, 1].unsqueeze(2)
    whole = torch.ones(count, settings.digits, _SIDE, _SIDE, dtype=torch.bool)
    return torch.cat([whole, squares], dim=1)


def _placed(ink: torch.Tensor, settings: SceneSettings, generator: torch.Generator) -> torch.Tensor:
    """Return each piece `(N, P, 8, 8)` enlarged, turned and at its place, `(N, P, size, size)`."""
    count, pieces = ink.shape[:2]
    scale = _between(settings.scale, (count, pieces), generator)
    angle = _between((-settings.turn, settings.turn), (count, pieces), generator).deg2rad()
    away = _between(settings.distance, (count, pieces - 1), generator)
    towards = _between((0, 2 * math.pi), (count, pieces - 1), generator)
    others = torch.stack([away * towards.cos(), away * towards.sin()], dim=2)
    middle = _between((-settings.shift, settings.shift), (count, 1, 2), generator)
    offset = torch.cat([middle, others], dim=1)
    # From a pixel of the scene back to the original: the turn undone, then the scale.
    back = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], dim=2)
    back = back.view(count, pieces, 2, 2) / scale.view(count, pieces, 1, 1)
    # Both sides in the units of `affine_grid`: half of the scene, half of the original.
    start = -back @ offset.unsqueeze(3) / (_SIDE / 2)
    grid = affine_grid(
        torch.cat([back * settings.size / _SIDE, start], dim=3).flatten(0, 1),
        [count * pieces, 1, settings.size, settings.size],
        align_corners=False,
    )
    placed = grid_sample(ink.flatten(0, 1).unsqueeze(1), grid, align_corners=False)
    return placed.view(count, pieces, settings.size, settings.size)


def boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """Return the tightest boxes `(..., 4)` of masks `(..., H, W)`: left, top, right, bottom.

    The latter two are exclusive; the box of an empty mask is all 0.

    >>> boxes_of(torch.tensor([[[False, True, True], [False, False, True]]]))
    tensor([[1, 0, 3, 2]])
    """
    sides = []
    for line in (masks.any(-2), masks.any(-1)):  # columns, rows
        places = torch.arange(1, line.shape[-1] + 1) * line
        end = places.amax(-1)
        begin = torch.where(line, places, line.shape[-1] + 1).amin(-1) - 1
        sides.append((torch.where(end > 0, begin, 0), end))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=-1)


def _between(limits: Range, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    low, high = limits
    return low + (high - low) * torch.rand(shape, generator=generator)
