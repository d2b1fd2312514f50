"""Which operations of a graph our kernels compute together: a layer, its norm, its activation, a sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from wenable.runtime.building import norms_to_fold
from wenable.runtime.graph import CONVOLUTION, LINEAR, NORM, Graph, Node
from wenable.runtime.shapes import Shape

ACTIVATIONS = (
    "none", "relu", "relu6", "hard_sigmoid", "hard_swish", "sigmoid", "silu", "gelu", "gelu_tanh", "tanh",
)  # fmt: skip
"""By the numbers that the kernels know them by."""

_SIMPLE = {"Relu": "relu", "HardSwish": "hard_swish", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_LAYERS = frozenset([CONVOLUTION, "Conv", LINEAR, "Gemm", "MatMul"])
_TAKE_ACTIVATION = _LAYERS | {NORM, "Add"}
_GATED = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}
"""What multiplies its own operand, and what both are together."""


@dataclass(frozen=True)
class Fused:
    """A node, and what is computed with it.

    - `norm`: the norm that is folded into it.
    - `residual`: the value that is added before the activation.
    - `output`: the name of the value at the end.
    """

    node: Node
    output: str
    norm: str = ""
    residual: str = ""
    activation: str = "none"

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that all of it reads."""
        return (*filter(None, self.node.inputs), *filter(None, [self.residual]))


@dataclass
class _Fusing:
    graph: Graph
    tensors: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    items: list[Fused | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.readers: dict[str, int] = {each.name: 1 for each in self.graph.outputs}
        for node in self.graph.nodes:
            for name in node.inputs:
                self.readers[name] = self.readers.get(name, 0) + 1
        self.makers: dict[str, int] = {}

    def run(self) -> list[Fused]:
        folded = norms_to_fold(self.graph)
        norms = set(folded.values())
        for number, node in enumerate(self.graph.nodes):
            if number in norms:
                continue
            norm = self.graph.nodes[folded[number]] if number in folded else None
            output = norm.outputs[0] if norm else node.outputs[0]
            self._add(Fused(node, output, norm.layer if norm else ""))
        return [each for each in self.items if each is not None]

    def _add(self, item: Fused) -> None:
        if not (self._as_gate(item) or self._as_activation(item) or self._as_residual(item)):
            self._append(item)

    def _append(self, item: Fused) -> None:
        self.makers[item.output] = len(self.items)
        self.items.append(item)

    def _as_activation(self, item: Fused) -> bool:
        """Put an activation into what makes its operand, where nothing else reads that."""
        found = activation_of(item.node, self.tensors)
        if not found:
            return False
        place = self.makers.get(item.node.inputs[0])
        maker = self.items[place] if place is not None else None
        free = maker is not None and maker.activation == "none"
        if free and maker and maker.node.op in _TAKE_ACTIVATION and self.readers[maker.output] == 1:
            self._replace(place, replace(maker, activation=found, output=item.output))
        else:
            self._append(replace(item, activation=found))
        return True

    def _as_gate(self, item: Fused) -> bool:
        """See x * sigmoid(x) as one activation."""
        if item.node.op != "Mul" or len(item.node.inputs) != 2:
            return False
        for x, gate in (item.node.inputs, item.node.inputs[::-1]):
            place = self.makers.get(gate)
            maker = self.items[place] if place is not None else None
            if maker is None or maker.node.op in _TAKE_ACTIVATION or maker.activation not in _GATED:
                continue
            if maker.node.inputs[0] != x or self.readers[gate] != 1:
                continue
            self.items[place] = None  # type: ignore[call-overload]
            self.readers[x] -= 1
            both = Node("Activation", (x,), item.node.outputs)
            together = Fused(both, item.output, activation=_GATED[maker.activation])
            self._fold_gate(together)
            return True
        return False

    def _fold_gate(self, item: Fused) -> None:
        place = self.makers.get(item.node.inputs[0])
        maker = self.items[place] if place is not None else None
        free = (
            maker is not None and maker.activation == "none" and maker.node.op in _TAKE_ACTIVATION
        )
        if place is not None and maker and free and self.readers[maker.output] == 1:
            self._replace(place, replace(maker, activation=item.activation, output=item.output))
        else:
            self._append(item)

    def _as_residual(self, item: Fused) -> bool:
        """Have a convolution add what is added to it, where it is the later one of both."""
        if item.node.op != "Add" or len(item.node.inputs) != 2:
            return False
        names = item.node.inputs
        places = [self.makers.get(name, -1) for name in names]
        order = sorted(range(2), key=lambda i: -places[i])
        for i in order:
            place, other = places[i], names[1 - i]
            maker = self.items[place] if place >= 0 else None
            if maker is None or maker.node.op not in (CONVOLUTION, "Conv") or maker.residual:
                continue
            made_before = places[1 - i] < place
            shape = self.shapes[names[i]]
            alike = self.shapes.get(other) == shape and len(shape) == 4 and shape[2:] != (1, 1)
            free = maker.activation == "none" and self.readers[names[i]] == 1
            if (
                made_before
                and alike
                and free
                and other not in self.tensors
                and not self._is_depthwise(maker)
            ):
                self._replace(place, replace(maker, residual=other, output=item.output))
                return True
        return False

    def _is_depthwise(self, item: Fused) -> bool:
        return int(item.node.attributes.get("group", 1) or 1) == self.shapes[item.node.inputs[0]][1]  # type: ignore[arg-type]

    def _replace(self, place: int | None, item: Fused) -> None:
        assert place is not None
        self.items[place] = item
        self.makers[item.output] = place


def fused(
    graph: Graph, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> list[Fused]:
    """Return the operations of a graph in order, those that are computed together as one.

    - `tensors`: of the bundle; `shapes`: of all values, for one example.
    """
    return _Fusing(graph, tensors, shapes).run()


def activation_of(node: Node, tensors: Mapping[str, np.ndarray]) -> str:
    """Return the activation that a node is, or nothing where it is none that the kernels know."""
    if node.op in _SIMPLE:
        return _SIMPLE[node.op]
    if node.op == "Gelu":
        return "gelu_tanh" if node.attributes.get("approximate") == "tanh" else "gelu"
    if node.op == "HardSigmoid":
        slope, offset = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
        known = abs(float(slope) - 1 / 6) < 1e-6 and offset == 0.5  # type: ignore[arg-type]
        return "hard_sigmoid" if known else ""
    if node.op == "Clip":
        bounds = [_number(name, tensors) for name in (*node.inputs[1:], "", "")[:2]]
        if bounds == [0.0, 6.0]:
            return "relu6"
        return "relu" if bounds == [0.0, None] else ""
    return ""


def _number(name: str, tensors: Mapping[str, np.ndarray]) -> float | None:
    found = tensors.get(name)
    return float(found.ravel()[0]) if found is not None and found.size == 1 else None
