"""What a queue will need, and how long its next batch may take, by what a session predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wenable.runtime.controller import left_beside
from wenable.runtime.session import Session

_BUSY = 0.8
"""The share of the time that batches may fill while requests wait; the rest drains the queue."""


class Estimate:
    """Predictions for batches of one session.

    - `batches`: the sizes that requests are joined to, ascending.
    """

    def __init__(self, session: Session, batches: Sequence[int]) -> None:
        self._session, self._batches = session, tuple(batches)

    def fastest_ms(self, batch: int) -> float:
        """Return how long a batch takes in the fastest mode."""
        return min(self._predicted_ms(batch))

    def needed_ms(self, examples: int) -> float:
        """Return how long so many examples take in the fastest mode and the largest batches there are.

        The last of many will be joined by those that come behind them, so it is given a full batch too.
        Otherwise the first in the queue would always have too little time left to be joined, and small
        batches cost more.
        """
        largest = self._batches[-1]
        if examples <= largest:
            return self.fastest_ms(examples) if examples else 0.0
        return math.ceil(examples / largest) * self.fastest_ms(largest)

    def batch_ms(self, size: int, deadline_ms: float, mode: str) -> float:
        """Return how long a batch takes at most in the mode that is given, or chosen for a deadline."""
        predicted = self._predicted_ms(size)
        if mode or not math.isfinite(deadline_ms):
            modes = self._session.modes
            return predicted[modes.index(mode) if mode in modes else 0]
        return max((each for each in predicted if each <= deadline_ms), default=min(predicted))

    def allowed_ms(
        self, requests: int, left_ms: float, behind_ms: Sequence[float], rate_per_ms: float
    ) -> float:
        """Return how long a batch may take, so that those that wait behind it and those that come can run.

        - `requests`: in the batch; `left_ms`: to the earliest of them.
        - `behind_ms`: the time left to each of those that go on waiting.
        - `rate_per_ms`: of those that come.

        A queue whose batches all use the time that is left stays at the edge, where whatever takes a moment
        longer makes all of them late. So with some behind it a batch takes no longer than as many others
        take to come, and the queue shrinks. With none behind it, it may take half of the time in which
        those that come can still be served in the fastest mode, or as long as they take to come.
        """
        largest = self._batches[-1]
        each_ms = self.fastest_ms(largest) / largest
        beside_ms = left_beside(left_ms, behind_ms, each_ms)
        if not math.isfinite(beside_ms) or rate_per_ms == 0:
            return beside_ms
        in_step_ms = _BUSY * requests / rate_per_ms
        if behind_ms:
            return min(beside_ms, in_step_ms)
        most_ms = beside_ms / (1 + rate_per_ms * each_ms)
        return min(most_ms, max(in_step_ms, most_ms / 2))

    def _predicted_ms(self, size: int) -> Sequence[float]:
        """Return what each mode takes for a batch: as one of the next size that was warmed up.

        The session would time any other size first, and others wait for what is asked here.
        """
        largest = self._batches[-1]
        if size > largest:
            return [each * size / largest for each in self._predicted_ms(largest)]
        known = next(each for each in self._batches if each >= size)
        return self._session.controller(known).predictions_ms
