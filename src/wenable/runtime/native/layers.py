"""Layers with weights as steps for our kernels: convolutions, depthwise and dense ones, and norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wenable.runtime.graph import CONVOLUTION
from wenable.runtime.implementations import merged_weight
from wenable.runtime.native.chains import ChainStep, Layer
from wenable.runtime.native.fusing import ACTIVATIONS, Fused
from wenable.runtime.native.packing import packed_columns, packed_dense, packed_units
from wenable.runtime.native.plan import Planner, UnsupportedError, constant
from wenable.runtime.native.steps import (
    NUMBERS,
    CombineStep,
    ConvolutionStep,
    DenseStep,
    DepthwiseStep,
    PhasesStep,
    Tap,
)
from wenable.runtime.native.values import Buffer, Pitch, Planes, Value
from wenable.runtime.native.windows import Window

_MOST_COLUMN_WEIGHTS = 5
_FEWEST_CELLS = 4
"""Groups of a projection from which threads share out a whole chain evenly."""


class Weights:
    """The weight of a layer in a mode, what follows it, and the order in which it reads its input.

    - `name`, `option`: what the weight is made of.
    """

    def __init__(self, planner: Planner, item: Fused) -> None:
        node, mode = item.node, planner.weights
        if node.inputs[1] in mode.roundings:
            bits = mode.roundings[node.inputs[1]].bits
            raise UnsupportedError(
                f"{node.inputs[1]!r} is rounded to {bits} bits, and there is no kernel for it"
            )
        self.weight, self.order, self.groups = constant(planner, node, 1), None, 1
        option = 1
        if node.layer:
            layer = planner.layers[node.layer]
            option = mode.options[layer.knob]
            self.groups, order = option, layer.input_order()
            self.weight = merged_weight(self.weight, option, option, order)
            self.order = order if option > 1 else None
        elif node.op == "Conv":
            self.groups = int(node.attributes.get("group", 1))  # type: ignore[arg-type]
        outputs = len(self.weight)
        self.scale = np.ones(outputs, np.float32)
        self.bias = np.zeros(outputs, np.float32)
        if len(node.inputs) > 2 and node.inputs[2]:
            self.bias = constant(planner, node, 2).astype(np.float32)
        if item.norm:
            scale, shift = mode.norms[item.norm]
            with np.errstate(over="ignore"):
                self.scale, self.bias = scale, shift + self.bias * scale
        if self.bias.shape != (outputs,):
            raise ValueError(f"a bias of shape {self.bias.shape} for {outputs} outputs")
        self.activation = ACTIVATIONS.index(item.activation)
        self.name, self.option = node.inputs[1], option

    def layer(self) -> Layer:
        """Return it as a layer of a chain."""
        tail = self.tail()
        weight = np.ascontiguousarray(self.weight, np.float32)
        return Layer(
            weight.reshape(self.groups, len(weight) // self.groups, -1),
            tail["scale"], tail["bias"], tail["activation"], self.name, self.option,
        )  # fmt: skip

    def tail(self) -> dict[str, Any]:
        """Return what is done to each sum."""
        return {
            "scale": np.ascontiguousarray(self.scale, np.float32),
            "bias": np.ascontiguousarray(self.bias, np.float32),
            "activation": self.activation,
        }


def convolution(planner: Planner, item: Fused) -> None:
    """Add a convolution in two dimensions."""
    weights = Weights(planner, item)
    x = planner.value(item.node.inputs[0])
    if not x.spatial or x.planes.ndim != 1 or weights.weight.ndim != 4:
        raise UnsupportedError(
            f"{item.node.op} of {item.node.inputs[0]!r} is not one in two dimensions"
        )
    outputs, inputs = weights.weight.shape[:2]
    if outputs % weights.groups or inputs * weights.groups != len(x.planes):
        raise ValueError(
            f"a weight of shape {weights.weight.shape} in {weights.groups} groups over"
            f" {len(x.planes)} channels"
        )
    window = Window.of(item.node.attributes, weights.weight.shape[2:], (x.rows, x.columns))
    if weights.order is not None:
        scales = None if x.scales is None else x.scales[weights.order]
        x = replace(x, planes=x.planes[weights.order], scales=scales)
    rows, columns = planner.shapes[item.output][2:]
    if min(rows, columns) < 1:
        raise ValueError(f"no position: {rows} rows and {columns} columns")
    if _waits(planner, item, window, len(x.planes), outputs):
        planner.values[item.output] = Value(
            np.arange(outputs), rows, columns, spatial=True, pending=(weights, planner.settled(x))
        )
        return
    made = planner.memory.buffer(outputs, rows, columns)
    if rows == columns == 1:
        _single(planner, item, weights, window, x, made)
    elif inputs == 1 and weights.groups == outputs and not item.residual:
        _depthwise(planner, item, weights, window, x, made)
    else:
        _convolution(planner, item, weights, window, x, made)
    planner.finish(item, made)


def _convolution(
    planner: Planner, item: Fused, weights: Weights, window: Window, x: Value, made: Buffer
) -> None:
    if _as_projection(planner, item, weights, window, x, made):
        return
    residual = None
    if item.residual:
        added = planner.read(item.residual)
        residual = added.planes
        planner.join(added, made)
    plain = window.is_plain
    if not plain and x.pending is None:
        x = planner.settled(x)
    elif x.source >= 0:
        x = planner.copied(x)
    planes, taps = _phases(planner, window, x, made)
    groups = weights.groups
    key = (weights.option, groups, "units")
    packed = planner.pack(weights.name, key, lambda: packed_units(weights.weight, groups))
    planner.steps.append(
        ConvolutionStep(
            planes.reshape(groups, -1, planes.shape[-1]),
            taps,
            made,
            packed,
            residual=residual,
            input_scales=x.scales.reshape(groups, -1) if x.scales is not None else None,
            **weights.tail(),
        )
    )


def _depthwise(
    planner: Planner, item: Fused, weights: Weights, window: Window, x: Value, made: Buffer
) -> None:
    if x.pending is not None and weights.order is None:
        _chain(planner, weights, window, x, made)
        return
    x = x if x.pending is not None else planner.settled(x)
    if window.is_plain and x.source >= 0:
        x = planner.copied(x)
    planes, _ = _phases(planner, window, x, made)
    runs, places = window.columns(_MOST_COLUMN_WEIGHTS)
    packed = planner.pack(
        weights.name,
        (weights.option, window.strides, window.dilations, window.begins, "columns"),
        lambda: packed_columns(weights.weight, places),
    )
    planner.steps.append(DepthwiseStep(planes, runs, made, packed, **weights.tail()))


def _single(
    planner: Planner, item: Fused, weights: Weights, window: Window, x: Value, made: Buffer
) -> None:
    """Add a convolution of one position: only the places of its window inside the input count."""
    x = planner.settled(x, input_too=True)
    sample = planner.sample(x)
    inside = [
        (number, place)
        for number, place in enumerate(window.places())
        if 0 <= place[0] < x.rows and 0 <= place[1] < x.columns
    ]
    numbers, groups = [number for number, _ in inside], weights.groups

    def pack() -> np.ndarray:
        weight = weights.weight.reshape(*weights.weight.shape[:2], -1)[:, :, numbers]
        return packed_dense(weight.reshape(groups, len(weight) // groups, -1))

    packed = planner.pack(weights.name, (weights.option, groups, tuple(numbers), "dense"), pack)
    planner.steps.append(
        DenseStep(
            x.planes.reshape(groups, -1), [place for _, place in inside], made, packed,
            strides=sample, **weights.tail(),
        )
    )  # fmt: skip


def _waits(planner: Planner, item: Fused, window: Window, inputs: int, outputs: int) -> bool:
    """Say whether a layer is computed with the one that reads it, or in phases for it.

    With a depthwise convolution it makes a chain. For another one with a stride it is computed on each
    phase of its input: a product at every position is the same there, and its input has fewer channels.
    """
    readers = planner.readers.get(item.output, [])
    if not window.is_pointwise or item.residual or len(readers) != 1:
        return False
    if any(each.name == item.output for each in planner.graph.outputs):
        return False
    node, shape = readers[0].node, planner.shapes[item.output]
    if node.op not in (CONVOLUTION, "Conv") or node.inputs[0] != item.output or len(shape) != 4:
        return False
    weight = planner.tensors[node.inputs[1]]
    if weight.ndim != 4 or planner.shapes[node.outputs[0]][2:] == (1, 1):
        return False
    reading = Window.of(node.attributes, weight.shape[2:], (shape[2], shape[3]))
    if any(row >= shape[2] or column >= shape[3] for row, column in reading.phases()):
        return False  # a phase without a row or a column is zeros, which the layer would add its bias to
    if node.op == "Conv" and node.attributes.get("group", 1) == len(weight) == outputs:
        return not readers[0].residual
    return not reading.is_plain and inputs <= outputs


def _chain(planner: Planner, weights: Weights, window: Window, x: Value, made: Buffer) -> None:
    """Add an expansion and the depthwise convolution over it as one step."""
    wide, source = x.pending
    taps = window.taps()
    phases, inputs = [], []
    if window.is_plain:
        if source.source >= 0:
            source = planner.copied(source)
        planner.join(source, made)
        inputs, sizes = [source.planes], [(source.rows, source.columns)]
    else:
        befores = _taken_apart(planner, window, source, made)
        inputs, sizes = [each.numbers for each in befores], [(b.rows, b.columns) for b in befores]
    for number, (rows, columns) in enumerate(sizes):
        phase = Buffer(-1, 1, rows, columns, Pitch(columns))
        phase.pitch.join(made.pitch)
        _widen(phase, [tap for tap in taps if tap.phase == number], made)
        phases.append(phase)
    runs, places = window.columns(_MOST_COLUMN_WEIGHTS)
    columns_gik = np.stack(inputs, axis=1).reshape(wide.groups, -1, len(inputs))
    step = ChainStep(
        columns_gik, wide.layer(), phases, runs, packed_columns(weights.weight, places),
        weights.layer(), made, made,
    )  # fmt: skip
    planner.steps.append(step)


def _as_projection(
    planner: Planner, item: Fused, weights: Weights, window: Window, x: Value, made: Buffer
) -> bool:
    """Put a product at every position into the chain that it reads, where its groups share it out."""
    if (
        not window.is_pointwise
        or weights.groups < _FEWEST_CELLS
        or x.scales is not None
        or x.source >= 0
    ):
        return False
    buffers = planner.memory.buffers_of(x.planes)
    if len(buffers) != 1 or len(planner.readers.get(item.node.inputs[0], [])) != 1:
        return False
    hidden = buffers[0]
    found = [s for s in planner.steps if isinstance(s, ChainStep) and s.makes is hidden]
    whole = sorted(x.planes.tolist()) == hidden.numbers.tolist()
    if not found or found[0].projection is not None or not whole:
        return False
    if any(each.name == item.node.inputs[0] for each in planner.graph.outputs):
        return False
    step = found[0]
    if item.residual:
        added = planner.read(item.residual)
        step.residual = added.planes
        planner.join(added, made)
    hidden.held = False
    hidden.pitch.join(made.pitch)
    step.projection, step.makes = weights.layer(), made
    step.groups = (x.planes - hidden.first).reshape(weights.groups, -1)
    planner.steps.remove(step)
    planner.steps.append(step)  # what it adds may have been made since
    return True


def _phases(
    planner: Planner, window: Window, x: Value, made: Buffer
) -> tuple[Planes, Sequence[Tap]]:
    """Return the planes that a window of step 1 reads, shape `(channels, phases)`, and its places."""
    taps = window.taps()
    if window.is_plain:
        planner.join(x, made)
        for buffer in planner.memory.buffers_of(x.planes):
            _widen(buffer, taps, made)
        return x.planes[:, None], taps
    found = []
    source = x if x.pending is None else x.pending[1]
    for number, before in enumerate(_taken_apart(planner, window, source, made)):
        phase = before
        if x.pending is not None:
            weights = x.pending[0]
            phase = planner.memory.buffer(len(weights.weight), before.rows, before.columns)
            before.pitch.join(phase.pitch)
            _pointwise(planner, weights, before.numbers, phase)
        _widen(phase, [tap for tap in taps if tap.phase == number], made)
        found.append(phase.numbers[x.planes] if x.pending is not None else phase.numbers)
    return np.stack(found, axis=1), taps


def _taken_apart(planner: Planner, window: Window, x: Value, made: Buffer) -> list[Buffer]:
    """Return the phases of a value, each as far as a window reads it."""
    taps, (down, across) = window.taps(), window.strides
    phases = []
    for number, (row, column) in enumerate(window.phases()):
        read = [tap for tap in taps if tap.phase == number]
        rows = min(-(-(x.rows - row) // down), made.rows + max(tap.row for tap in read))
        columns = min(
            -(-(x.columns - column) // across), made.columns + max(tap.column for tap in read)
        )
        phase = planner.memory.buffer(len(x.planes), max(rows, 1), max(columns, 1))
        phase.pitch.join(made.pitch)
        phases.append(phase)
    step = PhasesStep(x, planner.sample(x), phases, window.phases(), window.strides)
    planner.steps.append(step)
    return phases


def _pointwise(planner: Planner, weights: Weights, planes: Planes, made: Buffer) -> None:
    """Add a product at every position."""
    groups = weights.groups
    key = (weights.option, groups, "units")
    packed = planner.pack(weights.name, key, lambda: packed_units(weights.weight, groups))
    inputs = planes.reshape(groups, -1, 1)
    planner.steps.append(ConvolutionStep(inputs, [Tap(0, 0, 0)], made, packed, **weights.tail()))


def _widen(buffer: Buffer, taps: Sequence[Tap], made: Buffer) -> None:
    """Make room for the zeros that a window reads around a plane."""
    buffer.top = max(buffer.top, *(-tap.row for tap in taps))
    buffer.left = max(buffer.left, *(-tap.column for tap in taps))
    buffer.bottom = max(buffer.bottom, *(made.rows + tap.row - buffer.rows for tap in taps))
    buffer.right = max(buffer.right, *(made.columns + tap.column - buffer.columns for tap in taps))
    buffer.pitch.at_least(buffer.columns + max(buffer.left, buffer.right))


def dense(planner: Planner, item: Fused) -> None:
    """Add a dense layer on a vector."""
    node = item.node
    if node.op == "Gemm":
        plain = node.attributes.get("alpha", 1.0) == node.attributes.get("beta", 1.0) == 1.0
        if not plain or node.attributes.get("transA", 0):
            raise UnsupportedError(f"Gemm makes {node.outputs[0]!r} with a factor or turned")
    x = planner.read(node.inputs[0])
    weights = Weights(planner, item)
    weight = weights.weight
    turned = node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB", 0))
    if turned:
        raise UnsupportedError(
            f"{node.op} makes {node.outputs[0]!r} with a weight that is not turned"
        )
    if x.planes.ndim != 1 or x.spatial or weight.ndim != 2:
        raise UnsupportedError(f"{node.op} makes {node.outputs[0]!r} of more than a vector")
    planes = x.planes if weights.order is None else x.planes[weights.order]
    groups = weights.groups
    made = planner.memory.buffer(len(weight), 1, 1)
    packed = planner.pack(
        weights.name,
        (weights.option, groups, "dense"),
        lambda: packed_dense(weight.reshape(groups, len(weight) // groups, -1)),
    )
    planner.steps.append(
        DenseStep(planes.reshape(groups, -1), [(0, 0)], made, packed, **weights.tail())
    )
    planner.finish(item, made)


def norm(planner: Planner, item: Fused) -> None:
    """Add a norm that no convolution took: a scale and a shift of every channel."""
    x = planner.read(item.node.inputs[0])
    scale, shift = planner.weights.norms[item.node.layer]
    if len(scale) != x.planes.size:
        raise ValueError(f"a norm of {len(scale)} channels over {x.planes.size}")
    made = planner.buffer_like(x)
    planner.join(x, made)
    planner.steps.append(
        CombineStep(
            x.planes, made, NUMBERS, ACTIVATIONS.index(item.activation),
            scale=np.ascontiguousarray(scale, np.float32), shift=np.ascontiguousarray(shift, np.float32),
        )
    )  # fmt: skip
    planner.finish(item, made)
