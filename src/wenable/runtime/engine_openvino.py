"""OpenVINO."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import openvino

from wenable.runtime.engines import EngineError


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
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # it takes bfloat16 by itself where there is any
        }
        try:
            read = self._core.read_model(model=model, weights=b"")
            return _Runner(self._core.compile_model(read, "CPU", settings))
        except Exception as error:  # its errors are RuntimeErrors of several kinds
            raise EngineError(f"OpenVINO refuses the model: {_first_line(error)}") from error


class _Runner:
    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._compiled = compiled
        self._own = threading.local()  # a request serves one thread at a time

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        try:
            # Copies: the request's own memory is written over by its next call.
            found = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot run the model: {_first_line(error)}") from error
        return [found[output] for output in self._compiled.outputs]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
