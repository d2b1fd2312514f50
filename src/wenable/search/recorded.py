"""What the layers of a mode gave for the search images, for modes that differ from it in one knob."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from wenable.core.space import Mode
from wenable.search.prefix_reuse import Outputs, PrefixReuse

_AT_ONCE = 3
"""The mode where the search stands, the best candidate so far, and the one that runs: of these are
the outputs in memory at a time."""


@dataclass(frozen=True)
class Source:
    """A mode whose outputs were recorded, and the one knob in which another differs from it."""

    mode: Mode
    knob: str


@dataclass
class RecordedModes:
    """Outputs of layers on all search images, batch by batch, for the modes that need them.

    - `reuse`: knows what need not run again.
    """

    reuse: PrefixReuse
    _batches: dict[Mode, list[Outputs]] = field(default_factory=dict)
    _lengths: list[int] = field(default_factory=list)

    def use_batches(self, lengths: list[int]) -> None:
        """Say how many images each batch of the search split has; before that nothing is kept."""
        self._lengths = lengths

    @property
    def images(self) -> int:
        """For how many images there has to be memory."""
        return _AT_ONCE * sum(self._lengths)

    def has(self, source: Source | None) -> bool:
        """Say whether something of a source can be used again."""
        if source is None or source.mode not in self._batches:
            return False
        return bool(self.reuse.cut(source.knob, self.images).units)

    def keep(self, modes: set[Mode]) -> None:
        """Drop what was recorded of all other modes."""
        self._batches = {mode: each for mode, each in self._batches.items() if mode in modes}

    @contextmanager
    def running(self, mode: Mode, number: int, source: Source | None) -> Iterator[None]:
        """Record one pass on batch `number` in `mode`; leave out what `source` has of it."""
        if not self._lengths:
            yield
            return
        if number == 0:
            self._batches[mode] = []
        before = self._batches[source.mode][number] if source else {}
        replayed = self.reuse.replaying(source.knob, before, self.images) if source else None
        if replayed is not None:
            with replayed, self.reuse.recording(self.images) as outputs:
                yield
        else:
            with self.reuse.recording(self.images) as outputs:
                yield
        # What lies within a module that was left out did not run; it is as it was.
        self._batches[mode].append({**before, **outputs})

    def some(self, source: Source, indices: torch.Tensor) -> tuple[Outputs, torch.Tensor] | None:
        """Return the outputs for these images and the order in which they come; None where it cannot.

        - `indices`: of the images within the search split.
        """
        where, order, start = list[torch.Tensor](), list[torch.Tensor](), 0
        for length in self._lengths:
            inside = ((indices >= start) & (indices < start + length)).nonzero()[:, 0]
            where.append(indices[inside] - start)
            order.append(inside)
            start += length
        found = self.reuse.rows(source.knob, self._batches[source.mode], where, self.images)
        return None if found is None else (found, torch.cat(order))
