"""A bundle that runs: its modes prepared when they are used, switched between two calls."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from wenable.runtime.building import Choose, build_model
from wenable.runtime.bundle import Bundle
from wenable.runtime.engines import Engine, EngineError, Runner, installed_engines, open_engine
from wenable.runtime.lowering import default_lowering
from wenable.space import ModeChoice


class Session:
    """Runs the modes of a bundle on one engine, from any number of threads.

    - `path`: the bundle.
    - `engine`: `"onnxruntime"`, `"openvino"`, or `"auto"` for the first that is installed.
    - `threads`: of one call; None for one for each core.
    - `memory_budget_mb`: modes that were not used for longest are dropped beyond it, counted by the
      size of their models; None for no limit.
    - `choose`: how each layer is executed in each pattern; by default a table of common sense.

    Raises `FileNotFoundError`, `BundleError` for a damaged file, `EngineError` for an engine that is
    not installed, `ValueError` for a setting outside its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str = "auto",
        threads: int | None = None,
        memory_budget_mb: float | None = None,
        choose: Choose = default_lowering,
    ) -> None:
        if memory_budget_mb is not None and not memory_budget_mb > 0:
            raise ValueError(f"`memory_budget_mb` (={memory_budget_mb}) must be above 0, or None")
        self.bundle = Bundle(path)
        self.engine: Engine = open_engine(_engine_name(engine), threads)
        self._budget = None if memory_budget_mb is None else int(memory_budget_mb * 2**20)
        self._choose = choose
        self._lock = threading.Lock()
        self._prepared: OrderedDict[int, tuple[Runner, int]] = OrderedDict()
        self._preparing: dict[int, threading.Lock] = {}

    @property
    def modes(self) -> tuple[str, ...]:
        """The exported modes, as text."""
        return tuple(str(each.mode) for each in self.bundle.modes)

    @property
    def prepared_modes(self) -> tuple[str, ...]:
        """The modes that are held ready, those not used for longest first."""
        with self._lock:
            return tuple(str(self.bundle.modes[number].mode) for number in self._prepared)

    def prepare(self, mode: ModeChoice) -> None:
        """Make a mode ready, so that its first call takes no longer than the next."""
        self._runner(self.bundle.number_of(mode))

    def run(self, x: np.ndarray | tuple[np.ndarray, ...], *, mode: ModeChoice | None = None) -> Any:
        """Return the outputs for a batch: one array, or a tuple where the network has several.

        - `x`: shape `(N, ...)` as the network was exported with, of its type; a tuple of arrays for
          several inputs.
        - `mode`: one of the exported ones; the first of them where nothing is said.

        Raises `ValueError` for an input of another shape or type, one with NaN or infinity, or an
        unknown mode; `EngineError` where the engine fails.
        """
        inputs = self._inputs(x)
        number = 0 if mode is None else self.bundle.number_of(mode)
        outputs = self._runner(number)(inputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _inputs(self, x: Any) -> Mapping[str, np.ndarray]:
        wanted = self.bundle.graph.inputs
        given = x if isinstance(x, tuple) else (x,)
        if len(given) != len(wanted):
            raise ValueError(f"`x` must be {len(wanted)} arrays, not {len(given)}")
        for array, expected in zip(given, wanted, strict=True):
            if not isinstance(array, np.ndarray) or str(array.dtype) != expected.dtype:
                found = getattr(array, "dtype", type(array).__name__)
                raise ValueError(f"`x` ({found}) must be a numpy array of {expected.dtype}")
            sizes = ("N", *expected.shape[1:])
            if array.shape[1:] != expected.shape[1:] or array.ndim != len(sizes) or not len(array):
                shape = ", ".join(map(str, sizes))
                raise ValueError(
                    f"`x` (of shape {array.shape}) must have shape ({shape}), N above 0"
                )
            # One sum finds what is not finite in a fraction of the time of a call.
            if array.dtype.kind == "f" and not np.isfinite(array.sum(dtype=np.float64)):
                raise ValueError("`x` holds NaN or infinity")
        return {expected.name: array for array, expected in zip(given, wanted, strict=True)}

    def _runner(self, number: int) -> Runner:
        with self._lock:
            if number in self._prepared:
                self._prepared.move_to_end(number)
                return self._prepared[number][0]
            own = self._preparing.setdefault(number, threading.Lock())
        with own:  # two threads that want one mode prepare it once; other modes go on
            with self._lock:
                if number in self._prepared:
                    return self._prepared[number][0]
            model = self.model(number)
            runner = self.engine.prepare(model)
            with self._lock:
                self._prepared[number] = (runner, len(model))
                self._drop_beyond_budget()
        return runner

    def model(self, number: int) -> bytes:
        """Return the ONNX model of mode `number`, as the engine gets it."""
        bundle = self.bundle
        return build_model(bundle.graph, bundle.layers, bundle.weights_of(number), self._choose)

    def _drop_beyond_budget(self) -> None:
        held = sum(size for _, size in self._prepared.values())
        while self._budget is not None and held > self._budget and len(self._prepared) > 1:
            _, (_, size) = self._prepared.popitem(last=False)
            held -= size


def _engine_name(name: str) -> str:
    if name != "auto":
        return name
    installed = installed_engines()
    if not installed:
        raise EngineError("no engine is installed: pip install 'wenable[onnxruntime]'")
    return installed[0]
