"""What our kernels do for each operation of ONNX: one rule for each, in one table.

A rule adds steps and names what they make. Whatever only moves whole channels adds none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from wenable.runtime.graph import CONVOLUTION, LINEAR, NORM
from wenable.runtime.native.fusing import ACTIVATIONS, Fused, activation_of
from wenable.runtime.native.layers import convolution, dense, norm
from wenable.runtime.native.plan import Planner, UnsupportedError, constant
from wenable.runtime.native.steps import (
    NUMBERS,
    PLANE_ADDED,
    PLANE_MULTIPLIED,
    VALUE_ADDED,
    VALUE_MULTIPLIED,
    CombineStep,
    CopyStep,
    MeanStep,
    PoolStep,
)
from wenable.runtime.native.values import Value
from wenable.runtime.native.windows import Window

_SHORT_ROW = 32
"""Columns below which rows are better summed as one, with zeros between them."""
_ANY_BATCH = range(2**31 - 1)
"""In the place of the examples in a batch, of which there may be any number."""

Rule = Callable[[Planner, Fused], None]


def _activation(planner: Planner, item: Fused) -> None:
    if item.activation == "none":
        known = activation_of(item.node, planner.tensors)
        if not known:
            raise UnsupportedError(
                f"{item.node.op} makes {item.output!r} with bounds or factors that there is no kernel for"
            )
        item = replace(item, activation=known)
    planner.activate(item, planner.read(item.node.inputs[0]))


def _same(planner: Planner, item: Fused) -> None:
    planner.values[item.output] = planner.value(item.node.inputs[0])


# Sums and products


def _sum(planner: Planner, item: Fused) -> None:
    _combination(planner, item, PLANE_ADDED, VALUE_ADDED)


def _product(planner: Planner, item: Fused) -> None:
    left, right = (planner.values.get(name) for name in item.node.inputs)
    for x, gate in ((left, right), (right, left)):
        if x is None or gate is None or not gate.is_points or x.is_points or gate.source >= 0:
            continue
        alike = gate.planes.shape == x.planes.shape and gate.scales is None and gate.spatial
        if alike and x.scales is None and item.activation == "none":
            x = planner.copied(x) if x.source >= 0 else x
            planner.values[item.output] = replace(x, scales=gate.planes)  # the reader multiplies
            return
    _combination(planner, item, PLANE_MULTIPLIED, VALUE_MULTIPLIED)


def _combination(planner: Planner, item: Fused, planes: int, points: int) -> None:
    names = item.node.inputs
    for one, other in (names, names[::-1]):
        if other in planner.tensors:
            _with_numbers(planner, item, planner.read(one), planner.tensors[other], planes)
            return
    left, right = (planner.read(name) for name in names)
    if left.shape != right.shape and left.is_points:
        left, right = right, left
    alike = left.planes.shape == right.planes.shape
    if not alike or (not right.is_points and left.shape != right.shape):
        raise UnsupportedError(
            f"{item.node.op} makes {item.output!r} of shapes {left.shape} and {right.shape}"
        )
    single = left.shape != right.shape
    made = planner.buffer_like(left)
    planner.join(left, made)
    if not single:
        planner.join(right, made)
    step = CombineStep(
        left.planes, made, points if single else planes, ACTIVATIONS.index(item.activation),
        right=right.planes,
    )  # fmt: skip
    planner.steps.append(step)
    planner.values[item.output] = replace(left, planes=made.numbers.reshape(left.planes.shape))


def _with_numbers(
    planner: Planner, item: Fused, x: Value, numbers: np.ndarray, operand: int
) -> None:
    """Add or multiply constants: one for all, or one for each plane."""
    dimensions = (1, *x.planes.shape, *((1, 1) if x.spatial else ()))
    each = np.broadcast_to(numbers.astype(np.float32), dimensions).ravel()
    ones = np.ones(len(each), np.float32)
    scale, shift = (ones, each) if operand == PLANE_ADDED else (each, ones * 0)
    made = planner.buffer_like(x)
    planner.join(x, made)
    activation = ACTIVATIONS.index(item.activation)
    arrays = [np.ascontiguousarray(array) for array in (scale, shift)]
    step = CombineStep(x.planes, made, NUMBERS, activation, scale=arrays[0], shift=arrays[1])
    planner.steps.append(step)
    planner.values[item.output] = replace(x, planes=made.numbers.reshape(x.planes.shape))


# Pooling


def _pool(planner: Planner, item: Fused) -> None:
    node, x = item.node, planner.read(item.node.inputs[0])
    if any(node.outputs[1:]):
        raise UnsupportedError(f"{node.op} makes {node.outputs[1]!r}, the places of its maxima")
    kernel = node.attributes["kernel_shape"]
    assert isinstance(kernel, list)
    window = Window.of(node.attributes, tuple(map(int, kernel)), (x.rows, x.columns))
    if min(*window.begins, *window.ends) < 0:
        raise UnsupportedError(f"{node.op} makes {node.outputs[0]!r} with negative padding")
    rows, columns = planner.shapes[item.output][-2:]
    made = planner.memory.buffer(x.planes.size, rows, columns)
    counted = bool(node.attributes.get("count_include_pad", 0))
    pooling = 0 if node.op == "MaxPool" else 2 if counted else 1
    sizes = [
        *window.kernel, *window.strides, *window.dilations, *window.begins,
        x.rows + window.begins[0] + window.ends[0], x.columns + window.begins[1] + window.ends[1],
    ]  # fmt: skip
    sample = planner.sample(x)
    assert sample is not None
    planner.steps.append(PoolStep(x.planes, sample, made, sizes, pooling))
    planner.finish(item, made)


def _mean(planner: Planner, item: Fused) -> None:
    node, x = item.node, planner.read(item.node.inputs[0])
    rank = len(planner.shapes[node.inputs[0]])
    if node.op == "ReduceMean":
        axes = node.attributes.get("axes")
        axes = constant(planner, node, 1).tolist() if axes is None else axes
        if sorted(axis % rank for axis in axes) != [rank - 2, rank - 1] or not x.spatial:  # type: ignore[union-attr]
            raise UnsupportedError(
                f"ReduceMean makes {node.outputs[0]!r} over other than rows and columns"
            )
    made = planner.memory.buffer(x.planes.size, 1, 1)
    sample = planner.sample(x)
    assert sample is not None
    if x.columns < _SHORT_ROW:
        for buffer in planner.memory.buffers_of(x.planes):
            buffer.clean = True
    planner.steps.append(MeanStep(x.planes, sample, made))
    wanted = planner.shapes[item.output][1:]
    spatial = len(wanted) == rank - 1
    dimensions = wanted[:-2] if spatial else wanted
    planner.values[item.output] = Value(made.numbers.reshape(dimensions), 1, 1, spatial)


# The same planes in another order


def _reshape(planner: Planner, item: Fused) -> None:
    x, wanted = planner.value(item.node.inputs[0]), planner.shapes[item.output][1:]
    if planner.shapes[item.output][0] != 1:
        raise UnsupportedError(f"{item.node.op} makes {item.output!r} across examples")
    if x.spatial and not x.is_points and wanted[-2:] == (x.rows, x.columns):
        planner.values[item.output] = _arranged(x, wanted[:-2])
        return
    if not x.is_points:
        x = _flattened(planner, planner.settled(x))
    x = planner.settled(x)
    spatial = len(wanted) > 2 and wanted[-2:] == (1, 1)
    planes = x.planes.reshape(wanted[:-2] if spatial else wanted)
    planner.values[item.output] = replace(x, planes=planes, spatial=spatial)


def _arranged(x: Value, dimensions: tuple[int, ...]) -> Value:
    scales = None if x.scales is None else x.scales.reshape(dimensions)
    return replace(x, planes=x.planes.reshape(dimensions), scales=scales)


def _flattened(planner: Planner, x: Value) -> Value:
    """Return every value of every plane as a plane of its own."""
    made = planner.memory.buffer(x.planes.size * x.rows * x.columns, 1, 1)
    planner.steps.append(CopyStep(x, planner.sample(x), made))
    return Value(made.numbers, 1, 1, False)


def _transpose(planner: Planner, item: Fused) -> None:
    x = planner.value(item.node.inputs[0])
    rank = len(x.shape) + 1
    turned = item.node.attributes.get("perm", list(range(rank))[::-1])
    assert isinstance(turned, list)
    order = [int(axis) for axis in turned]
    kept = [0, *order[1 : x.planes.ndim + 1], *range(x.planes.ndim + 1, rank)]
    if (
        order[0] != 0
        or order != kept
        or any(axis > x.planes.ndim for axis in order[1 : x.planes.ndim + 1])
    ):
        raise UnsupportedError(
            f"Transpose makes {item.output!r} with rows or columns in another place"
        )
    axes = [axis - 1 for axis in order[1 : x.planes.ndim + 1]]
    scales = None if x.scales is None else x.scales.transpose(axes)
    planner.values[item.output] = replace(x, planes=x.planes.transpose(axes), scales=scales)


def _concatenation(planner: Planner, item: Fused) -> None:
    parts = [planner.read(name) for name in item.node.inputs]
    axis = _plane_axis(planner, item, parts[0], item.node.attributes.get("axis", 0))
    made = replace(parts[0], planes=np.concatenate([part.planes for part in parts], axis))
    planner.sample(made)  # planes that are read together have the same distance of rows
    planner.values[item.output] = made


def _split(planner: Planner, item: Fused) -> None:
    x, node = planner.read(item.node.inputs[0]), item.node
    axis = _plane_axis(planner, item, x, node.attributes.get("axis", 0))
    sizes = [planner.shapes[name][axis + 1] for name in node.outputs]
    parts = np.split(x.planes, np.cumsum(sizes)[:-1], axis)
    for name, planes in zip(node.outputs, parts, strict=True):
        planner.values[name] = replace(x, planes=planes)


def _slice(planner: Planner, item: Fused) -> None:
    node = item.node
    rank = len(planner.shapes[node.inputs[0]])
    starts, ends = (constant(planner, node, number).tolist() for number in (1, 2))
    given = len(node.inputs)
    axes = (
        constant(planner, node, 3).tolist() if given > 3 and node.inputs[3] else range(len(starts))
    )
    steps = (
        constant(planner, node, 4).tolist() if given > 4 and node.inputs[4] else [1] * len(starts)
    )
    parts = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        parts[axis % rank] = slice(start, end, step)
    if _ANY_BATCH[parts[0]] != _ANY_BATCH:
        raise UnsupportedError(
            f"Slice makes {item.output!r} of some of the examples, or in another order"
        )
    x = planner.value(node.inputs[0])
    inner = tuple(parts[1 : x.planes.ndim + 1])
    scales = None if x.scales is None else x.scales[inner]
    x = replace(x, planes=x.planes[inner], scales=scales)
    if x.spatial:
        rows, columns = range(x.rows)[parts[-2]], range(x.columns)[parts[-1]]
        if (len(rows), len(columns)) != (x.rows, x.columns) or min(rows.step, columns.step) < 1:
            x = _cut(planner, x, rows, columns)
    planner.values[item.output] = x


def _cut(planner: Planner, x: Value, rows: range, columns: range) -> Value:
    if min(rows.step, columns.step) < 1:
        raise UnsupportedError("a part backwards")
    x = planner.settled(x)
    made = planner.memory.buffer(x.planes.size, len(rows), len(columns))
    taken = ((rows.start, rows.step), (columns.start, columns.step))
    planner.steps.append(CopyStep(x, planner.sample(x), made, *taken))
    planes = made.numbers.reshape(x.planes.shape)
    return replace(x, planes=planes, rows=len(rows), columns=len(columns), source=-1)


def _gather(planner: Planner, item: Fused) -> None:
    x = planner.read(item.node.inputs[0])
    indices = constant(planner, item.node, 1)
    axis = _plane_axis(planner, item, x, item.node.attributes.get("axis", 0))
    planner.values[item.output] = replace(x, planes=np.take(x.planes, indices, axis))


def _pad(planner: Planner, item: Fused) -> None:
    node = item.node
    if node.attributes.get("mode", "constant") != "constant" or (
        len(node.inputs) > 3 and node.inputs[3]
    ):
        raise UnsupportedError(f"Pad makes {item.output!r} by other than a constant on all axes")
    pads = constant(planner, node, 1).tolist()
    fill = 0.0
    if len(node.inputs) > 2 and node.inputs[2]:
        fill = float(constant(planner, node, 2).ravel()[0])
    x = planner.settled(planner.value(node.inputs[0]))
    rank = len(pads) // 2
    if not x.spatial or any(pads[axis] or pads[axis + rank] for axis in range(rank - 2)):
        raise UnsupportedError(f"Pad makes {item.output!r} with more channels")
    rows, columns = planner.shapes[item.output][-2:]
    made = planner.memory.buffer(x.planes.size, rows, columns)
    moved = ((-pads[rank - 2], 1), (-pads[rank - 1], 1))
    planner.steps.append(CopyStep(x, planner.sample(x), made, *moved, fill=fill))
    planner.finish(item, made)


def _plane_axis(planner: Planner, item: Fused, x: Value, axis: object) -> int:
    """Return an axis among those of the planes; refuses rows, columns and the batch."""
    assert isinstance(axis, int)
    rank = len(x.shape) + 1
    found = axis % rank - 1
    if not 0 <= found < x.planes.ndim:
        raise UnsupportedError(
            f"{item.node.op} makes {item.output!r} along an axis (={axis}) of no channels"
        )
    return found


RULES: Mapping[str, Rule] = {
    **dict.fromkeys([CONVOLUTION, "Conv"], convolution),
    **dict.fromkeys([LINEAR, "Gemm", "MatMul"], dense),
    **dict.fromkeys(
        ["Activation", "Clip", "Gelu", "HardSigmoid", "HardSwish", "Relu", "Sigmoid", "Tanh"], _activation
    ),
    **dict.fromkeys(["Identity", "Dropout"], _same),
    **dict.fromkeys(["AveragePool", "MaxPool"], _pool),
    **dict.fromkeys(["GlobalAveragePool", "ReduceMean"], _mean),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Unsqueeze"], _reshape),
    NORM: norm, "Add": _sum, "Concat": _concatenation, "Gather": _gather, "Mul": _product, "Pad": _pad,
    "Slice": _slice, "Split": _split, "Transpose": _transpose,
}  # fmt: skip
"""The operations that there are kernels for; any other is refused by name."""
