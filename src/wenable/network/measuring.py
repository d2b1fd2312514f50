"""What a metric says of a mode on all images, as a reading with its interval."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from wenable.core.readings import Reading
from wenable.core.reasons import first_line
from wenable.core.space import ModeChoice
from wenable.modules.batch_parts import described, inputs_and_targets
from wenable.modules.passes import call_network, device_name, device_of, in_eval_mode
from wenable.modules.structures import moved
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.metrics import Metric, metric_of
from wenable.network.net_checks import check_dynamic, warn_if_uncalibrated
from wenable.network.resampled_metric import DRAWS, ImageStates


def measure_with(
    net: DynamicNetwork,
    mode: ModeChoice,
    loader: Iterable[Any],
    metric: Any,
    *,
    split: str = "",
    pooled: bool = False,
) -> Reading:
    """Return what a metric says of a mode; see `wenable.evaluate`."""
    if pooled:
        raise ValueError(
            "`pooled` adds up right answers over processes, and `metric` is no count of them: leave one of"
            " them out, and let each process have all data"
        )
    check_dynamic(net)
    chosen, mode = metric_of(metric), net.space.mode(mode)
    uncalibrated = warn_if_uncalibrated(net, mode, "evaluated")
    states, images = ImageStates(chosen), 0
    judge = chosen.fresh()
    with net.using(mode), in_eval_mode(net), torch.no_grad():
        for batch in loader:
            inputs, targets = inputs_and_targets(batch, net)
            outputs, count = call_network(net, inputs, device_of(net))
            arguments = moved(chosen.arguments(outputs, targets), chosen.device)
            _update(judge, arguments, chosen)
            states.add(arguments, count)
            images += count
    if not images:
        raise ValueError("`loader` is empty; a metric needs at least one example")
    value = chosen.value_of(judge)
    ends = states.interval(value)
    notes = ["norm statistics not calibrated for this mode"] if uncalibrated else []
    if ends is None:
        notes.append(f"no interval: {states.reason}")
    return Reading(
        value,
        chosen.name,
        *(ends or (None, None)),
        interval=f"95 % bootstrap over images, {DRAWS} draws" if ends else "",
        count=images,
        source=f"evaluated on {split or 'the given data'}",
        device=device_name(net),
        note="; ".join(notes),
        lower_is_better=chosen.lower_is_better,
    )


def _update(judge: Any, arguments: tuple[Any, Any], metric: Metric) -> None:
    """Update a metric; say what it was given where it fails."""
    try:
        judge.update(*arguments)
    except Exception as error:  # a metric raises whatever it likes
        if isinstance(error, torch.OutOfMemoryError):
            raise
        outputs, targets = map(described, arguments)
        raise ValueError(
            f"`metric` ({metric.name}) cannot be updated with outputs ({outputs}) and targets ({targets}):"
            f" {type(error).__name__}: {first_line(error)}"
        ) from error
