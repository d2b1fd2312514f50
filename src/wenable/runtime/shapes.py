"""The shape of what an operation of ONNX makes, told from the shapes of what it reads.

One rule for each operation. Shapes that are computed (the target of a reshape, say) need the values
they are computed from; `sizes.py` has those. Source: ONNX's operator reference, opset 13 to 23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wenable.runtime.graph import CONVOLUTION, LINEAR, NORM, TRANSPOSED, Node

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operands:
    """What a node reads: the shape of each input, and its value where it is known; None for none."""

    node: Node
    shapes: Sequence[Shape | None]
    values: Sequence[np.ndarray | None]

    def shape(self, number: int = 0) -> Shape:
        """Return the shape of an input that has to be there."""
        found = self.shapes[number] if number < len(self.shapes) else None
        if found is None:
            raise ValueError(f"{self.node.op} lacks its input {number}")
        return found

    def has(self, number: int) -> bool:
        """Say whether an optional input is there."""
        return number < len(self.shapes) and self.shapes[number] is not None

    def whole(self, number: int) -> list[int]:
        """Return the values of an input of whole numbers, which have to be known."""
        found = self.values[number] if number < len(self.values) else None
        if found is None or found.dtype.kind not in "iu":
            raise ValueError(f"the size of what {self.node.op} makes depends on what it is given")
        return [int(each) for each in found.ravel()]

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute, of the kind of the default."""
        found = self.node.attributes.get(name, default)
        if default is not None and type(found) is not type(default):
            raise ValueError(f"the attribute {name!r} (={found!r:.100}) of {self.node.op}")
        return found

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        """Return an axis counted from the front; `rank` itself is allowed for none but `Flatten`."""
        return _from_front(self.attribute(name, default), rank)


Rule = Callable[[Operands], list[Shape]]


def shapes_made(operands: Operands) -> list[Shape]:
    """Return the shape of each output of a node.

    Raises `ValueError` where the operands do not fit, the shape depends on data, or the operation
    is not known.
    """
    node = operands.node
    if node.op not in RULES:
        raise ValueError(f"the size of what {node.op} makes cannot be told beforehand")
    made = RULES[node.op](operands)
    if len(made) < len(node.outputs) and any(node.outputs[len(made) :]):
        raise ValueError(f"{node.op} makes {len(made)} values, not {len(node.outputs)}")
    if any(size < 0 for shape in made for size in shape):
        raise ValueError(f"{node.op} makes a value of negative size {made}")
    return made


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that several are broadcast to.

    >>> broadcast((2, 1, 4), (3, 1))
    (2, 3, 4)
    """
    made: list[int] = []
    for place in range(1, max(map(len, shapes)) + 1):
        sizes = {shape[-place] for shape in shapes if len(shape) >= place} - {1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {shapes} do not fit together")
        made.append(sizes.pop() if sizes else 1)
    return tuple(reversed(made))


def _same(o: Operands) -> list[Shape]:
    return [o.shape()]


def _broadcast(o: Operands) -> list[Shape]:
    return [broadcast(*(o.shape(number) for number in range(len(o.shapes))))]


def _dropout(o: Operands) -> list[Shape]:
    return [o.shape()] * 2


# Windows


def _window(o: Operands, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return strides, the extents of the dilated kernel, and pads (begins, then ends)."""
    rank = len(kernel)
    strides = o.attribute("strides", [1] * rank)
    dilations = o.attribute("dilations", [1] * rank)
    pads = o.attribute("pads", [0] * 2 * rank)
    if (len(strides), len(dilations), len(pads)) != (rank, rank, 2 * rank) or min(strides) < 1:
        raise ValueError(f"the window of {o.node.op} does not fit its input")
    return strides, [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)], pads


