"""Times whole modes that a bundle need not hold, as sessions would execute them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.profiling.layer_times import best_lowerings
from wenable.runtime.building import BuiltModel, ModeWeights, build
from wenable.runtime.bundle import Bundle
from wenable.runtime.engines import Engine
from wenable.runtime.lowering import Lowering
from wenable.runtime.stored_order import chains
from wenable.space import Mode
from wenable.tables import Reading

GROUP = 6
"""Modes that are timed against each other at once; each holds a model in memory."""
MOST_DRIFT = 0.15
"""How far the full mode may be from its median over all groups before a group is timed again."""
_TRIES = 3


@dataclass(frozen=True)
class ModeBuilder:
    """Builds the model of any mode of a bundle's space, with layers executed as they were measured.

    The norms are those of the first exported mode: they do not change how long a mode takes.
    """

    bundle: Bundle
    times_ms: Mapping[str, Mapping[Lowering, float]]

    def __call__(self, mode: Mode) -> BuiltModel:
        """Return the model of a mode."""
        weights = self.bundle.weights_of(0)
        linked = chains(self.bundle.graph, weights.tensors)
        lowerings = best_lowerings(self.bundle, linked, self.times_ms, mode)
        return build(
            self.bundle.graph,
            self.bundle.layers,
            ModeWeights(dict(mode), weights.tensors, weights.norms),
            lowerings,
        )


def time_modes(
    builder: ModeBuilder,
    engine: Engine,
    modes: Sequence[Mode],
    timing: TimingPlan,
    on_progress: Callable[[int, int, str], None] = lambda done, of, what: None,
) -> dict[Mode, Reading]:
    """Return the latency of each mode for one example, in ms.

    They are timed in groups, the full mode with each. Where a group finds the full mode more than
    15 % from its median over all of them, the device ran at another speed meanwhile: the group is
    timed again, up to twice, and the note of its readings says what is left of the difference.
    """
    full = builder.bundle.space.full
    groups = [modes[start : start + GROUP] for start in range(0, len(modes), GROUP)]
    found: list[dict[Mode, Reading]] = []
    for number, group in enumerate(groups):
        on_progress(number, len(groups), f"whole modes, group {number + 1}")
        found.append(_time_group(builder, engine, [full, *group], timing))
    for number, group in enumerate(groups):
        usual = statistics.median(each[full].known for each in found)
        for _ in range(_TRIES - 1):
            if abs(found[number][full].known / usual - 1) <= MOST_DRIFT:
                break
            on_progress(number, len(groups), f"whole modes, group {number + 1} again")
            found[number] = _time_group(builder, engine, [full, *group], timing)
    usual = statistics.median(each[full].known for each in found)
    readings: dict[Mode, Reading] = {}
    for each in found:
        drift = each[full].known / usual - 1
        note = ""
        if abs(drift) > MOST_DRIFT:
            note = (
                f"the device ran {abs(drift):.0%} {'slower' if drift > 0 else 'faster'} meanwhile"
            )
        for mode, reading in each.items():
            if mode != full or full not in readings or reading.known < readings[full].known:
                readings[mode] = replace(reading, note=note)
    if full not in modes:
        del readings[full]
    return readings


def _time_group(
    builder: ModeBuilder, engine: Engine, modes: Sequence[Mode], timing: TimingPlan
) -> dict[Mode, Reading]:
    inputs = builder.bundle.example()
    runners = {mode: engine.prepare(builder(mode).content) for mode in dict.fromkeys(modes)}
    calls = {mode: partial(runner, inputs) for mode, runner in runners.items()}
    source = f"{engine.name} {engine.version}, {engine.threads} threads"
    return dict(measure_latencies(calls, timing, source=source))
