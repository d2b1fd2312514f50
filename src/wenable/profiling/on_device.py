"""Measures a bundle on this device: the fastest implementation of each layer, the latency of each mode.

Both are measured through the engine that will run them, with the models that a session builds.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from wenable.core.cost_table import CostTable
from wenable.core.journal import SUPPORTED, Journal
from wenable.core.readings import Reading
from wenable.core.renamed import refuse_renamed
from wenable.measure.device import conditions, describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.measure.meters.meter import Meter, NoMeter
from wenable.profiling.cost_tables import measure_cost_table
from wenable.profiling.drift import drift_words, measure_steadily
from wenable.profiling.energies import EnergyMeasurement, meter_of
from wenable.profiling.estimate import ProfileWork, estimated_seconds
from wenable.profiling.layer_times import Progress, measure_layers
from wenable.profiling.parts import Part, parts_of, parts_without_modes
from wenable.profiling.plan import MODE_TIMING, SCHEME_TIMING, ProfilePlan
from wenable.profiling.steps import Report, Steps
from wenable.profiling.whole_modes import ModeBuilder
from wenable.runtime.building import build_model
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import (
    SCHEMES,
    DeviceProfile,
    default_profile_path,
    why_no_profile_is_kept,
    write_profile,
)
from wenable.runtime.engine import Engine, ModeEngine, describe_engine, precision_of
from wenable.runtime.implementations import Implementation
from wenable.runtime.session import Session
from wenable.runtime.session_engine import AUTO, engine_in

_RENAMED = {
    name: f"plan=ProfilePlan({name}=...)" for name in (each.name for each in fields(ProfilePlan))
}


def profile(
    path: str | os.PathLike[str],
    *,
    engine: str = "onnxruntime",
    threads: int | None = None,
    precision: str = "float32",
    plan: ProfilePlan | None = None,
    meter: Meter | NoMeter | None = None,
    on_progress: Progress = lambda done, of, what: None,
    on_estimate: Callable[[float], None] = lambda seconds: None,
    on_event: Report = lambda event: None,
    **renamed: Any,
) -> DeviceProfile:
    """Return what a bundle's layers and modes take on this device, and keep it for sessions.

    A session of the same bundle, engine and number of threads takes it up by itself. A run that was
    killed goes on where it stopped when it is called again with the same arguments; what it found so
    far is in a journal beside the place where the profile is kept, until it is whole.

    - `precision`: of the arithmetic, as in `Session`. The profile says which one the engine computed
      in, float32 where the processor lacks the other, and sessions in another do not take it.
    - `plan`: how thoroughly it measures.
    - `meter`: of the energy; where nothing is said, the one that `wenable.measure.find_meter` finds. With
      `NoMeter` the profile has no energies and says why.
    - `on_progress`: told how many of how many measurements are done, and of what.
    - `on_estimate`: told before it starts about how many seconds it will take.
    - `on_event`: told when the device changed its speed and what was measured again; the profile
      holds the same words.

    Where modes differ in more than groups (image sizes, widths, exits, bits), costs are no sum over
    all knobs: there is a table for each combination of these of which the bundle holds a mode, or of a
    combination that is a single mode its latency. The profile's events say what the bundle lacks. A
    bundle of several networks has no tables.

    Where nothing can be kept for this user, as without a home folder, a warning says so; the profile is
    returned all the same, to be passed to sessions.

    Raises `FileNotFoundError`, `BundleError`, `EngineError`; `JournalError` where another process
    profiles the same bundle, or an interrupted run had other arguments.
    """
    refuse_renamed("profile", renamed, _RENAMED)
    plan = plan or ProfilePlan()
    bundle = Bundle(path)
    opened = engine_in(bundle, engine, threads, precision)
    computes_in = precision_of(opened)
    parts = parts_of(bundle)
    found = DeviceProfile(
        bundle.structure,
        describe_device(),
        f"{opened.name} {opened.version}",
        opened.threads,
        conditions=conditions(),
        precision=computes_in,
        macs=_macs_of(bundle),
    )
    where = _place_to_keep(found)
    settings = {
        "mixtures": plan.mixtures,
        "table_modes": plan.table_modes,
        "scheme_timing": asdict(plan.scheme_timing),
        "mode_timing": asdict(plan.mode_timing),
    }
    meter = meter_of(engine) if meter is None else meter
    energy = None
    if not isinstance(meter, NoMeter):
        energy = EnergyMeasurement(
            meter, plan.energy_plan, plan.energy_modes if plan.table_modes and parts else 0
        )
        settings["energy"] = energy.settings()
    with _journal(where, _run(found, bundle, settings)) as journal:
        steps = Steps(journal, on_event)
        work = ProfileWork.of(bundle, opened, plan.mixtures, plan.table_modes).left(steps)
        on_estimate(
            estimated_seconds(
                bundle,
                opened,
                work,
                scheme_timing=plan.scheme_timing,
                mode_timing=plan.mode_timing,
            )
            + (energy.seconds(bundle) if energy else 0.0)
        )
        anchor_ms = _anchor(bundle, opened, plan.scheme_timing)
        steps.begin(anchor_ms())
        for reason in _left_out(bundle, parts):
            steps.report(reason)
        if precision not in (AUTO, computes_in):
            steps.report(f"measured in {computes_in}: this processor has no units for {precision}")
        times: dict[str, dict[Implementation, float]] = {}
        if not isinstance(opened, ModeEngine):  # that has one way to compute a layer
            times = measure_layers(bundle, opened, on_progress, mixtures=plan.mixtures, steps=steps)
            found = replace(found, times_ms=times)
            schemes = choose_schemes(bundle, opened, found, on_progress, plan.scheme_timing, steps)
            found = replace(found, schemes=schemes)
        session = Session(
            path, engine=engine, threads=threads, profile=found, precision=computes_in
        )
        on_progress(0, 1, "latencies of the modes")
        found = replace(
            found, latencies=_steady_latencies(session, plan.mode_timing, anchor_ms, steps)
        )
        builders = [
            ModeBuilder(bundle, times, part.number)
            for part in parts
            if plan.table_modes or part.space.size == 1
        ]
        tables = [_table(builder, opened, found, plan, on_progress, steps) for builder in builders]
        if bundle.knobs_beside_groups:
            found = replace(found, parts=tuple(tables))
        elif tables:
            found = replace(found, table=tables[0])
        if energy is not None:
            found = energy.added_to(found, session, builders, on_progress, steps)
        elif isinstance(meter, NoMeter):
            found = replace(found, energy_reason=meter.reason)
        found = replace(found, events=tuple(steps.events), conditions_after=conditions())
        if where is not None:
            _keep(where, found)
        if journal is not None:
            journal.remove()
    return found


def _table(
    builder: ModeBuilder,
    engine: Engine,
    known: DeviceProfile,
    plan: ProfilePlan,
    on_progress: Progress,
    steps: Steps,
) -> CostTable:
    """Return the latencies of all modes of a part of the space."""
    part = builder.part
    if part.space.size == 1:
        return part.table(known.latencies[str(part.full)])
    return measure_cost_table(
        builder, engine, plan.scheme_timing, on_progress, modes=plan.table_modes, steps=steps
    )


def _macs_of(bundle: Bundle) -> dict[str, float]:
    """Return what each mode computes, as the bundle says."""
    counts = {str(each.mode): each.readings.get("macs") for each in bundle.modes}
    return {mode: each.known for mode, each in counts.items() if each is not None}


def _left_out(bundle: Bundle, parts: Sequence[Part]) -> Iterator[str]:
    """Yield what cannot be measured of a bundle, with the reason."""
    if not bundle.layers:
        yield "no times of layers: none runs in groups, so there is one way to execute each"
    if not parts:
        yield f"no cost table: {bundle.why_not_any_mode()}"
        return
    lacking = parts_without_modes(bundle, parts)
    if lacking:
        yield (
            f"no cost table for {lacking}: the bundle holds no mode of these, and what others take"
            " says nothing of them"
        )


def _place_to_keep(found: DeviceProfile) -> Path | None:
    """Return where a profile is kept, or None, with a warning, where nothing can be kept."""
    problem = why_no_profile_is_kept()
    if problem:
        _warn_not_kept(problem)
        return None
    return default_profile_path(found.bundle, found.device, found.engine, found.threads)


def _keep(where: Path, found: DeviceProfile) -> None:
    try:
        write_profile(where, found.to_json())
    except OSError as error:  # minutes of measuring are not lost for it
        _warn_not_kept(str(error))


def _warn_not_kept(problem: str) -> None:
    warnings.warn(
        f"the profile is not kept for sessions: {problem}; pass it to them as `profile`",
        RuntimeWarning,
        stacklevel=4,
    )


def journal_path(profile: Path) -> Path:
    """Return where what a run has found so far is kept, until it writes its profile."""
    return profile.with_suffix(".journal")


@contextmanager
def _journal(profile: Path | None, run: dict[str, Any]) -> Iterator[Journal | None]:
    """Open the journal of a run; None where nothing is kept, or the system has no locks."""
    if profile is None or not SUPPORTED:
        yield None
        return
    with Journal(journal_path(profile), run, kind="profile") as journal:
        yield journal


def _run(empty: DeviceProfile, bundle: Bundle, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what makes this run another than others."""
    return {
        "bundle": empty.bundle,
        "modes": [str(each.mode) for each in bundle.modes],
        "device": empty.device,
        "engine": empty.engine,
        "threads": empty.threads,
        **settings,
    }


