"""A bundle's modes beside what others would run: plain exports on every engine, the full network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from wenable.core.readings import Reading
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import installed_engines
from wenable.runtime.implementations import as_written
from wenable.runtime.session import Session
from wenable.runtime.session_engine import AUTO, check_precision

TIMING = TimingPlan(blocks=8, calls=20, warmup=5, gap_ms=50.0)


@dataclass(frozen=True)
class ModeComparison:
    """The latencies of one mode for one example, taken in one run.

    - `engine`: as it was asked for, the key of `plain` and `full`; `version`: of it.
    - `ours`: as a session runs it; `plain`: the mode exported as it is written, by engine. Only engines
      that read ONNX have it: our own kernels do not, and stand beside the others.
    - `full`: the plain export of the full mode, by engine.
    """

    mode: str
    engine: str
    version: str
    threads: int
    ours: Reading
    plain: dict[str, Reading]
    full: dict[str, Reading]

    @property
    def best_plain(self) -> tuple[str, Reading]:
        """The engine on which the plain export is fastest, and its latency."""
        return min(self.plain.items(), key=lambda item: item[1].known)

    @property
    def best_full(self) -> Reading:
        """The latency of the plain full network on the engine where it is fastest."""
        return min(self.full.values(), key=lambda each: each.known)

    @property
    def best_plain_over_ours(self) -> float:
        """How many times faster the mode is than its best plain export."""
        return self.best_plain[1].known / self.ours.known

    @property
    def full_over_ours(self) -> float:
        """How many times faster the mode is than the full network at its best."""
        return self.best_full.known / self.ours.known

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {
            "best_plain_over_ours": self.best_plain_over_ours,
            "full_over_ours": self.full_over_ours,
        }


def compare(
    path: str | os.PathLike[str],
    *,
    engines: Sequence[str],
    threads: int | None = None,
    precision: str = "float32",
    modes: Sequence[str] | None = None,
    timing: TimingPlan = TIMING,
    on_progress: Callable[[str], None] = lambda words: None,
    on_left_out: Callable[[str], None] = lambda words: None,
) -> list[ModeComparison]:
    """Return for each mode, on each engine, its latency beside the plain exports'.

    A mode that our own kernels do not run is left out there, as 8-bit modes or one network of several
    in a file may be.

    - `engines`: by name; `"native"` and `"auto"` stand beside the plain exports on the others, or on
      all that are installed if there is no other.
    - `precision`: of the arithmetic, as in `Session`, for our modes and the plain exports alike; engines
      that compute in float32 alone stand beside them in that, and at least one has to offer it.
    - `modes`: all exported ones where nothing is said; the first exported one should be the full, of
      several networks in a file that of the costliest.
    - `on_left_out`: told which modes an engine does not run, and why.

    All are measured in one run, in blocks of calls in random order. Sessions take up the profiles
    that `wenable profile` kept.

    Raises `EngineError` if an engine refuses a plain export, or none runs any mode.
    """
    check_offered(engines, precision)

    def opened(engine: str, **settings: Any) -> Session:
        own = precision if _offers(engine, precision) else "float32"
        return Session(path, engine=engine, threads=threads, precision=own, **settings)

    ours = {engine: opened(engine) for engine in engines}
    reading_onnx = [each for each in engines if each.partition(":")[0] not in ("native", "auto")]
    plain = {
        engine: opened(engine, choose=as_written) for engine in reading_onnx or installed_engines()
    }
    first = next(iter(ours.values()))
    wanted = list(first.modes if modes is None else modes)
    x = first.example()
    calls: dict[tuple[str, str, str], Callable[[], object]] = {}
    refused: dict[tuple[str, str], list[str]] = {}
    for kind, sessions in (("ours", ours), ("plain", plain)):
        for engine, session in sessions.items():
            for mode in dict.fromkeys([first.modes[0], *wanted]):
                on_progress(f"{engine}: {mode[:20]}")
                try:
                    session.prepare(mode)
                except EngineError as error:
                    if kind == "plain":
                        raise
                    refused.setdefault((engine, str(error)), []).append(mode)
                    continue
                calls[kind, engine, mode] = partial(session.run, x, mode=mode)
    _tell(refused, on_left_out, any(("ours", e, m) in calls for e in engines for m in wanted))
    on_progress(f"timing {len(calls)} models")
    found = measure_latencies(calls, timing, source="bench")
    full = {engine: found["plain", engine, first.modes[0]] for engine in plain}
    return [
        ModeComparison(
            mode,
            engine,
            ours[engine].engine.version,
            ours[engine].engine.threads,
            found["ours", engine, mode],
            {each: found["plain", each, mode] for each in plain},
            full,
        )
        for engine in engines
        for mode in wanted
        if ("ours", engine, mode) in found
    ]


def _tell(
    refused: Mapping[tuple[str, str], Sequence[str]], told: Callable[[str], None], some_run: bool
) -> None:
    """Say which modes are left out, by engine and reason; raise `EngineError` where nothing is left."""
    for (engine, reason), modes in refused.items():
        if not some_run:
            raise EngineError(reason)
        told(f"{engine}: {', '.join(modes)} ({reason})")


def check_offered(engines: Sequence[str], precision: str) -> None:
    """Raise `ValueError` for a precision that is unknown, or that none of the engines offers."""
    check_precision(precision)
    if not any(_offers(engine, precision) for engine in engines):
        raise ValueError(
            f"`precision` (={precision!r}) is offered by none of {', '.join(engines)}; 'openvino' offers it"
        )


def _offers(engine: str, precision: str) -> bool:
    """Say whether an engine can be asked for a precision; the processor may still lack it."""
    return precision in ("float32", AUTO) or engine.partition(":")[0] in ("openvino", "auto")
