"""Modes that run one after another on one input: what two of them compute alike is computed once.

An early exit is the beginning of a longer network. So the model of each mode is compared with those of
the modes before it, operation by operation: what has the same operation, attributes, constants and
operands is the same value, and is passed on instead of being computed again. Modes that have nothing
in common each run as a whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wenable.runtime.graph import Graph, Node, TensorType
from wenable.runtime.onnx_writer import onnx_model
from wenable.runtime.sizes import value_shapes

_OTHER_TYPE = frozenset(
    ["Cast", "CastLike", "Shape", "Size", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual",
     "Less", "LessOrEqual", "Not", "IsNaN", "IsInf", "NonZero", "QuantizeLinear", "Where", "OneHot",
     "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"]
)  # fmt: skip
"""Operations whose result may be of another type than their first operand."""


@dataclass(frozen=True)
class StageModel:
    """The whole model of one mode: operations of ONNX, and the constants that they read."""

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, np.ndarray]
    opset: int


@dataclass
class Part:
    """What a mode adds to those before it.

    - `takes`: input of the part -> the key of its value: an input of the network, or what an earlier
      part makes.
    - `answers`: how many of its outputs are those of the mode; values for later parts follow.
    - `macs`: multiply-accumulates for one example; `whole_macs`: of the whole mode.
    """

    nodes: list[Node]
    tensors: dict[str, np.ndarray]
    inputs: list[TensorType]
    outputs: list[TensorType]
    takes: dict[str, str]
    answers: int
    macs: int
    whole_macs: int
    opset: int

    @property
    def share(self) -> float:
        """The share of the mode's multiply-accumulates that are left to this part."""
        return self.macs / self.whole_macs if self.whole_macs else 1.0

    def make(self, value: TensorType) -> None:
        """Give back a value besides, for a later part."""
        if value not in self.outputs:
            self.outputs.append(value)

    def model(self) -> bytes:
        """Return it as an engine takes it."""
        return onnx_model(self.inputs, self.outputs, self.nodes, self.tensors, self.opset)


def parts_of(models: Sequence[StageModel]) -> list[Part]:
    """Return what each mode adds to those before it, in their order.

    Only values in float32 that hold one entry for each example, in their first dimension, are passed
    on: a part of the batch can be taken of these.

    >>> x, y, z = (TensorType(name, "float32", (None, 4)) for name in "xyz")
    >>> shared = Node("Relu", ("x",), ("h",))
    >>> first = StageModel((x,), (y,), (shared, Node("Neg", ("h",), ("y",))), {}, 17)
    >>> second = StageModel((x,), (z,), (shared, Node("Sigmoid", ("h",), ("z",))), {}, 17)
    >>> [[node.op for node in part.nodes] for part in parts_of([first, second])]
    [['Relu', 'Neg'], ['Sigmoid']]
    """
    parts: list[Part] = []
    made: dict[str, _Made] = {}
    for number, model in enumerate(models):
        stage = _Stage(model)
        nodes, taken = stage.needed(made)
        for digest in taken.values():
            parts[made[digest].stage].make(made[digest].value)
        parts.append(stage.part(nodes, {name: made[digest].key for name, digest in taken.items()}))
        for digest, value in stage.passable(parts[-1]).items():
            made.setdefault(digest, _Made(number, value))
    return parts


@dataclass(frozen=True)
class _Made:
    """A value that a stage can pass on."""

    stage: int
    value: TensorType

    @property
    def key(self) -> str:
        return _key(self.stage, self.value.name)


def _key(stage: int, name: str) -> str:
    # No input of a network is called so: names with a line break are refused.
    return f"{stage}\n{name}"


