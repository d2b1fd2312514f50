"""Which engine a session runs on, and in which precision that computes."""

from __future__ import annotations

from functools import partial

import numpy as np

from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime.building import build_model, choose_each
from wenable.runtime.bundle import Bundle
from wenable.runtime.engine import (
    PRECISIONS,
    Engine,
    EngineError,
    HasPrecisions,
    ModeEngine,
    describe_engine,
)
from wenable.runtime.engine_choice import fastest_engine
from wenable.runtime.engines import open_engine, open_kernels
from wenable.runtime.implementations import as_written
from wenable.runtime.kernel_choice import agree
from wenable.runtime.remembered import Remembered, of_batches
from wenable.runtime.thread_pool import ThreadPool

AUTO = "auto"
TOLERANCE = 0.02
"""How far answers may be from those in float32, as a share of the largest of these, for `"auto"`."""
_MARGIN = 0.97
"""A precision is taken where it takes less than this share of the time of float32."""
_TIMING = TimingPlan(blocks=4, calls=4, warmup=1, gap_ms=2.0)


def opened_engine(
    bundle: Bundle,
    engine: str,
    threads: int | ThreadPool | None,
    precision: str,
    batch: int = 1,
) -> tuple[Engine, ModeEngine | None]:
    """Return the engine of a session, and our kernels where they may run modes beside it.

    - `engine`: by name or `"auto"`; `precision`: one of `PRECISIONS`, or `"auto"`.
    - `threads`: of one call, None for one for each core; or a pool, whose kernels are taken.
    - `batch`: the size of batch that what is chosen by timing is timed with.

    Our kernels compute in float32, so none are taken where another precision was asked for.

    Raises `ValueError` for a precision that is unknown or that the engine does not offer, `EngineError`
    for an engine that is not installed.
    """
    check_precision(precision)
    if isinstance(threads, ThreadPool):
        opened, kernels = opened_engine(bundle, engine, threads.threads, precision, batch)
        if isinstance(opened, ModeEngine):
            opened = threads.shared(opened)
        return opened, None if kernels is None else threads.shared(kernels)
    asked, kernels = precision not in ("float32", AUTO), None
    if engine == "auto" and asked:
        engine = "openvino"  # the one that offers others
    elif engine == "auto":
        engine = fastest_engine(bundle, threads, batch)
        kernels = open_kernels(threads) if engine != "native" else None
    return engine_in(bundle, engine, threads, precision, batch), kernels


def engine_in(
    bundle: Bundle, engine: str, threads: int | None, precision: str, batch: int = 1
) -> Engine:
    """Return an engine by its name, in a precision; the fastest one for the bundle for `"auto"`.

    - `batch`: the size of batch that precisions are timed with.

    Where the processor has not the precision it is in float32; `precision_of` says so.

    Raises `ValueError` for a precision that is unknown or that the engine does not offer, `EngineError`
    for an engine that is not installed.
    """
    check_precision(precision)
    opened = open_engine(engine, threads, "float32" if precision == AUTO else precision)
    if precision == AUTO and isinstance(opened, HasPrecisions):
        opened = opened.in_precision(fastest_precision(bundle, opened, batch))
    return opened


def check_precision(precision: str) -> None:
    """Raise `ValueError` for a precision that no engine knows."""
    if precision not in (*PRECISIONS, AUTO):
        raise ValueError(
            f"`precision` (={precision!r}) is unknown; allowed: {', '.join((*PRECISIONS, AUTO))}"
        )


def fastest_precision(bundle: Bundle, engine: HasPrecisions, batch: int = 1) -> str:
    """Return the precision that takes least time among those whose answers stay near those in float32.

    - `engine`: in float32; `batch`: the size of batch that is timed.

    All modes are asked for the bundle's example, `TOLERANCE` holds for each; the first and the last
    are timed. It is measured once and remembered. Where the processor computes in float32 alone,
    nothing is measured.
    """
    others = [each for each in engine.precisions if each != "float32"]
    if not others:
        return "float32"
    place = f"precision-{bundle.identity[:16]}-{describe_engine(engine)}-{describe_device()}"
    place += of_batches(batch)
    words = "".join(each if each.isalnum() or each in ".-" else "-" for each in place)
    remembered = Remembered(f"{words}.json", PRECISIONS)
    known = remembered.find("all modes")
    if known is None:
        near = [each for each in others if _is_near(bundle, engine, engine.in_precision(each))]
        known = _fastest(bundle, engine, near, batch)
        remembered.note("all modes", known, keep=True)
    return known


def _is_near(bundle: Bundle, exact: Engine, other: Engine) -> bool:
    """Say whether every mode answers within the tolerance."""
    try:
        for number in range(len(bundle.modes)):
            model, inputs = _model(bundle, number), bundle.example(number=number)
            expected, found = (each.prepare(model)(inputs) for each in (exact, other))
            if not all(map(is_near, found, expected)):
                return False
    except EngineError:
        return False
    return True


def is_near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Say whether an answer is within `TOLERANCE` of that in float32; whole numbers are the same.

    >>> is_near(np.array([1.01, -2.0]), np.array([1.0, -2.0])), is_near(np.array([3]), np.array([2]))
    (True, False)
    """
    return agree(found, expected, TOLERANCE)


def _fastest(bundle: Bundle, engine: HasPrecisions, others: list[str], batch: int) -> str:
    numbers = sorted({0, len(bundle.modes) - 1})
    calls = {}
    for precision in ("float32", *others):
        opened = engine.in_precision(precision)
        for number in numbers:
            runner = opened.prepare(_model(bundle, number))
            calls[precision, number] = partial(runner, bundle.example(batch, number))
    found = measure_latencies(calls, _TIMING)
    times = {
        precision: sum(found[precision, number].known for number in numbers)
        for precision in ("float32", *others)
    }
    best = min(times, key=lambda precision: times[precision])
    return best if times[best] < _MARGIN * times["float32"] else "float32"


def _model(bundle: Bundle, number: int) -> bytes:
    weights = bundle.weights_of(number)
    ways = choose_each(bundle.layers, weights.options, as_written)
    return build_model(bundle.graph_of(number), bundle.layers, weights, ways)
