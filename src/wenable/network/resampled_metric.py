"""The interval of any metric: the metric of images drawn anew, from what each image adds to its state."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from numbers import Number
from typing import Any

import numpy as np
import torch

from wenable.modules.structures import some_examples
from wenable.network.metrics import Metric

DRAWS = 400
"""How often images are drawn anew; the ends of a 95 % interval are then the tenth from either side."""

LONGEST_S = 10.0
"""What all draws may take."""

MOST_BYTES = 512 * 2**20
"""What may be held of all images together."""

State = dict[str, Any]


class ImageStates:
    """What every image adds to the state of a metric, and the interval that follows from it.

    The state of a metric is what its attributes hold. An update adds to numbers, tensors and arrays, and
    puts entries behind those of lists: the sums of torchmetrics, its lists, and most that one
    writes oneself. So the metric of any images is computed from a sum over images. If all images
    once do not give the value that the metric itself computed, it is no such metric: then there is
    no interval, and a reason. So it is where the interval would not hold that value.

    - `metric`: updated with one image at a time here.

    Source: Efron, *Bootstrap methods: another look at the jackknife*, 1979; percentile interval.
    """

    def __init__(self, metric: Metric) -> None:
        # Its own copy: the one that it was made of holds all images meanwhile.
        self.metric = dataclasses.replace(metric, metric=copy.deepcopy(metric.metric))
        self.reason = ""
        self._added: list[State] = []
        self._bytes = 0

    def add(self, arguments: tuple[Any, Any], count: int) -> None:
        """Note what each of the `count` images of a batch adds; nothing once there is a reason."""
        for i in range(count):
            if self.reason:
                return
            try:
                one = [some_examples(each, count, i, i + 1, "a batch") for each in arguments]
            except ValueError as error:
                self.reason = str(error)
                return
            metric = self.metric.fresh()
            before = _copied(metric)
            metric.update(*one)
            self._note(before, metric)

    def _note(self, before: State, metric: Any) -> None:
        added: State = {}
        for name, now in vars(metric).items():
            try:
                # What an instance lacks before its first update is what its class has.
                more = _added(before.get(name, getattr(type(metric), name, None)), now)
            except ValueError:
                self.reason = (
                    f"an update changes {name!r} of the metric otherwise than by adding to it"
                )
                return
            if more is not None:
                added[name] = more
                self._bytes += getattr(more, "nbytes", 0)
        if self._bytes > MOST_BYTES:
            self.reason = f"what the metric keeps of all images is more than {MOST_BYTES >> 20} MiB"
            self._added.clear()
            return
        self._added.append(added)

    def interval(self, value: float) -> tuple[float, float] | None:
        """Return the ends of a 95 % interval, or None once `reason` says why there is none.

        - `value`: the metric of all images, as it computes it itself.
        """
        count = len(self._added)
        if not self.reason and count < 2:
            self.reason = f"of {count} image(s) there is no spread"
        if self.reason:
            return None
        started = time.perf_counter()
        (whole,) = self._values_of(np.ones((1, count), np.int64))
        took, near = time.perf_counter() - started, 1e-4 * max(abs(value), 1e-3)
        if not abs(whole - value) <= near:
            self.reason = (
                f"the metric does not add up over images: one by one they give {whole:.4g},"
                f" in batches {value:.4g}"
            )
        elif took * DRAWS > LONGEST_S:
            self.reason = (
                f"{DRAWS} draws of the images, {took:.2g} s each, take more than {LONGEST_S:g} s"
            )
        if self.reason:
            return None
        drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
        try:
            low, high = np.quantile(list(self._values_of(drawn)), [0.025, 0.975])
        except ValueError as error:  # a class that no image drawn has, say
            self.reason = f"of some images drawn anew: {error}"
            return None
        # A recall of each class, say: those without an image drawn count nothing.
        if not low - near <= value <= high + near:
            self.reason = (
                f"images drawn anew give {low:.4g} to {high:.4g}, and all of them {value:.4g}: the metric"
                " is another where some images are missing and others come twice"
            )
            return None
        return min(float(low), value), max(float(high), value)

    def _values_of(self, times: np.ndarray) -> Iterator[float]:
        """Yield the metric of the images, each taken so many times: for each row of `times` one."""
        names = {name for each in self._added for name in each}
        parts = {name: [each.get(name) for each in self._added] for name in names}
        sums = {name: _sums(each, times) for name, each in parts.items()}
        for row, counts in enumerate(times):
            metric = self.metric.fresh()
            for name, each in parts.items():
                now, added = getattr(metric, name), sums[name]
                if added is None:
                    more = (
                        x
                        for part, n in zip(each, counts, strict=True)
                        for x in (part or []) * int(n)
                    )
                    setattr(metric, name, [*now, *more])
                else:
                    setattr(metric, name, now + added[row])
            yield self.metric.value_of(metric)


def _copied(metric: Any) -> State:
    """Return the attributes of a metric as they are now, however an update changes them."""
    copies: State = {}
    for name, value in vars(metric).items():
        if isinstance(value, torch.Tensor):
            copies[name] = value.clone()
        elif isinstance(value, np.ndarray | list):
            copies[name] = value.copy()
        else:
            copies[name] = value
    return copies


def _added(before: Any, now: Any) -> Any:
    """Return what was added to an attribute, None for nothing.

    Raises `ValueError` where it changed in another way.
    """
    if now is before:
        return None
    if isinstance(now, list) and isinstance(before, list):
        more = now[len(before) :]
        if len(now) < len(before) or any(a is not b for a, b in zip(before, now, strict=False)):
            raise ValueError
        return more or None
    for kind in (torch.Tensor, np.ndarray):
        if isinstance(now, kind):
            # Sums that begin as the number 0 are tensors after the first update.
            if not _is_number(before) and getattr(before, "shape", None) != now.shape:
                raise ValueError
            if bool((now == before).all()):  # pyright: ignore[reportAttributeAccessIssue]
                return None
            if now.dtype in (torch.bool, np.dtype(bool)):
                raise ValueError
            return now - before
    if _is_number(now):
        if not _is_number(before):
            raise ValueError
        return (now - before) or None  # type: ignore[operator]
    if now != before:
        raise ValueError
    return None


def _sums(parts: list[Any], times: np.ndarray) -> Any:
    """Return the sums of what images added, each so many times, one for each row; None for lists."""
    like = next(part for part in parts if part is not None)
    if isinstance(like, list):
        return None
    if isinstance(like, torch.Tensor):
        stacked = torch.stack([torch.zeros_like(like) if part is None else part for part in parts])
        exact = stacked.double().view(len(parts), -1)
        summed = torch.from_numpy(times).to(exact) @ exact
        return summed.view(len(times), *like.shape).to(like.dtype)
    stacked = np.stack([np.zeros_like(like) if part is None else part for part in parts])
    summed = np.tensordot(times, stacked, 1)
    if isinstance(like, np.ndarray):
        return summed.astype(like.dtype)
    return [type(like)(each) for each in summed]


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)