class _Stage:
    """One mode's model, with a digest for each of its values."""

    def __init__(self, model: StageModel) -> None:
        self.model = model
        graph = Graph(model.inputs, model.outputs, model.nodes, model.opset)
        self.shapes = value_shapes(graph, model.tensors)
        self.shapes_of_two = value_shapes(graph, model.tensors, 2)
        self.maker = {name: node for node in model.nodes for name in node.outputs if name}
        self.digests = _digests(model)
        self.types = _types(model)

    def needed(self, made: Mapping[str, object]) -> tuple[list[Node], dict[str, str]]:
        """Return the operations to run, and name -> digest of the values that are taken instead."""
        needed, taken, seen = set[int](), dict[str, str](), set[str]()
        # An answer is never taken over: a mode makes its own outputs, if only with their last operation.
        wanted = [(each.name, False) for each in self.model.outputs]
        while wanted:
            name, may_take = wanted.pop()
            if name in seen or name not in self.maker:
                continue
            seen.add(name)
            if may_take and self.digests[name] in made:
                taken[name] = self.digests[name]
                continue
            node = self.maker[name]
            if id(node) not in needed:
                needed.add(id(node))
                wanted += [(each, True) for each in node.inputs if each]
        return [node for node in self.model.nodes if id(node) in needed], taken

    def part(self, nodes: list[Node], taken: Mapping[str, str]) -> Part:
        """Return these operations as a part; `taken`: the values from elsewhere, name -> key."""
        read = {name for node in nodes for name in node.inputs}
        own = [each for each in self.model.inputs if each.name in read]
        others = [TensorType(name, "float32", self._shape(name)) for name in sorted(taken)]
        return Part(
            nodes=nodes,
            tensors={name: array for name, array in self.model.tensors.items() if name in read},
            inputs=[*own, *others],
            outputs=list(self.model.outputs),
            takes={**{each.name: each.name for each in own}, **taken},
            answers=len(self.model.outputs),
            macs=sum(map(self._macs, nodes)),
            whole_macs=sum(map(self._macs, self.model.nodes)),
            opset=self.model.opset,
        )

    def passable(self, part: Part) -> dict[str, TensorType]:
        """Return digest -> each value of a part that a later one can take."""
        answers = {each.name for each in part.outputs[: part.answers]}
        found = {}
        for node in part.nodes:
            for name in filter(None, node.outputs):
                if name not in answers and self._is_passable(name):
                    found[self.digests[name]] = TensorType(name, "float32", self._shape(name))
        return found

    def _is_passable(self, name: str) -> bool:
        one, two = self.shapes[name], self.shapes_of_two[name]
        by_example = bool(one) and one[0] == 1 and two == (2, *one[1:])
        return by_example and self.types.get(name) == "float32"

    def _shape(self, name: str) -> tuple[int | None, ...]:
        return (None, *self.shapes[name][1:])

    def _macs(self, node: Node) -> int:
        """Return the products of a convolution or matrix product for one example; 0 for others."""
        if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return 0
        made, weight = self.shapes[node.outputs[0]], self.shapes[node.inputs[1]]
        if node.op == "Conv":
            return math.prod(made) * math.prod(weight[1:])
        if node.op == "ConvTranspose":
            return math.prod(self.shapes[node.inputs[0]]) * math.prod(weight[1:])
        shared = self.shapes[node.inputs[0]][0 if node.attributes.get("transA") else -1]
        return math.prod(made) * shared


def _digests(model: StageModel) -> dict[str, str]:
    """Return for every value what it is: the same digest for what is computed in the same way."""
    found = {
        each.name: _digest("input", each.name, each.dtype, each.shape) for each in model.inputs
    }
    for name, array in model.tensors.items():
        found[name] = _digest(str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes())
    for node in model.nodes:
        operands = [found[name] if name else "" for name in node.inputs]
        whole = (node.op, sorted(node.attributes.items()), operands)
        for place, name in enumerate(node.outputs):
            if name:
                found[name] = _digest(*whole, place)
    return found


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _types(model: StageModel) -> dict[str, str]:
    """Return the type of every value that surely has that of the first operand of its operation."""
    found = {each.name: each.dtype for each in model.inputs}
    found |= {name: str(array.dtype) for name, array in model.tensors.items()}
    for node in model.nodes:
        first = found.get(node.inputs[0]) if node.inputs else None
        if first is not None and node.op not in _OTHER_TYPE:
            found.update({name: first for name in node.outputs[:1] if name})
    return found


Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


class StagedBatch:
    """A batch on its way through the stages.

    - `parts`: what each stage adds; `runs`: what runs the model of each.
    """

    def __init__(
        self, parts: Sequence[Part], runs: Sequence[Run], inputs: Mapping[str, np.ndarray]
    ) -> None:
        self._parts, self._runs, self._values = parts, runs, dict(inputs)

    def run(self, stage: int) -> list[np.ndarray]:
        """Return the outputs of a stage for what is left; the stages run in their order."""
        part = self._parts[stage]
        made = self._runs[stage]({name: self._values[key] for name, key in part.takes.items()})
        for value, array in zip(part.outputs[part.answers :], made[part.answers :], strict=True):
            self._values[_key(stage, value.name)] = array
        return made[: part.answers]

    def keep(self, left: np.ndarray) -> None:
        """Go on with some of the examples only; `left`: a mask, shape `(N,)`."""
        self._values = {key: array[left] for key, array in self._values.items()}
