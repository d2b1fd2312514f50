"""Denormal numbers, arithmetic on which is up to a hundred times slower, taken for zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def flush_denormals() -> None:
    """Flush denormal numbers in every thread: call it before PyTorch starts its workers."""
    torch.set_flush_denormal(True)


@contextmanager
def denormals_flushed() -> Iterator[str]:
    """Treat numbers below 1e-38 as zero: arithmetic on them is up to a hundred times slower.

    Yields where that holds: a setting of each thread, it cannot be given to workers that run.
    """
    was_on = bool(torch.tensor(1e-39) * 1.0 == 0)
    torch.set_flush_denormal(True)
    try:
        # Large enough to be shared out among the workers; written and read as bits, since a thread
        # that flushes cannot hold a denormal number otherwise.
        products = torch.ones(1_000_000, dtype=torch.int32).view(torch.float32) * 1.0
        everywhere = not bool(products.view(torch.int32).any())
        yield "every thread" if everywhere else "the calling thread only"
    finally:
        torch.set_flush_denormal(was_on)
