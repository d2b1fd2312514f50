"""What was measured, as plain values: a `Reading`, and the `Front` of modes. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from wenable.core.mode_ids import numbered
from wenable.core.outcomes import Outcomes
from wenable.core.space import Mode, Space


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured figure with its unit, spread, count, source and device.

    - `value`: the figure; None where it could not be had, and then `reason` says why. Never 0.
    - `unit`: `"ms"`, `"MACs"`, `"top-1"` (a share between 0 and 1).
    - `low`, `high`: the ends of its interval, and `interval` says which one that is.
    - `count`: how many samples stand behind it.
    - `source`: how it was got, with the word "modelled" where a model of the device computed it;
      `device`: on what machine; `note`: what a reader has to know.
    - `p90`, `p99`: the 90th and 99th percentile, for a figure with a distribution.
    - `lower_is_better`: whether it is an error, that of a metric of one's own.

    Raises `ValueError` for NaN, or a missing value without its reason.

    >>> print(Reading(0.9, "top-1", low=0.88, high=0.92, interval="95 % Wilson", count=1000))
    90.0 % (88.0 to 92.0)
    """

    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    interval: str = ""
    count: int = 0
    p90: float | None = None
    p99: float | None = None
    source: str = ""
    device: str = ""
    note: str = ""
    reason: str = ""
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError(f"a reading without a value (unit {self.unit!r}) needs its `reason`")
        for label in ("value", "low", "high", "p90", "p99"):
            figure = getattr(self, label)
            if figure is not None and not math.isfinite(figure):
                raise ValueError(f"`{label}` (={figure}) of a reading must be finite; use None")

    @property
    def known(self) -> float:
        """The value; raises `ValueError` with the reason where there is none."""
        if self.value is None:
            raise ValueError(f"there is no reading in {self.unit}: {self.reason}")
        return self.value

    @property
    def is_modelled(self) -> bool:
        """Whether a model of the device computed the figure: `source` has the word "modelled".

        Notes do not count: they may name files, and a network's file is called a model easily.

        >>> Reading(3.1, "ms", source="modelled from MACs").is_modelled
        True
        >>> Reading(3.1, "mJ", source="wall meter", note="trace model.csv").is_modelled
        False
        """
        return re.search(r"\bmodell?ed\b", self.source, re.IGNORECASE) is not None

    def __str__(self) -> str:
        if self.value is None:
            return f"not measured ({self.reason})"
        if self.unit == "top-1":
            text = f"{100 * self.value:.1f} %"
            if self.low is not None and self.high is not None:
                text += f" ({100 * self.low:.1f} to {100 * self.high:.1f})"
            return text
        if self.unit == "MACs":
            return f"{self.value / 1e6:.2f} M MACs"
        text = f"{self.value:.3g} {self.unit}"
        if self.low is not None and self.high is not None:
            tail = f"; p90 {self.p90:.3g}" if self.p90 is not None else ""
            text += f" ({self.low:.3g} to {self.high:.3g}{tail})"
        return text


@dataclass(frozen=True, slots=True)
class Point:
    """A mode with its accuracy and its cost.

    - `accuracy`: top-1, or what the metric of a search says, on the search split, by which the mode was
      chosen. The modes that a search keeps were lucky there, so this is no figure to report.
    - `test`: the accuracy on the test split, which neither training nor search saw; None where
      nobody evaluated it.
    - `outcomes`, `test_outcomes`: which examples of either split were right, where that was kept.
    """

    mode: Mode
    accuracy: Reading
    cost: Reading
    test: Reading | None = None
    outcomes: Outcomes | None = None
    test_outcomes: Outcomes | None = None

    def beats(self, other: Point) -> bool:
        """Say whether this point is no worse in both figures and better in one."""
        mine, theirs = self._figures(), other._figures()
        return mine != theirs and mine[0] >= theirs[0] and mine[1] <= theirs[1]

    def _figures(self) -> tuple[float, float]:
        merit = self.accuracy.known
        return -merit if self.accuracy.lower_is_better else merit, self.cost.known


