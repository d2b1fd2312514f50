"""Makes a small export take a third less time, for tests that export hundreds of networks."""

import functools

from torch.onnx._internal.exporter import _registration


def parse_library_once() -> None:
    """Keep what every export would parse anew: some five hundred functions of torch's ONNX library.

    A private name of torch: if it is gone, exports take longer and nothing else changes.
    """
    registry = getattr(_registration, "ONNXRegistry", None)
    made = getattr(registry, "from_torchlib", None)
    if registry is not None and made is not None and not hasattr(made, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(made))
