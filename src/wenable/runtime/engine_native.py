"""Our own kernels (the package `wenable-native`), for whole networks of convolutions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import wenable_native

from wenable.runtime.building import ModeWeights
from wenable.runtime.engines import EngineError
from wenable.runtime.graph import Graph
from wenable.runtime.lowering import SwitchableLayer
from wenable.runtime.native_operations import RULES
from wenable.runtime.native_packing import PackedWeights
from wenable.runtime.native_plan import Planner, UnsupportedError

VARIANT = "WENABLE_NATIVE_VARIANT"
"""The environment variable that names an instruction set instead of the best one."""


class Native:
    """Kernels for weight-enabled layers, whose modes cost what they enable.

    - `threads`: for one model; they sleep between calls. All modes share them, and the memory that
      values lie in, so calls run one at a time.

    Raises `EngineError` for an instruction set that this processor has not.
    """

    name = "native"

    def __init__(self, threads: int, variant: str = "") -> None:
        variant = variant or os.environ.get(VARIANT, "")
        try:
            self._machine = wenable_native.Machine(threads, variant)
        except ValueError as error:
            raise EngineError(f"the engine 'native' cannot start: {error}") from error
        self.version, self.variant = str(wenable_native.__version__), self._machine.variant
        self.threads = threads
        self._packed = PackedWeights()

    def prepare_mode(
        self, graph: Graph, layers: Mapping[str, SwitchableLayer], weights: ModeWeights
    ) -> Runner:
        """Return a runner for a mode; raises `EngineError` for an operation that is not known."""
        try:
            planner = Planner(graph, layers, weights, self._packed)
            plan = planner.plan(RULES)
            program = plan.build(wenable_native, self._machine)
        except UnsupportedError as error:
            raise EngineError(f"the engine 'native' refuses the graph: {error}") from error
        steps = [str(each) for each in plan.steps]
        return Runner(graph, program, plan.output_shapes, planner.used, steps)


class Runner:
    """A mode that is prepared.

    - `packed`: the arrays of weights that it reads; those of other modes may be the same.
    """

    def __init__(
        self, graph: Graph, program: Any, shapes: list[tuple[int, ...]], packed: list[np.ndarray],
        steps: list[str],
    ) -> None:
        self.steps = steps
        self._names = [each.name for each in graph.inputs]
        self._program, self._shapes, self.packed = program, shapes, packed

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        given = [np.ascontiguousarray(inputs[name], np.float32) for name in self._names]
        outputs = [np.empty((len(given[0]), *shape[1:]), np.float32) for shape in self._shapes]
        self._program.run(given, outputs)
        return outputs

    def times(self, inputs: Mapping[str, np.ndarray], calls: int) -> list[float]:
        """Return the least milliseconds of each step, one after the other, for one example."""
        given = [np.ascontiguousarray(inputs[name], np.float32) for name in self._names]
        outputs = [np.empty((1, *shape[1:]), np.float32) for shape in self._shapes]
        return self._program.times(given, outputs, calls)
