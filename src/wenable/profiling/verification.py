"""How far a cost table's predictions are from modes as they are measured."""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wenable.core.cost_parts import CostParts
from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.measure.device import describe_device, same_device
from wenable.measure.latency import TimingPlan
from wenable.profiling.cost_tables import SEED, spread_modes
from wenable.profiling.layer_times import Progress
from wenable.profiling.on_device import measure_modes
from wenable.profiling.parts import Part, parts_of
from wenable.profiling.whole_modes import ModeBuilder, time_modes
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import DeviceProfile
from wenable.runtime.engine import Engine, describe_engine, precision_of
from wenable.runtime.session import Session
from wenable.runtime.session_engine import engine_in

FORMAT, VERSION = "wenable-verification", 1
LEAST_MODES = 24
GOAL_ERROR, GOAL_TAU = 0.05, 0.95
TIMING = TimingPlan(blocks=5, calls=12, warmup=3, gap_ms=20.0)


@dataclass(frozen=True)
class Verification:
    """Predicted beside measured latencies of modes that the table was not fitted to.

    - `predicted`, `measured`: mode, as text -> ms, and its reading.
    - `engine`, `device`: what they were measured on.
    - `repeated`: the same modes measured once more, after all of them; empty where that was not done.
    """

    predicted: Mapping[str, float]
    measured: Mapping[str, Reading]
    engine: str
    device: str
    repeated: Mapping[str, Reading] = field(default_factory=dict)

    @property
    def median_error(self) -> float:
        """The median of ``|predicted - measured| / measured``, a share."""
        return statistics.median(
            abs(self.predicted[mode] / reading.known - 1) for mode, reading in self.measured.items()
        )

    @property
    def kendall_tau(self) -> float:
        """How far predictions order the modes as measurements do: 1 alike, 0 not at all."""
        pairs = [(self.predicted[mode], reading.known) for mode, reading in self.measured.items()]
        return kendall_tau(pairs)

    @property
    def repeat_error(self) -> float | None:
        """The median error of one measurement as the prediction of the other: what noise alone gives.

        Both are noisy there; a table without any error would miss by about 0.7 of that.
        None where the modes were measured once.
        """
        if not self.repeated:
            return None
        return statistics.median(
            abs(again.known / self.measured[mode].known - 1)
            for mode, again in self.repeated.items()
        )

    @property
    def repeat_tau(self) -> float | None:
        """Kendall's tau of the two measurements: how far noise alone leaves modes in their order."""
        if not self.repeated:
            return None
        return kendall_tau(
            [(again.known, self.measured[mode].known) for mode, again in self.repeated.items()]
        )

    @property
    def is_good(self) -> bool:
        """Whether the median error is at most 5 % and Kendall's tau at least 0.95."""
        return self.median_error <= GOAL_ERROR and self.kendall_tau >= GOAL_TAU

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as `wenable report` takes them."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "unit": "ms",
            "engine": self.engine,
            "device": self.device,
            "median_error": self.median_error,
            "kendall_tau": self.kendall_tau,
            "repeat_error": self.repeat_error,
            "repeat_tau": self.repeat_tau,
            "modes": [
                {"mode": mode, "predicted": self.predicted[mode], "measured": asdict(reading)}
                | ({"repeated": asdict(self.repeated[mode])} if self.repeated else {})
                for mode, reading in self.measured.items()
            ],
        }


