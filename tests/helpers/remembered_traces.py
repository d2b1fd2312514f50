"""Remembers torch's ONNX traces of small networks: many tests export networks of the same structure.

A trace runs a network on fake tensors, so it depends on the structure of the network and on no number in
its parameters and buffers. One of a structure that was traced before in this process is the remembered
model with the numbers of the network at hand. `wenable.export` checks every mode of it as ever.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from onnx import ModelProto
from torch import nn
from torch.fx import GraphModule

_PACKAGES = {"torch", "torchvision", "wenable", "collections", "copyreg", "builtins"}
"""What keeps nothing of a trace outside of the network; others are traced each time."""
_OWN = "tests.helpers."
_OF_GRAPHS = {"_graph", "_tracer_cls"}
"""What a `GraphModule` keeps besides its parts; its code says the same."""
_SETTINGS = {"dynamo", "optimize", "verbose", "input_names", "dynamic_shapes"}
_MORE = {"output_names"}


def remember_traces() -> None:
    """Answer `torch.onnx.export` from memory, where its network and its settings allow it."""
    if not isinstance(torch.onnx.export, Memory):
        torch.onnx.export = Memory(torch.onnx.export)


class Memory:
    """What stands in the place of `torch.onnx.export`; `really` is torch's own."""

    def __init__(self, export: Callable[..., Any]) -> None:
        self.really = export
        self._models: dict[bytes, tuple[bytes, frozenset[str]]] = {}

    def __call__(self, model: Any, args: Any = (), *others: Any, **settings: Any) -> Any:
        known = not others and _SETTINGS <= set(settings) <= _SETTINGS | _MORE
        key = _key_of(model, args, settings) if known and isinstance(model, nn.Module) else None
        if key is None:
            return self.really(model, args, *others, **settings)
        if key not in self._models:
            program = self.really(model, args, **settings)
            self._models[key] = _without_numbers(program.model_proto, _tensors_of(model))
        return Program(_with_numbers(*self._models[key], _tensors_of(model)))


@dataclass(frozen=True)
class Program:
    """As much of torch's `ONNXProgram` as is asked for here."""

    model_proto: ModelProto

    def save(self, path: Path) -> None:
        """Write the model."""
        path.write_bytes(self.model_proto.SerializeToString())


def _tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _without_numbers(
    model: ModelProto, tensors: dict[str, torch.Tensor]
) -> tuple[bytes, frozenset[str]]:
    """Return a model without the numbers that are the network's own, and the names of these."""
    own = [each for each in model.graph.initializer if each.name in tensors]
    for each in own:
        assert each.raw_data == _bytes_of(tensors[each.name]), each.name
        each.ClearField("raw_data")
    return model.SerializeToString(), frozenset(each.name for each in own)


def _with_numbers(
    content: bytes, names: frozenset[str], tensors: dict[str, torch.Tensor]
) -> ModelProto:
    model = ModelProto.FromString(content)
    for each in model.graph.initializer:
        if each.name in names:
            each.raw_data = _bytes_of(tensors[each.name])
    return model


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


# --- what a trace depends on ----------------------------------------------------------------------


def _key_of(model: nn.Module, args: Any, settings: dict[str, Any]) -> bytes | None:
    written = io.BytesIO()
    try:
        _Structure(written, model, args).dump((model, args, repr(sorted(settings.items()))))
    except (_NotKnownError, pickle.PicklingError, TypeError):  # what cannot be written is traced
        return None
    return written.getvalue()


class _NotKnownError(Exception):
    """Something whose trace may depend on more than what is written of it."""


class _Structure(pickle.Pickler):
    """Writes a network without the numbers of its parameters and buffers, and what it runs on."""

    def __init__(self, file: io.BytesIO, model: nn.Module, args: Any) -> None:
        super().__init__(file)
        self._places = {id(tensor): name for name, tensor in _tensors_of(model).items()}
        self._places |= {id(tensor): f"input {place}" for place, tensor in enumerate(args)}

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            kind = (type(obj).__name__, str(obj.dtype), tuple(obj.shape), obj.stride())
            place = self._places.get(id(obj))
            return (place, *kind) if place else (_bytes_of(obj), *kind)
        if isinstance(obj, type):
            if issubclass(obj, GraphModule):  # each has a class of its own
                return "GraphModule", obj.__name__
            return self._named(obj), tuple(map(self.persistent_id, obj.__bases__))
        if isinstance(obj, FunctionType | BuiltinFunctionType):
            return self._named(obj)
        return None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, GraphModule):
            return NotImplemented
        # Its own way compiles it anew, as another class.
        kept = {name: value for name, value in vars(obj).items() if name not in _OF_GRAPHS}
        return type(obj), (obj.code, kept)

    def _named(self, obj: Any) -> str:
        module, name = obj.__module__ or "", obj.__qualname__
        known = module.partition(".")[0] in _PACKAGES or module.startswith(_OWN)
        if not known or "<" in name:  # of a function inside another it is not written what it holds
            raise _NotKnownError(f"{module}.{name}")
        return f"{module}.{name}"
