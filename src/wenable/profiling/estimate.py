"""How long profiling a bundle will take, from one look at its full mode."""

from __future__ import annotations

import time
from collections.abc import Callable

from wenable.measure.latency import TimingPlan
from wenable.runtime.building import build_model, choose_each
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import POLICIES
from wenable.runtime.engines import Engine
from wenable.runtime.lowering import whole

COUNTED_CALLS = 9
"""Calls of a network whose layers are counted."""


def estimated_seconds(
    bundle: Bundle,
    engine: Engine,
    *,
    networks: int,
    table_modes: int,
    policy_timing: TimingPlan,
    mode_timing: TimingPlan,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return about how many seconds `profile` takes; the full mode, the slowest, stands for all.

    - `networks`: how many are counted layer by layer; `table_modes`: how many whole modes a table is
      fitted to.
    """
    weights = bundle.weights_of(0)
    lowerings = choose_each(bundle.layers, weights.patterns, whole)
    model = build_model(bundle.graph, bundle.layers, weights, lowerings)
    started = clock()
    runner = engine.prepare(model)
    prepared_s = clock() - started
    runner(bundle.example())
    started = clock()
    runner(bundle.example())
    call_s = clock() - started
    counted = (networks + table_modes) * (prepared_s + COUNTED_CALLS * call_s)
    policies = len(bundle.modes) * len(POLICIES)
    timed = (policies + table_modes) * (prepared_s + _timed_s(policy_timing, call_s))
    return counted + timed + len(bundle.modes) * (prepared_s + _timed_s(mode_timing, call_s))


def _timed_s(timing: TimingPlan, call_s: float) -> float:
    """Return how long one callable is timed for."""
    block_s = timing.gap_ms / 1e3 + (timing.calls + 1) * call_s
    return timing.warmup * call_s + timing.blocks * block_s
