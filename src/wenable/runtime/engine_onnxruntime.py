"""ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wenable.runtime.engine import EngineError, Lost, OperationTime, reason_of
from wenable.runtime.forking import abandon, tell_after_fork
from wenable.runtime.quiet_onnxruntime import onnxruntime
from wenable.runtime.shared_arena import SHARED_ARENA, SHRINK

_COMPUTES = frozenset(
    ["Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"]
)
_CPU = "CPUExecutionProvider"


class OnnxRuntime:
    """ONNX Runtime with one of its providers, on the CPU by default.

    - `threads`: for one model; they sleep between calls instead of spinning, since the pools of
      several modes would take each other's cores.
    - `apart`: each model computes in memory of its own, which is given back with it. Otherwise all models
      of the process compute in one place, which is as large as the largest of them needs.
    """

    name = "onnxruntime"
    per_batch = False

    def __init__(self, threads: int, provider: str = _CPU, *, apart: bool = False) -> None:
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise EngineError(
                f"ONNX Runtime has no provider {provider!r} here; it has {', '.join(available)}"
            )
        self.version = str(onnxruntime.__version__)
        self.threads, self.provider = threads, provider
        self._apart = apart or provider != _CPU

    def with_memory_apart(self) -> OnnxRuntime:
        """Return the same engine, whose models compute in memory of their own."""
        return OnnxRuntime(self.threads, self.provider, apart=True)

    @property
    def shares_memory(self) -> bool:
        """Whether all models compute in one place."""
        return not self._apart

    def prepare(self, model: bytes, batch: int | None = None) -> _Runner:
        """Return a runner for an ONNX model; raises `EngineError` where it is refused."""
        options = onnxruntime.SessionOptions()
        shares = self.shares_memory and SHARED_ARENA.joined_by(options)
        return _Runner(self._open(model, options), shares_memory=shares)

    def held_bytes(self, model: int, computed: int) -> int:
        """Return what a prepared model takes: its weights, packed, and the largest batch so far."""
        return int(1.15 * model) + computed + 2**20

    def operation_times(
        self, model: bytes, inputs: Mapping[str, np.ndarray], calls: int
    ) -> list[OperationTime]:
        """Return the least time of each operation, in the order in which they run."""
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "times")
            session = self._open(model, options)
            for _ in range(calls + 1):
                session.run(None, dict(inputs))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _operation_times(events)

    def _open(
        self, model: bytes, options: onnxruntime.SessionOptions
    ) -> onnxruntime.InferenceSession:
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is raised; nothing goes to the terminal
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # Of integers: without VNNI pairs of products are summed in 16 bits, and may not fit.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            # Whoever makes the first session has denormals flushed from then on, and all threads that
            # it starts: a thread of its own leaves the caller's arithmetic as it was.
            with ThreadPoolExecutor(1) as thread:
                session = thread.submit(
                    onnxruntime.InferenceSession, model, options, providers=[self.provider]
                ).result()
        except Exception as error:  # it raises a type of its own for every kind of failure
            raise EngineError(f"ONNX Runtime refuses the model: {reason_of(error)}") from error
        # One whose libraries are missing is left out with no more than a warning.
        if self.provider not in (used := session.get_providers()):
            raise EngineError(
                f"ONNX Runtime could not start the provider {self.provider!r} and took"
                f" {', '.join(used)} instead; are its libraries installed?"
            )
        _let_go_of_the_model(session)
        return session


def _let_go_of_the_model(session: onnxruntime.InferenceSession) -> None:
    """Drop the copy of the model that a session keeps, to be made anew with another provider.

    It is as large as the weights, and providers are not changed here.
    """
    session.disable_fallback()
    if getattr(session, "_model_bytes", None) is not None:
        session._model_bytes = None  # pyright: ignore[reportAttributeAccessIssue]


class _Runner:
    def __init__(self, session: onnxruntime.InferenceSession, *, shares_memory: bool) -> None:
        self._session: Any = session
        self._shares_memory = shares_memory
        tell_after_fork(self)

    def __del__(self) -> None:
        self._session = None
        if self._shares_memory:
            SHARED_ARENA.sweep()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return self._run(inputs, None)

    def run_and_shrink(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run, and give the memory back that only so large a batch takes."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(SHRINK, "cpu:0")
        return self._run(inputs, options)

    def after_fork(self) -> None:
        """Abandon the session, whose threads did not come along."""
        abandon(self._session)
        self._session = Lost()

    def _run(
        self, inputs: Mapping[str, np.ndarray], options: onnxruntime.RunOptions | None
    ) -> list[np.ndarray]:
        try:
            outputs: Any = self._session.run(None, dict(inputs), options)
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot run the model: {reason_of(error)}") from error
        return outputs


def _operation_times(events: list[dict[str, Any]]) -> list[OperationTime]:
    """Return the least times among the events of ONNX Runtime's profile, without the first call."""
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            found.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] / 1e3)
    return [
        OperationTime(
            () if kind.startswith("Reorder") else (name.removesuffix("_nchwc"),),
            kind in _COMPUTES,
            min(times[1:] or times),
        )
        for (name, kind), times in found.items()
    ]
