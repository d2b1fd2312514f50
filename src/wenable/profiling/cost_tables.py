"""The latency of any mode as a sum over layers: from an engine's counters, fitted to whole modes."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.core.space import Mode, Space
from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan
from wenable.profiling.attribution import REST
from wenable.profiling.layer_times import Progress
from wenable.profiling.parts import Part
from wenable.profiling.steps import Steps
from wenable.profiling.whole_modes import ModeBuilder, time_modes
from wenable.runtime.engine import Engine, describe_engine

SEED = 1
"""Of the random modes that a table is fitted to; those it is verified on have another."""
_PRIOR_SPREAD = 0.2
"""How far the fit takes an entry to be from what the counters said, as a share of it."""
_NOISE = 0.02
"""How far a measured latency is taken to be from the true one, as a share of it."""


@dataclass(frozen=True)
class _Counted:
    """Of one mode: knob -> ms by the counters, what no knob changes, and its measured latency."""

    mode: Mode
    knobs: Mapping[str, float]
    rest: float
    latency: Reading


def measure_cost_table(
    builder: ModeBuilder,
    engine: Engine,
    timing: TimingPlan,
    on_progress: Progress = lambda done, of, what: None,
    *,
    modes: int = 30,
    calls: int = 6,
    steps: Steps | None = None,
) -> CostTable:
    """Return what each option of each knob costs, so that sums agree with whole modes as measured.

    The table is of the builder's part of the space, where costs are sums.

    Random modes and the uniform ones are run as sessions run them. The engine's counters share the
    time of each out among its layers; the entries are then fitted to the latencies of the same modes,
    since counting takes time itself, and modes are more than the sum of their layers.

    - `modes`: how many random ones; `calls`: of each with counters.
    - `steps`: of the run that this is part of; what is done there is not done again.
    """
    steps, part = steps or Steps(), builder.part
    wanted, what = wanted_modes(part, modes), f"whole modes{part.words}"
    latencies = time_modes(builder, engine, wanted, timing, on_progress, steps, what)
    counted = []
    for number, mode in enumerate(wanted):
        on_progress(number, len(wanted), "the share of each layer")
        parts = steps.count(
            f"share of each layer: {mode}", lambda mode=mode: _parts(builder, engine, mode, calls)
        )
        rest = parts.pop(REST)
        counted.append(_Counted(mode, parts, rest, latencies[mode]))
    prior = _first_table(part.space, counted)
    return fitted_table(part.space, prior, latencies, describe_engine(engine))


def wanted_modes(part: Part, count: int) -> list[Mode]:
    """Return the modes that the table of a part is fitted to, in the space of the bundle."""
    return [part.whole(mode) for mode in modes_to_fit(part.space, count)]


def modes_to_fit(space: Space, count: int) -> list[Mode]:
    """Return the modes that a table is fitted to: the uniform ones, and so many random ones."""
    rng = random.Random(SEED)
    return list(dict.fromkeys([*space.uniform_modes(), *spread_modes(space, rng, count)]))


def spread_modes(space: Space, rng: random.Random, count: int) -> list[Mode]:
    """Return random modes over the whole range of costs.

    Options drawn uniformly for every knob make modes that all cost about the same. So only every other
    mode is drawn so; for the rest a level between the full and the smallest mode is drawn first, and
    every knob has its option at that level, or a neighbour of it.
    """
    return [
        space.sample(rng) if number % 2 else _mode_at_level(space, rng) for number in range(count)
    ]


def _mode_at_level(space: Space, rng: random.Random) -> Mode:
    level = rng.random()
    options = {}
    for knob in space.knobs:
        last = len(knob.options) - 1
        place = round(level * last + rng.uniform(-0.75, 0.75))
        options[knob.name] = knob.options[min(max(place, 0), last)]
    return space.mode(options)


def _parts(builder: ModeBuilder, engine: Engine, mode: Mode, calls: int) -> dict[str, float]:
    """Return knob -> ms by the engine's counters, and what no knob changes under `REST`."""
    times = builder.layer_times(engine, mode, calls)
    parts = {REST: times[REST], **dict.fromkeys(builder.bundle.space.names, 0.0)}
    for name, layer in builder.bundle.layers.items():
        parts[layer.knob] += times.get(name, 0.0)
    return parts


def _first_table(space: Space, counted: Sequence[_Counted]) -> dict[str, dict[int, float]]:
    """Return the means by the counters, scaled to the measured latencies; the rest under `REST`."""
    scale = statistics.median(
        each.latency.known / (each.rest + sum(each.knobs.values())) for each in counted
    )
    table: dict[str, dict[int, float]] = {
        REST: {1: scale * statistics.mean(each.rest for each in counted)}
    }
    for knob in space.knobs:
        seen: dict[int, list[float]] = {}
        for each in counted:
            seen.setdefault(each.mode[knob.name], []).append(scale * each.knobs[knob.name])
        means = {n: statistics.mean(found) for n, found in seen.items()}
        # An option that no mode had, as one outside the uniform ones, is taken from its neighbour.
        table[knob.name] = {
            n: means.get(n, means[min(means, key=lambda m: abs(m - n))]) for n in knob.options
        }
    return table


def fitted_table(
    space: Space,
    prior: Mapping[str, Mapping[int, float]],
    readings: Mapping[Mode, Reading],
    source: str,
    unit: str = "ms",
) -> CostTable:
    """Return the table that agrees best with measured modes, without going far from a prior one.

    Least squares of the relative errors, each weighed by the noise of a measurement, plus the
    relative departures from the prior, weighed by how far its entries may be off; entries below 0
    become 0.

    - `prior`: knob -> option -> its cost, and the rest under `REST`.
    - `readings`: at least one mode with its cost; `unit`: of all figures.
    """
    places = [(name, n) for name, row in prior.items() for n in row]
    column = {place: number for number, place in enumerate(places)}
    before = np.array([prior[name][n] for name, n in places])
    spread = _PRIOR_SPREAD * np.maximum(before, before.mean() / 10)
    rows, residuals = [], []
    for mode, reading in readings.items():
        row = np.zeros(len(places))
        row[[column[REST, 1], *(column[name, n] for name, n in mode.items())]] = 1
        noise = _NOISE * reading.known
        rows.append(row * spread / noise)
        residuals.append((reading.known - row @ before) / noise)
    system = np.vstack([np.array(rows), np.eye(len(places))])
    target = np.concatenate([residuals, np.zeros(len(places))])
    steps = np.linalg.lstsq(system, target, rcond=None)[0]
    after = np.maximum(before + spread * steps, 0.0)
    costs = {
        knob.name: {n: float(after[column[knob.name, n]]) for n in knob.options}
        for knob in space.knobs
    }
    note = f"{source}; fitted to {len(readings)} measured modes"
    return CostTable(space, unit, float(after[column[REST, 1]]), costs, note, describe_device())
