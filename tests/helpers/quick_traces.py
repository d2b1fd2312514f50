"""Makes traces of small networks take a third less time, for tests that make hundreds of them.

What is changed here are private names of torch: if one is gone, traces take longer, and that is all.
"""

import functools
from types import SimpleNamespace

from torch._subclasses import fake_tensor
from torch.onnx._internal.exporter import _registration


def make_traces_quick() -> None:
    """Keep what every export would parse anew, and note for no operation where it was called."""
    _parse_library_once()
    _note_no_stacks()


def _parse_library_once() -> None:
    """Keep some five hundred functions of torch's ONNX library."""
    registry = getattr(_registration, "ONNXRegistry", None)
    made = getattr(registry, "from_torchlib", None)
    if registry is not None and made is not None and not hasattr(made, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(made))


def _note_no_stacks() -> None:
    """Leave out the stack that torch notes in every mode of fake tensors, for an error of its own.

    A recording makes one for each operation, and the stack took a tenth of the time of `wenable.convert`.
    """
    if hasattr(fake_tensor, "traceback"):
        fake_tensor.traceback = SimpleNamespace(extract_stack=list, format_list=list)
