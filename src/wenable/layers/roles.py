"""What a dynamic network asks of its layers, whatever their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


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
