"""What the demo aims at, checked on what it wrote; run as a command it ends with 1 if something is wrong.

    python -m wenable.cli.demo_check out/demo

Training ends with other figures on another machine, and times are others when it is busy. So each goal
has a bound below it: what falls short of the goal is said, and what falls below the bound is a fault.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

LEAST_IMAGES = 4000
LEAST_GAIN, FAULTY_GAIN = 0.05, 0.02
LEAST_FRONT, FAULTY_FRONT = 5, 4
LEAST_SPEEDUP, FAULTY_SPEEDUP = 2.0, 1.3
LEAST_MODES, FAULTY_MODES = 3, 2
_CHANCE = 0.01  # a mode that ran for a smaller share of the requests ran by chance
_APART = {True: "apart", False: "overlap"}

Figures = Mapping[str, Any]
"""A row of figures.json: `mode`, `macs`, and the readings `accuracy` and `latency`."""


@dataclass(frozen=True)
class Goal:
    """One goal: whether it is met, in words what was found and wanted, and whether that is a fault."""

    met: bool
    words: str
    is_fault: bool

    @property
    def verdict(self) -> str:
        """One word for it."""
        return "met" if self.met else "MISSED" if self.is_fault else "short"


def goals(figures: Sequence[Figures], deadline: Mapping[str, Any], smallest: str) -> list[Goal]:
    """Return what became of every goal.

    - `figures`: the rows of `figures.json`; the full mode is the one of most MACs. `smallest`: the uniform
      mode that it is compared with, as `"1/16"`.
    - `deadline`: what `deadline.json` holds.
    """
    by_mode = {row["mode"]: row for row in figures}
    full, least = max(figures, key=lambda row: row["macs"]), by_mode[smallest]
    return [
        _images(figures),
        _gain(full, least),
        _front(front(figures)),
        _speedup(full, figures),
        _served(deadline),
    ]


def front(figures: Sequence[Figures]) -> list[Figures]:
    """Return the rows that no other beats in accuracy and MACs, from the most costly on.

    >>> row = lambda macs, share: {"macs": macs, "accuracy": {"value": share}}
    >>> [each["macs"] for each in front([row(9, 0.9), row(5, 0.6), row(4, 0.7), row(1, 0.5)])]
    [9, 4, 1]
    """
    kept: list[Figures] = []
    for row in sorted(figures, key=lambda row: (row["macs"], -row["accuracy"]["value"])):
        if not kept or row["accuracy"]["value"] > kept[-1]["accuracy"]["value"]:
            kept.append(row)
    return kept[::-1]


def told_apart(better: Figures, worse: Figures) -> bool:
    """Say whether the whole interval of one accuracy lies above that of the other."""
    return better["accuracy"]["low"] > worse["accuracy"]["high"]


def _images(figures: Sequence[Figures]) -> Goal:
    fewest = min(row["accuracy"]["count"] for row in figures)
    words = f"{fewest:,} test images behind each accuracy (at least {LEAST_IMAGES:,})"
    return Goal(fewest >= LEAST_IMAGES, words, fewest < LEAST_IMAGES)


def _gain(full: Figures, least: Figures) -> Goal:
    gain = full["accuracy"]["value"] - least["accuracy"]["value"]
    apart = told_apart(full, least)
    words = (
        f"full mode {100 * gain:.1f} points better than {least['mode']} (at least"
        f" {100 * LEAST_GAIN:.0f}), intervals {_APART[apart]}"
    )
    return Goal(gain >= LEAST_GAIN and apart, words, gain < FAULTY_GAIN or not apart)


def _front(modes: Sequence[Figures]) -> Goal:
    apart = [told_apart(better, worse) for better, worse in pairwise(modes)] or [False]
    words = (
        f"{len(modes)} modes on the front (at least {LEAST_FRONT}), first two {_APART[apart[0]]},"
        f" last two {_APART[apart[-1]]}"
    )
    met = len(modes) >= LEAST_FRONT and apart[0] and apart[-1]
    ends = told_apart(modes[0], modes[-1])
    return Goal(met, words, len(modes) < FAULTY_FRONT or not ends)


def _speedup(full: Figures, figures: Sequence[Figures]) -> Goal:
    cheapest = min(figures, key=lambda row: row["macs"])
    ratio = full["latency"]["value"] / cheapest["latency"]["value"]
    words = (
        f"full mode {ratio:.1f} times as long on the engine as the cheapest (at least"
        f" {LEAST_SPEEDUP:g})"
    )
    return Goal(ratio >= LEAST_SPEEDUP, words, ratio < FAULTY_SPEEDUP)


def _served(deadline: Mapping[str, Any]) -> Goal:
    ours = deadline["policies"][0]
    used = [mode for mode, count in ours["modes"].items() if count >= _CHANCE * ours["requests"]]
    words = f"{len(used)} modes ran under the deadline (at least {LEAST_MODES})"
    return Goal(len(used) >= LEAST_MODES, words, len(used) < FAULTY_MODES)


def main(out: Path) -> bool:
    """Print what became of every goal of a run under `out`; say whether none is missed by a fault."""
    figures = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    deadline = json.loads((out / "deadline.json").read_text(encoding="utf-8"))
    found = goals(figures, deadline, "1/16")
    for goal in found:
        print(f"{goal.verdict:6} {goal.words}")  # noqa: T201
    return not any(goal.is_fault for goal in found)


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1])) else 1)
