"""Batches whose order and whose random changes are functions of the seed, the epoch and the index."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from wenable.data.image_folder import ImageFiles
from wenable.images import UnreadableImageError

Key = tuple[int, int]  # epoch and index


def batches(
    data: TensorDataset, size: int, *, shuffle_seed: int | None = None
) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Return a loader of batches of `size`; in a new random order each epoch where a seed is given.

    The last batch may be smaller, unless it is shuffled: then it is left out, since a batch norm
    needs more than a few images.
    """
    generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
    shuffle = generator is not None
    return DataLoader(data, size, shuffle=shuffle, generator=generator, drop_last=shuffle)


class TensorBatches:
    """Shuffled batches of a data set held in memory; the order is a function of seed and epoch.

    The last, incomplete batch of an epoch is left out.

    Raises `ValueError` where there are fewer examples than one batch takes.
    """

    def __init__(self, data: TensorDataset, size: int, *, seed: int = 0) -> None:
        if not 1 <= size <= len(data):
            raise ValueError(
                f"`size` (={size}) of a batch must be from 1 to the {len(data)} training images"
            )
        self.data, self.size, self.seed = data, size, seed

    @property
    def labels(self) -> torch.Tensor | None:
        """The labels of all examples, where there are any."""
        return self.data.tensors[-1] if len(self.data.tensors) > 1 else None

    def __len__(self) -> int:
        return len(self.data) // self.size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, ...]]:
        """Go through the batches of an epoch, from number `start` on."""
        order = list(range(len(self.data)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        for first in range(start * self.size, len(self) * self.size, self.size):
            yield self.data[order[first : first + self.size]]


class ImageBatches:
    """Batches of image files, `(N, 3, H, W)` with labels `(N,)`.

    - `files`: as `image_folder` returns them; `transform`: a PIL image -> a tensor.
    - `size`: images in a batch, of this process.
    - `shuffle`: a new random order each epoch, without the last, incomplete batch; otherwise the
      order of the files, with it.
    - `workers`: processes that read and transform.
    - `skip_bad`: leave out images that cannot be read, and list them in `skipped`; otherwise the
      first one raises `UnreadableImageError` with its path, as does a batch without a readable one.
    - `process`, `processes`: which share of each epoch is read here.

    Order and augmentation are functions of the seed, the epoch and the image, whatever the number of
    workers: so a run can go on in the middle of an epoch. Iterating goes through epoch 0.

    Raises `ValueError` where there are fewer images than one batch takes.
    """

    def __init__(
        self,
        files: ImageFiles,
        transform: Callable[[Any], torch.Tensor],
        size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        skip_bad: bool = False,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if not 1 <= size * processes <= len(files):
            raise ValueError(
                f"`size` (={size}) on {processes} process(es) must be from 1 to the {len(files)}"
                " images"
            )
        self.files, self.size, self.shuffle, self.seed = files, size, shuffle, seed
        self.workers, self.process, self.processes = workers, process, processes
        self.skipped: dict[str, str] = {}
        self.skip_bad = skip_bad
        self._images = _SeededImages(files, transform, seed)

    @property
    def labels(self) -> torch.Tensor:
        """The labels of all images, those included that cannot be read."""
        return torch.tensor([label for _, label in self.files.samples], dtype=torch.long)

    def check(self) -> None:
        """Read every image once; raises `UnreadableImageError` for one that no epoch will leave out."""
        if not self.skip_bad:
            for index in range(len(self.files)):
                self.files.read(index)

    def __len__(self) -> int:
        own = len(self.files) // self.processes
        return own // self.size if self.shuffle else -(-own // self.size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Go through the batches of an epoch, from number `start` on."""
        order = list(range(len(self.files)))
        if self.shuffle:
            random.Random(f"{self.seed} {epoch}").shuffle(order)
        own = order[self.process : len(order) // self.processes * self.processes : self.processes]
        keys = [
            [(epoch, index) for index in own[first : first + self.size]]
            for first in range(start * self.size, len(self) * self.size, self.size)
        ]
        loader = DataLoader(
            self._images,
            batch_sampler=keys,
            num_workers=self.workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # or it would draw from the caller's random numbers
        )
        for images, labels, bad in loader:
            if bad and not self.skip_bad:
                raise UnreadableImageError(*next(iter(bad.items())))
            self.skipped.update(bad)
            if not len(labels):  # left out as a whole it would shift every later step of a run
                raise UnreadableImageError(*next(iter(bad.items())))
            yield images, labels


class _SeededImages(Dataset[Any]):
    """Reads and transforms one image, with random numbers of its own."""

    def __init__(
        self, files: ImageFiles, transform: Callable[[Any], torch.Tensor], seed: int
    ) -> None:
        self.files, self.transform, self.seed = files, transform, seed

    def __getitem__(self, key: Key) -> Any:
        epoch, index = key
        try:
            image = self.files.read(index)
        except UnreadableImageError as error:
            return error.path, error.reason  # raised where it is read: workers garble exceptions
        with _random_numbers_of(f"{self.seed} {epoch} {index}"):
            return self.transform(image), self.files.samples[index][1]


@contextmanager
def _random_numbers_of(text: str) -> Iterator[None]:
    """Seed all generators that transforms draw from, and put them back as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = random.Random(text).getrandbits(32)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _collate(examples: list[Any]) -> tuple[torch.Tensor, torch.Tensor, dict[str, str]]:
    good = [each for each in examples if isinstance(each[0], torch.Tensor)]
    bad = {each[0]: each[1] for each in examples if not isinstance(each[0], torch.Tensor)}
    labels = torch.tensor([label for _, label in good], dtype=torch.long)
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    return images, labels, bad
