"""What a policy kept of its deadlines, and what an oracle would have kept of the same requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.deadline_replay import is_steady
from benchmarks.under_load.loads import Load
from benchmarks.under_load.serving import Answered, Requests
from wenable.network.evaluation import wilson_interval
from wenable.runtime.simulation import Arrival, Served


def kept(answered: Sequence[Answered], requests: Requests, load: Load) -> dict[str, Any]:
    """Return the figures of one policy under one load.

    *accuracy*: the share of all images that were answered rightly. *right in time*: the same, where an
    answer that came late counts for nothing.
    """
    met = np.array([each.total_ms <= requests.deadline_ms for each in answered])
    right = np.array([each.right for each in answered])
    totals = np.array([each.total_ms for each in answered])
    low, high = wilson_interval(int(met.sum()), len(met))
    steady = [m for m, each in zip(met, answered, strict=True) if _steady(each, requests, load)]
    return {
        "met": float(met.mean()), "met_low": low, "met_high": high,
        "met_steady": float(np.mean(steady)) if steady and load.trace else None,
        "accuracy": float(right.mean()),
        "right_in_time": float((right * met).mean()),
        "right_in_time_error": float((right * met).std(ddof=1) / np.sqrt(len(met))),
        "p99_ms": float(np.quantile(totals, 0.99)),
        "worst_ms": float(totals.max()),
        "modes": dict(Counter(each.mode for each in answered).most_common()),
    }  # fmt: skip


def oracle(
    answered: Sequence[Answered], requests: Requests, modes: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return what somebody had kept who knew each request's slowdown beforehand.

    The slowdown is how much longer the request ran than its mode does alone, and is taken to be that of all
    modes. The oracle runs the most accurate mode that ends in time, begins when the policy did, and may be
    late as often as the policy was, where that gains most.
    """
    alone = {each["mode"]: each["median_ms"] for each in modes}
    best = max(each["accuracy"] for each in modes)
    late, found, gains = 0, [], []
    for each in answered:
        slowdown = each.latency_ms / alone[each.mode]
        left_ms = requests.deadline_ms - each.waited_ms
        in_time = [m["accuracy"] for m in modes if m["median_ms"] * slowdown <= left_ms]
        late += each.total_ms > requests.deadline_ms
        found.append(max(in_time, default=best))
        late -= not in_time
        gains.append(best - found[-1])
    spent = sorted(gains, reverse=True)[: max(late, 0)]
    accuracies = {each["mode"]: each["accuracy"] for each in modes}
    own = float(np.mean([accuracies[each.mode] for each in answered]))
    return {"oracle": (sum(found) + sum(spent)) / len(found), "by_modes": own}


def _steady(each: Answered, requests: Requests, load: Load) -> bool:
    """Say whether no part of a request ran in the first 200 ms after the load came or went."""
    if load.trace is None:
        return True
    arrival = Arrival(each.time_s, requests.deadline_ms)
    start_s = each.time_s + each.waited_ms / 1e3
    return is_steady(Served(arrival, start_s, 0, each.latency_ms, each.total_ms), load.trace)
