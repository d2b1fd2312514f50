"""What a dynamic network asks of its layers, whatever their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from wenable.core.views import View


@runtime_checkable
class KeepsPackedWeights(Protocol):
    """A layer that keeps what it cut out of its weights, so that a switch copies nothing."""

    @property
    def packed_bytes(self) -> int:
        """How many bytes it keeps."""
        ...

    def drop_packed(self) -> None:
        """Give them back."""
        ...


@runtime_checkable
class NeedsInputRange(Protocol):
    """A layer that can run only once it has seen the range of its input."""

    def knows_its_input(self, mode: Mapping[str, int]) -> bool:
        """Whether it has seen what a mode needs."""
        ...

    def input_calibrated_for(self, mode: Mapping[str, int]) -> int | None:
        """Return a fingerprint of the only weights that it is true for; None for any weights."""
        ...


@runtime_checkable
class HasViews(Protocol):
    """A layer of which a mode is told by views of its parameters, as files hold it.

    What it computes is what the same operation computes with those parts of them. A layer that does
    something else in another option has no views; its modes have graphs of their own.
    """

    def views(self) -> Mapping[str, View]:
        """Return, by the names of its parameters, the views of those it does not use as a whole now."""
        ...
