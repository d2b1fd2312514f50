"""Accuracy of a mode, or what a metric says of it, with its interval."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any

import torch
from torch import nn

from wenable.core.outcomes import Outcomes
from wenable.core.readings import Reading
from wenable.core.space import ModeChoice
from wenable.modules.batch_parts import labelled
from wenable.modules.passes import call_network, device_name, device_of, in_eval_mode
from wenable.modules.processes import gathered_from_processes
from wenable.modules.targets import check_classes
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.measuring import measure_with
from wenable.network.net_checks import check_dynamic, warn_if_uncalibrated


def evaluate(
    net: DynamicNetwork,
    mode: ModeChoice,
    loader: Iterable[Any],
    *,
    metric: Any = None,
    split: str = "",
    pooled: bool = False,
) -> Reading:
    """Return the top-1 accuracy of a mode as a share between 0 and 1, with a 95 % interval.

    - `loader`: batches of images `(N, ...)` and labels `(N,)`, classes as whole numbers; several
      inputs are a tuple or a list in the place of the images, or a dict of them by name. With a
      `metric` targets are what it takes.
    - `metric`: what to measure instead: any object with `update(outputs, targets)` and `compute()`, as
      those of torchmetrics; what makes one when called; a pair `(key, metric)` if `compute` gives several
      values; or a `wenable.Metric`, which says what the object does not. Outputs come to it as the
      network gives them.
    - `split`: the name of the data, for the reading's source.
    - `pooled`: under `torchrun`, each process is given its own part of the data, and every one
      returns the accuracy on all parts. Otherwise each is given all of it, and works for itself.

    The interval is Wilson's for a binomial share. That of a metric is from 400 draws of the images
    (bootstrap), if its state adds up over images; otherwise there is none, and the reading's note says
    why. Warns `UncalibratedWarning`, and says so in the
    reading's note, where the mode's norm statistics were never estimated.

    Raises `ValueError` where the loader is empty, the labels are no classes of this network, the
    outputs are not one tensor `(N, classes)`, or they hold NaN; for a metric that gives several values
    or NaN, or does not say whether higher is better.

    >>> import wenable as we
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> net = we.convert(model, torch.ones(1, 4))
    >>> evaluate(net, "1/4", [(torch.ones(10, 4), torch.zeros(10, dtype=torch.long))]).count
    10
    """
    if metric is not None:
        return measure_with(net, mode, loader, metric, split=split, pooled=pooled)
    return evaluate_each(net, mode, loader, split=split, pooled=pooled)[0]


def evaluate_each(
    net: DynamicNetwork,
    mode: ModeChoice,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    split: str = "",
    pooled: bool = False,
) -> tuple[Reading, Outcomes]:
    """Return the accuracy of a mode as `evaluate` does, and which examples were right.

    With the outcomes two modes can be compared on the same examples (`wenable.core.outcomes.mcnemar`),
    which tells more modes apart than their intervals do.

    >>> import wenable as we
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> net = we.convert(model, torch.ones(1, 4))
    >>> reading, each = evaluate_each(net, "1/4", [(torch.ones(10, 4), torch.zeros(10).long())])
    >>> each.count, each.right == 10 * reading.known
    (10, True)
    """
    check_dynamic(net)
    mode = net.space.mode(mode)
    uncalibrated = warn_if_uncalibrated(net, mode, "evaluated")
    with net.using(mode):
        right, labels = right_ones(net, loader, f"mode {mode}")
    if pooled:
        device = device_of(net)
        right, labels = (gathered_from_processes(each.to(device)).cpu() for each in (right, labels))
    count, total = int(right.sum()), len(right)
    low, high = wilson_interval(count, total)
    reading = Reading(
        count / total,
        "top-1",
        low,
        high,
        interval="95 % Wilson",
        count=total,
        source=f"evaluated on {split or 'the given data'}",
        device=device_name(net),
        note="norm statistics not calibrated for this mode" if uncalibrated else "",
    )
    # Other examples in the same number have other labels, or the same in another order.
    examples = f"labels crc32 {zlib.crc32(labels.to(torch.int64).numpy().tobytes()):08x}"
    return reading, Outcomes.of(right.tolist(), examples)


def count_right(
    model: nn.Module, loader: Iterable[Any], what: str = "the network"
) -> tuple[int, int]:
    """Return how many examples a network classifies right, and of how many."""
    right, _ = right_ones(model, loader, what)
    return int(right.sum()), len(right)


def right_ones(
    model: nn.Module, loader: Iterable[tuple[torch.Tensor, torch.Tensor]], what: str = "the network"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each example whether a network classifies it right, and its label; `(N,)` both."""
    right, seen = list[torch.Tensor](), list[torch.Tensor]()
    device = device_of(model)
    with in_eval_mode(model), torch.no_grad():
        for batch in loader:
            inputs, labels = labelled(batch, model)
            outputs, _ = call_network(model, inputs, device)
            check_classes(outputs, labels)
            if bool(outputs.isnan().any()):
                raise ValueError(f"the outputs of {what} hold NaN; its accuracy means nothing")
            right.append(outputs.argmax(1).cpu() == labels.cpu())
            seen.append(labels.cpu())
    if not sum(map(len, seen)):
        raise ValueError("`loader` is empty; accuracy needs at least one example")
    return torch.cat(right), torch.cat(seen)


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval for a share of `right` in `total`.

    >>> [round(end, 3) for end in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    # Written out: scipy has it too, and takes a second to import.
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, denominator = right / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / denominator
    half = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / denominator
    return (middle - half if right else 0.0), (middle + half if right < total else 1.0)
