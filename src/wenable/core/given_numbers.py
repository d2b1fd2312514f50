"""Numbers that users give: Python's or numpy's. Truth values, which Python counts among them, are none."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any


def is_number(value: Any) -> bool:
    """Say whether a value is a real number.

    >>> is_number(1), is_number(0.5), is_number(True), is_number("1")
    (True, True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def as_whole(value: Any) -> int | None:
    """Return a whole number as an int; None for what is none.

    >>> as_whole(3), as_whole(3.0), as_whole(True)
    (3, None, None)
    """
    if not is_number(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
