"""What a loader gives in an epoch: how many batches, from which on, and the labels it is known to hold."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from wenable.data import ImageBatches, TensorBatches

PATIENCE_S = 30.0
"""How long batches are counted before it is said."""

Batch = Any
"""`(inputs, targets)` or `(a, b, targets)`, as `batch_parts.inputs_and_targets` takes it."""


@runtime_checkable
class EpochBatches(Protocol):
    """A loader whose batches are a function of the epoch, so that a run can go on inside one."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Go through the batches of an epoch, from number `start` on."""
        ...


def batches_per_epoch(loader: Any) -> int:
    """Return how many batches an epoch has: the loader's length, or the count of one time through it.

    Raises `ValueError` for an empty loader, and for what cannot be gone through once an epoch.
    """
    if isinstance(loader, Iterator):
        raise ValueError(
            f"`loader` (a {type(loader).__name__}) is an iterator, which can be gone through once; pass"
            " a list of batches, a DataLoader, or an object whose __iter__ begins anew every epoch"
        )
    if not isinstance(loader, Iterable | EpochBatches) and not hasattr(loader, "__getitem__"):
        raise ValueError(f"`loader` (a {type(loader).__name__}) cannot be iterated over")
    try:
        batches = len(loader)  # pyright: ignore[reportArgumentType]
    except (
        TypeError,
        NotImplementedError,
    ):  # a DataLoader over an IterableDataset, a generator's class
        with torch.random.fork_rng([]):
            batches = _count(loader)
    if not batches:
        raise ValueError("`loader` is empty; an epoch needs at least one batch")
    return batches


def _count(loader: Any) -> int:
    batches, patience = 0, time.monotonic() + PATIENCE_S
    for batches, _ in enumerate(loader, start=1):
        if time.monotonic() > patience:
            patience = math.inf
            warnings.warn(
                f"`loader` has no length, and its batches are counted before the first step: {batches}"
                " so far. One that never ends needs a length (`__len__`), where an epoch is cut",
                stacklevel=4,
            )
    return batches


def batches_of_epoch(loader: Any, epoch: int, start: int, batches: int) -> Iterator[Batch]:
    """Go through the batches of an epoch from number `start` on.

    What has a `set_epoch`, as samplers of several processes do, is told the epoch first.

    - `batches`: as many as an epoch has. A loader that gives more is cut there, with a warning.

    Raises `ValueError` where a loader gives fewer, or cannot go on inside an epoch.
    """
    given = start
    for batch in _from(loader, epoch, start):
        if given == batches:
            warnings.warn(
                f"`loader` gives more than the {batches} batches that it said an epoch has; the rest"
                " is left out in every epoch",
                stacklevel=3,
            )
            return
        given += 1
        yield batch
    if given < batches:
        raise ValueError(
            f"`loader` gave {given} batches in epoch {epoch + 1} where it said, or gave before,"
            f" {batches}; the schedule counts on as many in every epoch: give the loader its true"
            " length, or none at all, and as many batches every time"
        )


def _from(loader: Any, epoch: int, start: int) -> Iterator[Batch]:
    if isinstance(loader, EpochBatches):
        return loader.batches(epoch, start)
    if start and not isinstance(loader, Sequence):
        raise ValueError(
            "`loader` draws the order of its images anew, so a run cannot go on inside an epoch;"
            " pass an ImageBatches or a list of batches"
        )
    _tell_epoch(loader, epoch)
    return islice(iter(loader), start, None)


def _tell_epoch(loader: Any, epoch: int) -> None:
    parts = [getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset")]
    for part in (loader, *parts, getattr(parts[1], "sampler", None)):
        set_epoch = getattr(part, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


def batches_in_memory(loader: Any) -> Sequence[Batch]:
    """Return the batches that can be looked at without reading anything; none for most loaders."""
    return loader if isinstance(loader, list | tuple) else ()


def labels_in_memory(loader: Any) -> torch.Tensor | None:
    """Return all labels that a loader will give where it knows them beforehand, and None otherwise."""
    if isinstance(loader, ImageBatches | TensorBatches):
        return loader.labels
    if isinstance(loader, DataLoader) and loader.collate_fn is default_collate:
        data = loader.dataset
        # A sampler of another kind may leave out what is not to be learned.
        if isinstance(data, TensorDataset) and len(data.tensors) > 1 and _takes_all(loader):
            return data.tensors[-1]
    return None


def _takes_all(loader: DataLoader[Any]) -> bool:
    return type(loader.batch_sampler) is BatchSampler and type(loader.sampler) in (
        SequentialSampler,
        RandomSampler,
    )
