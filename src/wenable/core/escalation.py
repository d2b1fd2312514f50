"""Answers each input with the cheapest stage that is sure of it, and asks the next one otherwise.

A stage is anything that can be called: a network in a low precision, an early exit, a small network
beside a large one, a bundle's session. Imports no torch, so that a device can do it too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wenable.core.given_numbers import is_number

Stage = Callable[[Any], Any]
"""From a batch of inputs to its outputs before the softmax, shape `(N, classes)`."""


@dataclass(frozen=True, slots=True)
class Escalation:
    """What a batch was answered, by which stages, and what that cost.

    - `outputs`: of the stage that answered each input, shape `(N, classes)`.
    - `stages`: the number of that stage, from 0, shape `(N,)`.
    - `cost`: of one input, on average: all stages that it went through, in the unit of `costs`.
    """

    outputs: NDArray[np.floating]
    stages: NDArray[np.intp]
    cost: float

    @property
    def escalated(self) -> NDArray[np.bool_]:
        """Which inputs went beyond the first stage, shape `(N,)`."""
        return self.stages > 0


def margin(outputs: Any) -> NDArray[np.float64]:
    """Return how far the likeliest class is ahead of the second, between 0 and 1, shape `(N,)`.

    - `outputs`: before the softmax, shape `(N, classes)`, of numpy or of torch on the CPU.

    Raises `ValueError` for another shape, fewer than two classes, or values that are not finite.

    >>> margin([[0.0, 0.0], [0.0, 100.0]]).round(3).tolist()
    [0.0, 1.0]

    Source: the "score margin" of Park et al., Big/Little Deep Neural Network (CODES+ISSS 2015).
    """
    highest = np.partition(_probabilities(outputs), -2, axis=1)[:, -2:]
    return highest[:, 1] - highest[:, 0]


def entropy(outputs: Any) -> NDArray[np.float64]:
    """Return the entropy of each input's softmax, in nats: 0 to log(classes), shape `(N,)`.

    - `outputs`: before the softmax, shape `(N, classes)`, of numpy or of torch on the CPU.

    Raises `ValueError` as `margin` does.

    >>> entropy([[0.0, 0.0], [0.0, 100.0]]).round(3).tolist()
    [0.693, 0.0]

    Source: Teerapittayanon et al., BranchyNet (ICPR 2016), section III-B.
    """
    p = _probabilities(outputs)
    # A probability that underflowed to 0 adds 0, the limit of p log p.
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)


def by_margin(
    stages: Sequence[Stage],
    inputs: Any,
    threshold: float | Sequence[float],
    costs: Sequence[float] | None = None,
) -> Escalation:
    """Keep a stage's answer where its `margin` is at least the threshold; ask the next otherwise.

    - `stages`: from the cheapest to the last, whose answer always stands.
    - `inputs`: a batch, shape `(N, ...)`, that can be indexed by an array of positions.
    - `threshold`: between 0 and 1: one for all stages, or one for each but the last.
    - `costs`: what each stage costs for one input, in any one unit; without them they count 1 each.
      A stage that goes on where the one before stopped costs only what it adds.

    Raises `ValueError` where thresholds or costs are too few, too many or out of range, and as
    `margin` does. A NaN in the outputs is refused: no threshold could say anything of it.

    >>> unsure, sure = (lambda x: 0 * x), (lambda x: 9 * x)
    >>> by_margin([unsure, sure], np.eye(2), 0.5, costs=(1, 4)).cost
    5.0

    Source: Park et al. (2015) for two networks; Pagliari et al., Dynamic Bit-width Reconfiguration
    (ISLPED 2018), for one network in two precisions.
    """
    limits = checked_thresholds(threshold, len(stages), 1.0, "margin")
    return _escalate(stages, inputs, lambda y, stage: margin(y) >= limits[stage], costs)


def by_entropy(
    stages: Sequence[Stage],
    inputs: Any,
    threshold: float | Sequence[float],
    costs: Sequence[float] | None = None,
) -> Escalation:
    """Keep a stage's answer where its `entropy` is below the threshold; ask the next otherwise.

    - `threshold`: in nats, 0 or more: one for all stages, or one for each but the last.

    All else is as in `by_margin`.

    >>> unsure, sure = (lambda x: 0 * x), (lambda x: 9 * x)
    >>> by_entropy([unsure, sure], np.eye(2), 0.5).stages.tolist()
    [1, 1]

    Source: BranchyNet (2016), algorithm 1.
    """
    limits = checked_thresholds(threshold, len(stages), np.inf, "entropy")
    return _escalate(stages, inputs, lambda y, stage: entropy(y) < limits[stage], costs)


def _escalate(
    stages: Sequence[Stage],
    inputs: Any,
    is_sure: Callable[[NDArray[np.floating], int], NDArray[np.bool_]],
    costs: Sequence[float] | None,
) -> Escalation:
    each_cost = _costs(costs, len(stages))
    answered_by = np.zeros(len(inputs), dtype=np.intp)
    outputs: NDArray[np.floating] | None = None
    left = np.arange(len(inputs))
    total = 0.0
    for number, stage in enumerate(stages):
        # The first stage gets the very batch, which may lie on an accelerator.
        answers = np.asarray(stage(inputs if number == 0 else inputs[left]))
        _check_answers(answers, len(left), number)
        total += each_cost[number] * len(left)
        outputs = answers.copy() if outputs is None else outputs
        outputs[left], answered_by[left] = answers, number
        if number < len(stages) - 1:
            left = left[~is_sure(answers, number)]
        if not len(left):
            break
    assert outputs is not None
    return Escalation(outputs, answered_by, total / max(len(inputs), 1))


def _probabilities(outputs: Any) -> NDArray[np.float64]:
    y = np.asarray(outputs, dtype=np.float64)
    if y.ndim != 2 or y.shape[1] < 2:
        raise ValueError(
            f"`outputs` (of shape {y.shape}) must be (N, classes), with at least two classes"
        )
    if not np.isfinite(y).all():
        raise ValueError("`outputs` hold NaN or infinity; how sure they are means nothing")
    exponentials = np.exp(y - y.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _check_answers(answers: NDArray[np.floating], inputs: int, number: int) -> None:
    if answers.ndim != 2 or len(answers) != inputs:
        raise ValueError(
            f"stage {number} answered with shape {answers.shape}; ({inputs}, classes) was expected"
        )


def checked_thresholds(
    threshold: float | Sequence[float], stages: int, highest: float, score: str
) -> tuple[float, ...]:
    """Return one threshold for each stage but the last; raises `ValueError` as `by_margin` does."""
    if stages < 1:
        raise ValueError("`stages` is empty; escalation needs at least one")
    one: Any = threshold
    if getattr(one, "ndim", None) == 0:  # an array or a tensor of one number
        one = one.item()
    several = isinstance(one, Sequence | np.ndarray) and not isinstance(one, str | bytes)
    given: tuple[Any, ...] = tuple(one) if several else (one,) * (stages - 1)
    if not all(map(is_number, given if several else (one,))):
        raise ValueError(
            f"`threshold` (={threshold!r}) must be a number, or one for each stage but the last"
        )
    limits = tuple(map(float, given))
    if len(limits) != stages - 1:
        raise ValueError(
            f"`threshold` holds {len(limits)} values; {stages} stages need {stages - 1}, one for each"
            " but the last"
        )
    if not all(0 <= limit <= highest for limit in limits):
        rule = f"from 0 to {highest:g}" if np.isfinite(highest) else "0 or more"
        raise ValueError(f"`threshold` (={threshold}) must be {rule}, as the {score} is")
    return limits


def _costs(costs: Sequence[float] | None, stages: int) -> tuple[float, ...]:
    each_cost = (1.0,) * stages if costs is None else tuple(map(float, costs))
    if len(each_cost) != stages:
        raise ValueError(f"`costs` holds {len(each_cost)} values for {stages} stages")
    if not all(0 <= cost < np.inf for cost in each_cost):
        raise ValueError(f"`costs` (={costs}) must be finite and 0 or more")
    return each_cost
