"""Short names of the modes of a front or a bundle, `m07`, and what a typed one stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from wenable.core.space import Mode, ModeChoice, Space

_ID = re.compile(r"m0*([1-9][0-9]{0,8})")


def numbered(modes: Iterable[Mode]) -> dict[str, Mode]:
    """Return short names for modes, in the order given: `m01`, `m02`, ...

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)),))
    >>> {name: str(mode) for name, mode in numbered([space.full, space.smallest]).items()}
    {'m01': '1', 'm02': '1/2'}
    """
    several = list(modes)
    digits = max(2, len(str(len(several))))
    return {f"m{number:0{digits}}": mode for number, mode in enumerate(several, 1)}


def is_id(text: str) -> bool:
    """Say whether a text has the form of a short name.

    >>> is_id("m07"), is_id("m7"), is_id("m0"), is_id("1/4")
    (True, True, False, False)
    """
    return _ID.fullmatch(text) is not None


def resolve(choice: ModeChoice, space: Space, ids: Mapping[str, Mode], where: str = "") -> Mode:
    """Return the mode that a choice names: a short name of a front or bundle, or any other text.

    - `choice`: `m07`, with or without the zeros, or what `Space.mode` takes. A text that is a label
      of the space means the label.
    - `ids`: the short names; `where`: whose they are, for a refusal. Without any, `where` says how
      to give some.

    Raises `ValueError` for a short name that stands for nothing here, and what `Space.mode` refuses.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)),))
    >>> print(resolve("m2", space, numbered([space.full, space.smallest]), "front.json"))
    1/2
    """
    if not isinstance(choice, str) or any(choice.strip() in knob.labels for knob in space.knobs):
        return space.mode(choice)
    wanted = _ID.fullmatch(choice.strip())
    if wanted is None:
        return space.mode(choice)
    for name, mode in ids.items():
        found = _ID.fullmatch(name)
        if found is not None and found[1] == wanted[1]:
            return space.mode(mode)
    if not ids:
        raise ValueError(
            f"`mode` (={choice!r}) is the short name of a mode in a front or bundle;"
            f" {where or 'none was given'}"
        )
    names = list(ids)
    listed = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, ... {names[-1]}"
    raise ValueError(f"`mode` (={choice!r}) is no mode of {where or 'the front'}; it has {listed}")
