"""Answers each input with the first mode that is sure of it, as far as the deadline allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from wenable.core.escalation import Escalation, checked_thresholds, entropy, margin
from wenable.runtime.bundle import Bundle
from wenable.runtime.controller import Controller
from wenable.runtime.decisions import Decision, check_positive
from wenable.runtime.ready_stages import ReadyStages
from wenable.runtime.stages import StagedBatch

Score = Literal["margin", "entropy"]
_REASON = "the last stage that somebody was left for, or that meets it"


def check_can_escalate(bundle: Bundle, place: int, deadline_ms: float | None) -> None:
    """Raise `ValueError` where it cannot be said how sure an answer is, before modes are made ready.

    - `place`: which of the sizes of images the inputs have.
    """
    if deadline_ms is not None:
        check_positive("deadline_ms", deadline_ms)
    outputs = bundle.graph_of(0).outputs
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        shapes = ", ".join(f"{each.name!r} of {len(each.shape)} dimensions" for each in outputs)
        raise ValueError(
            f"the network gives back {shapes}; how sure it is can be told of one output (N, classes)"
        )
    if place:
        raise ValueError(
            "`x` must have the size of the example: others are not held ready in stages"
        )


def sure(
    score: Score, threshold: float | Sequence[float], stages: int
) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return what says of each answer of a stage whether it stands, shape `(N,)`.

    Raises `ValueError` for a score that is not known, and thresholds that do not fit it.
    """
    if score not in get_args(Score):
        raise ValueError(f"`score` (={score!r}) must be one of {', '.join(get_args(Score))}")
    if score == "margin":
        limits = checked_thresholds(threshold, stages, 1.0, score)
        return lambda outputs, stage: margin(outputs) >= limits[stage]
    limits = checked_thresholds(threshold, stages, np.inf, score)
    return lambda outputs, stage: entropy(outputs) < limits[stage]


def escalate(
    stages: ReadyStages,
    inputs: Mapping[str, np.ndarray],
    is_sure: Callable[[np.ndarray, int], np.ndarray],
    fits: Callable[[int], bool],
) -> tuple[Escalation, int]:
    """Run a batch through the stages; return what it was answered, and the last stage that ran.

    - `fits`: whether there is time for one more stage.
    """
    batch = StagedBatch(stages.parts, stages.runs, inputs)
    count = len(next(iter(inputs.values())))
    left, answered_by = np.arange(count), np.zeros(count, np.intp)
    outputs = np.zeros((0, 0))
    total, last = 0.0, 0
    for stage, part in enumerate(stages.parts):
        last = stage
        answers = batch.run(stage)[0]
        total += part.macs * len(answers)
        if not stages.shrinks and stage:
            answers = answers[left]
        outputs = answers.copy() if not stage else outputs
        outputs[left], answered_by[left] = answers, stage
        if stage == len(stages.parts) - 1 or not fits(stage + 1):
            break
        unsure = ~is_sure(answers, stage)
        if not unsure.any():
            break
        if stages.shrinks:
            batch.keep(unsure)
        left = left[unsure]
    return Escalation(outputs, answered_by, total / count), last


class Limit:
    """A deadline for a request that runs through several modes.

    - `started`: when the request came, as `time.perf_counter` tells it.
    """

    def __init__(
        self, stages: ReadyStages, controller: Controller, deadline_ms: float, started: float
    ) -> None:
        self._stages, self._controller = stages, controller
        self._deadline_ms, self._started = deadline_ms, started
        self._predicted_ms = controller.predictions_ms

    def fits(self, stage: int) -> bool:
        """Say whether a stage is predicted to end in time if it begins now."""
        needed = self._predicted_ms[self._stages.modes[stage]] * self._stages.parts[stage].share
        return self._gone_ms() + needed <= self._deadline_ms

    def observe(self, last: int, *, learn: bool) -> None:
        """Count the request, and learn how fast the machine is from it.

        What ran is as much work as some share of each mode; the latency is that of the last mode, had
        it run by itself on the machine as it was.
        """
        controller, number = self._controller, self._stages.modes[last]
        total_ms = self._gone_ms()
        figures, ran = controller.modes, range(last + 1)
        parts, modes = self._stages.parts, self._stages.modes
        unloaded = sum(parts[k].share * figures[modes[k]].latency_ms for k in ran)
        alone_ms = total_ms * figures[number].latency_ms / unloaded
        predicted_ms = sum(parts[k].share * self._predicted_ms[modes[k]] for k in ran)
        decision = Decision(
            time_s=time.monotonic(), deadline_ms=self._deadline_ms, max_energy_mj=None, mode=number,
            name=figures[number].name, predicted_ms=predicted_ms, energy_mj=None,
            slowdown=controller.slowdown, meets=predicted_ms <= self._deadline_ms, reason=_REASON,
        )  # fmt: skip
        controller.observe(decision, alone_ms, total_ms=total_ms, learn=learn)

    def _gone_ms(self) -> float:
        return 1e3 * (time.perf_counter() - self._started)
