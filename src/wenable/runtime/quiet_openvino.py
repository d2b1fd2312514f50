"""OpenVINO, imported with its telemetry off; the one place that imports it."""

from wenable.runtime.telemetry import openvino_switched_off

with openvino_switched_off():
    import openvino as openvino
