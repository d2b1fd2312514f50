"""Inference engines behind one small interface: a model in, calls out. One file for each."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from wenable.runtime.building import ModeWeights
from wenable.runtime.graph import Graph
from wenable.runtime.lowering import SwitchableLayer


class Runner(Protocol):
    """A model that an engine has prepared; safe to call from several threads."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for these inputs, by name, each with the batch in front."""
        ...


@dataclass(frozen=True)
class OperationTime:
    """What an engine's own counters say of one operation as it ran.

    - `names`: the values or operations of the model that it stands for, as far as the engine tells:
      several where it fused them, none for what it added, as a change of layout.
    - `computes`: whether it is a convolution or a matrix product.
    """

    names: tuple[str, ...]
    computes: bool
    ms: float


class Engine(Protocol):
    """What prepares models."""

    name: str
    version: str
    threads: int

    def prepare(self, model: bytes) -> Runner:
        """Return a runner for an ONNX model; raises `EngineError` where the engine cannot."""
        ...

    def operation_times(
        self, model: bytes, inputs: Mapping[str, np.ndarray], calls: int
    ) -> list[OperationTime]:
        """Return the least time of each operation of a model, in the order in which they run.

        The least of several calls, since whatever disturbs one only adds to it. Counting costs time
        itself: these tell how the time of a model is shared out, and not how long it takes.

        Raises `EngineError` where the engine cannot.
        """
        ...


@runtime_checkable
class ModeEngine(Protocol):
    """An engine that prepares a mode from the graph itself, and needs no ONNX model of it."""

    def prepare_mode(
        self, graph: Graph, layers: Mapping[str, SwitchableLayer], weights: ModeWeights
    ) -> Runner:
        """Return a runner for a mode; raises `EngineError` for an operation that is not known."""
        ...

    def bytes_held(self, runners: Iterable[Runner]) -> int:
        """Return the bytes that runners of this engine hold, what they share counted once."""
        ...


class EngineError(RuntimeError):
    """An engine that is not installed, or refuses a model."""


def _onnxruntime(threads: int, provider: str) -> Engine:
    from wenable.runtime.engine_onnxruntime import OnnxRuntime

    return OnnxRuntime(threads, provider or "CPUExecutionProvider")


def _openvino(threads: int, provider: str) -> Engine:
    from wenable.runtime.engine_openvino import OpenVino

    if provider:
        raise ValueError(f"`engine` (='openvino:{provider}') has no providers; use 'openvino'")
    return OpenVino(threads)


def _native(threads: int, variant: str) -> Engine:
    from wenable.runtime.engine_native import Native

    return Native(threads, variant)


ENGINES: dict[str, Callable[[int, str], Engine]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "native": _native,
}
_PACKAGES = {"native": "wenable_native"}
"""Of engines whose package has another name."""
_READ_ONNX = ("onnxruntime", "openvino")

_MOST_THREADS = 1024


def open_engine(name: str, threads: int | None = None) -> Engine:
    """Return an engine by name, with a number of threads; None for one for each core.

    `"onnxruntime:CUDAExecutionProvider"` asks ONNX Runtime for one of its providers by name,
    `"native:x86_64_v2"` our own kernels for one instruction set.

    Raises `ValueError` for an unknown name, `EngineError` where it is not installed.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= _MOST_THREADS):
        raise ValueError(f"`threads` (={threads!r}) must be from 1 to {_MOST_THREADS}, or None")
    if not isinstance(name, str):
        raise ValueError(
            f"`engine` (={name!r}) must be a name; allowed: {', '.join(ENGINES)}, auto"
        )
    kind, _, provider = name.partition(":")
    if kind not in ENGINES:
        raise ValueError(f"`engine` (={name!r}) is unknown; allowed: {', '.join(ENGINES)}, auto")
    if not is_installed(kind):
        raise EngineError(f"`engine` (={name!r}) is not installed: pip install 'wenable[{kind}]'")
    return ENGINES[kind](threads or _usable_cores(), provider)


def describe_engine(engine: Engine) -> str:
    """Return an engine's name, version and threads in words, as the source of what it measured."""
    threads = f"{engine.threads} thread{'' if engine.threads == 1 else 's'}"
    return f"{engine.name} {engine.version}, {threads}"


def is_installed(name: str) -> bool:
    """Say whether the package of an engine is there."""
    return importlib.util.find_spec(_PACKAGES.get(name, name)) is not None


def installed_engines() -> tuple[str, ...]:
    """Return the names of the installed engines that run any ONNX model, the default one first.

    Our own kernels (`"native"`) run a bundle's graph, where it holds what they know; they are not
    among these.
    """
    return tuple(filter(is_installed, _READ_ONNX))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