def non_dominated(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Return the points that no other beats, from the most to the least costly.

    Of points with equal figures the first is kept.
    """
    kept: list[Point] = []
    for point in points:
        if any(other.beats(point) for other in points):
            continue
        if point._figures() not in [other._figures() for other in kept]:
            kept.append(point)
    return tuple(sorted(kept, key=lambda point: -point.cost.known))


@dataclass(frozen=True)
class Front:
    """Modes none of which another beats in accuracy and cost, and how they were found.

    - `points`: the front, from the most to the least costly mode.
    - `chosen`: with `"greedy"` and `"greedy-lazy"` the last mode of the path above `min_accuracy`, else the
      cheapest point.
    - `path`: every step of the search, the full mode first.
    - `evaluations`: how many modes had their accuracy and cost evaluated.
    - `explored`: all modes that were evaluated, where the search kept them.
    - `weights`: a fingerprint of the weights that were searched, where it is known.

    The points and `chosen` are above `min_accuracy`. Where costs are measured, noise can make
    another point beat `chosen`, which is then not among the points. Iterating, indexing and `len`
    give the points.
    """

    points: tuple[Point, ...]
    chosen: Point
    path: tuple[Point, ...]
    evaluations: int
    min_accuracy: float
    cost: str
    strategy: str
    explored: tuple[Point, ...] = ()
    weights: int | None = None

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, position: int) -> Point:
        return self.points[position]

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes of the front."""
        return tuple(point.mode for point in self.points)

    @property
    def found(self) -> tuple[Point, ...]:
        """The points, and the chosen one behind them where it is not among their modes."""
        also = () if self.chosen.mode in self.modes else (self.chosen,)
        return (*self.points, *also)

    @property
    def ids(self) -> dict[str, Mode]:
        """The modes that were found by short names: `m01` for the first of the points, and so on."""
        return numbered(point.mode for point in self.found)

    @property
    def is_tested(self) -> bool:
        """Whether every mode that was found has a reading on the test split."""
        return all(point.test is not None for point in self.found)

    def with_outcomes(self, outcomes: Mapping[Mode, Outcomes]) -> Front:
        """Return the front with what is known of each example of the search split."""
        return self._each(lambda point: replace(point, outcomes=outcomes.get(point.mode)))

    def with_tests(
        self, tests: Mapping[Mode, Reading], outcomes: Mapping[Mode, Outcomes] | None = None
    ) -> Front:
        """Return the front with accuracies on the test split, for the modes that were found.

        - `tests`: mode -> its accuracy there; `outcomes`: which examples were right, if known.
        """
        known = outcomes or {}
        return self._each(
            lambda point: replace(
                point, test=tests.get(point.mode), test_outcomes=known.get(point.mode)
            )
        )

    def _each(self, change: Callable[[Point], Point]) -> Front:
        points = tuple(change(point) for point in self.points)
        return replace(self, points=points, chosen=change(self.chosen))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the space included, that `from_json` reads back."""
        ids = {mode: name for name, mode in self.ids.items()}
        return {
            "format": "wenable-front",
            "version": 1,
            "strategy": self.strategy,
            "cost": self.cost,
            "min_accuracy": self.min_accuracy,
            "evaluations": self.evaluations,
            "weights": self.weights,
            "space": self.chosen.mode.space.to_json(),
            "chosen": {"id": ids[self.chosen.mode], **_point_to_json(self.chosen)},
            "points": [{"id": ids[point.mode], **_point_to_json(point)} for point in self.points],
            "path": [_point_to_json(point) for point in self.path],
            "explored": [_point_to_json(point) for point in self.explored],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Front:
        """Return the front written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("format") != "wenable-front":
            raise ValueError("`values` is not the JSON form of a front")
        if values.get("version") != 1:
            raise ValueError(f"the front has version {values.get('version')!r}; this reads 1")
        try:
            space = Space.from_json(values["space"])
            return cls(
                points=tuple(_point_from_json(point, space) for point in values["points"]),
                chosen=_point_from_json(values["chosen"], space),
                path=tuple(_point_from_json(point, space) for point in values["path"]),
                evaluations=int(values["evaluations"]),
                min_accuracy=float(
                    values["min_accuracy"] if "min_accuracy" in values else values["threshold"]
                ),
                cost=str(values["cost"]),
                strategy=str(values["strategy"]),
                explored=tuple(
                    _point_from_json(each, space) for each in values.get("explored", ())
                ),
                weights=None if values.get("weights") is None else int(values["weights"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"`values` is not the JSON form of a front: {error}") from error


def _point_to_json(point: Point) -> dict[str, Any]:
    values: dict[str, Any] = {
        "mode": str(point.mode),
        "accuracy": asdict(point.accuracy),
        "cost": asdict(point.cost),
    }
    if point.test is not None:
        values["test"] = asdict(point.test)
    for name in ("outcomes", "test_outcomes"):
        kept = getattr(point, name)
        if kept is not None:
            values[name] = kept.to_json()
    return values


def _point_from_json(values: Mapping[str, Any], space: Space) -> Point:
    test = values.get("test")
    kept = {
        name: Outcomes.from_json(values[name])
        for name in ("outcomes", "test_outcomes")
        if values.get(name) is not None
    }
    return Point(
        space.mode(str(values["mode"])),
        Reading(**values["accuracy"]),
        Reading(**values["cost"]),
        None if test is None else Reading(**test),
        **kept,
    )
