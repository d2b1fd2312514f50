"""Answers arguments by their former names with the present ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def refuse_renamed(function: str, given: Iterable[str], renamed: Mapping[str, str]) -> None:
    """Raise `TypeError` for keyword arguments that a function does not have.

    - `function`: its name; `given`: the names of the arguments.
    - `renamed`: what those are called now that it once had.

    >>> refuse_renamed("explore", ["threshold"], {"threshold": "min_accuracy"})
    Traceback (most recent call last):
    TypeError: `threshold` of explore is called `min_accuracy` now
    """
    for name in given:
        if name in renamed:
            raise TypeError(f"`{name}` of {function} is called `{renamed[name]}` now")
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
