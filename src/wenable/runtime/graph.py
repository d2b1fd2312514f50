"""The graph of a network as plain values: what a bundle holds, and what engines are given."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CONVOLUTION, LINEAR, NORM = "SwitchableConv", "SwitchableLinear", "Norm"
TRANSPOSED = "SwitchableConvTranspose"
"""Operations of ours: they are lowered to an engine's own, for each mode. All others are ONNX's."""
GROUPED = (CONVOLUTION, TRANSPOSED, LINEAR)
"""Those that run in groups."""

Attribute = int | float | str | list[int] | list[float]

DTYPES = ("float32", "uint8", "int8", "int32", "int64", "bool", "float16", "float64")
"""The types of tensors, by numpy's names."""

# What a file may ask for. Networks stay far below; an engine given more takes minutes or gigabytes.
_MOST_NODES = 20_000
_MOST_ENTRIES = 4096
"""Of the inputs, outputs and attributes of an operation, and of one attribute."""
_MOST_RANK = 16
_MOST_VALUES = 2**28
_MOST_WINDOW = 1024
_MOST_SIZE = 2**31 - 1
_MOST_FLOAT = 3.4028234663852886e38
_OPSETS = range(13, 41)
_OPERATION = re.compile("[A-Za-z][A-Za-z0-9_]{0,99}")
_WINDOWS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": -1024, "output_padding": 0}
"""Attributes that place a window, and the least that each may be; no window exceeds 1024."""


@dataclass(frozen=True)
class Node:
    """One operation: ONNX's by name and attributes, or one of ours.

    - `layer`: of ours only, the name of the layer or norm in the network; none for a dense layer that
      runs in no groups.
    """

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    layer: str = ""


@dataclass(frozen=True)
class TensorType:
    """The name, type (numpy's) and shape of an input or output.

    None stands for the batch in the first place, and for a size that is not known elsewhere.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """A network, as operations in order.

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
            "inputs": types_to_json(self.inputs),
            "outputs": types_to_json(self.outputs),
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
            values = _object(values, "what it holds")
            graph = cls(
                types_from_json(_list(values["inputs"], "inputs", 1)),
                types_from_json(_list(values["outputs"], "outputs", 1)),
                tuple(map(_node_from_json, _list(values["nodes"], "nodes", 1, _MOST_NODES))),
                values["opset"],
            )
        except KeyError as error:
            raise ValueError(f"the graph is damaged: it lacks {error}") from error
        if type(graph.opset) is not int or graph.opset not in _OPSETS:
            raise ValueError(
                f"the graph is damaged: `opset` (={graph.opset!r:.100}) must be a whole number from"
                f" {_OPSETS[0]} to {_OPSETS[-1]}"
            )
        graph._check_names()
        return graph

    def _check_names(self) -> None:
        for what, types in (("input", self.inputs), ("output", self.outputs)):
            names = [each.name for each in types]
            if len(set(names)) < len(names):
                raise ValueError(f"the graph has an {what} of the same name twice")
        made = {each.name for each in self.inputs}
        later = {name for node in self.nodes for name in node.outputs if name}
        for node in self.nodes:
            early = [name for name in node.inputs if name in later and name not in made]
            if early:
                raise ValueError(f"the graph uses {early[0]!r} before it is made")
            for name in filter(None, node.outputs):
                if name in made:
                    raise ValueError(f"the graph makes {name!r} twice")
                made.add(name)
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


def types_to_json(types: Sequence[TensorType]) -> list[dict[str, Any]]:
    """Return plain values that `types_from_json` reads back."""
    return [{"name": each.name, "dtype": each.dtype, "shape": list(each.shape)} for each in types]


def types_from_json(values: Sequence[Any]) -> tuple[TensorType, ...]:
    """Return what `types_to_json` wrote; raises `ValueError` where it is not that."""
    return tuple(_type_from_json(each) for each in values)


def _list(values: Any, what: str, least: int = 0, most: int = _MOST_ENTRIES) -> list[Any]:
    if type(values) is not list or not least <= len(values) <= most:
        raise ValueError(
            f"the graph is damaged: {what} must be a list of {least} to {most} entries"
        )
    return values


def _object(values: Any, what: str) -> dict[str, Any]:
    if type(values) is not dict:
        raise ValueError(
            f"the graph is damaged: {what} (={values!r:.100}) must be an object of JSON"
        )
    return values


def _name(value: Any, what: str, *, empty: bool = False) -> str:
    if type(value) is str and len(value) <= 1000 and value.isprintable() and (value or empty):
        return value
    raise ValueError(
        f"the graph is damaged: {what} (={value!r:.100}) must be a printable text of 1 to 1000"
        " characters"
    )


