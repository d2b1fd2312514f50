"""Inverted residuals in one step: an expansion and a depthwise convolution, and maybe the projection.

The hidden tensors stay in a thread's own memory, some channels at a time. A part is a few channels that
one unit of the expansion makes, with the depthwise convolution over them. A cell is what threads share
out: the parts that one group of the projection reads, and that group; or one part, where the projection
comes later or is a single group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wenable.runtime.native.packing import packed_units, units_of
from wenable.runtime.native.values import Buffer, Planes

_ALIGNED = 16
_NONE = np.zeros(0, np.int64)
_NO_NUMBERS = np.zeros(0, np.float32)


@dataclass
class Layer:
    """A layer of a chain: its weight, shaped `(groups, outputs of one, sources)`, and its tail.

    - `name`, `option`: what the weight is made of.
    """

    weight_gok: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    activation: int
    name: str = ""
    option: int = 1


@dataclass
class Part:
    """Hidden channels that are computed together; all are of one group of the expansion."""

    group: int
    channels: np.ndarray


@dataclass(repr=False, eq=False)
class ChainStep:
    """An expansion, a depthwise convolution, and the projection where `groups` tell its hidden channels.

    - `inputs`: planes that the expansion reads, shape `(groups, inputs of one, phases)`.
    - `phases`: buffers that stand for the phases of one hidden channel, in memory of the thread.
    - `columns`: of the depthwise window: phase, count, row and column of the first.
    - `hidden`: stands for one plane that the depthwise convolution makes.
    - `groups`: for each group of the projection the hidden channels that it reads, in order.
    """

    inputs: Planes
    expansion: Layer
    phases: Sequence[Buffer]
    columns: Sequence[tuple[int, int, int, int]]
    depthwise_weights: np.ndarray
    depthwise: Layer
    hidden: Buffer
    makes: Buffer
    projection: Layer | None = None
    groups: np.ndarray | None = None
    residual: Planes | None = None
    packed: list[np.ndarray] = field(default_factory=list)

    def __str__(self) -> str:
        last = "chain with projection" if self.projection else "chain"
        return f"{last} to {self.makes.planes} x {self.makes.rows} x {self.makes.columns}"

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [self.inputs] if self.residual is None else [self.inputs, self.residual]

    def macs(self) -> dict[str, int]:
        """Return weight -> its multiply-accumulates; "" for the depthwise convolution."""
        before = sum(each.rows * each.columns for each in self.phases)
        after = self.makes.rows * self.makes.columns
        found = {
            self.expansion.name: self.expansion.weight_gok.size * before,
            "": self.depthwise_weights.size * after,
        }
        if self.projection is not None:
            found[self.projection.name] = self.projection.weight_gok.size * after
        return found

    def parts(self) -> list[list[Part]]:
        """Return the parts of each cell."""
        outputs = self.expansion.weight_gok.shape[1]
        channels = len(self.inputs) * outputs
        if self.groups is None:
            return [
                [Part(group, np.arange(group * outputs + first, group * outputs + first + count))]
                for group in range(channels // outputs)
                for first, count in units_of(outputs)
            ]
        cells = []
        for read in self.groups:
            parts: list[Part] = []
            for group in np.unique(read // outputs):
                own = read[read // outputs == group]
                parts += [Part(int(group), own[i : i + count]) for i, count in units_of(len(own))]
            cells.append(parts)
        return cells

    def expansion_weights(self) -> np.ndarray:
        """Return the weights of the expansion part by part, phase by phase the same."""
        outputs = self.expansion.weight_gok.shape[1]
        parts = [
            self.expansion.weight_gok[part.group, part.channels - part.group * outputs].T.ravel()
            for cell in self.parts()
            for part in cell
        ]
        found = np.ascontiguousarray(np.concatenate(parts), np.float32)
        found.flags.writeable = False
        return found

    def pack(self, planner: Any) -> None:
        """Have its weights lie as they are read; the same in every mode with these options."""
        # The shape as well: a shuffle is the same in every option, only cut into other groups.
        read = None if self.groups is None else (self.groups.shape, self.groups.tobytes())
        key = (self.expansion.option, "parts", read)
        self.packed = [planner.pack(self.expansion.name, key, self.expansion_weights)]
        if self.projection is not None:
            weight = self.projection.weight_gok
            flat = weight.reshape(-1, weight.shape[2])
            key = (self.projection.option, len(weight), "units")
            name = self.projection.name
            self.packed.append(planner.pack(name, key, lambda: packed_units(flat, len(weight))))

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        overrun = _ALIGNED
        cells = self.parts()
        slots = max(len(part.channels) for cell in cells for part in cell)
        first = np.cumsum([0, *(each.distance(overrun) for each in self.phases)])
        # Where phase p of slot s lies; then, behind all of them, the depthwise convolution's planes.
        margins = np.array([_up(each.before()) for each in self.phases])
        places_sp = np.arange(slots)[:, None] * first[-1] + first[:-1] + margins
        held = slots * int(first[-1])
        wide = self.hidden.distance(overrun) if self.projection else 0
        most = max(sum(len(part.channels) for part in cell) for cell in cells)
        expansion, depthwise, parts, ranges = _Expansion(), _Depthwise(), [], []
        order = []
        slot_of = np.zeros(self.makes.planes if self.groups is None else self.groups.size, np.int64)
        for cell in cells:
            begun, taken = len(parts), 0
            for part in cell:
                units = len(expansion.units)
                expansion.add(self, part, places_sp)
                slot_of[part.channels] = taken + np.arange(len(part.channels))
                taken += len(part.channels)
                parts.append(
                    (units, len(expansion.units), len(order), len(order) + len(part.channels))
                )
                order += part.channels.tolist()
                depthwise.phases.append(places_sp[: len(part.channels)])
            ranges.append((begun, len(parts)))
        channels = np.array(order)
        if self.projection is None:
            outputs = place[self.makes.numbers][channels]
        else:
            outputs = held + slot_of[channels] * wide + _up(self.hidden.before())
        stride = self.hidden.stride
        between = self.depthwise
        weights = self.depthwise_weights.reshape(len(channels), -1)[channels]
        projection, projected, units = self._projected(held, wide, slot_of, place)
        program.chain(
            expansion=[_table(sources_units) for sources_units in expansion.tables(place)],
            expansion_values=[self.expansion_packed, *expansion.values(self)],
            expansion_planes=[each.shape() for each in self.phases],
            expansion_activation=self.expansion.activation,
            depthwise=[
                _table(np.concatenate(depthwise.phases)),
                _table(
                    np.array([(p, n, row * stride + column) for p, n, row, column in self.columns])
                ),
                _table(outputs),
            ],
            depthwise_values=[
                np.ascontiguousarray(weights.ravel()),
                np.ascontiguousarray(between.scale[channels]),
                np.ascontiguousarray(between.bias[channels]),
            ],
            phase_count=len(self.phases),
            depthwise_plane=self.hidden.shape(),
            depthwise_activation=between.activation,
            projection=projection,
            projection_values=projected,
            projection_plane=self.makes.shape(),
            projection_activation=self.projection.activation if self.projection else 0,
            parts=_table(np.array(parts)),
            cells=_table(
                np.array([(*each, *unit) for each, unit in zip(ranges, units, strict=True)])
            ),
            scratch=held + most * wide + 2 * _ALIGNED,
        )

    @property
    def expansion_packed(self) -> np.ndarray:
        """The weights of the expansion as the kernel reads them."""
        return self.packed[0]

    def _projected(
        self, held: int, wide: int, slot_of: np.ndarray, place: np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[tuple[int, int]]]:
        """Return the tables and values of the projection, and the units of each cell."""
        if self.projection is None or self.groups is None:
            return [_NONE] * 4, [_NO_NUMBERS] * 3, [(0, 0)] * len(self.parts())
        groups, outputs, sources = self.projection.weight_gok.shape
        read = held + slot_of[self.groups] * wide + _up(self.hidden.before())
        units, ranges = [], []
        for group in range(groups):
            begun = len(units)
            units += [
                (
                    group * outputs + o,
                    n,
                    group * sources,
                    sources,
                    (group * outputs + o) * sources,
                    0,
                )
                for o, n in units_of(outputs)
            ]
            ranges.append((begun, len(units)))
        residual = _NONE if self.residual is None else _table(place[self.residual])
        tables = [
            _table(read),
            _table(np.array(units)),
            _table(place[self.makes.numbers]),
            residual,
        ]
        return tables, [self.packed[1], self.projection.scale, self.projection.bias], ranges


class _Expansion:
    """The tables of the expansion, part by part."""

    def __init__(self) -> None:
        self.units: list[tuple[int, ...]] = []
        self.channels: list[np.ndarray] = []
        self._places: list[np.ndarray] = []
        self._sources: dict[tuple[int, int], int] = {}
        self._read: list[np.ndarray] = []
        self._outputs = self._weights = 0

    def add(self, step: ChainStep, part: Part, places_sp: np.ndarray) -> None:
        """Add a unit for each phase."""
        count, sources = len(part.channels), step.inputs.shape[1]
        for phase in range(len(step.phases)):
            key = (part.group, phase)
            if key not in self._sources:
                self._sources[key] = sources * len(self._read)
                self._read.append(step.inputs[part.group, :, phase])
            begun = self._sources[key]
            self.units.append((self._outputs, count, begun, sources, self._weights, phase))
            self._places.append(places_sp[:count, phase])
            self.channels.append(part.channels)
            self._outputs += count
        self._weights += count * sources

    def tables(self, place: np.ndarray) -> list[np.ndarray]:
        """Return sources, units, outputs and no residuals."""
        sources = place[np.concatenate(self._read)]
        return [sources, np.array(self.units), np.concatenate(self._places), _NONE]

    def values(self, step: ChainStep) -> list[np.ndarray]:
        """Return the scale and the bias of every output."""
        channels = np.concatenate(self.channels)
        both = (step.expansion.scale, step.expansion.bias)
        return [np.ascontiguousarray(each[channels]) for each in both]


@dataclass
class _Depthwise:
    phases: list[np.ndarray] = field(default_factory=list)


def _table(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.int64).ravel()


def _up(values: int) -> int:
    return -(-values // _ALIGNED) * _ALIGNED
