"""The interval of any metric: the metric of images drawn anew, from what each image adds to its state."""

from __future__ import annotations

import copy
import dataclasses
import time
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
    no interval, and a reason.

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
        whole = self._value_of(np.ones(count, np.int64))
        took = time.perf_counter() - started
        if not abs(whole - value) <= 1e-4 * max(abs(value), 1e-3):
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
        rng = np.random.default_rng(0)
        share = np.full(count, 1 / count)
        try:
            values = [self._value_of(rng.multinomial(count, share)) for _ in range(DRAWS)]
        except ValueError as error:  # a class that no image drawn has, say
            self.reason = f"of some images drawn anew: {error}"
            return None
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    def _value_of(self, times: np.ndarray) -> float:
        """Return the metric of the images, each taken so many times."""
        metric = self.metric.fresh()
        for name in {name for each in self._added for name in each}:
            parts = [
                (each[name], int(n))
                for each, n in zip(self._added, times, strict=True)
                if name in each
            ]
            now = getattr(metric, name)
            if isinstance(now, list):
                setattr(metric, name, [*now, *(one for part, n in parts for one in part * n)])
            else:
                setattr(metric, name, _sum(now, parts))
        return self.metric.number(metric.compute())


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
            if not isinstance(before, kind) or now.shape != before.shape:
                raise ValueError
            if bool((now == before).all()):
                return None
            if now.dtype in (torch.bool, np.dtype(bool)):
                raise ValueError
            return now - before
    if isinstance(now, Number) and not isinstance(now, bool):
        if not isinstance(before, Number):
            raise ValueError
        return (now - before) or None  # type: ignore[operator]
    if now != before:
        raise ValueError
    return None


def _sum(start: Any, parts: list[tuple[Any, int]]) -> Any:
    if isinstance(start, torch.Tensor):
        stacked = torch.stack([part for part, _ in parts])
        times = torch.tensor([n for _, n in parts], device=stacked.device)
        times = times.view(-1, *[1] * (stacked.ndim - 1))
        return start + (stacked * times).sum(0).to(start.dtype)
    return start + sum(part * n for part, n in parts)
