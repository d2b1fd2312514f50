"""What clients say of their deadlines."""

from __future__ import annotations

import math
from typing import Any

from wenable.serving.refusals import RefusedError

DEADLINE_HEADER = "x-deadline-ms"


def deadline_of(given: Any) -> float | None:
    """Return a deadline in milliseconds, None for None.

    Raises `RefusedError` for what is no finite number above 0.

    >>> deadline_of("20")
    20.0
    """
    if given is None:
        return None
    try:
        deadline_ms = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):  # of whole numbers above all floats
        deadline_ms = math.nan
    if not 0 < deadline_ms < math.inf:
        raise RefusedError(400, f"`deadline_ms` (={given!r:.40}) must be a finite number above 0")
    return deadline_ms
