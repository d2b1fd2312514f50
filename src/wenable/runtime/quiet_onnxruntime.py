"""ONNX Runtime, imported with its telemetry off; the one place that imports it."""

from wenable.runtime.telemetry import switch_off_onnxruntime

switch_off_onnxruntime()

import onnxruntime as onnxruntime  # noqa: E402
