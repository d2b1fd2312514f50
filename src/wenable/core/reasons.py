"""What an error of other people's code says, as one line that can stand in a message of ours."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LONGEST = 300


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error that says something, without colour codes.

    An error without a text is told by its type.

    >>> first_line(RuntimeError("\n\x1b[31mno kernel\x1b[0m for it\nstack ..."))
    'no kernel for it'
    >>> first_line(KeyError())
    'KeyError'
    """
    lines = (_COLOURS.sub("", line).strip() for line in str(error).splitlines())
    line = next((line for line in lines if line), type(error).__name__)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def root_reason(error: BaseException) -> str:
    """Return the first line of the error that another one was raised from, and that from, to the end.

    >>> try:
    ...     try:
    ...         raise TypeError("unhashable")
    ...     except TypeError as inner:
    ...         raise RuntimeError("step 2 of 4 failed") from inner
    ... except RuntimeError as error:
    ...     root_reason(error)
    'unhashable'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
