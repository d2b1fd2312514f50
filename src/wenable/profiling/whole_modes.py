"""Times whole modes that a bundle need not hold, as sessions would execute them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.profiling.attribution import times_of_layers
from wenable.profiling.drift import drift_words, measure_steadily
from wenable.profiling.layer_times import Progress, best_implementations
from wenable.profiling.parts import Part
from wenable.profiling.steps import Steps
from wenable.runtime.building import BuiltModel, ModeWeights, build
from wenable.runtime.bundle import Bundle
from wenable.runtime.engine import Engine, ModeEngine, PlannedMode, Runner, describe_engine
from wenable.runtime.implementations import Implementation

GROUP = 6
"""Modes that are timed against each other at once; each holds a model in memory."""

Calls = Mapping[Mode, Callable[[], object]]
Measure = Callable[[Calls], Mapping[Mode, Reading]]
"""Takes a reading of each of a group of calls, beside each other."""


@dataclass(frozen=True)
class ModeBuilder:
    """Builds the model of any mode of a bundle's space, with layers executed as they were measured.

    All but the groups is that of one exported mode: norms do not change how long a mode takes. Where
    modes differ in more than groups (`Bundle.why_not_any_mode`), these are modes of its part
    (`profiling.parts`), and others are refused.

    - `number`: of the exported mode.
    """

    bundle: Bundle
    times_ms: Mapping[str, Mapping[Implementation, float]]
    number: int = 0

    @property
    def part(self) -> Part:
        """The part of the space that its modes are of."""
        return Part(self.bundle, self.number)

    @property
    def example(self) -> dict[str, np.ndarray]:
        """Inputs for the graph that it builds."""
        return self.bundle.example(number=self.number)

    def __call__(self, mode: Mode) -> BuiltModel:
        """Return the model of a mode."""
        weights = self._weights(mode)
        linked = self.bundle.chains_of(self.number)
        implementations = best_implementations(self.bundle, linked, self.times_ms, mode)
        graph = self.bundle.graph_of(self.number)
        return build(graph, self.bundle.layers, weights, implementations)

    def runner(self, engine: Engine, mode: Mode) -> Runner:
        """Return a mode ready to run: planned where the engine plans modes, as a model otherwise."""
        if isinstance(engine, ModeEngine):
            return self._planned(engine, mode).runner
        return engine.prepare(self(mode).content)

    def layer_times(self, engine: Engine, mode: Mode, calls: int) -> dict[str, float]:
        """Return layer -> the ms that it takes by the engine's counters; the rest under `REST`."""
        example = self.example
        if isinstance(engine, ModeEngine):
            return engine.layer_times(self._planned(engine, mode), example, calls)
        built = self(mode)
        return times_of_layers(built, engine.operation_times(built.content, example, calls))

    def _planned(self, engine: ModeEngine, mode: Mode) -> PlannedMode:
        graph = self.bundle.graph_of(self.number)
        return engine.plan(graph, self.bundle.layers, self._weights(mode))

    def _weights(self, mode: Mode) -> ModeWeights:
        if mode not in self.part:
            raise ValueError(
                f"`mode` (={mode}) differs from {self.part.full} in more than groups, and cannot be"
                " built from that"
            )
        return replace(self.bundle.weights_of(self.number), options=dict(mode))


def time_modes(
    builder: ModeBuilder,
    engine: Engine,
    modes: Sequence[Mode],
    timing: TimingPlan,
    on_progress: Progress = lambda done, of, what: None,
    steps: Steps | None = None,
    what: str = "whole modes",
) -> dict[Mode, Reading]:
    """Return the latency of each mode for one example, in ms; see `measure_in_groups`."""
    source = describe_engine(engine)

    def latencies(calls: Calls) -> Mapping[Mode, Reading]:
        return measure_latencies(calls, timing, source=source)

    return measure_in_groups(builder, engine, modes, latencies, what, on_progress, steps)


def measure_in_groups(
    builder: ModeBuilder,
    engine: Engine,
    modes: Sequence[Mode],
    measure: Measure,
    what: str,
    on_progress: Progress = lambda done, of, what: None,
    steps: Steps | None = None,
) -> dict[Mode, Reading]:
    """Return a reading of each mode, running as sessions would run it.

    They are measured in groups, the full mode with each. Where a group finds the full mode more than
    15 % from its median over all of them, the device ran at another speed meanwhile: the group is
    measured again, up to twice, and the note of its readings says what is left of the difference.

    - `measure`: takes the readings of a group; `what`: what they are, for steps and progress.
    - `steps`: of the run that this is part of; what is done there is not done again, and it is told
      of groups that were measured again.
    """
    steps, full = steps or Steps(), builder.part.full
    groups = [modes[start : start + GROUP] for start in range(0, len(modes), GROUP)]

    def group(number: int, attempt: int) -> dict[Mode, Reading]:
        name = f"{what}, group {number + 1}"
        on_progress(number, len(groups), name if attempt == 1 else f"{name} again")
        if attempt > 1:
            steps.report(f"{name}: measured again, the speed had changed")
        wanted = list(dict.fromkeys([full, *groups[number]]))
        found = steps.time(
            f"{name}, attempt {attempt}",
            lambda: {
                str(mode): reading
                for mode, reading in _measure_group(builder, engine, wanted, measure).items()
            },
        )
        return {mode: found[str(mode)] for mode in wanted}

    readings: dict[Mode, Reading] = {}
    found = measure_steadily(len(groups), group, lambda readings: readings[full].known)
    for number, (of_group, drift) in enumerate(found):
        note = drift_words(drift)
        if note:
            steps.report(f"{what}, group {number + 1}: {note}")
        for mode, reading in of_group.items():
            if mode != full or full not in readings or reading.known < readings[full].known:
                readings[mode] = _noted(reading, note)
    if full not in modes:
        readings.pop(full, None)
    return readings


def _noted(reading: Reading, note: str) -> Reading:
    return replace(reading, note="; ".join(filter(None, (reading.note, note))))


def _measure_group(
    builder: ModeBuilder, engine: Engine, modes: Sequence[Mode], measure: Measure
) -> Mapping[Mode, Reading]:
    inputs = builder.example
    return measure({mode: partial(builder.runner(engine, mode), inputs) for mode in modes})
