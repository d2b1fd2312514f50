"""What answers a request: a controller over the modes of a bundle, a cascade, or always one mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from wenable.runtime import Session

Policy = Callable[[np.ndarray, float], tuple[str, np.ndarray]]
"""Inputs and the milliseconds left -> the mode that ran, and its answers `(N, classes)`."""

Mode = TypeVar("Mode")

CONTROLLER, CASCADE, FIXED = "controller", "by confidence", "always "
EVERY_MODE = ("every mode",)
"""A cascade through all modes of a bundle, which holds the most accurate first."""
THRESHOLD = 0.5
"""Margin of the likeliest class before the second at which an answer stands."""
_LEAST_MS = 0.01
"""What is left to a request that waited for too long: it runs in the mode that is nearest to it."""


def policies(session: Session, batch: int, plan: Mapping[str, Any]) -> dict[str, Policy]:
    """Return the policies of one party.

    - `plan`: `fixed`, how many fixed modes; `cascade`, the modes that are asked in turn, if any, or
      `EVERY_MODE`; `controlled`, False where no controller chooses among them.
    """
    in_turn = tuple(plan["cascade"])
    if in_turn == EVERY_MODE:
        in_turn = tuple(reversed(session.modes))

    def controlled(x: np.ndarray, left_ms: float) -> tuple[str, np.ndarray]:
        answers = session.run(x, deadline_ms=max(left_ms, _LEAST_MS))
        return session.controller(batch).decisions[-1].name, answers

    def by_confidence(x: np.ndarray, left_ms: float) -> tuple[str, np.ndarray]:
        done = session.escalate(x, THRESHOLD, modes=in_turn, deadline_ms=max(left_ms, _LEAST_MS))
        return CASCADE, done.outputs

    def always(mode: str) -> Policy:
        return lambda x, left_ms: (mode, session.run(x, mode=mode))

    found: dict[str, Policy] = {CONTROLLER: controlled} if plan.get("controlled", True) else {}
    if in_turn:
        found[CASCADE] = by_confidence
    return found | {FIXED + mode: always(mode) for mode in spread(session.modes, plan["fixed"])}


def spread(modes: Sequence[Mode], count: int) -> list[Mode]:
    """Return some of the modes, the first and the last among them."""
    if count < 2 or len(modes) <= count:
        return list(modes[:count])
    step = (len(modes) - 1) / (count - 1)
    return [modes[round(place * step)] for place in range(count)]
