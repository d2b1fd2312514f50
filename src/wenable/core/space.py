"""What can be switched in a network, and one choice of it. Imports no torch.

A `Knob` is one switchable thing; its options are whole numbers, ordered from the most to the least
costly. For weight-enabling a knob is a layer and an option is its number of groups n, written `1/n`:
the share of the layer's weights that is enabled (WeNet, section III-A). A knob whose options are no
such shares has a label for each, and is written by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol, TypeAlias


class RandomSource(Protocol):
    """Anything with `random()` in [0, 1): `random.Random` or `numpy.random.Generator`."""

    def random(self) -> float:
        """Return the next number, uniform in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class Knob:
    """One switchable thing in a network.

    - `name`: its qualified name in the network, `"layer1.0.conv2"`.
    - `options`: what it can be set to, from most to least costly; the first is the full pattern.
    - `must_divide`: sizes that every option has to divide, with the name that a person knows each
      by, `(("input channels", 24),)`. They are kept so that a refusal can name the rule.
    - `labels`: how each option is written, `("1", "0.75")`; without them as `1/n`.

    Raises `ValueError` where the options are empty, repeated or not ascending, and for labels that
    are not one for each, each once, or that the text of a mode could not hold.

    >>> Knob("conv", (1, 2, 4), must_divide=(("input channels", 12),)).cheaper(2)
    4
    >>> Knob("width", (1, 2), labels=("1", "0.75")).text(2)
    '0.75'
    """

    name: str
    options: tuple[int, ...]
    must_divide: tuple[tuple[str, int], ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "labels", tuple(self.labels))
        if not self.options:
            raise ValueError(f"`options` of {self.name!r} is empty; a knob needs at least one")
        if list(self.options) != sorted(set(self.options)) or self.options[0] < 1:
            raise ValueError(
                f"`options` (={self.options}) of {self.name!r} must be positive and ascending,"
                " each once"
            )
        for option in self.options:
            self._check_divides(option)
        if self.labels:
            self._check_labels()

    def _check_labels(self) -> None:
        if len(self.labels) != len(self.options) or len(set(self.labels)) != len(self.labels):
            raise ValueError(
                f"`labels` (={self.labels}) of {self.name!r} must be one for each of its"
                f" {len(self.options)} options, each once"
            )
        for label in self.labels:
            # A mode's text splits at these; "1/2" would be read as half of the weights.
            readable = label and not set(label) & set(",=*/") and "".join(label.split()) == label
            if not readable or label in ("full", "smallest"):
                raise ValueError(
                    f"`labels` of {self.name!r} holds {label!r}; a label must be a text without"
                    " spaces and , = * /, other than 'full' and 'smallest'"
                )

    def _check_divides(self, option: int) -> None:
        for label, size in self.must_divide:
            if size % option:
                raise ValueError(
                    f"`groups` (={option}) must divide the {label} (={size}) of {self.name!r};"
                    f" allowed: {self._allowed()}"
                )

    def _allowed(self) -> str:
        fits = [n for n in self.options if all(size % n == 0 for _, size in self.must_divide)]
        return ", ".join(map(str, fits))

    def check(self, option: int) -> None:
        """Raise `ValueError`, naming the rule, unless `option` is one of this knob's options."""
        if type(option) is not int:
            raise ValueError(
                f"`groups` (={option!r}) of {self.name!r} must be a whole number; allowed:"
                f" {self._allowed()}"
            )
        if option in self.options:
            return
        if option > 0:
            self._check_divides(option)
        if self.labels:
            last = len(self.options)
            raise ValueError(
                f"option {option} of {self.name!r} is none of its {last}; allowed:"
                f" {', '.join(f'{n} ({self.text(n)})' for n in self.options)}"
            )
        raise ValueError(
            f"`groups` (={option}) is not a pattern of {self.name!r}; allowed: {self._allowed()}"
        )

    def text(self, option: int) -> str:
        """Return how an option is written: its label, or the pattern `1/n`."""
        return self.labels[self.options.index(option)] if self.labels else pattern_text(option)

    def read(self, text: str) -> int:
        """Return the option that a text names; raises `ValueError` where it is none of a knob's.

        >>> Knob("width", (1, 2), labels=("1", "0.75")).read("0.75")
        2
        """
        if not self.labels:
            return _read_pattern(text)
        if text not in self.labels:
            raise ValueError(
                f"{text!r}, which is no option of {self.name!r}; allowed: {', '.join(self.labels)}"
            )
        return self.options[self.labels.index(text)]

    def cheaper(self, option: int) -> int | None:
        """Return the next cheaper option, or None behind the last."""
        position = self.options.index(option) + 1
        return self.options[position] if position < len(self.options) else None

    def nearest(self, option: int) -> int:
        """Return `option`, or the nearest allowed one below it.

        >>> Knob("conv", (1, 2, 4)).nearest(16)
        4
        """
        return max((n for n in self.options if n <= option), default=self.options[0])


