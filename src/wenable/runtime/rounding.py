"""Layers in few bits: integers of 8 bits as operations of ONNX, other precisions as rounded floats.

The grids are those of `Rounding`: symmetric for each output of a weight, one for a whole input. Engines
that multiply 8-bit integers find the form of ONNX's quantised models (QDQ) and do; others compute the
same numbers as floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wenable.core.views import Rounding
from wenable.runtime.graph import Node

INTEGER_BITS = 8
AddTensor = Callable[[str, np.ndarray], str]
"""Stores a constant of a model under a name, and returns the name to read it by."""


@dataclass(frozen=True)
class RoundedWeight:
    """A weight on its grid.

    - `integers`: whole numbers as floats, shape `(outputs, ...)`; `scale`: of each output.
    """

    integers: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, bits: int) -> RoundedWeight:
        """Return a weight rounded to so many bits; an output of zeros has the scale 1.

        >>> RoundedWeight.of(np.array([[0.5, -1.0]], np.float32), 8).integers.tolist()
        [[64.0, -127.0]]
        """
        highest = np.float32(2 ** (bits - 1) - 1)
        largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), initial=0)
        scale = (largest / highest).astype(np.float32)
        scale[scale == 0] = 1
        integers = np.rint(weight / _in_front(scale, weight))
        return cls(np.clip(integers, -highest, highest).astype(np.float32), scale)

    def values(self) -> np.ndarray:
        """Return the numbers that the integers stand for."""
        return self.integers * _in_front(self.scale, self.integers)

    def times(self, factor: np.ndarray) -> RoundedWeight:
        """Return it with each output multiplied: the integers stay, but for their signs."""
        signs = _in_front(np.sign(factor), self.integers)
        scale = np.where(factor != 0, self.scale * np.abs(factor), 1).astype(np.float32)
        return RoundedWeight(self.integers * signs, scale)

    def in_order(self, rows: np.ndarray) -> RoundedWeight:
        """Return it with its outputs in another order."""
        return RoundedWeight(self.integers[rows], self.scale[rows])


def _in_front(numbers: np.ndarray, like: np.ndarray) -> np.ndarray:
    return numbers.reshape(-1, *[1] * (like.ndim - 1))


def rounded_input(x: str, name: str, grid: Rounding, add: AddTensor) -> list[Node]:
    """Return the nodes that bring a value onto its grid; the last one makes `name`."""
    scale = np.array(grid.scale, np.float32)
    if grid.bits == INTEGER_BITS:
        read = (add(f"{name}.scale", scale), add(f"{name}.zero", np.array(grid.zero, np.uint8)))
        quantised = f"{name}.integers"
        return [
            Node("QuantizeLinear", (x, *read), (quantised,)),
            Node("DequantizeLinear", (quantised, *read), (name,)),
        ]
    numbers = [np.array(each, np.float32) for each in (0, grid.zero, 2**grid.bits - 1)]
    scale_name, zero_name = add(f"{name}.scale", scale), add(f"{name}.zero", numbers[1])
    bounds = add(f"{name}.lowest", numbers[0]), add(f"{name}.highest", numbers[2])
    steps = [
        ("Div", (scale_name,)), ("Round", ()), ("Add", (zero_name,)), ("Clip", bounds),
        ("Sub", (zero_name,)), ("Mul", (scale_name,)),
    ]  # fmt: skip
    nodes = []
    for number, (op, operands) in enumerate(steps, 1):
        made = name if number == len(steps) else f"{name}.{op}"
        nodes.append(Node(op, (x, *operands), (made,)))
        x = made
    return nodes


def integer_weight(weight: RoundedWeight, name: str, axis: int, add: AddTensor) -> tuple[Node, str]:
    """Return the node that makes a weight of its integers of 8 bits, and the weight's name.

    - `axis`: the dimension of the outputs; a dense layer reads its weight turned.
    """
    integers = weight.integers if axis == 0 else weight.integers.T
    read = (
        add(f"{name}.integers", np.ascontiguousarray(integers.astype(np.int8))),
        add(f"{name}.scale", weight.scale),
        add(f"{name}.zero", np.zeros(len(weight.scale), np.int8)),
    )
    return Node("DequantizeLinear", read, (name,), {"axis": axis}), name


def integer_bias(
    bias: np.ndarray, weight: RoundedWeight, grid: Rounding, name: str, add: AddTensor
) -> Node | None:
    """Return the node that makes a bias of integers of 32 bits, which engines add to their sums.

    None where one does not fit into 32 bits: it stays a float then.
    """
    scale = (np.float32(grid.scale) * weight.scale).astype(np.float32)
    with np.errstate(all="ignore"):
        wide = np.rint(bias.astype(np.float64) / scale)
    if not bool((np.abs(wide) < 2**31).all()):
        return None
    read = (add(f"{name}.integers", wide.astype(np.int32)), add(f"{name}.scale", scale))
    return Node("DequantizeLinear", read, (name,), {"axis": 0})
