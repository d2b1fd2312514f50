"""Answers each input with the first mode that is sure of it, as far as the deadline allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np

from wenable.core.escalation import Escalation, checked_thresholds, entropy, margin
from wenable.runtime.bundle import Bundle
from wenable.runtime.controller import Controller
from wenable.runtime.decisions import Decision, check_positive
from wenable.runtime.ready_stages import ReadyStages, StagesOfSession
from wenable.runtime.requests import LimitedRequests
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


@dataclass(frozen=True, slots=True)
class StageRun:
    """How long a stage ran, and whether for the whole batch."""

    ms: float
    whole: bool


def escalate(
    stages: ReadyStages,
    inputs: Mapping[str, np.ndarray],
    is_sure: Callable[[np.ndarray, int], np.ndarray],
    fits: Callable[[int], bool],
) -> tuple[Escalation, list[StageRun]]:
    """Run a batch through the stages; return what it was answered, and how long each stage ran.

    - `fits`: whether there is time for one more stage.
    """
    batch = StagedBatch(stages.parts, stages.runs, inputs)
    count = len(next(iter(inputs.values())))
    left, answered_by = np.arange(count), np.zeros(count, np.intp)
    outputs = np.zeros((0, 0))
    total, ran = 0.0, list[StageRun]()
    for stage, part in enumerate(stages.parts):
        begun = time.perf_counter()
        answers = batch.run(stage)[0]
        ran.append(StageRun(1e3 * (time.perf_counter() - begun), len(answers) == count))
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
    return Escalation(outputs, answered_by, total / count), ran


class Limit:
    """A deadline for a request that runs through several modes.

    - `of_stages`: learns how fast the machine runs each stage. They do not run as the modes do by
      themselves, so what is learned of one says nothing of the other. What became of deadlines teaches
      it nothing: who leaves early decides that as well.
    - `of_modes`: the session's own, in which the request is counted.
    - `started`: when the request came, as `time.perf_counter` tells it.
    - `waits_ms`: returns what each mode of the session needs before it can start.
    """

    def __init__(
        self, stages: ReadyStages, of_stages: Controller, of_modes: Controller, deadline_ms: float,
        started: float, waits_ms: Callable[[], Sequence[float]],
    ) -> None:  # fmt: skip
        self._stages, self._of_stages, self._of_modes = stages, of_stages, of_modes
        self._deadline_ms, self._started, self._waits_ms = deadline_ms, started, waits_ms
        self._predicted_ms = of_stages.predictions_ms
        self._waits = [self._wait_ms(0)]

    def fits(self, stage: int) -> bool:
        """Say whether a stage is predicted to end in time if it begins now."""
        self._waits.append(self._wait_ms(stage))
        needed_ms = self._waits[-1] + self._predicted_ms[stage]
        return self._gone_ms() + needed_ms <= self._deadline_ms

    def observe(self, ran: Sequence[StageRun], *, learn: bool) -> None:
        """Count the request, and learn how fast the machine is from the stages that ran.

        Not from one that ran for a part of the batch, or that had to be made ready first.
        """
        total_ms, last = self._gone_ms(), len(ran) - 1
        for stage, (each, wait_ms) in enumerate(zip(ran, self._waits, strict=False)):
            if learn and each.whole and not wait_ms:
                self._of_stages.observe(stage, each.ms)
        number = self._stages.modes[last]
        predicted_ms = sum(self._predicted_ms[: last + 1])
        decision = Decision(
            time_s=time.monotonic(), deadline_ms=self._deadline_ms, max_energy_mj=None, mode=number,
            name=self._of_modes.modes[number].name, predicted_ms=predicted_ms, energy_mj=None,
            slowdown=self._of_stages.slowdown, meets=predicted_ms <= self._deadline_ms, reason=_REASON,
        )  # fmt: skip
        ran_ms = max(sum(each.ms for each in ran), 1e-6)
        self._of_modes.observe(decision, ran_ms, total_ms=total_ms, learn=False)

    def _wait_ms(self, stage: int) -> float:
        return self._waits_ms()[self._stages.modes[stage]]

    def _gone_ms(self) -> float:
        return 1e3 * (time.perf_counter() - self._started)


def limit_of(
    session_stages: StagesOfSession, stages: ReadyStages, requests: LimitedRequests, batch: int,
    deadline_ms: float, started: float,
) -> Limit:  # fmt: skip
    """Return a deadline for modes of a session that run one after another."""
    of_modes = requests.under_way(batch)
    of_stages = session_stages.controller(stages, batch, of_modes)
    none = [0.0] * len(of_modes.modes)
    waits_ms = partial(requests.waits_ms, batch) if session_stages.run_whole else lambda: none
    return Limit(stages, of_stages, of_modes, deadline_ms, started, waits_ms)
