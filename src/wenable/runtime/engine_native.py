"""Our own kernels (the package `wenable-native`), for whole networks of convolutions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import wenable_native

from wenable.runtime.building import ModeWeights
from wenable.runtime.engines import EngineError, OperationTime, Runner
from wenable.runtime.graph import Graph
from wenable.runtime.lowering import SwitchableLayer
from wenable.runtime.native_operations import RULES
from wenable.runtime.native_packing import PackedWeights
from wenable.runtime.native_plan import Plan, Planner, UnsupportedError

VARIANT = "WENABLE_NATIVE_VARIANT"
"""The environment variable that names an instruction set instead of the best one."""


class Native:
    """Kernels for weight-enabled layers, whose modes cost what they enable.

    - `threads`: for one model; they sleep between calls. All modes share them, and the memory that
      values lie in, so calls run one at a time.
    - `variant`: an instruction set; the best one that runs here where nothing is said.

    Raises `EngineError` for an instruction set that this processor has not.
    """

    name = "native"

    def __init__(self, threads: int, variant: str = "") -> None:
        variant = variant or os.environ.get(VARIANT, "")
        try:
            self._machine = wenable_native.Machine(threads, variant)
        except ValueError as error:
            raise EngineError(f"the engine 'native' cannot start: {error}") from error
        self.variant = str(self._machine.variant)
        self.version = f"{wenable_native.__version__} {self.variant}"
        self.threads = threads
        self._packed = PackedWeights()

    def prepare(self, model: bytes) -> Runner:
        """Raise `EngineError`: it runs a bundle's graph, and reads no ONNX."""
        raise EngineError("the engine 'native' runs modes of a bundle, and reads no ONNX models")

    def operation_times(
        self, model: bytes, inputs: Mapping[str, np.ndarray], calls: int
    ) -> list[OperationTime]:
        """Raise `EngineError`: it runs a bundle's graph, and reads no ONNX."""
        raise EngineError("the engine 'native' runs modes of a bundle, and reads no ONNX models")

    def prepare_mode(
        self, graph: Graph, layers: Mapping[str, SwitchableLayer], weights: ModeWeights
    ) -> NativeRunner:
        """Return a runner for a mode; raises `EngineError` for an operation that is not known."""
        try:
            planner = Planner(graph, layers, weights, self._packed)
            plan = planner.plan(RULES)
        except UnsupportedError as error:
            raise EngineError(f"the engine 'native' refuses the graph: {error}") from error
        return NativeRunner(graph, plan, self._machine, planner.used)

    def bytes_held(self, runners: Iterable[Runner]) -> int:
        """Return the bytes of packed weights, tables, and the memory that values lie in."""
        ours = [each for each in runners if isinstance(each, NativeRunner)]
        packed = {id(array): array.nbytes for each in ours for array in each.packed}
        return sum(packed.values()) + sum(each.own_bytes for each in ours) + self._machine.bytes


class NativeRunner:
    """A mode that is prepared; safe to call from several threads, one after the other.

    - `packed`: the arrays of weights that it reads; those of other modes may be the same.
    - `own_bytes`: what it holds beside them.
    - `steps`: what it does, in words.
    """

    def __init__(
        self, graph: Graph, plan: Plan, machine: Any, packed: Sequence[np.ndarray]
    ) -> None:
        self._names = [each.name for each in graph.inputs]
        self._shapes = plan.output_shapes
        self._program = plan.build(wenable_native, machine)
        self.packed = tuple(packed)
        self.own_bytes = int(self._program.bytes)
        self.steps = tuple(map(str, plan.steps))

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for these inputs, by name, each with the batch in front."""
        given, outputs = self._arrays(inputs)
        try:
            self._program.run(given, outputs)
        except RuntimeError as error:
            raise EngineError(f"the engine 'native' cannot run the model: {error}") from error
        return outputs

    def step_times(self, inputs: Mapping[str, np.ndarray], calls: int) -> list[float]:
        """Return the least milliseconds of each of `steps`, for one example."""
        return list(self._program.times(*self._arrays(inputs), calls))

    def _arrays(
        self, inputs: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        given = [np.ascontiguousarray(inputs[name], np.float32) for name in self._names]
        outputs = [np.empty((len(given[0]), *shape[1:]), np.float32) for shape in self._shapes]
        return given, outputs