def verify(
    path: str | os.PathLike[str],
    profile: DeviceProfile,
    *,
    engine: str = "onnxruntime",
    precision: str | None = None,
    modes: int = LEAST_MODES,
    also: Sequence[Any] = (),
    timing: TimingPlan = TIMING,
    on_progress: Progress = lambda done, of, what: None,
) -> Verification:
    """Measure random modes of a bundle end to end, twice, and return predicted beside measured.

    What the second measurement makes of the first is what noise makes of any prediction.

    Where costs are sums only in parts of the space (`CostParts`), modes are drawn from each part that was
    measured, as far as it has several. Where none has, and in a bundle of several networks, the exported
    modes are measured, and what the profile says of each is the prediction.

    - `profile`: with the tables, measured on this device, engine and number of threads.
    - `precision`: that the engine computes in; that of the profile by default, and no other fits it.
    - `modes`: how many random ones, at least 24; `also`: further ones, as those of a front.

    Raises `ValueError` for a profile of another network, engine or device, or without a table; for
    modes in `also` that no table tells, or that the bundle does not hold if that is needed.
    """
    if modes < LEAST_MODES:
        raise ValueError(f"`modes` (={modes}) must be at least {LEAST_MODES}")
    if not same_device(profile.device, here := describe_device()):
        raise ValueError(
            f"`profile` was measured on {profile.device}, and this is {here}: what is measured here says"
            " nothing of its predictions; verify it on that device"
        )
    bundle = Bundle(path)
    opened = engine_in(bundle, engine, profile.threads, precision or profile.precision)
    parts = [each for each in parts_of(bundle) if each.space.size > 1]
    if not parts:
        for mode in also:
            bundle.number_of(mode)
        return _verify_exported(path, profile, engine, precision_of(opened), timing, on_progress)
    costs, rng = costs_of(profile, bundle, opened), random.Random(SEED + 1)
    known = {table.space for table in costs.tables}
    measured = [part for part in parts if part.space in known]
    drawn = _drawn(measured, rng, modes, [bundle.space.mode(mode) for mode in also], costs)

    def timed(timing: TimingPlan) -> dict[Mode, Reading]:
        found: dict[Mode, Reading] = {}
        for part, wanted in drawn.items():
            builder = ModeBuilder(bundle, profile.times_ms, part.number)
            found |= time_modes(builder, opened, wanted, timing, on_progress)
            rng.shuffle(wanted)  # in other groups the next time
        return found

    found, again = timed(timing), timed(replace(timing, seed=timing.seed + 1))
    return Verification(
        {str(mode): costs.cost(mode) for mode in found},
        {str(mode): reading for mode, reading in found.items()},
        describe_engine(opened),
        describe_device(),
        {str(mode): again[mode] for mode in found},
    )


def _drawn(
    parts: Sequence[Part], rng: random.Random, count: int, also: Sequence[Mode], costs: CostParts
) -> dict[Part, list[Mode]]:
    """Return the modes to measure in each part, each once: so many random ones in all, and others.

    Raises `ValueError` for one of the others that no table tells.
    """
    drawn: dict[Part, list[Mode]] = {}
    for number, part in enumerate(parts):
        share = len(range(number, count, len(parts)))
        wanted = [part.whole(mode) for mode in spread_modes(part.space, rng, share)]
        wanted += [mode for mode in also if mode in part]
        drawn[part] = list(dict.fromkeys(wanted))
    for mode in also:
        costs.table_of(mode)
    return drawn


def _verify_exported(
    path: str | os.PathLike[str],
    profile: DeviceProfile,
    engine: str,
    precision: str,
    timing: TimingPlan,
    on_progress: Progress,
) -> Verification:
    """Measure the exported modes twice, and return what a profile says of them beside it."""
    with Session(
        path, engine=engine, threads=profile.threads, profile=profile, precision=precision
    ) as session:
        missing = [mode for mode in session.modes if mode not in profile.latencies]
        if missing:
            raise ValueError(
                f"`profile` has no latency of mode {missing[0]}; measure it again with `wenable profile`"
            )
        found = []
        for number in range(2):
            on_progress(number, 2, "the exported modes")
            found.append(measure_modes(session, replace(timing, seed=timing.seed + number)))
        return Verification(
            {mode: profile.latencies[mode].known for mode in session.modes},
            found[0],
            describe_engine(session.engine),
            describe_device(),
            found[1],
        )


def costs_of(profile: DeviceProfile, bundle: Bundle, engine: Engine) -> CostParts:
    """Return a profile's latencies; raises `ValueError` where they do not belong to bundle and engine."""
    tables = profile.tables("latency")
    of_others = {table.space for table in tables} - {part.space for part in parts_of(bundle)}
    for what, expected, found in (
        ("network", bundle.structure, profile.bundle),
        ("precision", precision_of(engine), profile.precision),
        ("engine", f"{engine.name} {engine.version}", profile.engine),
        ("space", bundle.space, next(iter(of_others), bundle.space)),
    ):
        if expected != found:
            raise ValueError(f"`profile` was measured with {what} {found}; this one has {expected}")
    if not tables:
        raise ValueError("`profile` has no cost table; measure it again with `wenable profile`")
    return CostParts(bundle.space, tables)


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Kendall's tau-b of pairs, from -1 to 1; 0 where one side does not vary.

    >>> kendall_tau([(1, 10), (2, 20), (3, 30)]), kendall_tau([(1, 30), (2, 20), (3, 10)])
    (1.0, -1.0)
    """
    agree, first, second = 0, 0, 0
    for place, (a, b) in enumerate(pairs):
        for c, d in pairs[:place]:
            one, other = (a > c) - (a < c), (b > d) - (b < d)
            agree, first, second = agree + one * other, first + one * one, second + other * other
    return agree / (first * second) ** 0.5 if first and second else 0.0
