"""Requests that come at their times, whether the one before is done or not: who waits loses time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.under_load.policies import Policy


@dataclass(frozen=True, slots=True)
class Answered:
    """One request.

    - `time_s`: when it came, counted from the start; `waited_ms`: until it began to run.
    - `total_ms`: from when it came to its answer. `right`: the share of its images.
    """

    time_s: float
    waited_ms: float
    total_ms: float
    mode: str
    right: float

    @property
    def latency_ms(self) -> float:
        """How long it ran."""
        return self.total_ms - self.waited_ms


@dataclass(frozen=True)
class Requests:
    """How many requests come, how often, with what deadline, each a batch of images in turn."""

    count: int
    batch: int
    period_ms: float
    deadline_ms: float

    def images(self, number: int, available: int) -> slice:
        """Return which images request `number` holds: the whole set in turn, and again."""
        place = number % (available // self.batch) * self.batch
        return slice(place, place + self.batch)


def serve(
    policy: Policy, requests: Requests, images: np.ndarray, labels: np.ndarray, start_s: float
) -> list[Answered]:
    """Answer requests from `start_s` on, a time of `time.monotonic`, one after another."""
    answered = []
    for number in range(requests.count):
        came_s = start_s + number * requests.period_ms / 1e3
        while (early := came_s - time.monotonic()) > 0:
            time.sleep(early)
        chosen = requests.images(number, len(images))
        waited_ms = 1e3 * (time.monotonic() - came_s)
        mode, answers = policy(images[chosen], requests.deadline_ms - waited_ms)
        total_ms = 1e3 * (time.monotonic() - came_s)
        right = float((answers.argmax(1) == labels[chosen]).mean())
        answered.append(Answered(came_s - start_s, waited_ms, total_ms, mode, right))
    return answered
