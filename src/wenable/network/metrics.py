"""What a mode is judged by: top-1, or any object with `update` and `compute`, as torchmetrics' are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from wenable.core.reasons import first_line
from wenable.modules.batch_parts import described


@dataclass(frozen=True)
class Metric:
    """A metric of your own, with what it does not say itself.

    - `metric`: an object with `update(outputs, targets)` and `compute()`, as those of torchmetrics; or
      what makes one when it is called without arguments, a class for instance.
    - `key`: which value counts, if `compute` gives several in a dict.
    - `name`: what a reading is called; the name of the metric's class, or the key, where nothing is said.
    - `higher_is_better`: what the metric's attribute of that name says, if None.
    - `adapt`: called with outputs and targets of a batch; returns the two that `update` gets, as
      the decoded boxes of a detector and what to compare them with.

    `evaluate` and `explore` take the metric itself, a pair `(key, metric)`, or one of these. Before each
    use a metric is `reset`; one without `reset` is copied.

    Raises `ValueError` for what is no metric, and for one that does not say whether higher is better.

    >>> class Share:
    ...     higher_is_better = True
    ...     right = seen = 0
    ...     def update(self, outputs, targets):
    ...         self.right += int((outputs > 0).eq(targets).sum())
    ...         self.seen += len(targets)
    ...     def compute(self):
    ...         return self.right / self.seen
    >>> Metric(Share()).name, Metric(Share, name="right").lower_is_better
    ('Share', False)
    """

    metric: Any
    key: str = ""
    name: str = ""
    higher_is_better: bool | None = None
    adapt: Callable[[Any, Any], tuple[Any, Any]] | None = None

    def __post_init__(self) -> None:
        made = self.metric
        if isinstance(made, type) or (callable(made) and not hasattr(made, "update")):
            try:
                made = made()
            except TypeError as error:
                raise ValueError(
                    f"`metric` ({_kind(made)}) has no `update`, and cannot be called without arguments to"
                    f" make a metric: {first_line(error)}"
                ) from error
        missing = [
            name for name in ("update", "compute") if not callable(getattr(made, name, None))
        ]
        if missing:
            raise ValueError(
                f"`metric` ({_kind(made)}) has no `{missing[0]}`; a metric has update(outputs, targets) and"
                " compute(), as those of torchmetrics"
            )
        name = self.name or self.key or type(made).__name__
        object.__setattr__(self, "name", name)
        member = _member(made, self.key)
        if member is not None:  # what the others are need not be computed
            made = member
            object.__setattr__(self, "key", "")
        object.__setattr__(self, "metric", made if hasattr(made, "reset") else copy.deepcopy(made))
        says = self.higher_is_better
        says = getattr(made, "higher_is_better", None) if says is None else says
        if says is None:
            raise ValueError(
                f"`metric` ({type(made).__name__}) does not say whether higher is better: give"
                " wenable.Metric(metric, higher_is_better=True), or False"
            )
        object.__setattr__(self, "higher_is_better", bool(says))

    @property
    def lower_is_better(self) -> bool:
        """Whether it is an error, and no merit."""
        return not self.higher_is_better

    @property
    def device(self) -> torch.device:
        """Where it wants its tensors: where it says it is, or the CPU."""
        place = getattr(self.metric, "device", None)
        return place if isinstance(place, torch.device) else torch.device("cpu")

    def fresh(self) -> Any:
        """Return the metric as before its first update; what `fresh` returned before may be lost."""
        if not hasattr(self.metric, "reset"):
            return copy.deepcopy(self.metric)
        self.metric.reset()
        return self.metric

    def arguments(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return what `update` gets for the outputs and targets of a batch."""
        if self.adapt is None:
            return outputs, targets
        try:
            adapted = self.adapt(outputs, targets)
        except Exception as error:  # code of the user's own, which raises whatever it likes
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(
                f"`adapt` of `metric` ({self.name}) fails with outputs ({described(outputs)}) and targets"
                f" ({described(targets)}): {type(error).__name__}: {first_line(error)}"
            ) from error
        if not isinstance(adapted, tuple) or len(adapted) != 2:
            raise ValueError(
                f"`adapt` of `metric` ({self.name}) must return a pair of what `update` gets, and returned"
                f" {_kind(adapted)}"
            )
        return adapted

    def value_of(self, judge: Any) -> float:
        """Return the one number that an updated metric comes to.

        Raises `ValueError` where it cannot be computed, for several numbers, NaN and infinity.
        """
        try:
            computed = judge.compute()
        except Exception as error:  # a metric raises whatever it likes
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(
                f"`metric` ({self.name}) cannot be computed: {type(error).__name__}: {first_line(error)}"
            ) from error
        return self.number(computed)

    def number(self, computed: Any) -> float:
        """Return the one number that `compute` gave.

        Raises `ValueError` for several, NaN and infinity.
        """
        if isinstance(computed, Mapping):
            computed = self._chosen(computed)
        elif self.key:
            raise ValueError(
                f"`metric` ({self.name}) gives one value, {_kind(computed)}; `key` (={self.key!r}) chooses"
                " one of a dict"
            )
        size = getattr(computed, "numel", lambda: getattr(computed, "size", 1))()
        if size != 1:
            raise ValueError(
                f"`metric` ({self.name}) gives {size} numbers, and a mode is judged by one: let it average"
                " them, as torchmetrics' average='macro' does"
            )
        try:
            value = float(computed)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`metric` ({self.name}) gives {_kind(computed)}, no number"
            ) from error
        if not math.isfinite(value):
            raise ValueError(
                f"`metric` ({self.name}) is {value}: look for NaN in the outputs or targets, and for what"
                " it divides by, as a class that occurs nowhere"
            )
        return value

    def _chosen(self, computed: Mapping[str, Any]) -> Any:
        if not self.key:
            raise ValueError(
                f"`metric` ({self.name}) gives several values ({', '.join(map(str, list(computed)[:12]))});"
                f" choose one: metric=({next(iter(computed))!r}, metric)"
            )
        if self.key not in computed:
            raise ValueError(
                f"`metric` ({type(self.metric).__name__}) gives no {self.key!r}; allowed:"
                f" {', '.join(map(repr, computed))}"
            )
        return computed[self.key]


def _member(metric: Any, key: str) -> Any:
    """Return the metric of a collection that counts, alone; None where it is no collection."""
    if (
        not key
        or hasattr(metric, "higher_is_better")
        or not callable(getattr(metric, "items", None))
    ):
        return None
    found = dict(metric.items()).get(key)
    has_all = all(hasattr(found, each) for each in ("update", "compute", "higher_is_better"))
    return copy.deepcopy(found) if has_all else None


def metric_of(choice: Any) -> Metric:
    """Return what `evaluate` and `explore` were given as a `Metric`; raises `ValueError` for others."""
    if isinstance(choice, Metric):
        return choice
    if isinstance(choice, tuple):
        if len(choice) != 2 or not isinstance(choice[0], str):
            raise ValueError(
                "`metric` is a tuple; allowed: a pair of a key and a metric, (key, metric)"
            )
        key, metric = choice
        return Metric(metric, key=key)
    return Metric(choice)


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"
