"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime

from wenable.runtime.engines import EngineError


class OnnxRuntime:
    """ONNX Runtime with one of its providers, on the CPU by default.

    - `threads`: for one model; they sleep between calls instead of spinning, since the pools of
      several modes would take each other's cores.
    """

    name = "onnxruntime"

    def __init__(self, threads: int, provider: str = "CPUExecutionProvider") -> None:
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise EngineError(
                f"ONNX Runtime has no provider {provider!r} here; it has {', '.join(available)}"
            )
        self.version = str(onnxruntime.__version__)
        self.threads, self.provider = threads, provider

    def prepare(self, model: bytes) -> _Runner:
        """Return a runner for an ONNX model; raises `EngineError` where it is refused."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is raised; nothing goes to the terminal
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        try:
            # Whoever makes the first session has denormals flushed from then on, and all threads that
            # it starts: a thread of its own leaves the caller's arithmetic as it was.
            with ThreadPoolExecutor(1) as thread:
                session = thread.submit(
                    onnxruntime.InferenceSession, model, options, providers=[self.provider]
                ).result()
        except Exception as error:  # it raises a type of its own for every kind of failure
            raise EngineError(f"ONNX Runtime refuses the model: {_first_line(error)}") from error
        return _Runner(session)


class _Runner:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            outputs: Any = self._session.run(None, dict(inputs))
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot run the model: {_first_line(error)}") from error
        return outputs


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
