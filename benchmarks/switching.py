"""How long the first call after a switch between modes takes, beside steady calls."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from wenable.runtime import Session

_BEFORE, _STEADY = 5, 7


def first_over_steady(session: Session, switches: int = 60, seed: int = 0) -> dict[str, Any]:
    """Return the time of the first call after a switch as a share of a steady one, with its quartiles.

    Each switch is from a random mode to another one, all of which are prepared and have run before.
    """
    x = session.example()
    for mode in session.modes:
        session.prepare(mode)
        session.run(x, mode=mode)
    ratios: list[float] = []
    rng = random.Random(seed)
    for mode in rng.choices(session.modes, k=switches):
        other = rng.choice([each for each in session.modes if each != mode])
        for _ in range(_BEFORE):
            session.run(x, mode=other)
        first, *steady = (_seconds(session, x, mode) for _ in range(1 + _STEADY))
        ratios.append(first / statistics.median(steady))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"first_over_steady": middle, "quartiles": [low, high], "switches": len(ratios)}


def _seconds(session: Session, x: Any, mode: str) -> float:
    started = time.perf_counter()
    session.run(x, mode=mode)
    return time.perf_counter() - started
