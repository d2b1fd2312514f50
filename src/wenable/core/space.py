"""What can be switched in a network, and one choice of it. Imports no torch.

A `Knob` is one switchable thing; its options are whole numbers, ordered from the most to the least
costly. For weight-enabling a knob is a layer and an option is its number of groups n, written `1/n`:
the share of the layer's weights that is enabled (WeNet, section III-A). A knob whose options are no
such shares has a label for each, and is written by them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from wenable.core.knob import Knob as Knob
from wenable.core.mode_text import meant_by_all, read_mode, refuse_unknown, write_mode
from wenable.core.networks import own_knob, places_of_networks, split_network, with_network

_MOST_COMBINATIONS = 10_000


class RandomSource(Protocol):
    """Anything with `random()` in [0, 1): `random.Random` or `numpy.random.Generator`."""

    def random(self) -> float:
        """Return the next number, uniform in [0, 1)."""
        ...


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
        if self.space.networks:
            self.space.check_one_network(self.options)

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
        _ = self._places  # refuses knobs of networks that do not fit

    @cached_property
    def networks(self) -> Mapping[str, Space]:
        """The space of each network by its name, most costly first; none in a space of one network."""
        return {
            name: Space(tuple(own_knob(self.knobs[place]) for place in own))
            for name, own in self._places.items()
        }

    @cached_property
    def _places(self) -> dict[str, tuple[int, ...]]:
        return places_of_networks(self.knobs)

    def within(self, mode: Mode) -> tuple[str, Mode]:
        """Return the network that a mode runs, and the mode in that network's own space.

        In a space of one network its name is "", and the mode is the same.
        """
        if not self.networks:
            return "", mode
        name = self.knobs[0].text(mode.options[0])
        own = tuple(mode.options[place] for place in self._places[name])
        return name, Mode(self.networks[name], own)

    def of_network(self, name: str, own: ModeChoice) -> Mode:
        """Return the mode of this space that runs one of its networks; `own`: in that network's space.

        Raises `ValueError` for a network that is not there, and for a mode outside its space.
        """
        option = self.knobs[0].read(name)
        options = [knob.options[0] for knob in self.knobs]
        options[0] = option
        chosen = self.networks[name].mode(own).options
        for place, each in zip(self._places[name], chosen, strict=True):
            options[place] = each
        return Mode(self, tuple(options))

    def check_one_network(self, options: tuple[int, ...]) -> None:
        """Raise `ValueError` for options that set knobs of a network which does not run."""
        running = self.knobs[0].text(options[0])
        for knob, option in zip(self.knobs[1:], options[1:], strict=True):
            if knob.network != running and option != knob.options[0]:
                raise ValueError(
                    f"`mode` runs the network {running!r} and sets {knob.name!r} of another; it must be"
                    f" at {knob.options[0]} there"
                )

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
        if self.networks:
            return sum(each.size for each in self.networks.values())
        return math.prod(len(knob.options) for knob in self.knobs)

    @cached_property
    def full(self) -> Mode:
        """Every knob at its most costly option: the original network."""
        return Mode(self, tuple(knob.options[0] for knob in self.knobs))

    @cached_property
    def smallest(self) -> Mode:
        """Every knob at its least costly option; of several networks, those of the last."""
        if self.networks:
            name = list(self.networks)[-1]
            return self.of_network(name, self.networks[name].smallest)
        return Mode(self, tuple(knob.options[-1] for knob in self.knobs))

    def uniform(self, n: int) -> Mode:
        """Return every knob at `n`, or at the nearest option it allows below `n`.

        A knob that only its name sets stays at its most costly option (`Knob.by_name`). Of several
        networks it is a mode of the first.

        Raises `ValueError` unless `n` is a whole number above 0.
        """
        if type(n) is not int or n < 1:
            raise ValueError(f"`n` (={n!r}) must be a whole number above 0")
        if self.networks:
            name, own = next(iter(self.networks.items()))
            return self.of_network(name, own.uniform(n))
        set_by_all = set(meant_by_all(self.knobs))
        options = (
            knob.nearest(n) if knob in set_by_all else knob.options[0] for knob in self.knobs
        )
        return Mode(self, tuple(options))

    @cached_property
    def uniform_options(self) -> tuple[int, ...]:
        """Every option that at least one knob has, ascending: those that `uniform` tells apart."""
        if self.networks:
            return next(iter(self.networks.values())).uniform_options
        knobs = meant_by_all(self.knobs)
        return tuple(sorted({option for knob in knobs for option in knob.options}))

    def uniform_modes(self) -> tuple[Mode, ...]:
        """Return the uniform modes, from the full one to the smallest."""
        return tuple(self.uniform(n) for n in self.uniform_options)

    def uniform_combinations(self) -> tuple[Mode, ...]:
        """Return the uniform modes at every image size, exit and the like, as the full one first.

        These are the uniform modes in each combination of the knobs that only their name sets
        (`Knob.by_name`); without such knobs, the uniform modes. Of several networks, those of each.

        Raises `ValueError` where there are more than 10,000 of them.

        >>> size = Knob("size", (1, 2), labels=("64", "48"), by_name=True)
        >>> [str(mode) for mode in Space((size, Knob("a", (1, 4)))).uniform_combinations()]
        ['1', '1/4', '1,size=48', '1/4,size=48']
        """
        if self.networks:
            return tuple(
                self.of_network(name, own)
                for name, space in self.networks.items()
                for own in space.uniform_combinations()
            )
        set_by_all = set(meant_by_all(self.knobs))
        named = [knob for knob in self.knobs if knob not in set_by_all]
        count = math.prod(len(knob.options) for knob in named) * len(self.uniform_options)
        if count > _MOST_COMBINATIONS:
            raise ValueError(
                f"there are {count:,} combinations of the uniform modes with {len(named)} knobs that only"
                f" their name sets; at most {_MOST_COMBINATIONS:,} are listed"
            )
        return tuple(
            mode.replace({knob.name: n for knob, n in zip(named, options, strict=True)})
            for options in itertools.product(*(knob.options for knob in named))
            for mode in self.uniform_modes()
        )

    def sample(self, rng: RandomSource) -> Mode:
        """Draw one option per knob, independently and uniformly (Algorithm 1, line 13).

        Of several networks one is drawn first, then its knobs.
        """
        if self.networks:
            name = list(self.networks)[int(rng.random() * len(self.networks))]
            return self.of_network(name, self.networks[name].sample(rng))
        return Mode(
            self, tuple(knob.options[int(rng.random() * len(knob.options))] for knob in self.knobs)
        )

    def cheaper(self, mode: Mode) -> tuple[Mode, ...]:
        """Return each mode that is one knob one option further, in execution order (Alg. 2, l. 5).

        The next network comes in its full mode, before the cheaper modes of this one.
        """
        neighbours, mode = [], self.mode(mode)
        if self.networks:
            name, own = self.within(mode)
            following = list(self.networks)[list(self.networks).index(name) + 1 :][:1]
            nearest = self.networks[name].cheaper(own)
            return (
                *(self.of_network(each, "full") for each in following),
                *(self.of_network(name, each) for each in nearest),
            )
        for position, knob in enumerate(self.knobs):
            option = knob.cheaper(mode.options[position])
            if option is not None:
                options = (*mode.options[:position], option, *mode.options[position + 1 :])
                neighbours.append(Mode(self, options))
        return tuple(neighbours)

    def mode(self, choice: ModeChoice) -> Mode:
        """Return the mode that `choice` names: a mode, a dict over all knobs, or a text.

        Texts: `"full"`, `"smallest"`, a uniform option `"1/4"`; one option for each knob in
        execution order with repeats, `"1*3,1/4*2,1/16"`; or a uniform option followed by
        exceptions by name or name pattern, `"1/4,layer1.*=1/2"`. Knobs with labels take those. Where
        some knobs have labels and others do not, the text for all sets those of its kind and leaves
        the others at their most costly option: `"1/4"`, `"8-bit"`, `"1/4,precision=8-bit"`. A knob
        that only its name sets, as the size of images, is an exception too: `"1/4,size=160"`. Exceptions
        alone are those from the full mode: `"width=0.5,precision=8-bit"`.

        In a space of several networks, `"network=little"` or `"network=big,1/4,size=160"`: the network,
        and a mode of it, which is its full one where nothing follows. Without a name it is the first.

        An option for all knobs is one that some knob has; knobs that lack it take the nearest they have
        below, as in `uniform`. An option that none has is refused, and so is one that a knob lacks and
        that was written for it by name or place.

        Raises `ValueError` for anything outside this space, naming the rule.
        """
        if isinstance(choice, Mode):
            if choice.space != self:
                raise ValueError(f"`mode` (={choice}) belongs to the space of another network")
            return choice
        if isinstance(choice, str) and self.networks:
            return self._mode_of_one(choice)
        if isinstance(choice, str):
            return Mode(self, read_mode(choice, self.knobs))
        if not isinstance(choice, Mapping):
            raise ValueError(
                f"`mode` (={choice!r}) must be a mode, a text as '1/4', or a dict over all knobs"
            )
        refuse_unknown(choice, self.knobs)
        if self.networks:
            choice = self._with_others(choice)
        missing = [name for name in self.names if name not in choice]
        if missing:
            raise ValueError(
                f"`mode` says nothing of {', '.join(map(repr, missing[:3]))}"
                f"{' ...' if len(missing) > 3 else ''}; every knob needs an option"
            )
        return Mode(self, tuple(choice[name] for name in self.names))

    def _mode_of_one(self, text: str) -> Mode:
        """Return the mode that a text names in a space of several networks."""
        name, rest = split_network(text)
        if not name and rest == "smallest":
            return self.smallest
        try:
            return self.of_network(name or next(iter(self.networks)), rest or "full")
        except ValueError as error:
            raise ValueError(f"`mode` (={text!r}): {error}") from None

    def _with_others(self, choice: Mapping[str, int]) -> Mapping[str, int]:
        """Return options that say of the knobs of networks that do not run where they stand."""
        first = self.knobs[0]
        if choice.get(first.name) not in first.options:
            return choice
        running = first.text(choice[first.name])
        others = {
            knob.name: knob.options[0]
            for knob in self.knobs[1:]
            if knob.network != running and knob.name not in choice
        }
        return {**choice, **others}

    def fixed(self, options: Mapping[str, int]) -> Space:
        """Return the part of this space where some knobs have one option only.

        Its modes are those of this space by `space.mode(dict(mode))`. Raises `ValueError` for a name
        that no knob has, and for an option that the knob lacks.

        >>> space = Space((Knob("size", (1, 2), labels=("64", "48")), Knob("a", (1, 2))))
        >>> part = space.fixed({"size": 2})
        >>> part.size, str(space.mode(dict(part.full)))
        (2, '48')
        """
        refuse_unknown(options, self.knobs)
        kept = tuple(_only(knob, options.get(knob.name)) for knob in self.knobs)
        if self.networks:
            kept = tuple(knob for knob in kept if knob.network in ("", *kept[0].labels))
        return Space(kept)

    def text(self, mode: Mode) -> str:
        """Return the compact text form: one that stands for all knobs, or runs of options in order."""
        if self.networks:
            name, own = self.within(mode)
            return with_network(name, str(own), full=own == own.space.full)
        return write_mode(mode.options, self.knobs)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {"knobs": [knob.to_json() for knob in self.knobs]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Space:
        """Return the space written by `to_json`; raises `ValueError` where it is not one."""
        try:
            return cls(tuple(Knob.from_json(knob) for knob in values["knobs"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of a space: {error}") from error


def _only(knob: Knob, option: int | None) -> Knob:
    if option is None:
        return knob
    knob.check(option)
    return replace(knob, options=(option,), labels=(knob.text(option),) if knob.labels else ())


ModeChoice: TypeAlias = Mode | Mapping[str, int] | str
"""What names a mode: a mode, a dict over all knobs, or a text that `Space.mode` reads."""
