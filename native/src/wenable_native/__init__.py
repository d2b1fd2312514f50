"""Kernels for convolutional networks with weight-enabled layers; `wenable.runtime` uses them."""

from wenable_native._kernels import (
    DENSE_BLOCK,
    MOST_COLUMN_WEIGHTS,
    MOST_OUTPUTS,
    OVERRUN,
    Machine,
    Program,
    usable_variants,
)

__version__ = "0.1.0"

__all__ = [
    "DENSE_BLOCK",
    "MOST_COLUMN_WEIGHTS",
    "MOST_OUTPUTS",
    "OVERRUN",
    "Machine",
    "Program",
    "__version__",
    "usable_variants",
]