def _positions(o: Operands, sizes: Shape, kernel: Sequence[int]) -> Shape:
    """Return at how many positions a window stands."""
    if len(kernel) != len(sizes) or not sizes:
        raise ValueError(f"the window of {o.node.op} does not fit its input of sizes {sizes}")
    strides, extents, pads = _window(o, kernel)
    padding, up = o.attribute("auto_pad", "NOTSET"), o.attribute("ceil_mode", 0)
    found = []
    for place, size in enumerate(sizes):
        stride = strides[place]
        if padding in ("SAME_UPPER", "SAME_LOWER"):
            found.append(-(-size // stride))
            continue
        before, after = (pads[place], pads[place + len(sizes)]) if padding == "NOTSET" else (0, 0)
        left = size + before + after - extents[place]
        count = (-(-left // stride) if up else left // stride) + 1
        if up and (count - 1) * stride >= size + before:  # no window stands in the padding alone
            count -= 1
        found.append(count)
    return tuple(found)


def _convolution(o: Operands) -> list[Shape]:
    x, weight = o.shape(0), o.shape(1)
    if len(x) < 3 or len(weight) != len(x):
        raise ValueError(f"{o.node.op} reads shapes {x} and {weight}")
    groups = o.attribute("group", 1)
    if groups < 1 or x[1] != groups * weight[1] or weight[0] % groups:
        raise ValueError(f"{o.node.op} in {groups} groups reads shapes {x} and {weight}")
    _check_bias(o, weight[0])
    return [(x[0], weight[0], *_positions(o, x[2:], weight[2:]))]


def _check_bias(o: Operands, outputs: int) -> None:
    if o.has(2) and o.shape(2) != (outputs,):
        raise ValueError(f"the bias of {o.node.op} has shape {o.shape(2)}, not ({outputs},)")


def _transposed_convolution(o: Operands) -> list[Shape]:
    x, weight = o.shape(0), o.shape(1)
    if len(x) < 3 or len(weight) != len(x):
        raise ValueError(f"{o.node.op} reads shapes {x} and {weight}")
    groups = o.attribute("group", 1)
    if groups < 1 or x[1] != weight[0] or weight[0] % groups:
        raise ValueError(f"{o.node.op} in {groups} groups reads shapes {x} and {weight}")
    strides, extents, pads = _window(o, weight[2:])
    rank = len(strides)
    more = o.attribute("output_padding", [0] * rank)
    if len(more) != rank:
        raise ValueError(
            f"`output_padding` (={more}) of {o.node.op} does not fit {rank} dimensions"
        )
    padding = o.attribute("auto_pad", "NOTSET")
    wanted = o.attribute("output_shape", None)
    channels = weight[1] * groups
    _check_bias(o, channels)
    if wanted is not None:
        return [(x[0], channels, *wanted[-rank:])]
    if padding in ("SAME_UPPER", "SAME_LOWER"):
        return [(x[0], channels, *(s * size for s, size in zip(strides, x[2:], strict=True)))]
    sizes = [
        strides[i] * (x[2 + i] - 1) + more[i] + extents[i] - pads[i] - pads[i + rank]
        for i in range(rank)
    ]
    return [(x[0], channels, *sizes)]


def _pool(o: Operands) -> list[Shape]:
    x = o.shape()
    made = (*x[:2], *_positions(o, x[2:], o.attribute("kernel_shape", [])))
    return [made, made]  # MaxPool's places


def _global_pool(o: Operands) -> list[Shape]:
    return [(*o.shape()[:2], *[1] * (len(o.shape()) - 2))]


# Products


def _product(o: Operands) -> list[Shape]:
    left, right = o.shape(0), o.shape(1)
    if not left or not right:
        raise ValueError("MatMul reads a single number")
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    if left[-1:] != right[-2:][:1]:
        raise ValueError(f"MatMul reads shapes {left} and {right}")
    return [(*broadcast(left[:-2], right[:-2]), *rows, *columns)]


def _gemm(o: Operands) -> list[Shape]:
    (rows, inner), (other, columns) = o.shape(0), o.shape(1)
    if o.attribute("transA", 0):
        rows, inner = inner, rows
    if o.attribute("transB", 0):
        other, columns = columns, other
    if inner != other:
        raise ValueError(f"Gemm reads shapes {o.shape(0)} and {o.shape(1)}")
    if o.has(2):
        added = o.shape(2)
        fits = len(added) <= 2 and all(
            size in (1, whole) for size, whole in zip(added[::-1], (columns, rows), strict=False)
        )
        if not fits:
            raise ValueError(f"Gemm adds shape {added} to ({rows}, {columns})")
    return [(rows, columns)]


def _linear(o: Operands) -> list[Shape]:
    x, weight = o.shape(0), o.shape(1)
    if not x or len(weight) != 2 or x[-1] != weight[1]:
        raise ValueError(f"a dense layer reads shapes {x} and {weight}")
    _check_bias(o, weight[0])
    return [(*x[:-1], weight[0])]


def _einsum(o: Operands) -> list[Shape]:
    equation = o.attribute("equation", "").replace(" ", "")
    read, _, made = equation.partition("->")
    if "->" not in equation or "." in equation:
        raise ValueError(f"the equation (={equation!r:.100}) of Einsum must name all dimensions")
    sizes: dict[str, int] = {}
    for number, labels in enumerate(read.split(",")):
        sizes.update(zip(labels, o.shape(number), strict=True))
    return [tuple(sizes[label] for label in made)]


# Other arrangements of the same values


def _reshape(o: Operands) -> list[Shape]:
    x, target = o.shape(), o.whole(1)
    if not o.attribute("allowzero", 0):
        target = [x[place] if size == 0 else size for place, size in enumerate(target)]
    given = math.prod(size for size in target if size != -1)
    if -1 in target:
        target[target.index(-1)] = math.prod(x) // given if given else 0
    if math.prod(target) != math.prod(x) or min(target, default=1) < 0:
        raise ValueError(f"Reshape of {x} to {target}")
    return [tuple(target)]


def _flatten(o: Operands) -> list[Shape]:
    x = o.shape()
    axis = o.attribute("axis", 1)
    axis = axis + len(x) if axis < 0 else axis
    return [(math.prod(x[:axis]), math.prod(x[axis:]))]


def _transpose(o: Operands) -> list[Shape]:
    x = o.shape()
    turned = o.attribute("perm", list(range(len(x)))[::-1])
    if sorted(turned) != list(range(len(x))):
        raise ValueError(f"`perm` (={turned!r:.100}) of Transpose")
    return [tuple(x[place] for place in turned)]


def _squeeze(o: Operands) -> list[Shape]:
    x = o.shape()
    axes = [_from_front(a, len(x)) for a in o.whole(1)] if o.has(1) else range(len(x))
    gone = {axis for axis in axes if x[axis] == 1}
    return [tuple(size for place, size in enumerate(x) if place not in gone)]


def _unsqueeze(o: Operands) -> list[Shape]:
    x, axes = list(o.shape()), o.whole(1)
    rank = len(x) + len(axes)
    for axis in sorted(_from_front(a, rank) for a in axes):
        x.insert(axis, 1)
    return [tuple(x)]


def _depth_to_space(o: Operands) -> list[Shape]:
    n, c, h, w = o.shape()
    size = o.attribute("blocksize", 1)
    return [(n, c // size**2, h * size, w * size)]


def _space_to_depth(o: Operands) -> list[Shape]:
    n, c, h, w = o.shape()
    size = o.attribute("blocksize", 1)
    return [(n, c * size**2, h // size, w // size)]


# Parts of values, and several put together


def _concat(o: Operands) -> list[Shape]:
    parts = [o.shape(number) for number in range(len(o.shapes))]
    axis = o.axis(len(parts[0]), 0)
    return [_with(parts[0], axis, sum(part[axis] for part in parts))]


def _split(o: Operands) -> list[Shape]:
    x, count = o.shape(), len(o.node.outputs)
    axis = o.axis(len(x), 0)
    if o.has(1):
        sizes = o.whole(1)
    else:
        each = -(-x[axis] // count)
        sizes = [min(each, max(x[axis] - each * i, 0)) for i in range(count)]
    return [_with(x, axis, size) for size in sizes]


def _slice(o: Operands) -> list[Shape]:
    made, starts, ends = list(o.shape()), o.whole(1), o.whole(2)
    axes = o.whole(3) if o.has(3) else list(range(len(starts)))
    steps = o.whole(4) if o.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _from_front(axis, len(made))
        made[place] = len(range(*slice(start, end, step).indices(o.shape()[place])))
    return [tuple(made)]


def _gather(o: Operands) -> list[Shape]:
    x = o.shape()
    axis = o.axis(len(x), 0)
    return [(*x[:axis], *o.shape(1), *x[axis + 1 :])]


def _gather_nd(o: Operands) -> list[Shape]:
    x, indices = o.shape(0), o.shape(1)
    return [(*indices[:-1], *x[o.attribute("batch_dims", 0) + indices[-1] :])]


def _like_indices(o: Operands) -> list[Shape]:
    return [o.shape(1)]


def _sampled(o: Operands) -> list[Shape]:
    return [(*o.shape()[:2], *o.shape(1)[1:-1])]


def _top(o: Operands) -> list[Shape]:
    x = o.shape()
    return [_with(x, o.axis(len(x), -1), o.whole(1)[0])] * 2


def _reduced(o: Operands) -> list[Shape]:
    x = o.shape()
    given = o.whole(1) if o.has(1) else o.attribute("axes", None)
    if not given and o.attribute("noop_with_empty_axes", 0):
        return [x]
    axes = {_from_front(axis, len(x)) for axis in given or range(len(x))}
    return [_without(x, axes, bool(o.attribute("keepdims", 1)))]


def _arg(o: Operands) -> list[Shape]:
    x = o.shape()
    return [_without(x, {o.axis(len(x), 0)}, bool(o.attribute("keepdims", 1)))]


# What makes a value larger than all it reads


def _expand(o: Operands) -> list[Shape]:
    return [broadcast(o.shape(), tuple(o.whole(1)))]


def _tile(o: Operands) -> list[Shape]:
    return [tuple(size * times for size, times in zip(o.shape(), o.whole(1), strict=True))]


def _pad(o: Operands) -> list[Shape]:
    made, pads = list(o.shape()), o.whole(1)
    axes = [_from_front(a, len(made)) for a in o.whole(3)] if o.has(3) else range(len(made))
    if len(pads) != 2 * len(axes):
        raise ValueError(f"Pad of {tuple(made)} by {len(pads)} numbers")
    for number, axis in enumerate(axes):
        made[axis] += pads[number] + pads[number + len(axes)]
    return [tuple(made)]


def _resize(o: Operands) -> list[Shape]:
    made = list(o.shape())
    stretched = o.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
    cut = o.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    axes = [_from_front(a, len(made)) for a in o.attribute("axes", [*range(len(made))] or [0])]
    if cut or not stretched:
        raise ValueError("Resize that cuts or keeps the ratio of sizes")
    if o.has(3) and math.prod(o.shape(3)):
        sizes: list[int] = o.whole(3)
    else:
        scales = o.values[2] if len(o.values) > 2 else None
        if scales is None or scales.dtype.kind != "f" or not bool(np.isfinite(scales).all()):
            raise ValueError("the size of what Resize makes depends on what it is given")
        pairs = zip(axes, scales.ravel(), strict=True)
        sizes = [math.floor(made[axis] * float(scale)) for axis, scale in pairs]
    for axis, size in zip(axes, sizes, strict=True):
        made[axis] = size
    return [tuple(made)]


def _filled(o: Operands) -> list[Shape]:
    return [tuple(o.whole(0))]


def _range(o: Operands) -> list[Shape]:
    ends = [each for each in o.values if each is not None]
    if len(ends) != 3 or not all(math.prod(each.shape) == 1 for each in ends):
        raise ValueError("the size of what Range makes depends on what it is given")
    start, limit, step = (float(each.item()) for each in ends)
    if not step or not all(map(math.isfinite, (start, limit, step))):
        raise ValueError("Range without an end")
    return [(max(math.ceil((limit - start) / step), 0),)]


def _one_hot(o: Operands) -> list[Shape]:
    indices = list(o.shape())
    indices.insert(_from_front(o.attribute("axis", -1), len(indices) + 1), o.whole(1)[0])
    return [tuple(indices)]


def _shape(o: Operands) -> list[Shape]:
    rank = len(o.shape())
    end = o.attribute("end", rank)
    return [(len(range(*slice(o.attribute("start", 0), end).indices(rank))),)]


def _constant(o: Operands) -> list[Shape]:
    [value] = o.node.attributes.values()
    return [(len(value),) if isinstance(value, list) else ()]


def _from_front(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"an axis (={axis}) outside of {rank} dimensions")
    return axis % rank


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _without(shape: Shape, axes: set[int], keep: bool) -> Shape:
    if keep:
        return tuple(1 if place in axes else size for place, size in enumerate(shape))
    return tuple(size for place, size in enumerate(shape) if place not in axes)


def _recurrent(o: Operands) -> list[Shape]:
    """The outputs of every step, and the last states: `(steps, directions, batch, hidden)` at first."""
    if o.attribute("layout", 0) != 0:
        raise ValueError(f"{o.node.op} with its batch first")
    steps, batch, _ = o.shape()
    hidden = o.attribute("hidden_size", o.shape(2)[-1])
    directions = 2 if o.attribute("direction", "forward") == "bidirectional" else 1
    last = (directions, batch, hidden)
    return [(steps, *last), last, *([last] if o.node.op == "LSTM" else [])]


_SAME = """Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Cast CastLike Ceil Celu Clip Cos Cosh
    CumSum DequantizeLinear Elu Erf Exp EyeLike Floor Gelu GroupNormalization HardSigmoid HardSwish
    Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax
    LpNormalization MeanVarianceNormalization Mish Neg Not QuantizeLinear RMSNormalization Reciprocal
    Relu Round ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign
    Sqrt Swish Tan Tanh ThresholdedRelu Trilu""".split()
_ELEMENT_BY_ELEMENT = """Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater
    GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor""".split()
_REDUCTIONS = """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare""".split()

RULES: Mapping[str, Rule] = {
    **dict.fromkeys([*_SAME, NORM], _same),
    **dict.fromkeys(_ELEMENT_BY_ELEMENT, _broadcast),
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(["Conv", CONVOLUTION], _convolution),
    **dict.fromkeys(["AveragePool", "LpPool", "MaxPool"], _pool),
    **dict.fromkeys(["GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"], _global_pool),
    **dict.fromkeys(["ArgMax", "ArgMin"], _arg),
    **dict.fromkeys(["GRU", "LSTM", "RNN"], _recurrent),
    "Concat": _concat, "Constant": _constant, "ConstantOfShape": _filled,
    **dict.fromkeys(["ConvTranspose", TRANSPOSED], _transposed_convolution),
    "DepthToSpace": _depth_to_space, "Dropout": _dropout,
    "Einsum": _einsum, "Expand": _expand, "Flatten": _flatten, "Gather": _gather,
    "GatherElements": _like_indices, "GatherND": _gather_nd, "Gemm": _gemm, "GridSample": _sampled,
    LINEAR: _linear, "MatMul": _product, "OneHot": _one_hot, "Pad": _pad, "Range": _range,
    "Reshape": _reshape, "Resize": _resize, "Shape": _shape, "Size": lambda o: [()],
    "Slice": _slice, "SpaceToDepth": _space_to_depth, "Split": _split, "Squeeze": _squeeze,
    "Tile": _tile, "TopK": _top, "Transpose": _transpose, "Unsqueeze": _unsqueeze,
}  # fmt: skip
