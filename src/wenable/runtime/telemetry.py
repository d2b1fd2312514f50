"""Keeps the engines from reporting to their makers, unless the user has asked for it.

Both do so by default. ONNX Runtime from 1.29 on starts a thread when it is imported, writes a device
id and a database of events into the user's cache and sends them to Microsoft. OpenVINO, where the
package `openvino-telemetry` is installed, writes a client id into the home folder and sends an event
to Intel. Both decide when they are imported, so whatever imports one of them does it through
`quiet_onnxruntime` or `quiet_openvino`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ONNXRUNTIME_SWITCH = "ORT_DISABLE_TELEMETRY"
_OPENVINO_PACKAGE = "openvino_telemetry"
_OFF = ("1", "true", "yes", "on")
"""What ONNX Runtime takes for yes, in any case."""


def switch_off_onnxruntime() -> None:
    """Set `ORT_DISABLE_TELEMETRY`, unless it is set; ONNX Runtime reads it when it is imported."""
    if not os.environ.get(ONNXRUNTIME_SWITCH):
        os.environ[ONNXRUNTIME_SWITCH] = "1"


@contextmanager
def openvino_switched_off() -> Iterator[None]:
    """Hide `openvino-telemetry` while OpenVINO is imported, unless the user has opted in.

    OpenVINO then takes its own stand-in, which does nothing, for the rest of the process.
    """
    if _OPENVINO_PACKAGE in sys.modules or openvino_opted_in():
        yield
        return
    # An entry of None makes an import fail; the types of Python's library do not tell of it.
    sys.modules[_OPENVINO_PACKAGE] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        sys.modules.pop(_OPENVINO_PACKAGE, None)


def openvino_opted_in() -> bool:
    """Say whether this user ran `opt_in_out --opt_in`, which OpenVINO keeps in the home folder."""
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", ".")) / "Intel Corporation"
    else:
        folder = Path(os.environ.get("HOME", ".")) / "intel"
    try:
        return (folder / _OPENVINO_PACKAGE).read_text(encoding="utf-8").strip() == "1"
    except (OSError, ValueError):
        return False


def telemetry_words(engine: str) -> str:
    """Return what is so of an engine's telemetry in this process, for readers."""
    if engine == "onnxruntime":
        given = os.environ.get(ONNXRUNTIME_SWITCH, "")
        if given.lower() in _OFF:
            return f"telemetry off ({ONNXRUNTIME_SWITCH}={given})"
        if given:
            return f"telemetry as {ONNXRUNTIME_SWITCH}={given} says, which you have set"
        return "telemetry off when wenable imports it"
    if openvino_opted_in():
        return "telemetry on, as you chose with opt_in_out"
    return "telemetry off"