def _type_from_json(values: Any) -> TensorType:
    values = _object(values, "an input or output")
    name = _name(values["name"], "the name of an input or output")
    shape = tuple(_list(values["shape"], f"the shape of {name!r}", 0, _MOST_RANK))
    if not all(size is None or (type(size) is int and 0 < size <= _MOST_SIZE) for size in shape):
        raise ValueError(
            f"the graph is damaged: the shape (={shape!r:.100}) of {name!r} must be of whole numbers"
            " above 0"
        )
    if values["dtype"] not in DTYPES:
        raise ValueError(
            f"the graph is damaged: the type (={values['dtype']!r:.100}) of {name!r} is unknown;"
            f" allowed: {', '.join(DTYPES)}"
        )
    return TensorType(name, values["dtype"], shape)


def _node_from_json(values: Any) -> Node:
    op = _object(values, "a node")["op"]
    if type(op) is not str or not _OPERATION.fullmatch(op):
        raise ValueError(f"the graph is damaged: {op!r:.100} is no operation")
    attributes = values.get("attributes", {})
    if type(attributes) is not dict or len(attributes) > _MOST_ENTRIES:
        raise ValueError(f"the graph is damaged: the attributes of {op}")
    for name, value in attributes.items():
        if not _is_attribute(value) or not _is_window(name, value):
            raise ValueError(
                f"the graph is damaged: the attribute {name!r:.100} (={value!r:.100}) of {op}"
            )
        _name(name, f"an attribute of {op}")
    node = Node(
        op,
        tuple(_name(each, f"an input of {op}", empty=True) for each in _list(values["inputs"], op)),
        tuple(
            _name(each, f"an output of {op}", empty=True) for each in _list(values["outputs"], op)
        ),
        attributes,
        _name(values.get("layer", ""), f"the layer of {op}", empty=True),
    )
    if not any(node.outputs):
        raise ValueError(f"the graph is damaged: {op} makes nothing")
    if op in _ARITY:
        _check_own(node)
    return node


_ARITY = {CONVOLUTION: (2, 3), TRANSPOSED: (2, 3), LINEAR: (2, 3), NORM: (1,)}


def _check_own(node: Node) -> None:
    if len(node.inputs) not in _ARITY[node.op] or not all(node.inputs) or len(node.outputs) != 1:
        raise ValueError(
            f"the graph is damaged: {node.op} of {node.layer!r} reads {len(node.inputs)} tensors and"
            f" makes {len(node.outputs)}; allowed: reads {' or '.join(map(str, _ARITY[node.op]))},"
            " makes 1"
        )
    if node.op == NORM:
        rank = node.attributes.get("rank")
        if type(rank) is not int or not 2 <= rank <= 8:
            raise ValueError(
                f"the graph is damaged: `rank` (={rank!r:.100}) of {node.layer!r} must be from 2 to 8"
            )
        return
    if node.op == LINEAR and not node.layer:
        return  # it runs in no groups
    if node.op == CONVOLUTION and {"output_padding", "output_shape"} & set(node.attributes):
        raise ValueError(
            f"the graph is damaged: {node.op} of {node.layer!r} has `output_padding`, as only transposed"
            " ones do"
        )
    size = node.attributes.get("input")
    whole = type(size) is list and all(type(each) is int and each > 0 for each in size)
    if not whole or not isinstance(size, list) or len(size) > 7:
        raise ValueError(
            f"the graph is damaged: `input` (={size!r:.100}) of {node.layer!r} must be 1 to 7 sizes"
        )
    if math.prod(size) > _MOST_VALUES:
        raise ValueError(
            f"the graph is damaged: `input` (={size!r:.100}) of {node.layer!r} has more than"
            f" {_MOST_VALUES} values"
        )


def _is_attribute(value: Any) -> bool:
    if type(value) is str:
        return value.isprintable() and len(value) <= _MOST_ENTRIES
    if type(value) is int:
        return -(2**63) <= value < 2**63
    if type(value) is float:
        return abs(value) <= _MOST_FLOAT
    if type(value) is not list or not 0 < len(value) <= _MOST_ENTRIES:
        return False
    return all(
        type(each) is type(value[0]) in (int, float) and _is_attribute(each) for each in value
    )


def _is_window(name: str, value: Attribute) -> bool:
    if name not in _WINDOWS:
        return True
    return type(value) is list and all(_WINDOWS[name] <= each <= _MOST_WINDOW for each in value)
