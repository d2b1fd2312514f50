"""The engines that tests run sessions on."""

from __future__ import annotations

import pytest

from wenable.runtime.engines import installed_engines, is_installed

KERNELS_ARE_BUILT = is_installed("native")
NEEDS_KERNELS = pytest.mark.skipif(
    not KERNELS_ARE_BUILT, reason="our own kernels are not built here: pip install ./native"
)

SESSION_ENGINES = (*installed_engines(), pytest.param("native", marks=NEEDS_KERNELS))
"""Those that read ONNX, and our own kernels, which read a bundle's graph."""
