"""A metric of one's own as strategies see it: a share between 0 and 1 of which more is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from wenable.core.journal import Journal, JournalError
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode
from wenable.network.calibration import calibrate
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.measuring import measure_with
from wenable.network.metrics import Metric
from wenable.strategies.fronts import NotExceededError
from wenable.strategies.greedy import SearchStep

_FULL = 0.5
"""What the full mode counts; modes that are better by chance stay below 1, up to twice as good."""


@dataclass(frozen=True)
class Merit:
    """How good a mode is beside the full one, from what a metric says of both.

    A strategy divides costs by accuracies, and multiplies what options keep of them. Beside the full
    mode's, a merit m counts m / full, and an error e counts full / e: so the cost is divided by the one
    and multiplied with the other.

    - `full`: what the metric says of the full mode, above 0.

    Raises `ValueError` where the full mode's figure is not above 0.

    >>> error = Merit(Reading(2.0, "RMSE", lower_is_better=True))
    >>> [error.share(e) for e in (2.0, 4.0)], Merit(Reading(0.8, "mIoU")).share(0.4)
    ([0.5, 0.25], 0.25)
    """

    full: Reading

    def __post_init__(self) -> None:
        if self.full.known <= 0:
            raise ValueError(
                f"`metric` ({self.full.unit}) of the full mode is {self.full.known:.4g}; strategies divide"
                " by it and need a figure above 0, whether more of it is better or less"
            )

    def share(self, value: float) -> float:
        """Return what a figure of the metric counts, at least 0."""
        if not self.full.lower_is_better:
            return _FULL * max(value, 0.0) / self.full.known
        return _FULL * self.full.known / max(value, 1e-9 * self.full.known)

    def reading(self, found: Reading) -> Reading:
        """Return a reading of the metric as a reading of what it counts."""
        ends = [None if each is None else self.share(each) for each in (found.low, found.high)]
        low, high = reversed(ends) if self.full.lower_is_better else ends
        return replace(
            found, value=self.share(found.known), low=low, high=high, lower_is_better=False
        )


class Judged:
    """Modes judged by a metric, each once: calibrated first, and forgotten unless they are kept.

    - `limit`: what modes have to be better than; the full one is not, it is refused here.
    - `journal`: is told every evaluation, and asked first. The full mode is evaluated anew, since no
      name tells whether a metric counts as it did.
    """

    def __init__(
        self,
        net: DynamicNetwork,
        search_batches: Iterable[Any],
        calibration_batches: Iterable[Any],
        metric: Metric,
        limit: float,
        journal: Journal | None = None,
    ) -> None:
        self.net, self.metric, self.limit, self.journal = net, metric, limit, journal
        self.search_batches, self.calibration_batches = search_batches, calibration_batches
        self.before = set(net.calibrated_modes)
        self.readings: dict[Mode, Reading] = {}
        known = {} if journal is None else _noted(net, journal)
        full = self._measured(net.space.full, known.get(net.space.full))
        self.readings |= known
        self.merit = Merit(full)
        if not self.is_better(full.known):
            word = "at or above" if full.lower_is_better else "at or under"
            raise ValueError(
                f"`{self.limit_name}` (={limit}) cannot be reached: the full mode has a {metric.name} of"
                f" {full.known:.4g}, which is {word} it"
            )

    @property
    def limit_name(self) -> str:
        """The name of the argument that the limit is."""
        return "max_error" if self.metric.lower_is_better else "min_accuracy"

    @property
    def least_share(self) -> float:
        """What the limit counts, which modes have to exceed."""
        return min(self.merit.share(self.limit), _FULL)

    def is_better(self, value: float) -> bool:
        """Say whether a figure is better than the limit."""
        return value < self.limit if self.metric.lower_is_better else value > self.limit

    def accuracy(self, mode: Mode) -> Reading:
        """Return what a mode counts."""
        return self.merit.reading(self._measured(mode))

    def _measured(self, mode: Mode, noted: Reading | None = None) -> Reading:
        """Return what the metric says of a mode; `noted`: what it said before, which has to be that."""
        if mode not in self.readings:
            if mode not in self.before:
                calibrate(self.net, mode, self.calibration_batches)
            self.readings[mode] = measure_with(
                self.net, mode, self.search_batches, self.metric, split="the search split"
            )
            if mode not in self.before:
                self.net.forget_calibrations([mode])  # of hundreds only a few are kept
            found = self.readings[mode]
            if noted is not None:
                self._check_noted(found, noted)
            elif self.journal is not None:
                self.journal.append({"mode": str(mode), "reading": asdict(found)})
        return self.readings[mode]

    def _check_noted(self, found: Reading, noted: Reading) -> None:
        """Refuse a journal whose metric of the same name counted in another way."""
        if abs(found.known - noted.known) > 1e-3 * abs(noted.known):
            assert self.journal is not None
            raise JournalError(
                f"the journal {self.journal.path} is of another run: {self.metric.name} of the full mode is"
                f" {noted.known:.4g} there, {found.known:.4g} here; call that run again, or remove the file"
                " to begin anew"
            )

    def told(
        self, on_step: Callable[[SearchStep], None] | None
    ) -> Callable[[SearchStep], None] | None:
        """Return what is called after a step of a strategy: it is told the metric's own figures."""
        if on_step is None:
            return None
        return lambda step: on_step(replace(step, taken=self._true(step.taken)))

    def front(self, run: Callable[[], Front]) -> Front:
        """Return the front that a strategy finds, with the metric's own figures; its modes calibrated."""
        try:
            front = run()
        except NotExceededError as error:
            raise NotExceededError(
                f"`{self.limit_name}` (={self.limit}) is not kept by any mode that was evaluated within the"
                f" constraints; the full mode has a {self.metric.name} of {self.merit.full.known:.4g}"
            ) from error
        found = {*front.modes, front.chosen.mode}
        calibrate(
            self.net, [each for each in found if each not in self.before], self.calibration_batches
        )
        return replace(
            front,
            points=tuple(map(self._true, front.points)),
            chosen=self._true(front.chosen),
            path=tuple(map(self._true, front.path)),
            explored=tuple(map(self._true, front.explored)),
            min_accuracy=self.limit,
        )

    def _true(self, point: Point) -> Point:
        return replace(point, accuracy=self.readings[point.mode])


