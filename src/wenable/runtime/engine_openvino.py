"""OpenVINO."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from wenable.runtime.engines import EngineError, OperationTime
from wenable.runtime.quiet_openvino import openvino

_COMPUTES = frozenset(["Convolution", "GroupConvolution", "FullyConnected", "MatMul"])


class OpenVino:
    """OpenVINO on the CPU, in float32, one stream: the lowest latency of a single request.

    - `threads`: for one model.
    """

    name = "openvino"

    def __init__(self, threads: int) -> None:
        self.version = str(openvino.__version__)
        self.threads = threads
        self._core = openvino.Core()

    def prepare(self, model: bytes) -> _Runner:
        """Return a runner for an ONNX model; raises `EngineError` where it is refused."""
        try:
            return _Runner(self._core, self._read(model), self._settings())
        except Exception as error:  # its errors are RuntimeErrors of several kinds
            raise EngineError(f"OpenVINO refuses the model: {_first_line(error)}") from error

    def operation_times(
        self, model: bytes, inputs: Mapping[str, np.ndarray], calls: int
    ) -> list[OperationTime]:
        """Return the least time of each operation, in the order in which they run."""
        settings = self._settings() | {"PERF_COUNT": "YES"}
        try:
            compiled = _Runner(self._core, self._read(model), settings).compiled
            request = compiled.create_infer_request()
            found: dict[tuple[str, str], list[float]] = {}
            for _ in range(calls + 1):
                request.infer(dict(inputs))
                for each in request.profiling_info:
                    ms = 1e3 * each.real_time.total_seconds()
                    found.setdefault((each.node_name, each.node_type), []).append(ms)
            fused = _fused_names(compiled)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot run the model: {_first_line(error)}") from error
        return [
            OperationTime(
                () if kind == "Reorder" else fused.get(name, (name,)),
                kind in _COMPUTES,
                min(times[1:]),
            )
            for (name, kind), times in found.items()
            if any(times[1:])
        ]

    def _read(self, model: bytes) -> openvino.Model:
        return self._core.read_model(model=model, weights=b"")

    def _settings(self) -> dict[str, Any]:
        return {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # it takes bfloat16 by itself where there is any
        }


class _Runner:
    """Compiled for each size of batch that is asked for: OpenVINO is slow where it may vary."""

    def __init__(
        self, core: openvino.Core, model: openvino.Model, settings: Mapping[str, Any]
    ) -> None:
        self._core, self._model, self._settings = core, model, dict(settings)
        self._names = [each.get_any_name() for each in model.inputs]
        self._compiled: dict[int, openvino.CompiledModel] = {}
        self._compiling = threading.Lock()
        self._own = threading.local()  # a request serves one thread at a time
        self.compiled = self._for_batch(1)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        batch = len(inputs[self._names[0]])
        requests = self._own.__dict__.setdefault("requests", {})
        try:
            if batch not in requests:
                requests[batch] = self._for_batch(batch).create_infer_request()
            # Copies: the request's own memory is written over by its next call.
            found = requests[batch].infer(dict(inputs), share_inputs=True, share_outputs=False)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot run the model: {_first_line(error)}") from error
        return list(found.to_tuple())

    def _for_batch(self, batch: int) -> openvino.CompiledModel:
        with self._compiling:
            if batch not in self._compiled:
                sizes = {
                    each.get_any_name(): [batch, *list(each.partial_shape)[1:]]
                    for each in self._model.inputs
                }
                self._model.reshape(sizes)
                compiled = self._core.compile_model(self._model, "CPU", self._settings)
                self._compiled[batch] = compiled
            return self._compiled[batch]


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
