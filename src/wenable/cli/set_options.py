"""Settings of a training run as `--set NAME=VALUE`: those that have no option of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wenable.training import Sharing, TrainConfig
from wenable.training.config import RENAMED

SHARING = "sharing"
"""The field of `TrainConfig` that holds settings of its own."""
_POOL = f"{SHARING}.pool"


def with_set(settings: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return settings with those that `--set` gives.

    - `settings`: what other options say; None for those that were not given.
    - `texts`: as `clip_grad=5`, `grow_from=none` or `sharing.delay=0.5`: a name of `TrainConfig` or of its
      `Sharing`, and a number, true, false, none or a word; for `sharing.pool` modes, as `1/2;1/4`, or
      `uniform`.

    Those of `Sharing` stand under `"sharing"`, the given ones alone (`with_settings`).

    Raises `ValueError` for a text of another form, an unknown name, and one that was given twice.

    >>> with_set({"epochs": 3, "seed": None}, ["clip_grad=5"])
    {'epochs': 3, 'clip_grad': 5}
    """
    known = [field.name for field in fields(TrainConfig) if field.name != SHARING]
    known += [f"{SHARING}.{field.name}" for field in fields(Sharing)]
    found = {key: value for key, value in settings.items() if value is not None}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not value.strip():
            raise ValueError(f"`--set` (={text!r}) must be NAME=VALUE, as clip_grad=5")
        if name in RENAMED:
            raise ValueError(f"`--set` (={text!r}): {name} is called {RENAMED[name]} now")
        if name not in known:
            raise ValueError(f"`--set` (={text!r}) names no setting; allowed: {', '.join(known)}")
        if name in found:
            raise ValueError(f"`--set` (={text!r}): {name} was given already")
        if name == _POOL:
            found[name] = tuple(mode.strip() for mode in value.split(";") if mode.strip())
            continue
        found[name] = _value(value.strip())
        _check_type(text, name, found[name])
    return _with_sharing(found)


def _with_sharing(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those of `sharing.NAME` in one."""
    inner = {n.partition(".")[2]: value for n, value in found.items() if n.startswith(SHARING)}
    rest = {name: value for name, value in found.items() if not name.startswith(SHARING)}
    Sharing(**inner)  # raises here for a value outside its range
    return rest | ({SHARING: inner} if inner else {})


def with_settings(
    config: TrainConfig, settings: Mapping[str, Any], *, from_weights: bool = False
) -> TrainConfig:
    """Return the settings of a recipe with those that were given; what `Sharing` holds besides is kept.

    - `settings`: as `with_set` returns them.
    - `from_weights`: whether the network comes with weights that are good already. The full mode needs no
      start of its own then, and nothing is delayed unless that was asked for.

    >>> config = TrainConfig(sharing=Sharing(delay=0.5))
    >>> with_settings(config, {"sharing": {"losses": "mean"}}).sharing.delay
    0.5
    >>> with_settings(config, {"epochs": 3}, from_weights=True).sharing.delay
    0.0
    """
    sharing = replace(config.sharing, delay=0.0) if from_weights else config.sharing
    given = {SHARING: replace(sharing, **settings.get(SHARING, {}))}
    return replace(config, **(dict(settings) | given))


def _check_type(text: str, name: str, value: Any) -> None:
    """Raise `ValueError` for a value of another type than the setting's."""
    owner, _, inner = name.rpartition(".")
    kinds = get_type_hints(Sharing if owner else TrainConfig)[inner]
    allowed = get_args(kinds) if not isinstance(kinds, type) else (kinds,)
    if get_origin(kinds) is Literal:
        allowed = (str,)  # which words, `TrainConfig` knows
    if float in allowed:
        allowed = (*allowed, int)
    if type(value) not in allowed:
        words = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}
        kind = next(words[each] for each in (float, int, bool, str) if each in allowed)
        raise ValueError(f"`--set` (={text!r}): {name} must be {kind}")


def _value(text: str) -> Any:
    try:
        return json.loads("null" if text.lower() == "none" else text.lower())
    except ValueError:
        return text
