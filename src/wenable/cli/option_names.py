"""Errors in the words of the command line: `--batch-size` where the library says `size`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

# What the library calls by another name than the commands.
_ALIASES = {
    "constraints": "constraint",
    "mode": "modes",
    "size": "batch_size",
    "table": "profile",
}
_NAME = re.compile(r"`(\w+)(\[\d+\])?`(?: \(=(.*?)\))?")


def option_names(command: Callable[..., Any]) -> dict[str, str]:
    """Return how each parameter of a command is typed: `{"batch_size": "--batch-size"}`."""
    hints = get_type_hints(command, include_extras=True)
    names: dict[str, str] = {}
    for parameter in inspect.signature(command).parameters:
        for info in get_args(hints[parameter])[1:]:
            if isinstance(info, OptionInfo):
                # Where the default stands outside, typer keeps the first name in its place.
                written = (info.default, *(info.param_decls or ()))
                long = [each for each in written if str(each).startswith("--")]
                given = str(long[0]) if long else f"--{parameter.replace('_', '-')}"
                names[parameter] = given.partition("/")[0]
            elif isinstance(info, ArgumentInfo):
                names[parameter] = info.metavar or parameter.upper()
    return names


def as_typed(message: str, names: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """Return a message in which arguments of the library are called as the user typed them.

    - `names`: those of the command, as `option_names` returns them; `values`: what it was given.

    An argument of another name than any of the command's is recognised by its value, if it is the
    only one of that value.

    >>> as_typed("`size` (=0) must be from 1", {"batch_size": "--batch-size"}, {"batch_size": 0})
    '`--batch-size` (=0) must be from 1'
    """

    def typed(found: re.Match[str]) -> str:
        name, _, shown = found.groups()
        # Nothing is told from the rest by being empty: that is what options are that nobody gave.
        by_value = _given_as(shown, values) if (shown or "").strip("'\"") else ""
        tried = [name, by_value, _ALIASES.get(name, "")]
        if names.get(name, "").isupper() and not values.get(name):  # given by an option instead
            tried = tried[1:]
        key = next((each for each in tried if each in names), None)
        if key is None:
            return found[0]
        rest = found[0].partition("` ")[2]
        return f"`{names[key]}`" + (f" {rest}" if rest else "")

    return _NAME.sub(typed, message)


def _given_as(shown: str, values: Mapping[str, Any]) -> str:
    """Return the one parameter that was given a value; "" where none or several were."""
    fit = [
        key
        for key, value in values.items()
        if value is not None
        and not isinstance(value, bool)
        and shown in {str(value), repr(value), *_each(value)}
    ]
    return fit[0] if len(fit) == 1 else ""


def _each(value: Any) -> set[str]:
    return {str(each) for each in value} if isinstance(value, list | tuple) else set()
