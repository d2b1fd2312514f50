"""What a session has for each size of images that its bundle takes."""

from __future__ import annotations

from dataclasses import dataclass

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
    sides = [each.shape[2:] for each in bundle.inputs if len(each.shape) == 4]
    return " and ".join(dict.fromkeys("x".join(map(str, each)) for each in sides))