def _anchor(bundle: Bundle, engine: Engine, timing: TimingPlan) -> Callable[[], float]:
    """Return what times the full mode, in ms: it is the same network whatever else was measured."""
    builder = ModeBuilder(bundle, {})
    call = partial(builder.runner(engine, builder.part.full), builder.example)
    return lambda: measure_latencies({"full": call}, timing)["full"].known


def choose_schemes(
    bundle: Bundle,
    engine: Engine,
    known: DeviceProfile,
    on_progress: Progress,
    timing: TimingPlan = SCHEME_TIMING,
    steps: Steps | None = None,
) -> dict[str, str]:
    """Return for every mode the scheme under which the whole of it is fastest.

    The sum of the fastest layers need not be the fastest network. So what was measured layer by layer
    is timed as a whole beside the plain export and others, and no mode is slower than those.
    """
    steps, chosen = steps or Steps(), dict[str, str]()
    for number, exported in enumerate(bundle.modes):
        mode = str(exported.mode)
        on_progress(number, len(bundle.modes), f"as a whole: {mode[:20]}")
        if _is_one_way(bundle, known, number):
            continue  # the full mode is as it is
        chosen[mode] = steps.choose(
            f"scheme of {mode}",
            lambda number=number: _fastest_scheme(bundle, engine, known, number, timing),
        )
    return chosen


