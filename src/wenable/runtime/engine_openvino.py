"""OpenVINO."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wenable.runtime.engine import (
    HALF_A_TICK_MS,
    EngineError,
    Lost,
    OperationTime,
    check_not_lost,
    reason_of,
)
from wenable.runtime.forking import abandon, started, tell_after_fork
from wenable.runtime.quiet_openvino import openvino

_COMPUTES = frozenset(["Convolution", "GroupConvolution", "FullyConnected", "MatMul"])


class _Cores:
    """The one core of this process, which stays until the process ends.

    The plugin that a core loads gives the thread it is loaded in a stack for signals, and frees that
    stack when it is destroyed. In another thread it cannot take it away from the first one, where the
    next signal, Ctrl-C or the end of a child, then ended the process.
    """

    def __init__(self) -> None:
        self._core: openvino.Core | None = None
        self._opening = threading.Lock()
        tell_after_fork(self)

    def opened(self) -> openvino.Core:
        """Return the core, made at the first call."""
        with self._opening:
            if self._core is None:
                self._core = openvino.Core()
                if _sums_in_16_bits():
                    # Layers of 8 bits are computed in floating point then, which is exact. The setting is
                    # not among the documented ones.
                    with contextlib.suppress(RuntimeError):
                        self._core.set_property("CPU", {"LP_TRANSFORMS_MODE": False})
            return self._core

    def after_fork(self) -> None:
        """Abandon what holds threads that did not come along."""
        abandon(self._core)
        self._core, self._opening = None, threading.Lock()


def _sums_in_16_bits() -> bool:
    """Say whether this is an x86 processor without VNNI: pairs of 8-bit products may not fit there."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:  # not Linux: nothing tells
        return True
    return not {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(flags)


_cores = _Cores()


_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
"""As OpenVINO calls what a processor computes in."""


class OpenVino:
    """OpenVINO on the CPU, one stream: the lowest latency of a single request.

    - `threads`: for one model.
    - `precision`: of its arithmetic, if this processor has it; else float32, as OpenVINO does then. Weights
      of 8 bits stay integers.
    """

    name = "openvino"
    per_batch = True

    def __init__(self, threads: int, precision: str = "float32") -> None:
        self.threads = threads
        self.precision = precision if precision in self.precisions else "float32"
        # Figures of another precision are of another engine: profiles and choices go by the version.
        told = "" if self.precision == "float32" else f" {self.precision}"
        self.version = f"{openvino.__version__}{told}"

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that it computes in on this processor, float32 first."""
        known = _cores.opened().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        others = (name for name, capability in _CAPABILITIES.items() if capability in known)
        return ("float32", *others)

    def in_precision(self, precision: str) -> OpenVino:
        """Return the same engine in another precision; in float32 where the processor has not that."""
        return OpenVino(self.threads, precision)

    def prepare(self, model: bytes, batch: int | None = None) -> _Runner:
        """Return a runner for an ONNX model; raises `EngineError` where it is refused.

        - `batch`: the one size of batch that it serves; where nothing is said it is compiled again for
          each size that it is given, since OpenVINO is slow where that may vary, and holds them all.
        """
        core = self._opened_core()
        try:
            return _Runner(core, _read(core, model), self._settings(), batch)
        except Exception as error:  # its errors are RuntimeErrors of several kinds
            raise EngineError(f"OpenVINO refuses the model: {reason_of(error)}") from error

    def held_bytes(self, model: int, computed: int) -> int:
        """Return what a model takes that was compiled for one size of batch."""
        return int(1.2 * model) + int(1.5 * computed) + 4 * 2**20

    def operation_times(
        self, model: bytes, inputs: Mapping[str, np.ndarray], calls: int
    ) -> list[OperationTime]:
        """Return the least time of each operation, in the order in which they run."""
        settings = self._settings() | {"PERF_COUNT": "YES"}
        core = self._opened_core()
        try:
            compiled = _Runner(core, _read(core, model), settings, 1).compiled
            request = compiled.create_infer_request()
            found: dict[tuple[str, str], list[float]] = {}
            for _ in range(calls + 1):
                request.infer(dict(inputs))
                for each in request.profiling_info:
                    ms = 1e3 * each.real_time.total_seconds()
                    found.setdefault((each.node_name, each.node_type), []).append(ms)
            fused = _fused_names(compiled)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot run the model: {reason_of(error)}") from error
        return [
            OperationTime(
                () if kind == "Reorder" else fused.get(name, (name,)),
                kind in _COMPUTES,
                max(min(times[1:]), HALF_A_TICK_MS),
            )
            for (name, kind), times in found.items()
            if any(times[1:])
        ]

    def _opened_core(self) -> openvino.Core:
        check_not_lost(self.name)
        return _cores.opened()

    def _settings(self) -> dict[str, Any]:
        return {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            # It takes bfloat16 by itself where there is any.
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
        }


class _Runner:
    """Compiled for one size of batch, or for each that it is given."""

    def __init__(
        self,
        core: openvino.Core,
        model: openvino.Model,
        settings: Mapping[str, Any],
        batch: int | None,
    ) -> None:
        self._core, self._settings = core, dict(settings)
        self._model: Any = model
        self._names = [each.get_any_name() for each in model.inputs]
        self._compiled: dict[int, _Compiled] = {}
        self._compiling = threading.Lock()
        started(OpenVino.name)
        self.compiled: Any = self._for_batch(batch or 1).compiled
        if batch is not None:
            self._model = None  # it holds the weights once more
        tell_after_fork(self)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        batch = len(inputs[self._names[0]])
        try:
            compiled = self._compiled.get(batch) or self._for_batch(batch)
            return compiled(inputs)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot run the model: {reason_of(error)}") from error

    def run_and_shrink(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run: a model that is compiled for its batch takes what it takes."""
        return self(inputs)

    def after_fork(self) -> None:
        """Abandon what was compiled, whose threads did not come along."""
        for thing in (self._core, self._model, self.compiled, self._compiled):
            abandon(thing)
        self._model, self.compiled, self._compiled = Lost(), Lost(), {}
        self._compiling = threading.Lock()

    def _for_batch(self, batch: int) -> _Compiled:
        with self._compiling:
            if batch not in self._compiled:
                if self._model is None:
                    raise ValueError(
                        f"it was compiled for batches of {min(self._compiled)}, not {batch}"
                    )
                sizes = {
                    each.get_any_name(): [batch, *list(each.partial_shape)[1:]]
                    for each in self._model.inputs
                }
                self._model.reshape(sizes)
                self._compiled[batch] = _Compiled(
                    self._core.compile_model(self._model, "CPU", self._settings)
                )
            return self._compiled[batch]


class _Compiled:
    """A compiled model and its idle requests; each serves one call at a time."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self.compiled = compiled
        self._idle: list[Any] = []

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        try:
            # Copies: the request's own memory is written over by its next call.
            found = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        finally:
            self._idle.append(request)
        return list(found.to_tuple())


def _read(core: openvino.Core, model: bytes) -> openvino.Model:
    return core.read_model(model=model, weights=b"")


def _fused_names(compiled: openvino.CompiledModel) -> dict[str, tuple[str, ...]]:
    """Return operation as it runs -> the operations of the model that were fused into it."""
    found = {}
    for each in compiled.get_runtime_model().get_ordered_ops():
        names = each.get_rt_info()
        if "originalLayersNames" in names:
            found[each.get_friendly_name()] = tuple(
                str(names["originalLayersNames"].value).split(",")
            )
    return found
