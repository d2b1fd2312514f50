"""Modes as text: reads what people type, and writes the shortest text that reads back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import groupby

from wenable.core.knob import Knob, is_share, read_share, share_text

Knobs = Sequence[Knob]
Options = tuple[int, ...]
"""One option for each knob, in the knobs' order."""

# A bound on what a typed text can make this build; no network has a million knobs.
_MOST_REPEATS = 1_000_000


def read_mode(text: str, knobs: Knobs) -> Options:
    """Return the options that a text names.

    Forms: `"full"`, `"smallest"`, one option for all knobs, one for each with repeats, one for all
    followed by exceptions, or exceptions alone; see `Space.mode`, which says what each means.

    Raises `ValueError` for anything else, naming the rule.

    >>> read_mode("1/2,b=1/4", [Knob("a", (1, 2)), Knob("b", (1, 2, 4))])
    (2, 4)
    """
    if text.strip() in ("full", "smallest"):
        return tuple(knob.options[0 if text.strip() == "full" else -1] for knob in knobs)
    parts = [part.strip() for part in text.split(",")]
    exceptions = [part for part in parts if "=" in part]
    plain = [part for part in parts if "=" not in part]
    if len(plain) == 1 and "*" not in plain[0]:
        return _with_exceptions(_everywhere(plain[0], text, knobs), exceptions, text, knobs)
    if not plain:
        return _with_exceptions(tuple(k.options[0] for k in knobs), exceptions, text, knobs)
    if exceptions:
        raise ValueError(
            f"`mode` (={text!r}) must start with one option for all knobs before its"
            " exceptions, as in '1/4,NAME=1/2'"
        )
    options = [option for part in plain for option in _repeated(part, text)]
    if len(options) != len(knobs):
        raise ValueError(
            f"`mode` (={text!r}) gives {len(options)} options; this network has"
            f" {len(knobs)} knobs (or give one option for all of them)"
        )
    found = tuple(_read(knob, each, text) for knob, each in zip(knobs, options, strict=True))
    for knob, option in zip(knobs, found, strict=True):
        knob.check(option)
    return found


def write_mode(options: Options, knobs: Knobs) -> str:
    """Return the compact text of a mode: one that stands for all knobs, or runs of options in order.

    >>> write_mode((1, 1, 2), [Knob(name, (1, 2)) for name in "abc"])
    '1*2,1/2'
    """
    texts = [knob.text(option) for knob, option in zip(knobs, options, strict=True)]
    for short in _short_texts(options, texts, knobs):
        try:
            if read_mode(short, knobs) == options:
                return short
        except ValueError:
            pass  # not every knob has this option, so no one text stands for all
    runs = ((text, len(list(run))) for text, run in groupby(texts))
    return ",".join(f"{text}*{count}" if count > 1 else text for text, count in runs)


def meant_by_all(knobs: Knobs) -> tuple[Knob, ...]:
    """Return the knobs that one option for all sets: those not `by_name`, or all if there are no others.

    >>> size = Knob("size", (1, 2), labels=("64", "48"), by_name=True)
    >>> [knob.name for knob in meant_by_all([size, Knob("a", (1, 2))])]
    ['a']
    """
    return tuple(knob for knob in knobs if not knob.by_name) or tuple(knobs)


def refuse_unknown(names: Iterable[str], knobs: Knobs) -> None:
    """Raise `ValueError` for a name that no knob has."""
    known = [knob.name for knob in knobs]
    for name in names:
        if name not in known:
            raise ValueError(
                f"`mode` names {name!r}, which is no knob of this network; its"
                f" {len(known)} knobs are {_shortened(known)}"
            )


def _with_exceptions(options: Options, exceptions: list[str], whole: str, knobs: Knobs) -> Options:
    found = list(options)
    for part in exceptions:
        wanted, _, option = part.partition("=")
        places = [i for i, knob in enumerate(knobs) if fnmatchcase(knob.name, wanted.strip())]
        if not places:
            refuse_unknown([wanted.strip()], knobs)
        for place in places:
            found[place] = _read(knobs[place], option, whole)
            knobs[place].check(found[place])
    return tuple(found)


def _everywhere(text: str, whole: str, knobs: Knobs) -> Options:
    """Return the options of a text that stands for all knobs.

    An option that some knobs lack is rounded there; one that every knob lacks is a typing error.
    """
    meant = meant_by_all(knobs)
    mixed = _is_mixed(meant)
    options = tuple(
        _meant_for(knob, text, whole, mixed=mixed) if knob in meant else knob.options[0]
        for knob in knobs
    )
    if is_share(text):
        n = read_share(text)
        known = sorted({each for knob in meant if not knob.labels for each in knob.options})
        if known and n not in known:
            raise ValueError(
                f"`mode` (={whole!r}) holds {text!r}, an option that nothing in this network has;"
                f" allowed: {', '.join(map(share_text, known))}"
            )
    return options


def _meant_for(knob: Knob, text: str, whole: str, *, mixed: bool) -> int:
    """Return what a text for all knobs means for one: its label, or n as it fits."""
    if mixed and is_share(text) == bool(knob.labels):
        return knob.options[0]  # the text is of the other kind
    option = _read(knob, text, whole)
    return option if knob.labels else knob.nearest(option)


def _is_mixed(knobs: Knobs) -> bool:
    """Say whether some knobs have labels and others do not."""
    return len({bool(knob.labels) for knob in knobs}) == 2


def _short_texts(options: Options, texts: Sequence[str], knobs: Knobs) -> list[str]:
    """Return texts for all knobs that may name a mode: the finest option, and beside it a label.

    Knobs that only their name sets follow, where they are not at their most costly option.
    """
    meant = meant_by_all(knobs)
    rows = list(zip(knobs, options, texts, strict=True))
    named = [
        (knob.name, text) for knob, n, text in rows if knob not in meant and n != knob.options[0]
    ]
    others = [row for row in rows if row[0] in meant]
    if not _is_mixed(meant):
        return [_with(max(others, key=lambda row: row[1])[2], named)]
    of_kinds: dict[bool, list[tuple[int, str]]] = {False: [], True: []}
    for knob, option, text in others:
        of_kinds[bool(knob.labels)].append((option, text))
    option, label = max(of_kinds[False])[1], max(of_kinds[True])[1]
    short = [_with(option, named), _with(label, named)]
    labelled = [knob.name for knob in meant if knob.labels]
    return [*short, _with(option, [*named, (labelled[0], label)])] if len(labelled) == 1 else short


def _with(text: str, named: Sequence[tuple[str, str]]) -> str:
    """Return a text with exceptions by name behind it.

    >>> _with("1/4", [("size", "160")])
    '1/4,size=160'
    """
    return ",".join([text, *(f"{name}={option}" for name, option in named)])


def _read(knob: Knob, text: str, whole: str) -> int:
    """Return the option that part of a mode's text names; a refusal shows the whole."""
    try:
        return knob.read(text.strip())
    except ValueError as error:
        raise ValueError(f"`mode` (={whole!r}) holds {error}") from None


def _repeated(text: str, whole: str) -> list[str]:
    option, star, count = text.partition("*")
    if star and not (count.strip().isdecimal() and int(count) > 0):
        raise ValueError(
            f"`mode` (={whole!r}) repeats an option {count!r} times; allowed: 1, 2, ..."
        )
    return [option] * min(int(count) if star else 1, _MOST_REPEATS)


def _shortened(names: Sequence[str], limit: int = 4) -> str:
    shown = ", ".join(map(repr, names[:limit]))
    return shown if len(names) <= limit else f"{shown}, ..."