def _is_one_way(bundle: Bundle, known: DeviceProfile, number: int) -> bool:
    """Say whether a mode is executed the same under every scheme."""
    options, linked = bundle.weights_of(number).options, bundle.chains_of(number)
    ways = [known.implementations(bundle.layers, linked, options, each) for each in SCHEMES]
    return all(way == ways[0] for way in ways)


def _fastest_scheme(
    bundle: Bundle, engine: Engine, known: DeviceProfile, number: int, timing: TimingPlan
) -> str:
    weights, linked = bundle.weights_of(number), bundle.chains_of(number)
    calls: dict[str, Callable[[], object]] = {}
    for scheme in SCHEMES:
        implementations = known.implementations(bundle.layers, linked, weights.options, scheme)
        graph = bundle.graph_of(number)
        runner = engine.prepare(build_model(graph, bundle.layers, weights, implementations))
        calls[scheme] = partial(runner, bundle.example(number=number))
    found = measure_latencies(calls, timing)
    return min(found, key=lambda scheme: found[scheme].known)


def _steady_latencies(
    session: Session, timing: TimingPlan, anchor_ms: Callable[[], float], steps: Steps
) -> dict[str, Reading]:
    """Return the latencies of the modes, taken while the device kept its speed, or with a note."""

    def between_anchors(attempt: int) -> tuple[dict[str, Reading], float]:
        if attempt > 1:
            steps.report("latencies of the modes: measured again, the speed had changed")
        before_ms = anchor_ms()
        return measure_modes(session, timing), anchor_ms() / before_ms

    def measure() -> dict[str, Reading]:
        (((readings, _), drift),) = measure_steadily(
            1, lambda _, attempt: between_anchors(attempt), lambda found: found[1], usual=1.0
        )
        note = drift_words(drift)
        if note:
            steps.report(f"latencies of the modes: {note}")
        return {mode: replace(reading, note=note) for mode, reading in readings.items()}

    return steps.time("latencies", measure)


def measure_modes(session: Session, timing: TimingPlan = MODE_TIMING) -> dict[str, Reading]:
    """Return the latency of every mode of a session for one example, as readings."""
    inputs = session.example()
    calls = {mode: lambda mode=mode: session.run(inputs, mode=mode) for mode in session.modes}
    source = describe_engine(session.engine)
    return dict(measure_latencies(calls, timing, source=source))
