"""The steps of a plan for our kernels: what each reads and makes, and what the kernels are told of it.

A step is described before anything has a place. `emit` is called when all buffers lie where they stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from wenable.runtime.native.packing import units_of
from wenable.runtime.native.values import Buffer, Planes, Value

_NONE = np.zeros(0, np.int64)
_NO_NUMBERS = np.zeros(0, np.float32)


class Step(Protocol):
    """One step: `reads` are tables of planes, `makes` the buffer or buffers that it fills, if any."""

    @property
    def reads(self) -> Sequence[Planes]:
        """The planes that it reads."""
        ...

    @property
    def makes(self) -> Buffer | Sequence[Buffer] | None:
        """What it fills; None for an output of the network."""
        ...

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program; `place` tells where each plane begins."""
        ...


@dataclass(frozen=True)
class Tap:
    """One place of a window: which phase of the input it reads, moved by how many rows and columns."""

    phase: int
    row: int
    column: int


def _told(step: Step, made: Buffer | None) -> str:
    """Return a step in words, for tables of times."""
    kind = type(step).__name__.removesuffix("Step").lower()
    return kind if made is None else f"{kind} to {made.planes} x {made.rows} x {made.columns}"


@dataclass(repr=False, eq=False)
class ConvolutionStep:
    """A convolution of any number of groups.

    - `inputs`: planes, shape `(groups, inputs of one, phases)`.
    - `input_scales`: planes of one value each, shape `(groups, inputs of one)`, or None.
    """

    inputs: Planes
    taps: Sequence[Tap]
    makes: Buffer
    weights: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    activation: int
    residual: Planes | None = None
    input_scales: Planes | None = None

    def __str__(self) -> str:
        return _told(self, self.makes)

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [
            each for each in (self.inputs, self.residual, self.input_scales) if each is not None
        ]

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        groups, inputs, _ = self.inputs.shape
        stride = self.makes.stride
        phases = [tap.phase for tap in self.taps]
        moved = np.array([tap.row * stride + tap.column for tap in self.taps])
        sources_gik = place[self.inputs][:, :, phases] + moved
        scales = _NONE
        if self.input_scales is not None:
            scales = np.repeat(place[self.input_scales].ravel(), len(self.taps))
        program.convolution(
            sources=_table(sources_gik),
            units=_table(self._units(groups, inputs * len(self.taps))),
            outputs=_table(place[self.makes.numbers]),
            residuals=_NONE if self.residual is None else _table(place[self.residual]),
            input_scales=_table(scales),
            weights=self.weights,
            scale=self.scale,
            bias=self.bias,
            planes=[self.makes.shape()],
            activation=self.activation,
        )

    def _units(self, groups: int, sources: int) -> np.ndarray:
        outputs = self.makes.planes // groups
        return np.array(
            [
                (
                    group * outputs + first, count, group * sources, sources,
                    (group * outputs + first) * sources, 0,
                )
                for group in range(groups)
                for first, count in units_of(outputs)
            ]
        )  # fmt: skip


@dataclass(repr=False, eq=False)
class DepthwiseStep:
    """A convolution of every channel by itself.

    - `inputs`: planes, shape `(channels, phases)`.
    - `columns`: of its window: the phase, how many weights, and the row and column of the first.
    """

    inputs: Planes
    columns: Sequence[tuple[int, int, int, int]]
    makes: Buffer
    weights: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    activation: int

    def __str__(self) -> str:
        return _told(self, self.makes)

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [self.inputs]

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        stride = self.makes.stride
        columns = [(phase, count, row * stride + c) for phase, count, row, c in self.columns]
        program.depthwise(
            phases=_table(place[self.inputs]),
            columns=_table(np.array(columns)),
            outputs=_table(place[self.makes.numbers]),
            weights=self.weights,
            scale=self.scale,
            bias=self.bias,
            phase_count=self.inputs.shape[1],
            plane=self.makes.shape(),
            activation=self.activation,
        )


@dataclass(repr=False, eq=False)
class DenseStep:
    """A matrix times a vector, in groups.

    - `inputs`: planes, shape `(groups, inputs of one)`; `places`: the value of each that is read, as
      its row and column.
    """

    inputs: Planes
    places: Sequence[tuple[int, int]]
    makes: Buffer
    weights: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    activation: int
    strides: Buffer | None = None

    def __str__(self) -> str:
        return _told(self, self.makes)

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [self.inputs]

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        stride = self.strides.stride if self.strides is not None else 1
        moved = np.array([row * stride + column for row, column in self.places])
        program.dense(
            sources=_table(place[self.inputs][..., None] + moved),
            outputs=_table(place[self.makes.numbers]),
            weights=self.weights,
            scale=self.scale,
            bias=self.bias,
            groups=len(self.inputs),
            activation=self.activation,
        )


