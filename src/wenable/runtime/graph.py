"""The graph of a network as plain values: what a bundle holds, and what engines are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CONVOLUTION, LINEAR, NORM = "SwitchableConv", "SwitchableLinear", "Norm"
"""Operations of ours: they are lowered to an engine's own, for each mode. All others are ONNX's."""

Attribute = int | float | str | list[int] | list[float]


@dataclass(frozen=True)
class Node:
    """One operation: ONNX's by name and attributes, or one of ours.

    - `layer`: of ours only, the name of the layer or norm in the network.
    """

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    layer: str = ""


@dataclass(frozen=True)
class TensorType:
    """The name, type (numpy's) and shape of an input or output; None stands for the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """A network in its full mode, as operations in order.

    - `inputs`, `outputs`: of the network.
    - `opset`: the version of ONNX's operations.

    Values that are no input and no output of a node are tensors of the bundle.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    nodes: tuple[Node, ...]
    opset: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "inputs": [_type_to_json(each) for each in self.inputs],
            "outputs": [_type_to_json(each) for each in self.outputs],
            "opset": self.opset,
            "nodes": [
                {
                    "op": node.op,
                    "inputs": list(node.inputs),
                    "outputs": list(node.outputs),
                    **({"attributes": dict(node.attributes)} if node.attributes else {}),
                    **({"layer": node.layer} if node.layer else {}),
                }
                for node in self.nodes
            ],
        }

    @classmethod
    def from_json(cls, values: Any) -> Graph:
        """Return the graph that `to_json` wrote.

        Raises `ValueError` where it is none: a missing part, a value of another kind, a name that
        is used before it is made or made twice, an operation that would hold other code.
        """
        try:
            graph = cls(
                tuple(_type_from_json(each) for each in values["inputs"]),
                tuple(_type_from_json(each) for each in values["outputs"]),
                tuple(_node_from_json(each) for each in values["nodes"]),
                int(values["opset"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the graph is damaged: {type(error).__name__} {error}") from error
        graph._check_names()
        return graph

    def _check_names(self) -> None:
        made = {each.name for each in self.inputs}
        later = {name for node in self.nodes for name in node.outputs if name}
        for node in self.nodes:
            early = [name for name in node.inputs if name in later and name not in made]
            if early:
                raise ValueError(f"the graph uses {early[0]!r} before it is made")
            twice = made.intersection(name for name in node.outputs if name)
            if twice:
                raise ValueError(f"the graph makes {sorted(twice)[0]!r} twice")
            made.update(name for name in node.outputs if name)
        missing = [each.name for each in self.outputs if each.name not in made]
        if missing:
            raise ValueError(f"the graph does not make its output {missing[0]!r}")

    def tensors_read(self) -> set[str]:
        """Return the names that nodes read and none makes: tensors of the bundle."""
        made = {each.name for each in self.inputs}
        made.update(name for node in self.nodes for name in node.outputs)
        return {name for node in self.nodes for name in node.inputs if name} - made


def consumers(nodes: Sequence[Node]) -> dict[str, list[int]]:
    """Return for every value which nodes read it, by number."""
    found: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        for name in node.inputs:
            found.setdefault(name, []).append(number)
    return found


def _type_to_json(tensor: TensorType) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _type_from_json(values: Any) -> TensorType:
    shape = tuple(values["shape"])
    if not all(size is None or (type(size) is int and 0 < size < 2**31) for size in shape):
        raise ValueError(f"the graph is damaged: a shape (={shape}) must be of whole numbers")
    return TensorType(str(values["name"]), str(values["dtype"]), shape)


def _node_from_json(values: Any) -> Node:
    attributes = dict(values.get("attributes", {}))
    for name, value in attributes.items():
        if not _is_attribute(value):
            raise ValueError(f"the graph is damaged: attribute {name!r} of {values['op']!r}")
    if not str(values["op"]).isidentifier():
        raise ValueError(f"the graph is damaged: {values['op']!r} is no operation")
    return Node(
        str(values["op"]),
        tuple(map(str, values["inputs"])),
        tuple(map(str, values["outputs"])),
        attributes,
        str(values.get("layer", "")),
    )


def _is_attribute(value: Any) -> bool:
    if type(value) in (int, float, str):
        return type(value) is not int or -(2**63) <= value < 2**63
    if type(value) is not list or not value:
        return False
    return all(
        type(each) is type(value[0]) in (int, float) and _is_attribute(each) for each in value
    )