def described_metric(metric: Metric) -> str:
    """Return what tells a metric from others, as far as names do."""
    made = type(metric.metric)
    adapt = getattr(metric.adapt, "__qualname__", "")
    more = "less" if metric.lower_is_better else "more"
    return f"{made.__module__}.{made.__qualname__} {metric.key} {metric.name} {adapt} {more}"


def _noted(net: DynamicNetwork, journal: Journal) -> dict[Mode, Reading]:
    """Return what a journal knows of modes."""
    return {net.space.mode(each["mode"]): Reading(**each["reading"]) for each in journal.entries}


def limit_of(metric: Metric, min_accuracy: float | None, max_error: float | None) -> float:
    """Return the limit that goes with a metric; raises `TypeError` or `ValueError` for the other."""
    wanted, other = (
        ("max_error", min_accuracy) if metric.lower_is_better else ("min_accuracy", max_error)
    )
    given = max_error if metric.lower_is_better else min_accuracy
    if other is not None:
        more = "less" if metric.lower_is_better else "more"
        raise ValueError(
            f"of `metric` ({metric.name}) {more} is better: give `{wanted}`, and not the other limit"
        )
    if given is None:
        raise TypeError(
            f"explore() needs `{wanted}`: modes must have a better {metric.name} than that"
        )
    if given != given or given in (float("inf"), float("-inf")):
        raise ValueError(f"`{wanted}` (={given}) must be a finite number")
    return float(given)
