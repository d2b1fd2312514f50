"""What every inference engine offers: a model in, calls out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wenable.runtime.building import ModeWeights
from wenable.runtime.forking import lost_by_a_fork
from wenable.runtime.graph import Graph
from wenable.runtime.implementations import BundleLayer


class Runner(Protocol):
    """A model that an engine has prepared; safe to call from several threads."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for these inputs, by name, each with the batch in front."""
        ...

    def run_and_shrink(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the same, and keep no more memory afterwards than before, as far as it can."""
        ...


HALF_A_TICK_MS = 0.0005
"""What an operation is taken to need that counters of whole microseconds tell nothing of."""


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
    """What prepares models.

    - `per_batch`: whether it prepares a model for one size of batch, and again for another.
    """

    name: str
    version: str
    threads: int
    per_batch: bool

    def prepare(self, model: bytes, batch: int | None = None) -> Runner:
        """Return a runner for an ONNX model; raises `EngineError` where the engine cannot.

        - `batch`: the only size of batch that it has to serve; any where nothing is said.
        """
        ...

    def held_bytes(self, model: int, computed: int) -> int:
        """Return about how many bytes a prepared model keeps.

        - `model`: bytes of the ONNX model, nearly all of them weights.
        - `computed`: bytes of all values that live at once while it runs a batch.
        """
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


@dataclass(frozen=True)
class PlannedMode:
    """A mode that an engine prepared from the graph itself; it stands where others have an ONNX model.

    - `bytes`: what it holds, also where other modes hold the same.
    """

    runner: Runner
    bytes: int

    def __len__(self) -> int:
        """Return its bytes, as of a model."""
        return self.bytes


@runtime_checkable
class ModeEngine(Engine, Protocol):
    """An engine that prepares a mode of a bundle from its graph, and needs no ONNX model of it."""

    def plan(
        self, graph: Graph, layers: Mapping[str, BundleLayer], weights: ModeWeights
    ) -> PlannedMode:
        """Return a mode that is ready; raises `EngineError` for an operation that is not known."""
        ...

    def layer_times(
        self, planned: PlannedMode, inputs: Mapping[str, np.ndarray], calls: int
    ) -> dict[str, float]:
        """Return layer -> the least milliseconds that it takes in a mode; the rest under ""."""
        ...

    def close(self) -> None:
        """Let its threads end with the last mode that runs on them."""
        ...


@runtime_checkable
class SharesMemory(Engine, Protocol):
    """An engine whose models may compute in one place, which is as large as the largest of them needs."""

    @property
    def shares_memory(self) -> bool:
        """Whether they do."""
        ...

    def with_memory_apart(self) -> Engine:
        """Return the same engine, whose models keep memory of their own, given back with them."""
        ...


PRECISIONS = ("float32", "bfloat16", "float16")
"""In which an engine can be asked to compute, the exact one first."""


@runtime_checkable
class HasPrecisions(Engine, Protocol):
    """An engine that can compute in other precisions than float32 on some processors.

    - `precision`: in which it computes; `precisions`: those that this processor has.
    """

    precision: str

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that it computes in on this processor, float32 first."""
        ...

    def in_precision(self, precision: str) -> HasPrecisions:
        """Return the same engine in another precision; in float32 where the processor has not that."""
        ...


def precision_of(engine: Engine) -> str:
    """Return the precision that an engine computes in."""
    return engine.precision if isinstance(engine, HasPrecisions) else "float32"


class EngineError(RuntimeError):
    """An engine that is not installed, or refuses a model."""


class Lost:
    """In the place of what a forked process cannot use: whatever is asked of it is an error."""

    def __getattr__(self, name: str) -> Any:
        """Raise `EngineError`."""
        raise EngineError("it was prepared before this process was forked; prepare it again here")


def check_not_lost(engine: str) -> None:
    """Raise `EngineError` where an engine cannot be used in this process, which was forked."""
    if lost_by_a_fork(engine):
        raise EngineError(
            f"{engine} was used before this process was forked, and its threads did not come along:"
            " open the session in the new process only, start that by spawn, or take"
            " engine='onnxruntime'"
        )


_PLACES = re.compile(r"^(Exception from |Check '.*' failed at |While validating |\s*$)")


def reason_of(error: Exception) -> str:
    r"""Return what went wrong in one line, without the places in an engine's own source.

    >>> lines = ["Exception from src/core.cpp:97:", "Exception from src/onnx.cpp:12:", "no operation X"]
    >>> reason_of(RuntimeError("\n".join(lines)))
    'no operation X'
    """
    lines = str(error).strip().splitlines()
    told = [line.strip() for line in lines if not _PLACES.match(line)] or lines[-1:]
    text = "; ".join(line.rstrip(":;") for line in told) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:500]} ..."


def describe_engine(engine: Engine) -> str:
    """Return an engine's name, version and threads in words, as the source of what it measured."""
    threads = f"{engine.threads} thread{'' if engine.threads == 1 else 's'}"
    return f"{engine.name} {engine.version}, {threads}"
