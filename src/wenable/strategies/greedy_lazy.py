"""Algorithm 2 with last known scores: only the most promising candidate is evaluated anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode, Space
from wenable.strategies.greedy import SearchStep
from wenable.strategies.racing import check_min_accuracy, descend


def greedy_lazy(
    space: Space,
    accuracy: Callable[[Mode], Reading],
    costs: Callable[[Sequence[Mode]], Sequence[Reading]],
    min_accuracy: float,
    *,
    cost: str = "cost",
    on_step: Callable[[SearchStep], None] | None = None,
) -> Front:
    """Search about as Algorithm 2 does, with a few evaluations a step instead of one for each knob.

    For every knob the search keeps what its next option cost in accuracy when it was last
    evaluated. The candidates are ordered by cost / (present accuracy - that loss). The head of the
    order is evaluated in the present mode and put back, until the head is one that was: it is taken.
    A knob that was never evaluated is taken to cost nothing, so it comes to the head early.

    This is an approximation: a step differs from Algorithm 2 where a candidate has become better
    since it was last evaluated. It needs costs that are known without a measurement, since those of
    all candidates are asked for in each step.

    - `accuracy`, `costs`, `min_accuracy`, `cost`, `on_step`: as in `greedy`.

    Returns a `Front` whose `explored` holds the modes that were evaluated.

    Raises `ValueError` where the min_accuracy is not in [0, 1) or the full mode does not exceed it.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> share = lambda mode: Reading(1 - 0.1 * (mode["a"] - 1) - 0.3 * (mode["b"] - 1), "top-1")
    >>> macs = lambda modes: [Reading(4 / mode["a"] + 4 / mode["b"], "MACs") for mode in modes]
    >>> front = greedy_lazy(space, share, macs, min_accuracy=0.65)
    >>> [str(point.mode) for point in front.path], front.evaluations
    (['1', '1/2,1', '1/2'], 4)

    Source: lazy evaluation after Minoux (1978), for the loss of WeNet, Algorithm 2, line 8.
    """
    check_min_accuracy(min_accuracy)
    lost: dict[int, float] = {}

    def step(current: Point, candidates: Sequence[Mode]) -> tuple[Point, Sequence[Point]]:
        present = current.accuracy.known
        readings = list(costs(candidates))
        knobs = [_changed(current.mode, mode) for mode in candidates]
        evaluated: dict[int, Point] = {}

        def score(i: int) -> tuple[float, int]:
            fresh = evaluated.get(i)
            share = fresh.accuracy.known if fresh else present - lost.get(knobs[i], 0.0)
            return (readings[i].known / share if share > 0 else math.inf), i

        while True:
            # A heap would have to be rebuilt: with the present accuracy every score moves.
            head = min(range(len(candidates)), key=score)
            if head in evaluated:
                return evaluated[head], list(evaluated.values())
            point = Point(candidates[head], accuracy(candidates[head]), readings[head])
            evaluated[head] = point
            lost[knobs[head]] = present - point.accuracy.known

    full = Point(space.full, accuracy(space.full), costs([space.full])[0])
    return descend(
        space, full, min_accuracy, step, cost=cost, strategy="greedy-lazy", on_step=on_step
    )


def _changed(before: Mode, after: Mode) -> int:
    """Return the position of the one knob in which two modes differ."""
    pairs = zip(before.options, after.options, strict=True)
    return next(position for position, (a, b) in enumerate(pairs) if a != b)
