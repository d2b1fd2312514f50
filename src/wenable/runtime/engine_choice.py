"""Which of the installed engines is fastest for a bundle on this device: measured once, remembered."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import partial

from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime.building import build_model
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import (
    default_profile_path,
    scheme_of,
    write_profile,
)
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import installed_engines, installed_version, is_installed, open_engine
from wenable.runtime.first_choice import FirstChoice
from wenable.runtime.forking import lost_by_a_fork
from wenable.runtime.remembered import of_batches
from wenable.runtime.session_profile import profile_for

_TIMING = TimingPlan(blocks=4, calls=6, warmup=2, gap_ms=20.0)


def fastest_engine(bundle: Bundle, threads: int | None, batch: int = 1) -> str:
    """Return the name of the engine on which the bundle's first and last mode take least together.

    With one engine installed nothing is measured. Where only our own kernels are, they are taken. Where
    the answer is remembered no engine is loaded: one that is not taken would hold its memory for nothing.

    - `batch`: the size of batch that they are timed with.

    Raises `EngineError` where none is installed, or none of them takes the bundle.
    """
    installed = installed_engines()
    if not installed and is_installed("native"):
        return "native"
    if not installed:
        raise EngineError("no engine is installed: pip install 'wenable[onnxruntime]'")
    names = tuple(name for name in installed if not lost_by_a_fork(name)) or installed
    if len(names) == 1:
        return names[0]
    versions = " ".join(f"{name} {installed_version(name)}" for name in names) + of_batches(batch)
    kept = default_profile_path(bundle.structure, describe_device(), versions, threads or 0)
    if kept is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            chosen = str(json.loads(kept.read_text(encoding="utf-8"))["fastest"])
            if chosen in names:
                return chosen
    times = _times(bundle, threads, names, batch)
    chosen = min(times, key=lambda name: times[name])
    if kept is not None:
        with contextlib.suppress(OSError):  # where nothing can be kept it is measured again
            write_profile(kept, {"fastest": chosen, "ms": times})
    return chosen


def _times(
    bundle: Bundle, threads: int | None, names: tuple[str, ...], batch: int
) -> dict[str, float]:
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    problems = []
    for name in names:
        engine = open_engine(name, threads)
        known = profile_for(bundle, engine, batch=batch)  # what is timed is what a session will run
        first_choice = FirstChoice(bundle, engine, batch=batch)
        for number in {0, len(bundle.modes) - 1}:
            weights, inputs = bundle.weights_of(number), bundle.example(batch, number)
            scheme = scheme_of(known, str(bundle.modes[number].mode))
            scheme = first_choice.scheme(number) if scheme is None else scheme
            implementations = known.implementations(
                bundle.layers, bundle.chains_of(number), weights.options, scheme
            )
            graph = bundle.graph_of(number)
            model = build_model(graph, bundle.layers, weights, implementations)
            try:
                runner = engine.prepare(model)
                runner(inputs)
            except EngineError as error:
                problems.append(str(error))
                break
            calls[name, number] = partial(runner, inputs)
    if not calls:
        raise EngineError(f"no installed engine takes {bundle.path}: {problems[0]}")
    found = measure_latencies(calls, _TIMING)
    times: dict[str, float] = {}
    for (name, _), reading in found.items():
        times[name] = times.get(name, 0.0) + reading.known
    return times
