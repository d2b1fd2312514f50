"""The images of a comparison as one array of bytes: decoded once, changed at random on any device.

A GPU that is lent for minutes must not wait for files: the array travels as one file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save as tensors_as_bytes
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from wenable.core.files import write_whole
from wenable.data.image_folder import ImageFiles, image_folder

Batch = tuple[torch.Tensor, torch.Tensor]
SPLITS = ("train", "search", "test")


@dataclass(frozen=True)
class Pixels:
    """Images as bytes, `(N, 3, size, size)`, with labels `(N,)`."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, count: int | None) -> Pixels:
        """Return as many of the images at random, always the same ones; all of them for None."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count]
        chosen = order.sort().values
        return Pixels(self.images[chosen], self.labels[chosen])

    def batches(self, size: int, device: torch.device) -> list[Batch]:
        """Return the images as a network on a device takes them, in order; labels stay behind."""
        places = torch.arange(len(self)).split(size)
        return [(as_inputs(self.images[each], device), self.labels[each]) for each in places]


@dataclass(frozen=True)
class PixelSplits:
    """The splits of a data set; `search` is a tenth of the training images, which is not trained on."""

    train: Pixels
    search: Pixels
    test: Pixels
    classes: int


def load_pixels(folder: Path, size: int, kept_in: Path) -> PixelSplits:
    """Return the images under `folder` (`train/CLASS/*`, `test/CLASS/*`), decoded once into a file.

    - `folder`: need not be there where the file is: so the file is all that a machine needs.
    - `size`: the shorter side is made this long, and the middle square is taken.

    Raises `FileNotFoundError` where neither is there.
    """
    path = kept_in / f"{folder.name}-{size}.safetensors"
    if not path.is_file():
        if not folder.is_dir():
            raise FileNotFoundError(
                f"`--data` (={folder}) does not exist, nor does {path}; it must hold train/CLASS/* and"
                " test/CLASS/* images"
            )
        splits = image_folder(str(folder))
        tensors: dict[str, torch.Tensor] = {}
        for name in SPLITS:
            images, labels = _decoded(getattr(splits, name), size)
            tensors |= {f"{name}.images": images, f"{name}.labels": labels}
        kept_in.mkdir(parents=True, exist_ok=True)
        write_whole(path, tensors_as_bytes(tensors))
    found = load_tensors(path)
    pixels = {name: Pixels(found[f"{name}.images"], found[f"{name}.labels"]) for name in SPLITS}
    return PixelSplits(**pixels, classes=int(pixels["train"].labels.max()) + 1)


def _decoded(files: ImageFiles, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = np.empty((len(files.samples), size, size, 3), np.uint8)
    for place, (path, _) in enumerate(files.samples):
        with Image.open(path) as image:
            images[place] = np.asarray(_square(image.convert("RGB"), size))
    labels = torch.tensor([label for _, label in files.samples])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _square(image: Image.Image, size: int) -> Image.Image:
    ratio = size / min(image.size)
    wide, high = (max(size, round(ratio * each)) for each in image.size)
    if (wide, high) != image.size:
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return image.crop((left, top, left + size, top + size))


class TrainingPixels:
    """Batches for a given number of steps, shuffled, shifted by up to an eighth and mirrored.

    One epoch of `train` is the whole run: a budget in multiply-accumulates is no whole number of times
    through the data. What a step gets is a function of the seed and the step.
    """

    def __init__(
        self, pixels: Pixels, size: int, steps: int, seed: int, device: torch.device
    ) -> None:
        # On the device from the start: a GPU must not wait for a processor to shift images.
        self.images, self.targets = pixels.images.to(device), pixels.labels.to(device)
        self.labels = pixels.labels
        self.size, self.steps, self.seed, self.device = size, steps, seed, device
        self.in_a_pass = len(pixels) // size

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Go through the batches of the run, from number `start` on; `epoch` is 0."""
        for step in range(start, self.steps):
            through, number = divmod(step, self.in_a_pass)
            chosen = self._order(through)[number * self.size :][: self.size]
            generator = torch.Generator().manual_seed(
                int(random.Random(f"{self.seed} {step}").random() * 2**40)
            )
            chosen = chosen.to(self.device)
            yield (
                as_inputs(changed(self.images[chosen], generator), self.device),
                self.targets[chosen],
            )

    def _order(self, through: int) -> torch.Tensor:
        seed = int(random.Random(f"{self.seed} {through} order").random() * 2**40)
        return torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))


def changed(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images `(N, 3, H, H)` each shifted by up to an eighth, over black, and mirrored or not."""
    count, _, size, _ = images.shape
    most = size // 8
    padded = torch.nn.functional.pad(images, (most,) * 4)
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    line = torch.arange(size)
    columns = right + line
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    where = (torch.arange(count)[:, None, None], (down + line)[:, :, None], columns[:, None, :])
    moved = padded.permute(0, 2, 3, 1)[tuple(each.to(images.device) for each in where)]
    return moved.permute(0, 3, 1, 2)


def as_inputs(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return bytes as what a network takes: scaled by ImageNet's mean and deviation."""
    mean = torch.tensor(IMAGENET_DEFAULT_MEAN, device=device).view(3, 1, 1)
    deviation = torch.tensor(IMAGENET_DEFAULT_STD, device=device).view(3, 1, 1)
    return (images.to(device).float() / 255 - mean) / deviation
