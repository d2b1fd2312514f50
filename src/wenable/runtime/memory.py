"""What a prepared mode holds in memory, and giving it back to the system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def give_back() -> None:
    """Return freed memory to the system, where the C library keeps it for itself otherwise (glibc)."""
    if _trim is not None:
        _trim(0)


def _find_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library, as musl
        return None


_trim = _find_trim()


def bytes_of(mib: float) -> int:
    """Return MiB in bytes; a budget that is larger than any memory has an end all the same.

    >>> bytes_of(1.5)
    1572864
    """
    return int(float(min(mib, 2**60)) * 2**20)
