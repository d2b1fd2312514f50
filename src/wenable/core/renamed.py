"""Answers arguments by their former names with the present ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def refuse_renamed(function: str, given: Iterable[str], renamed: Mapping[str, str]) -> None:
    """Raise `TypeError` for keyword arguments that a function does not have.

    - `function`: its name; `given`: the names of the arguments.
    - `renamed`: what those are called now that it once had.

    >>> refuse_renamed("explore", ["threshold"], {"threshold": "min_accuracy"})
    Traceback (most recent call last):
    TypeError: `threshold` of explore is called `min_accuracy` now
    """
    for name in given:
        answer_renamed(function, [name], renamed)
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def answer_renamed(function: str, given: Iterable[str], renamed: Mapping[str, str]) -> None:
    """Raise `TypeError` for the arguments among `given` that have another name now."""
    for name in given:
        if name in renamed:
            raise TypeError(f"`{name}` of {function} is called `{renamed[name]}` now")


def with_present_names(values: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a file, those of an older one under their present names.

    >>> with_present_names({"clip": 5.0}, {"clip": "clip_grad"})
    {'clip_grad': 5.0}
    """
    return {renamed.get(name, name): value for name, value in values.items()}
