"""One switchable thing in a network, and how its options are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Knob:
    """One switchable thing in a network.

    - `name`: its qualified name in the network, `"layer1.0.conv2"`.
    - `options`: what it can be set to, from most to least costly; the first is the full option.
    - `must_divide`: sizes that every option has to divide, with the name that a person knows each
      by, `(("input channels", 24),)`. They are kept so that a refusal can name the rule.
    - `labels`: how each option is written, `("1", "0.75")`; without them as `1/n`.
    - `by_name`: whether only its own name sets it, as `size=160`. An option for all knobs leaves it
      at its most costly one, unless no other knob is there.
    - `network`: where a space holds several networks, the one that the knob belongs to; see
      `wenable.core.networks`.

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
    by_name: bool = False
    network: str = ""

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
            f"`groups` (={option}) is not an option of {self.name!r}; allowed: {self._allowed()}"
        )

    def text(self, option: int) -> str:
        """Return how an option is written: its label, or the option `1/n`."""
        return self.labels[self.options.index(option)] if self.labels else share_text(option)

    def read(self, text: str) -> int:
        """Return the option that a text names; raises `ValueError` where it is none of a knob's.

        >>> Knob("width", (1, 2), labels=("1", "0.75")).read("0.75")
        2
        """
        if not self.labels:
            return read_share(text)
        if text not in self.labels:
            raise ValueError(
                f"{text!r}, which is no option of {self.name!r}; allowed: {', '.join(self.labels)}"
            )
        return self.options[self.labels.index(text)]

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "name": self.name,
            "options": list(self.options),
            "must_divide": [[label, size] for label, size in self.must_divide],
            **({"labels": list(self.labels)} if self.labels else {}),
            **({"by_name": True} if self.by_name else {}),
            **({"network": self.network} if self.network else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Knob:
        """Return the knob written by `to_json`; raises `KeyError` or `TypeError` where it is none."""
        return cls(
            str(values["name"]),
            tuple(int(option) for option in values["options"]),
            tuple((str(label), int(size)) for label, size in values["must_divide"]),
            tuple(map(str, values.get("labels", ()))),
            bool(values.get("by_name", False)),
            str(values.get("network", "")),
        )

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


def share_text(n: int) -> str:
    """Return how an option is written: the share of weights it enables, `1` or `1/n`."""
    return "1" if n == 1 else f"1/{n}"


def is_share(text: str) -> bool:
    """Say whether a text is meant as a share of the weights, and not as a label."""
    return text == "1" or text.startswith("1/")


def read_share(text: str) -> int:
    """Return the n of an option, `1` or `1/n`; raises `ValueError` for any other text."""
    groups = text.removeprefix("1/") if text != "1" else "1"
    if is_share(text) and groups.isdecimal() and int(groups) > 0:
        return int(groups)
    raise ValueError(
        f"{text!r}, which is no option; write 1 or 1/n, as in '1/4', '1*3,1/4,1/16*2' or"
        " '1/4,NAME=1/2'"
    )
