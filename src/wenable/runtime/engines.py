"""The inference engines by name. One file for each, `engine_NAME.py`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

from wenable.core.given_numbers import as_whole
from wenable.runtime.engine import Engine, EngineError, ModeEngine, check_not_lost


def _onnxruntime(threads: int, provider: str) -> Engine:
    from wenable.runtime.engine_onnxruntime import OnnxRuntime

    return OnnxRuntime(threads, provider or "CPUExecutionProvider")


def _openvino(threads: int, provider: str, precision: str = "float32") -> Engine:
    from wenable.runtime.engine_openvino import OpenVino

    if provider:
        raise ValueError(f"`engine` (='openvino:{provider}') has no providers; use 'openvino'")
    return OpenVino(threads, precision)


def _native(threads: int, variant: str) -> ModeEngine:
    try:
        from wenable.runtime.engine_native import Native
    except ImportError as error:
        raise EngineError(
            f"our own kernels (wenable-native) are installed and cannot be loaded ({error}):"
            f" build them again with {_FROM_SOURCE}"
        ) from error
    return Native(threads, variant)


ENGINES: dict[str, Callable[..., Engine]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "native": _native,
}
_FROM_SOURCE = "pip install ./native in a checkout of wenable, which needs a C++ compiler"
_PACKAGES = {"native": "wenable_native"}
"""Of engines whose package has another name."""
_READ_ONNX = ("onnxruntime", "openvino")

_MOST_THREADS = 1024


def open_engine(name: str, threads: int | None = None, precision: str = "float32") -> Engine:
    """Return an engine by name, with a number of threads; None for one for each core.

    - `precision`: that it computes in; only OpenVINO offers others than float32.

    `"onnxruntime:CUDAExecutionProvider"` asks ONNX Runtime for one of its providers by name,
    `"native:x86_64_v2"` our own kernels for one instruction set.

    Raises `ValueError` for an unknown name, and a precision that the engine does not offer;
    `EngineError` where it is not installed.
    """
    threads = checked_threads(threads)
    kind, provider = check_engine(name)
    if precision != "float32" and kind != "openvino":
        raise ValueError(
            f"`precision` (={precision!r}) is not offered by {kind}, which computes in float32 here;"
            " engine='openvino' offers it"
        )
    check_not_lost(kind)
    more = () if precision == "float32" else (precision,)
    return ENGINES[kind](threads, provider, *more)


def check_engine(name: str) -> tuple[str, str]:
    """Return the two parts of an engine's name; raises as `open_engine` does, and opens nothing."""
    if not isinstance(name, str):
        raise ValueError(
            f"`engine` (={name!r}) must be a name; allowed: {', '.join(ENGINES)}, auto"
        )
    kind, _, provider = name.partition(":")
    if name == "auto":
        raise ValueError(
            f"`engine` (='auto') must name one engine here; allowed: {', '.join(ENGINES)}"
        )
    if kind not in ENGINES:
        raise ValueError(
            f"`engine` (={name!r}) is unknown; allowed: {', '.join(ENGINES)}, and auto for a session"
        )
    if not is_installed(kind):
        raise EngineError(f"`engine` (={name!r}) is not installed: {how_to_install(kind)}")
    return kind, provider


def open_kernels(threads: int | None) -> ModeEngine | None:
    """Return our own kernels; None where they are not installed or cannot be used here."""
    if not is_installed("native"):
        return None
    try:
        return _native(checked_threads(threads), "")
    except EngineError:
        return None


def how_to_install(name: str) -> str:
    """Return what to type where an engine is missing."""
    return f"pip install 'wenable[{name}]'" + (f", or {_FROM_SOURCE}" if name == "native" else "")


def is_installed(name: str) -> bool:
    """Say whether the package of an engine is there."""
    return importlib.util.find_spec(_PACKAGES.get(name, name)) is not None


def installed_version(name: str) -> str:
    """Return the version of an installed engine, without loading it where its package tells."""
    from importlib import metadata  # takes 2 MiB, which a session of a named engine need not pay

    try:
        return metadata.version(_PACKAGES.get(name, name))
    except metadata.PackageNotFoundError:  # built by hand, or under another name
        return open_engine(name, 1).version


def installed_engines() -> tuple[str, ...]:
    """Return the names of the installed engines that run any ONNX model, the default one first.

    Our own kernels (`"native"`) run a bundle's graph, where it holds what they know; they are not
    among these.
    """
    return tuple(filter(is_installed, _READ_ONNX))


def checked_threads(threads: int | None) -> int:
    """Return a number of threads, one for each core for None; raises `ValueError` out of range."""
    if threads is None:
        return _usable_cores()
    whole = as_whole(threads)
    if whole is None or not 1 <= whole <= _MOST_THREADS:
        raise ValueError(
            f"`threads` (={threads!r}) must be a whole number from 1 to {_MOST_THREADS}, or None"
        )
    return whole


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
