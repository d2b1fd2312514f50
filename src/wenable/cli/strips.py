"""Modes in the terminal: a strip with one sign for each knob where no short text says it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from wenable.core.space import Knob, Mode, Space

_BARS = "▁▂▃▄▅▆▇█"
_DIGITS = "12345678"  # where a terminal has no bars


def shown_mode(mode: Mode, encoding: str = "utf-8") -> str:
    """Return the text of a mode where it is one option for all knobs, and its strip otherwise.

    >>> from wenable.core.space import Knob, Space
    >>> space = Space(tuple(Knob(name, (1, 2, 4, 8, 16)) for name in "abcde"))
    >>> shown_mode(space.uniform(4)), shown_mode(space.mode("1,1/2,1/4,1/8,1/16"))
    ('1/4', '█▆▅▃▁')
    """
    if mode == mode.space.full:
        return f"{mode} (full)"
    network, own = mode.space.within(mode)
    if network:  # the knobs of the others say nothing of it
        shown = "" if own == own.space.full else f" {shown_mode(own, encoding)}"
        return f"network={network}{shown}"
    return strip(mode, encoding) if "," in str(mode) else str(mode)


def strip(mode: Mode, encoding: str = "utf-8") -> str:
    """Return a mode as one sign for each knob, in the order in which they run: high is costly."""
    signs = _signs(encoding)
    pairs = zip(mode.space.knobs, mode.options, strict=True)
    return "".join(signs[_level(mode.space, knob, option)] for knob, option in pairs)


def strip_key(modes: Iterable[Mode], encoding: str = "utf-8") -> str:
    """Return what the signs of these modes' strips mean; nothing where all have short texts."""
    spaces = {}
    for mode in modes:
        network, own = mode.space.within(mode)
        if "," in str(own):
            spaces[network] = own.space
    keys = (
        f"{network}: {_key(space, encoding)}" if network else _key(space, encoding)
        for network, space in spaces.items()
    )
    return "\n".join(keys)


def _key(space: Space, encoding: str) -> str:
    signs = _signs(encoding)
    kinds: dict[tuple[str, ...], dict[str, int]] = {}
    for knob in space.knobs:
        texts = kinds.setdefault(knob.labels, {})
        for option in knob.options:
            texts.setdefault(knob.text(option), _level(space, knob, option))
    return "; ".join(_kind(texts, signs) for texts in kinds.values()) + (
        f". One sign for each of the {len(space.knobs)} knobs, in the order in which they run."
    )


def _kind(texts: dict[str, int], signs: str) -> str:
    if len(set(texts.values())) < len(texts):  # more options than signs
        texts = dict([next(iter(texts.items())), list(texts.items())[-1]])
        return " to ".join(f"{signs[level]} {text}" for text, level in texts.items())
    # The space within a pair is one that no line breaks at.
    return "  ".join(f"{signs[level]}\u00a0{text}" for text, level in texts.items())


def _signs(encoding: str) -> str:
    try:
        _BARS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return _DIGITS
    return _BARS


def _level(space: Space, knob: Knob, option: int) -> int:
    """Return the height of an option's sign: 7 for the most costly, 0 for the least."""
    if knob.labels:  # its options are numbers of no meaning
        share = knob.options.index(option) / max(len(knob.options) - 1, 1)
    else:
        finest = max(each.options[-1] for each in space.knobs if not each.labels)
        share = math.log2(option) / math.log2(finest) if finest > 1 else 0.0
    return round(7 * (1 - share))
