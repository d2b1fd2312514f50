"""Measures a bundle on this device: the fastest lowering of each layer, the latency of each mode.

Both are measured through the engine that will run them, with the models that a session builds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from wenable.measure.device import conditions, describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.profiling.cost_tables import measure_cost_table
from wenable.profiling.estimate import estimated_seconds
from wenable.profiling.layer_times import Progress, measure_layers, networks_measured
from wenable.profiling.whole_modes import ModeBuilder
from wenable.runtime.building import build_model
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import (
    POLICIES,
    DeviceProfile,
    default_profile_path,
    write_profile,
)
from wenable.runtime.engines import Engine, open_engine
from wenable.runtime.session import Session
from wenable.runtime.stored_order import chains
from wenable.tables import Reading

MODE_TIMING = TimingPlan(blocks=6, calls=20, warmup=3, gap_ms=50.0)
POLICY_TIMING = TimingPlan(blocks=4, calls=12, warmup=3, gap_ms=10.0)


def profile(
    path: str | os.PathLike[str],
    *,
    engine: str = "onnxruntime",
    threads: int | None = None,
    mixtures: int = 12,
    table_modes: int = 30,
    policy_timing: TimingPlan = POLICY_TIMING,
    mode_timing: TimingPlan = MODE_TIMING,
    on_progress: Progress = lambda done, of, what: None,
    on_estimate: Callable[[float], None] = lambda seconds: None,
) -> DeviceProfile:
    """Return what a bundle's layers and modes take on this device, and keep it for sessions.

    A session of the same bundle, engine and number of threads takes it up by itself.

    - `mixtures`: how many random ways to execute the network are measured to tell what each layer
      takes, besides those that treat all layers alike; see `measure_layers`.
    - `table_modes`: to how many random modes the cost table is fitted, besides the uniform ones; 0
      for no table.
    - `policy_timing`, `mode_timing`: how often whole modes are timed.
    - `on_progress`: told how many of how many measurements are done, and of what.
    - `on_estimate`: told before it starts about how many seconds it will take.

    Raises `FileNotFoundError`, `BundleError`, `EngineError`.
    """
    bundle, opened = Bundle(path), open_engine(engine, threads)
    on_estimate(
        estimated_seconds(
            bundle,
            opened,
            networks=networks_measured(bundle, mixtures),
            table_modes=table_modes and table_modes + len(bundle.space.uniform_modes()),
            policy_timing=policy_timing,
            mode_timing=mode_timing,
        )
    )
    times = measure_layers(bundle, opened, on_progress, mixtures=mixtures)
    found = DeviceProfile(
        bundle.structure,
        describe_device(),
        f"{opened.name} {opened.version}",
        opened.threads,
        times,
        conditions=conditions(),
    )
    found = replace(
        found, policies=choose_policies(bundle, opened, found, on_progress, policy_timing)
    )
    session = Session(path, engine=engine, threads=threads, profile=found)
    found = replace(found, latencies=measure_modes(session, mode_timing))
    if table_modes:
        builder = ModeBuilder(bundle, times)
        table = measure_cost_table(builder, opened, policy_timing, on_progress, modes=table_modes)
        found = replace(found, table=table)
    where = default_profile_path(found.bundle, found.device, found.engine, found.threads)
    write_profile(where, found.to_json())
    return found


def choose_policies(
    bundle: Bundle,
    engine: Engine,
    known: DeviceProfile,
    on_progress: Progress,
    timing: TimingPlan = POLICY_TIMING,
) -> dict[str, str]:
    """Return for every mode the policy under which the whole of it is fastest.

    The sum of the fastest layers need not be the fastest network. So what was measured layer by layer
    is timed as a whole beside the plain export and others, and no mode is slower than those.
    """
    chosen: dict[str, str] = {}
    linked = chains(bundle.graph, bundle.weights_of(0).tensors)
    for number, exported in enumerate(bundle.modes):
        mode, weights = str(exported.mode), bundle.weights_of(number)
        on_progress(number, len(bundle.modes), f"as a whole: {mode[:20]}")
        if set(exported.mode.options) == {1}:
            continue  # the full mode is as it is
        calls: dict[str, Callable[[], object]] = {}
        for policy in POLICIES:
            lowerings = known.lowerings(bundle.layers, linked, weights.patterns, policy)
            runner = engine.prepare(build_model(bundle.graph, bundle.layers, weights, lowerings))
            calls[policy] = partial(runner, bundle.example())
        found = measure_latencies(calls, timing)
        chosen[mode] = min(found, key=lambda policy: found[policy].known)
    return chosen


def measure_modes(session: Session, timing: TimingPlan = MODE_TIMING) -> dict[str, Reading]:
    """Return the latency of every mode of a session for one example, as readings."""
    inputs = session.example()
    calls = {mode: lambda mode=mode: session.run(inputs, mode=mode) for mode in session.modes}
    source = f"{session.engine.name} {session.engine.version}, {session.engine.threads} threads"
    return dict(measure_latencies(calls, timing, source=source))
