"""The prepared modes of one size of images, among those of all sizes that a session holds.

A mode at another size is a mode of its own for an engine. All are held in one place, under one budget:
mode m at the k-th size has the number k * (number of modes) + m there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from wenable.runtime.prepared import Held, PreparedModes


class PreparedAtSize:
    """The prepared modes of one size, by their own numbers: what `LimitedRequests` asks of them.

    - `first`: the number of its first mode among those of all sizes; `count`: how many modes it has.
    """

    def __init__(self, prepared: PreparedModes, first: int, count: int) -> None:
        self._prepared, self._first, self._count = prepared, first, count

    @property
    def turn(self) -> AbstractContextManager[Any]:
        """What a call holds while it runs."""
        return self._prepared.turn

    @property
    def is_closed(self) -> bool:
        """Whether the session was closed."""
        return self._prepared.is_closed

    def check_open(self) -> None:
        """Raise `ClosedError` where it was."""
        self._prepared.check_open()

    def ready(self, batch: int) -> int:
        """Return how many modes of this size can run a batch without being prepared first."""
        return sum(self.is_ready(number, batch) for number in range(self._count))

    def is_ready(self, number: int, batch: int) -> bool:
        """Say whether a mode can run a batch without being prepared first."""
        return self._prepared.is_ready(self._first + number, batch)

    def seconds(self, number: int) -> float | None:
        """Return how long a mode took to prepare when it last was."""
        return self._prepared.seconds(self._first + number)

    def size(self, number: int) -> int:
        """Return the bytes of a mode's model."""
        return self._prepared.size(self._first + number)

    def fits(self, number: int, batch: int) -> bool:
        """Say whether a mode can be prepared without dropping another, of any size."""
        return self._prepared.fits(self._first + number, batch)

    def take(self, number: int, batch: int) -> Held:
        """Return a mode, prepared where it is not ready."""
        return self._prepared.take(self._first + number, batch)

    def leave(self, held: Held) -> None:
        """Say that a call is over."""
        self._prepared.leave(held)

    def run(self, held: Held, batch: int, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run a batch in a mode that was taken."""
        return self._prepared.run(held, batch, inputs)

    def call(self, number: int, batch: int, inputs: Any) -> list[np.ndarray]:
        """Run a batch in a mode, prepared where it is not ready."""
        return self._prepared.call(self._first + number, batch, inputs)
