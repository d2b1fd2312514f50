"""The engines that tests run sessions on."""

from __future__ import annotations

import os

import pytest

from wenable.runtime.engines import installed_engines, is_installed

NO_KERNELS = "our own kernels are not built here: pip install ./native"
KERNELS_ARE_BUILT = is_installed("native") or bool(os.environ.get("WENABLE_TESTS_NEED_KERNELS"))
NEEDS_KERNELS = pytest.mark.skipif(not KERNELS_ARE_BUILT, reason=NO_KERNELS)

SESSION_ENGINES = (*installed_engines(), pytest.param("native", marks=NEEDS_KERNELS))
"""Those that read ONNX, and our own kernels, which read a bundle's graph."""
NEEDS_OPENVINO = pytest.mark.skipif(
    not is_installed("openvino"), reason="OpenVINO is not installed"
)
