"""What the pages of the experiments share: figures over seeds, claims and where results come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

_T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for 95 % two-sided intervals, by the number of seeds."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the paper beside what was measured here.

    - `source`: where the paper makes it; `paper`, `ours`: its figure and ours, as text.
    - `holds`: begins with "yes", "no" or "not decided", or says why it cannot be said.
    """

    source: str
    claim: str
    paper: str
    ours: str
    scale: str
    holds: str

    @property
    def key(self) -> str:
        """What an explanation of this claim is kept under."""
        return f"{self.source}, {self.claim}, {self.scale}"


def made_by(results: Mapping[str, Any]) -> str:
    """Return the line that says what made a result."""
    return (
        f"Made by `{results['command']}` at commit {results['commit']} on {results['machine']}, torch"
        f" {results['versions']['torch']}."
    )


def made_in_parts(
    results: Mapping[str, Any], parts: Iterable[tuple[str, Mapping[str, Any]]]
) -> str:
    """Return the line that says what made a result whose parts were made one by one.

    - `parts`: what each is, and what made it.
    """
    places: dict[str, list[str]] = {}
    for name, made in parts:
        place = f"on {made['machine']}, torch {made['versions']['torch']}"
        places.setdefault(place, []).append(f"{name} at commit {made['commit']}")
    text = "; ".join(f"{', '.join(names)}, {place}" for place, names in places.items())
    return f"Made by `{results['command']}`: {text}."


def margin(values: Sequence[float]) -> float | None:
    """Return half a 95 % interval of Student's t over seeds; None for one seed.

    >>> round(margin([1.0, 2.0, 3.0]), 2)
    2.48
    """
    if len(values) < 2:
        return None
    return _T_975[len(values)] * stdev(values) / math.sqrt(len(values))


def of_seeds(values: Sequence[float], sign: str = "") -> str:
    """Return a mean over seeds with its interval, as text.

    >>> of_seeds([1.0, 2.0, 3.0]), of_seeds([2.0])
    ('2.0 ± 2.5', '2.0 (one seed)')
    """
    half = margin(values)
    spread = " (one seed)" if half is None else f" \u00b1 {half:.1f}"
    return f"{mean(values):{sign}.1f}{spread}"


def at_least(values: Sequence[float], claimed: float, what: str) -> str:
    """Say whether a mean over seeds is at least what is claimed, as far as its interval tells.

    >>> at_least([80.0, 81.0, 82.0], 73.2, "73.2 %")
    'yes: the interval lies above 73.2 %'
    """
    half = margin(values)
    if half is None:
        return (
            f"not decided: one seed; it lies {'above' if values[0] > claimed else 'below'} {what}"
        )
    if mean(values) - half > claimed:
        return f"yes: the interval lies above {what}"
    if mean(values) + half < claimed:
        return f"no: the interval lies below {what}"
    return f"not decided: the interval holds {what}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a Markdown table, its first columns set left and the others right."""
    rule = ["---" if i < left else "--:" for i in range(len(header))]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
