"""Writes a graph as an ONNX model: the few messages of its protobuf format, and nothing more.

The `onnx` package does this too; it brings protobuf and 60 MB to a device that needs neither. The
tests read what is written here with that package. Source: onnx.proto3 of ONNX 1.16 (field numbers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from wenable.runtime.graph import Attribute, Node, TensorType

IR_VERSION = 10
# TensorProto.DataType
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
          "float64": 11}  # fmt: skip


def onnx_model(
    inputs: Iterable[TensorType],
    outputs: Iterable[TensorType],
    nodes: Iterable[Node],
    tensors: Mapping[str, np.ndarray],
    opset: int,
) -> bytes:
    """Return an ONNX model as bytes.

    - `tensors`: the constants that the nodes read.

    An output that is added to something as well is given back as a copy. Otherwise ONNX Runtime fuses a
    grouped convolution that makes it with the sum, and then misses the output.

    Raises `ValueError` for a type that is not known here.
    """
    nodes, outputs = list(nodes), list(outputs)
    inner = _made_and_added(nodes, outputs)
    graph = [
        *(_message(1, _node(node, inner)) for node in nodes),
        *(
            _message(1, _node(Node("Identity", (own,), (name,)), {}, own))
            for name, own in inner.items()
        ),
        _text(2, "network"),
        *(_message(5, _tensor(name, array)) for name, array in tensors.items()),
        *(_message(11, _value(each)) for each in inputs),
        *(_message(12, _value(each)) for each in outputs),
    ]
    opset_import = _text(1, "") + _number(2, opset)
    return b"".join(
        [
            _number(1, IR_VERSION),
            _text(2, "wenable"),
            _message(7, b"".join(graph)),
            _message(8, opset_import),
        ]
    )


def _made_and_added(nodes: Sequence[Node], outputs: Sequence[TensorType]) -> dict[str, str]:
    """Return output -> another name for it within the model, for those that a sum reads."""
    added = {name for node in nodes if node.op == "Add" for name in node.inputs}
    made = {name for node in nodes for name in node.outputs}
    return {each.name: f"{each.name}\ninner" for each in outputs if each.name in added & made}


def _node(node: Node, inner: Mapping[str, str], name: str = "") -> bytes:
    parts = [_text(1, inner.get(each, each)) for each in node.inputs]
    parts += [_text(2, inner.get(each, each)) for each in node.outputs]
    parts += [_text(3, name or node.outputs[0]), _text(4, node.op)]
    parts += [_message(5, _attribute(key, value)) for key, value in node.attributes.items()]
    return b"".join(parts)


def _attribute(name: str, value: Attribute) -> bytes:
    head = _text(1, name)
    # type: FLOAT 1, INT 2, STRING 3, FLOATS 6, INTS 7
    if isinstance(value, str):
        return head + _text(4, value) + _number(20, 3)
    if isinstance(value, int):
        return head + _number(3, value) + _number(20, 2)
    if isinstance(value, float):
        return head + _float(2, value) + _number(20, 1)
    if isinstance(value[0], int):
        return head + b"".join(_number(8, int(each)) for each in value) + _number(20, 7)
    return head + b"".join(_float(7, each) for each in value) + _number(20, 6)


def _tensor(name: str, array: np.ndarray) -> bytes:
    parts = [_number(1, size) for size in array.shape]
    parts += [_number(2, _type_number(str(array.dtype))), _text(8, name)]
    little_endian = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return b"".join([*parts, _message(9, little_endian.tobytes())])


def _value(tensor: TensorType) -> bytes:
    sizes = [_message(1, _dimension(place, size)) for place, size in enumerate(tensor.shape)]
    kind = _number(1, _type_number(tensor.dtype)) + _message(2, b"".join(sizes))
    return _text(1, tensor.name) + _message(2, _message(1, kind))


def _dimension(place: int, size: int | None) -> bytes:
    if size is not None:
        return _number(1, size)
    return _text(2, "batch") if place == 0 else b""  # what has one name has one size


def _type_number(dtype: str) -> int:
    if dtype not in _TYPES:
        raise ValueError(f"`dtype` (={dtype!r}) is unknown; allowed: {', '.join(_TYPES)}")
    return _TYPES[dtype]


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