@dataclass(repr=False, eq=False)
class CopyStep:
    """Planes moved, cut, spread by a step, or brought to another distance of rows.

    - `value`: what is read; `sample`: a buffer of it, None where it is an input of the network.
    - `makes`: the buffer, or None for the output of that number.
    - `rows`, `columns`: the first and the step, in the planes that are read.
    """

    value: Value
    sample: Buffer | None
    makes: Buffer | None
    rows: tuple[int, int] = (0, 1)
    columns: tuple[int, int] = (0, 1)
    output: int = -1
    fill: float = 0.0

    def __str__(self) -> str:
        return _told(self, self.makes)

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [self.value.planes] if self.value.source < 0 else []

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        value, size = self.value, self.value.rows * self.value.columns
        numbers = value.planes.ravel()
        if self.sample is None:
            sources, source = numbers * size, (value.rows, value.columns, value.columns, 0, 0, 0)
        else:
            sources, source = place[numbers], self.sample.shape()
        if self.makes is None:
            outputs = np.arange(len(numbers)) * size
            target = (value.rows, value.columns, value.columns, 0, 0, 0)
            if value.is_points and (np.diff(sources) == 1).all():  # one copy instead of thousands
                sources, outputs = sources[:1], outputs[:1]
                source = target = (1, len(numbers), len(numbers), 0, 0, 0)
        elif self.makes.planes == len(numbers):
            outputs, target = place[self.makes.numbers], self.makes.shape()
        else:  # flattened: every value becomes a plane of its own
            outputs = place[self.makes.first] + np.arange(len(numbers)) * size
            target = (value.rows, value.columns, value.columns, 0, 0, 0)
        program.copy(
            sources=_table(sources),
            outputs=_table(outputs),
            input=value.source,
            output=self.output,
            source=source,
            target=target,
            steps=(*self.rows, *self.columns),
            fill=self.fill,
        )


@dataclass(repr=False, eq=False)
class PhasesStep:
    """Planes taken apart for a window that moves by more than one: every so many rows and columns.

    - `value`: what is read; `sample`: a buffer of it, None where it is an input of the network.
    - `phases`: a buffer for each phase; `firsts`: its first row and column in the planes that are read.
    - `steps`: of rows and columns.
    """

    value: Value
    sample: Buffer | None
    phases: Sequence[Buffer]
    firsts: Sequence[tuple[int, int]]
    steps: tuple[int, int]

    def __str__(self) -> str:
        return f"{len(self.phases)} {_told(self, self.phases[0])}"

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [self.value.planes] if self.value.source < 0 else []

    @property
    def makes(self) -> Sequence[Buffer]:
        """The buffers that it fills."""
        return self.phases

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        value, numbers = self.value, self.value.planes.ravel()
        if self.sample is None:
            sources = numbers * value.rows * value.columns
            source = (value.rows, value.columns, value.columns, 0, 0, 0)
        else:
            sources, source = place[numbers], self.sample.shape()
        program.phases(
            sources=_table(sources),
            outputs=_table(np.concatenate([place[phase.numbers] for phase in self.phases])),
            input=value.source,
            source=source,
            targets=[phase.shape() for phase in self.phases],
            firsts=list(self.firsts),
            steps=self.steps,
        )


@dataclass(repr=False, eq=False)
class PoolStep:
    """Windows reduced to their greatest value (0), or their mean, without the padding (1) or with (2)."""

    inputs: Planes
    sample: Buffer
    makes: Buffer
    window: Sequence[int]
    pooling: int

    def __str__(self) -> str:
        return _told(self, self.makes)

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [self.inputs]

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        program.pool(
            sources=_table(place[self.inputs]),
            outputs=_table(place[self.makes.numbers]),
            source=self.sample.shape(),
            target=self.makes.shape(),
            window=list(self.window),
            pooling=self.pooling,
        )


@dataclass(repr=False, eq=False)
class MeanStep:
    """The mean of each plane."""

    inputs: Planes
    sample: Buffer
    makes: Buffer

    def __str__(self) -> str:
        return _told(self, self.makes)

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [self.inputs]

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        program.mean(
            sources=_table(place[self.inputs]),
            outputs=_table(place[self.makes.numbers]),
            source=self.sample.shape(),
        )


NUMBERS, PLANE_ADDED, PLANE_MULTIPLIED, VALUE_ADDED, VALUE_MULTIPLIED = range(5)
"""How the second operand of a combination is given."""


@dataclass(repr=False, eq=False)
class CombineStep:
    """Value by value: a scale and a shift, or a second operand, and an activation."""

    left: Planes
    makes: Buffer
    operand: int
    activation: int
    right: Planes | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None

    def __str__(self) -> str:
        return _told(self, self.makes)

    @property
    def reads(self) -> list[Planes]:
        """The planes that it reads."""
        return [self.left] if self.right is None else [self.left, self.right]

    def emit(self, program: Any, place: np.ndarray) -> None:
        """Add it to a program."""
        program.combine(
            left=_table(place[self.left]),
            right=_NONE if self.right is None else _table(place[self.right]),
            outputs=_table(place[self.makes.numbers]),
            scale=_NO_NUMBERS if self.scale is None else self.scale,
            shift=_NO_NUMBERS if self.shift is None else self.shift,
            operand=self.operand,
            activation=self.activation,
            plane=self.makes.shape(),
        )


def _table(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.int64).ravel()