@dataclass(frozen=True, eq=False)
class Mode(Mapping[str, int]):
    """One option for every knob of a space: the paper's operation mode. Immutable and hashable.

    It maps knob names to options, in execution order. Modes come from a `Space`, which checks them;
    two modes are equal where their spaces and options are.

    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2, 4)), Knob("c", (1, 2))))
    >>> mode = space.mode({"a": 1, "b": 4, "c": 2})
    >>> print(mode, mode["b"])
    1,1/4,1/2 4
    """

    space: Space = field(repr=False)
    options: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.options) != len(self.space.knobs):
            raise ValueError(
                f"`options` has {len(self.options)} entries; the space has"
                f" {len(self.space.knobs)} knobs"
            )
        for knob, option in zip(self.space.knobs, self.options, strict=True):
            knob.check(option)

    def __getitem__(self, name: str) -> int:
        return self.options[self.space.position(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.space.names)

    def __len__(self) -> int:
        return len(self.options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mode):
            return NotImplemented
        return self.options == other.options and self.space == other.space

    def __lt__(self, other: Mode) -> bool:
        """Order modes of one space by their options, in execution order: the full one is first."""
        if not isinstance(other, Mode) or self.space != other.space:
            return NotImplemented
        return self.options < other.options

    @cached_property
    def _hash(self) -> int:
        return hash((self.space, self.options))

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Mode({str(self)!r})"

    def __str__(self) -> str:
        """The compact text form, which `Space.mode` reads back."""
        return self.space.text(self)

    def replace(self, changes: Mapping[str, int]) -> Mode:
        """Return this mode with some knobs set anew; unknown names and options are refused."""
        return self.space.mode({**self, **changes})

    def is_no_costlier_than(self, other: Mode) -> bool:
        """Say whether every knob is at the same or a cheaper option than in `other`."""
        other = self.space.mode(other)
        return all(a >= b for a, b in zip(self.options, other.options, strict=True))


@dataclass(frozen=True)
class Space:
    """All knobs of a network, in execution order: the modes it can run in.

    Raises `ValueError` where there is no knob or a name stands twice.

    >>> space = Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2, 4, 8, 16))))
    >>> space.size, str(space.smallest), str(space.uniform(4)), str(space.mode("1/2,b=1/16"))
    (15, '1/16', '1/4', '1/2,1/16')
    """

    knobs: tuple[Knob, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", tuple(self.knobs))
        if not self.knobs:
            raise ValueError("`knobs` is empty; a space needs at least one thing to switch")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"`knobs` names {', '.join(map(repr, twice))} more than once")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The knobs' names, in execution order."""
        return tuple(knob.name for knob in self.knobs)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def _hash(self) -> int:
        return hash(self.knobs)

    def __hash__(self) -> int:
        return self._hash

    def position(self, name: str) -> int:
        """Return where the knob stands in execution order; `KeyError` names an unknown one."""
        try:
            return self._positions[name]
        except KeyError:
            raise KeyError(f"{name!r} is no knob of this network") from None

    @cached_property
    def size(self) -> int:
        """The exact number of modes; 5**52 for ResNet-50, which `len` could not return."""
        return math.prod(len(knob.options) for knob in self.knobs)

    @cached_property
    def full(self) -> Mode:
        """Every knob at its most costly option: the original network."""
        return Mode(self, tuple(knob.options[0] for knob in self.knobs))

    @cached_property
    def smallest(self) -> Mode:
        """Every knob at its least costly option."""
        return Mode(self, tuple(knob.options[-1] for knob in self.knobs))

    def uniform(self, n: int) -> Mode:
        """Return every knob at `n`, or at the nearest option it allows below `n`.

        Raises `ValueError` unless `n` is a whole number above 0.
        """
        if type(n) is not int or n < 1:
            raise ValueError(f"`n` (={n!r}) must be a whole number above 0")
        return Mode(self, tuple(knob.nearest(n) for knob in self.knobs))

    @cached_property
    def uniform_options(self) -> tuple[int, ...]:
        """Every option that at least one knob has, ascending: those that `uniform` tells apart."""
        return tuple(sorted({option for knob in self.knobs for option in knob.options}))

    def uniform_modes(self) -> tuple[Mode, ...]:
        """Return the uniform modes, from the full one to the smallest."""
        return tuple(self.uniform(n) for n in self.uniform_options)

    def sample(self, rng: RandomSource) -> Mode:
        """Draw one option per knob, independently and uniformly (Algorithm 1, line 13)."""
        return Mode(
            self, tuple(knob.options[int(rng.random() * len(knob.options))] for knob in self.knobs)
        )

    def cheaper(self, mode: Mode) -> tuple[Mode, ...]:
        """Return each mode that is one knob one option further, in execution order (Alg. 2, l. 5)."""
        neighbours, mode = [], self.mode(mode)
        for position, knob in enumerate(self.knobs):
            option = knob.cheaper(mode.options[position])
            if option is not None:
                options = (*mode.options[:position], option, *mode.options[position + 1 :])
                neighbours.append(Mode(self, options))
        return tuple(neighbours)

    def mode(self, choice: ModeChoice) -> Mode:
        """Return the mode that `choice` names: a mode, a dict over all knobs, or a text.

        Texts: `"full"`, `"smallest"`, a uniform pattern `"1/4"`; one pattern for each knob in
        execution order with repeats, `"1*3,1/4*2,1/16"`; or a uniform pattern followed by
        exceptions by name or name pattern, `"1/4,layer1.*=1/2"`. Knobs with labels take those. Where
        some knobs have labels and others do not, the text for all sets those of its kind and leaves
        the others at their most costly option: `"1/4"`, `"8-bit"`, `"1/4,precision=8-bit"`.

        A pattern for all knobs is one that some knob has; knobs that lack it take the nearest they have
        below, as in `uniform`. A pattern that none has is refused, and so is one that a knob lacks and
        that was written for it by name or place.

        Raises `ValueError` for anything outside this space, naming the rule.
        """
        if isinstance(choice, Mode):
            if choice.space != self:
                raise ValueError(f"`mode` (={choice}) belongs to the space of another network")
            return choice
        if isinstance(choice, str):
            return self._parse(choice)
        if not isinstance(choice, Mapping):
            raise ValueError(
                f"`mode` (={choice!r}) must be a mode, a text as '1/4', or a dict over all knobs"
            )
        self._refuse_unknown(choice)
        missing = [name for name in self.names if name not in choice]
        if missing:
            raise ValueError(
                f"`mode` says nothing of {', '.join(map(repr, missing[:3]))}"
                f"{' ...' if len(missing) > 3 else ''}; every knob needs an option"
            )
        return Mode(self, tuple(choice[name] for name in self.names))

    def _refuse_unknown(self, choice: Mapping[str, int]) -> None:
        for name in choice:
            if name not in self._positions:
                raise ValueError(
                    f"`mode` names {name!r}, which is no knob of this network; its"
                    f" {len(self.names)} knobs are {_shortened(self.names)}"
                )

    def _parse(self, text: str) -> Mode:
        if text.strip() in ("full", "smallest"):
            return self.full if text.strip() == "full" else self.smallest
        parts = [part.strip() for part in text.split(",")]
        exceptions = [part for part in parts if "=" in part]
        plain = [part for part in parts if "=" not in part]
        if len(plain) == 1 and "*" not in plain[0]:
            mode = Mode(self, self._everywhere(plain[0], text))
        elif not exceptions:
            options = [option for part in plain for option in _parse_run(part, text)]
            if len(options) != len(self.knobs):
                raise ValueError(
                    f"`mode` (={text!r}) gives {len(options)} patterns; this network has"
                    f" {len(self.knobs)} knobs (or give one pattern for all of them)"
                )
            pairs = zip(self.knobs, options, strict=True)
            return Mode(self, tuple(_read(knob, option, text) for knob, option in pairs))
        else:
            raise ValueError(
                f"`mode` (={text!r}) must start with one pattern for all knobs before its"
                " exceptions, as in '1/4,NAME=1/2'"
            )
        changes: dict[str, int] = {}
        for part in exceptions:
            wanted, _, option = part.partition("=")
            names = [name for name in self.names if fnmatchcase(name, wanted.strip())]
            if not names:
                self._refuse_unknown({wanted.strip(): 1})
            for name in names:
                changes[name] = _read(self.knobs[self.position(name)], option, text)
        return mode.replace(changes)

    @cached_property
    def _labelled(self) -> tuple[Knob, ...]:
        return tuple(knob for knob in self.knobs if knob.labels)

    @property
    def _is_mixed(self) -> bool:
        """Whether some knobs have labels and others do not."""
        return 0 < len(self._labelled) < len(self.knobs)

    def _everywhere(self, text: str, whole: str) -> tuple[int, ...]:
        """Return the options of a text that stands for all knobs.

        A pattern that some knobs lack is rounded there; one that every knob lacks is a typing error.
        """
        options = tuple(self._meant_for(knob, text, whole) for knob in self.knobs)
        if _is_pattern(text):
            n = _read_pattern(text)
            known = sorted(
                {each for knob in self.knobs if not knob.labels for each in knob.options}
            )
            if known and n not in known:
                raise ValueError(
                    f"`mode` (={whole!r}) holds {text!r}, a pattern that nothing in this network has;"
                    f" allowed: {', '.join(map(pattern_text, known))}"
                )
        return options

    def _meant_for(self, knob: Knob, text: str, whole: str) -> int:
        """Return what a text for all knobs means for one: its label, or n as it fits."""
        if self._is_mixed and _is_pattern(text) == bool(knob.labels):
            return knob.options[0]  # the text is of the other kind
        option = _read(knob, text, whole)
        return option if knob.labels else knob.nearest(option)

    def text(self, mode: Mode) -> str:
        """Return the compact text form: one that stands for all knobs, or runs of options in order."""
        texts = [knob.text(n) for knob, n in zip(self.knobs, mode.options, strict=True)]
        for short in self._short_texts(mode, texts):
            try:
                if self._parse(short).options == mode.options:
                    return short
            except ValueError:
                pass  # not every knob has this option, so no one text stands for all
        runs = ((text, len(list(run))) for text, run in groupby(texts))
        return ",".join(f"{text}*{count}" if count > 1 else text for text, count in runs)

    def _short_texts(self, mode: Mode, texts: Sequence[str]) -> list[str]:
        """Return texts for all knobs that may name a mode: the finest option, and beside it a label."""
        if not self._is_mixed:
            return [texts[mode.options.index(max(mode.options))]]
        of_kinds: dict[bool, list[tuple[int, str]]] = {False: [], True: []}
        for knob, option, text in zip(self.knobs, mode.options, texts, strict=True):
            of_kinds[bool(knob.labels)].append((option, text))
        pattern, label = max(of_kinds[False])[1], max(of_kinds[True])[1]
        exception = [f"{pattern},{knob.name}={label}" for knob in self._labelled]
        return [pattern, label, *(exception if len(self._labelled) == 1 else [])]

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "knobs": [
                {
                    "name": knob.name,
                    "options": list(knob.options),
                    "must_divide": [[label, size] for label, size in knob.must_divide],
                    **({"labels": list(knob.labels)} if knob.labels else {}),
                }
                for knob in self.knobs
            ]
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Space:
        """Return the space written by `to_json`; raises `ValueError` where it is not one."""
        try:
            return cls(tuple(_knob_from_json(knob) for knob in values["knobs"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of a space: {error}") from error


def _knob_from_json(knob: Mapping[str, Any]) -> Knob:
    return Knob(
        str(knob["name"]),
        tuple(int(option) for option in knob["options"]),
        tuple((str(label), int(size)) for label, size in knob["must_divide"]),
        tuple(map(str, knob.get("labels", ()))),
    )


ModeChoice: TypeAlias = Mode | Mapping[str, int] | str
"""What names a mode: a mode, a dict over all knobs, or a text that `Space.mode` reads."""


def pattern_text(n: int) -> str:
    """Return how a pattern is written: the share of weights it enables, `1` or `1/n`."""
    return "1" if n == 1 else f"1/{n}"


def _is_pattern(text: str) -> bool:
    """Say whether a text is meant as a share of the weights, and not as a label."""
    return text == "1" or text.startswith("1/")


def _read_pattern(text: str) -> int:
    groups = text.removeprefix("1/") if text != "1" else "1"
    if _is_pattern(text) and groups.isdecimal() and int(groups) > 0:
        return int(groups)
    raise ValueError(
        f"{text!r}, which is no pattern; write 1 or 1/n, as in '1/4', '1*3,1/4,1/16*2' or"
        " '1/4,NAME=1/2'"
    )


def _read(knob: Knob, text: str, whole: str) -> int:
    """Return the option that part of a mode's text names; a refusal shows the whole."""
    try:
        return knob.read(text.strip())
    except ValueError as error:
        raise ValueError(f"`mode` (={whole!r}) holds {error}") from None


def _parse_run(text: str, whole: str) -> list[str]:
    option, star, count = text.partition("*")
    if star and not (count.strip().isdecimal() and int(count) > 0):
        raise ValueError(
            f"`mode` (={whole!r}) repeats a pattern {count!r} times; allowed: 1, 2, ..."
        )
    # A bound on what a typed text can make this build; no network has a million knobs.
    return [option] * min(int(count) if star else 1, 1_000_000)


def _shortened(names: tuple[str, ...], limit: int = 4) -> str:
    shown = ", ".join(map(repr, names[:limit]))
    return shown if len(names) <= limit else f"{shown}, ..."
