"""Our own kernels (the package `wenable-native`), for whole networks of convolutions."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wenable.runtime.building import ModeWeights
from wenable.runtime.engine import EngineError, Lost, OperationTime, PlannedMode, Runner
from wenable.runtime.forking import abandon, no_fork_meanwhile, tell_after_fork
from wenable.runtime.graph import Graph
from wenable.runtime.implementations import BundleLayer
from wenable.runtime.native.constant_norms import with_constant_norms
from wenable.runtime.native.operations import RULES
from wenable.runtime.native.packing import PackedWeights
from wenable.runtime.native.plan import Plan, Planner, UnsupportedError

# By name, since types are checked where it is not built, too.
_native: Any = importlib.import_module("wenable_native")

VARIANT = "WENABLE_NATIVE_VARIANT"
"""The environment variable that names an instruction set instead of the best one."""
_NO_ONNX = "the engine 'native' runs the modes of a bundle, and reads no ONNX models"


class Native:
    """Kernels for weight-enabled layers, whose modes cost what they enable.

    - `threads`: for one model; they sleep between calls. All modes share them, and the memory that
      values lie in, so calls run one at a time.
    - `variant`: an instruction set; the best one that runs here where nothing is said.

    Raises `EngineError` for an instruction set that this processor has not.
    """

    name = "native"
    per_batch = False

    def __init__(self, threads: int, variant: str = "") -> None:
        self._wanted = variant or os.environ.get(VARIANT, "")
        self.threads = threads
        self._machine: Any = None
        self.variant = str(self._opened().variant)
        self.version = f"{_native.__version__} {self.variant}"
        self._packed = PackedWeights()
        tell_after_fork(self)

    def prepare(self, model: bytes, batch: int | None = None) -> Runner:
        """Raise `EngineError`: it runs a bundle's graph, and reads no ONNX."""
        raise EngineError(_NO_ONNX)

    def operation_times(
        self, model: bytes, inputs: Mapping[str, np.ndarray], calls: int
    ) -> list[OperationTime]:
        """Raise `EngineError`: it runs a bundle's graph, and reads no ONNX."""
        raise EngineError(_NO_ONNX)

    def held_bytes(self, model: int, computed: int) -> int:
        """Return what a mode takes: examples of a batch run one after the other."""
        return model

    def plan(
        self, graph: Graph, layers: Mapping[str, BundleLayer], weights: ModeWeights
    ) -> PlannedMode:
        """Return a mode that is ready; raises `EngineError` for an operation that is not known."""
        # A lock that planning takes (of a module that numpy loads late, say) must not be held in a child.
        with no_fork_meanwhile():
            try:
                graph, weights = with_constant_norms(graph, weights)
                planner = Planner(graph, layers, weights, self._packed)
                plan = planner.plan(RULES)
            except UnsupportedError as error:
                raise EngineError(f"the engine 'native' refuses the graph: {error}") from error
            runner = NativeRunner(graph, plan, self._opened(), planner.used)
        return PlannedMode(runner, self.bytes_held([runner]))

    def layer_times(
        self, planned: PlannedMode, inputs: Mapping[str, np.ndarray], calls: int
    ) -> dict[str, float]:
        """Return layer -> the least milliseconds that it takes in a mode; the rest under ""."""
        assert isinstance(planned.runner, NativeRunner)
        return planned.runner.layer_times(inputs, calls)

    def bytes_held(self, runners: Iterable[Runner]) -> int:
        """Return the bytes of packed weights, tables, and the memory that values lie in."""
        ours = [each for each in runners if isinstance(each, NativeRunner)]
        packed = {id(array): array.nbytes for each in ours for array in each.packed}
        machine = int(self._opened().bytes)
        return sum(packed.values()) + sum(each.own_bytes for each in ours) + machine

    def close(self) -> None:
        """Let go of the threads, which end with the last mode that runs on them."""
        self._machine = None

    def after_fork(self) -> None:
        """Abandon the threads, which did not come along; others are started at the next use."""
        abandon(self._machine)
        self._machine = None

    def _opened(self) -> Any:
        machine = self._machine
        if machine is None:
            try:
                with no_fork_meanwhile():
                    machine = self._machine = _native.Machine(self.threads, self._wanted)
            except ValueError as error:
                raise EngineError(f"the engine 'native' cannot start: {error}") from error
        return machine


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
        self._program = plan.build(_native, machine)
        self.packed = tuple(packed)
        self.own_bytes = int(self._program.bytes)
        self.steps = tuple(map(str, plan.steps))
        self._shares = tuple(plan.shares)
        tell_after_fork(self)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for these inputs, by name, each with the batch in front."""
        given, outputs = self._arrays(inputs)
        program = self._program
        try:
            program.run(given, outputs)
        except RuntimeError as error:
            raise EngineError(f"the engine 'native' cannot run the model: {error}") from error
        return outputs

    def run_and_shrink(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run: examples are computed one after the other, so a batch takes no more than one."""
        return self(inputs)

    def after_fork(self) -> None:
        """Let go of the program, whose threads did not come along."""
        self._program = Lost()

    def layer_times(self, inputs: Mapping[str, np.ndarray], calls: int) -> dict[str, float]:
        """Return layer -> the least milliseconds that it takes for one example; the rest under ""."""
        times = {"": 0.0}
        for shares, ms in zip(self._shares, self.step_times(inputs, calls), strict=True):
            for layer, share in shares.items():
                times[layer] = times.get(layer, 0.0) + share * ms
            times[""] += (1 - sum(shares.values())) * ms
        return times

    def step_times(self, inputs: Mapping[str, np.ndarray], calls: int) -> list[float]:
        """Return the least milliseconds of each of `steps`, for one example."""
        return list(self._program.times(*self._arrays(inputs), calls))

    def _arrays(
        self, inputs: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        given = [np.ascontiguousarray(inputs[name], np.float32) for name in self._names]
        outputs = [np.empty((len(given[0]), *shape[1:]), np.float32) for shape in self._shapes]
        return given, outputs
