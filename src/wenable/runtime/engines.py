"""The inference engines by name. One file for each, `engine_NAME.py`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

from wenable.runtime.engine import Engine, EngineError, check_not_lost


def _onnxruntime(threads: int, provider: str) -> Engine:
    from wenable.runtime.engine_onnxruntime import OnnxRuntime

    return OnnxRuntime(threads, provider or "CPUExecutionProvider")


def _openvino(threads: int, provider: str) -> Engine:
    from wenable.runtime.engine_openvino import OpenVino

    if provider:
        raise ValueError(f"`engine` (='openvino:{provider}') has no providers; use 'openvino'")
    return OpenVino(threads)


ENGINES: dict[str, Callable[[int, str], Engine]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


_MOST_THREADS = 1024


def open_engine(name: str, threads: int | None = None) -> Engine:
    """Return an engine by name, with a number of threads; None for one for each core.

    `"onnxruntime:CUDAExecutionProvider"` asks ONNX Runtime for one of its providers by name.

    Raises `ValueError` for an unknown name, `EngineError` where it is not installed.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= _MOST_THREADS):
        raise ValueError(f"`threads` (={threads!r}) must be from 1 to {_MOST_THREADS}, or None")
    if not isinstance(name, str):
        raise ValueError(
            f"`engine` (={name!r}) must be a name; allowed: {', '.join(ENGINES)}, auto"
        )
    kind, _, provider = name.partition(":")
    if kind not in ENGINES:
        raise ValueError(f"`engine` (={name!r}) is unknown; allowed: {', '.join(ENGINES)}, auto")
    if importlib.util.find_spec(kind) is None:
        raise EngineError(f"`engine` (={name!r}) is not installed: pip install 'wenable[{kind}]'")
    check_not_lost(kind)
    return ENGINES[kind](threads or _usable_cores(), provider)


def installed_engines() -> tuple[str, ...]:
    """Return the names of the engines that are installed, the default one first."""
    return tuple(name for name in ENGINES if importlib.util.find_spec(name) is not None)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
