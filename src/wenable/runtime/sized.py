"""What a session has for each size of images that its bundle takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wenable.runtime.bundle import Bundle
from wenable.runtime.first_choice import FirstChoice
from wenable.runtime.kernel_choice import KernelChoice
from wenable.runtime.requests import LimitedRequests

Shapes = tuple[tuple[int | None, ...], ...]
"""Of all inputs, without the batch."""


@dataclass
class Sized:
    """One size of images.

    - `bundle`: as it is at that size; `choice`: how its modes are executed where nothing was measured.
    - `kernels`: what chooses our kernels for its modes, or None; `limited`: requests with a limit.
    """

    bundle: Bundle
    choice: FirstChoice
    kernels: KernelChoice | None
    limited: LimitedRequests


def shapes_of(bundle: Bundle) -> Shapes:
    """Return the shapes of a bundle's inputs, without the batch."""
    return tuple(tuple(each.shape[1:]) for each in bundle.inputs)


def size_words(bundle: Bundle) -> str:
    """Return the sizes of a bundle's images as text.

    >>> size_words(Bundle("net.wen"))  # doctest: +SKIP
    '128x128'
    """
    return _words([each.shape for each in bundle.inputs])


def size_given(x: Any, sizes: Sequence[str]) -> str | None:
    """Return which of a session's `image_sizes` inputs have; None where it is none of them.

    - `x`: an array, or a tuple of them.

    >>> size_given(np.zeros((1, 3, 128, 160), np.float32), ["64x80", "128x160"])
    '128x160'
    """
    found = _words([np.shape(each) for each in (x if isinstance(x, tuple) else (x,))])
    return found if found in sizes else None


def _words(shapes: Iterable[tuple[Any, ...]]) -> str:
    sides = [each[2:] for each in shapes if len(each) == 4]
    return " and ".join(dict.fromkeys("x".join(map(str, each)) for each in sides))
