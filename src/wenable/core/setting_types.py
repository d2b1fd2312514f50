"""Settings of the wrong type, refused where they are given: "no" from a file would count as yes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wenable.core.given_numbers import is_number


def check_flags(settings: object, *names: str) -> None:
    """Raise `ValueError` for a setting that is neither True nor False."""
    for name in names:
        value = getattr(settings, name)
        if type(value) is not bool:
            raise ValueError(f"`{name}` (={value!r:.100}) must be True or False")


def check_numbers(settings: object, *names: str) -> None:
    """Raise `ValueError` for a setting that is no number; truth values are none."""
    for name in names:
        value = getattr(settings, name)
        if not is_number(value):
            raise ValueError(f"`{name}` (={value!r:.100}) must be a number")


def as_tuple(name: str, value: Iterable[Any] | Any, example: str) -> tuple[Any, ...]:
    """Return a sequence as a tuple; raises `ValueError` for what is none, a text among it.

    >>> as_tuple("groups", [1, 2], "(1, 2)")
    (1, 2)
    >>> as_tuple("groups", 4, "(1, 2)")
    Traceback (most recent call last):
    ValueError: `groups` (=4) must be a sequence, as (1, 2)
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"`{name}` (={value!r:.100}) must be a sequence, as {example}")
    return tuple(value)
