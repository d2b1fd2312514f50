"""One arena of ONNX Runtime for the values that all modes compute.

ONNX Runtime gives each model an arena of its own, which keeps what the largest batch took. Of a bundle's
modes one runs at a time, as a rule, so that they can compute in one place. Weights do not lie there.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np

from wenable.runtime.forking import tell_after_fork
from wenable.runtime.graph import Node, TensorType
from wenable.runtime.onnx_writer import onnx_model
from wenable.runtime.quiet_onnxruntime import onnxruntime

SHRINK = "memory.enable_memory_arena_shrinkage"
_USE_SHARED = "session.use_env_allocators"
_DEFAULTS = -1
_POWERS_OF_TWO = 0
"""How the arena grows: batches that become larger one by one would otherwise leave a piece for each."""


class SharedArena:
    """The arena of this process; a forked one has none, since a lock in it may be held for ever."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_made, self._is_usable = False, True
        self._sweeper: Any = None
        tell_after_fork(self)

    def joined_by(self, options: onnxruntime.SessionOptions) -> bool:
        """Let a model of these options compute in the arena; say whether it will."""
        with self._lock:
            if not self._is_usable:
                return False
            if not self._is_made:
                place = onnxruntime.OrtMemoryInfo(
                    "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,
                    onnxruntime.OrtMemType.DEFAULT,
                )  # fmt: skip
                growth = onnxruntime.OrtArenaCfg(0, _POWERS_OF_TWO, _DEFAULTS, _DEFAULTS)
                onnxruntime.create_and_register_allocator(place, growth)
                self._is_made = True
        options.add_session_config_entry(_USE_SHARED, "1")
        return True

    def sweep(self) -> None:
        """Give back what no model that runs now is using."""
        if sys.is_finalizing():
            return
        with self._lock:
            if not (self._is_made and self._is_usable):
                return
            self._sweeper = self._sweeper or _trivial_model()
            options = onnxruntime.RunOptions()
            options.add_run_config_entry(SHRINK, "cpu:0")
            self._sweeper.run(None, {"x": np.zeros(1, np.float32)}, options)

    def after_fork(self) -> None:
        """Let models have arenas of their own from now on."""
        self._lock, self._is_usable = threading.Lock(), False


def _trivial_model() -> Any:
    """Return a model that does nothing: the arena is swept after a run, and by nothing else."""
    x, y = (TensorType(name, "float32", (1,)) for name in "xy")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry(_USE_SHARED, "1")
    model = onnx_model([x], [y], [Node("Identity", ("x",), ("y",))], {}, opset=17)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


SHARED_ARENA = SharedArena()
