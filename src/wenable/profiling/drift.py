"""Groups of measurements, each with one that all share: where that differs, the device had changed.

A device that grows hot, or that somebody else uses, runs at another speed for a while. What is
measured then must not be compared with the rest. So every group holds the same network once more,
its anchor.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TypeVar

Group = TypeVar("Group")

MOST_DRIFT = 0.15
"""How far an anchor may be from the usual one before what was measured with it is measured again."""
TRIES = 3
"""How often a group is measured at most."""


def measure_steadily(
    count: int,
    measure: Callable[[int, int], Group],
    anchor: Callable[[Group], float],
    *,
    usual: float | None = None,
) -> list[tuple[Group, float]]:
    """Return what was measured in each group, and how far the device was from its usual speed then.

    - `measure`: measures group `number`, for the first, second or third time.
    - `anchor`: what the anchor of a group took.
    - `usual`: what it takes usually; the median over all groups where nothing is said.

    A group whose anchor is more than 15 % off is measured again, up to twice. The second figure is
    what is left: 0.3 where the anchor took 30 % longer than usual.

    >>> took = iter([1.0, 1.0, 2.0, 1.0])  # slow at the third, but not any more when it is repeated
    >>> measure_steadily(3, lambda number, attempt: next(took), lambda taken: taken)
    [(1.0, 0.0), (1.0, 0.0), (1.0, 0.0)]
    """
    found = [measure(number, 1) for number in range(count)]

    def drift(number: int) -> float:
        middle = statistics.median(map(anchor, found)) if usual is None else usual
        return anchor(found[number]) / middle - 1

    for number in range(count):
        for attempt in range(2, TRIES + 1):
            if abs(drift(number)) <= MOST_DRIFT:
                break
            found[number] = measure(number, attempt)
    return [(group, drift(number)) for number, group in enumerate(found)]


def drift_words(drift: float) -> str:
    """Return a drift for readers; "" where it is within what is tolerated.

    >>> drift_words(0.3), drift_words(-0.2), drift_words(0.1)
    ('the device ran 30% slower meanwhile', 'the device ran 20% faster meanwhile', '')
    """
    if abs(drift) <= MOST_DRIFT:
        return ""
    return f"the device ran {abs(drift):.0%} {'slower' if drift > 0 else 'faster'} meanwhile"
