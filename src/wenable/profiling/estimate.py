"""How long profiling a bundle will take, from one look at its full mode."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from wenable.measure.latency import TimingPlan
from wenable.profiling.cost_tables import wanted_modes
from wenable.profiling.layer_times import networks_measured
from wenable.profiling.parts import parts_of
from wenable.profiling.steps import Steps
from wenable.profiling.whole_modes import GROUP, ModeBuilder
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import SCHEMES
from wenable.runtime.engine import Engine, ModeEngine

COUNTED_CALLS = 9
"""Calls of a network whose layers are counted."""


@dataclass(frozen=True)
class ProfileWork:
    """How much there is to measure.

    - `networks`: counted layer by layer; `shares`: modes of the table whose layers are counted.
    - `schemes`: modes timed under every scheme; `table_modes`: modes of the table, timed;
      `latencies`: exported modes, timed.
    """

    networks: int
    shares: int
    schemes: int
    table_modes: int
    latencies: int

    @classmethod
    def of(cls, bundle: Bundle, engine: Engine, mixtures: int, table_modes: int) -> ProfileWork:
        """Return the work of a profile; see `profile` for the settings."""
        # A part with one mode is among the exported ones.
        parts = [
            len(wanted_modes(each, table_modes)) for each in parts_of(bundle) if each.space.size > 1
        ]
        table = sum(parts) if table_modes else 0
        grouped = {layer.knob for layer in bundle.layers.values()}
        timed = [each for each in bundle.modes if any(each.mode[knob] > 1 for knob in grouped)]
        chooses = not isinstance(engine, ModeEngine)  # among the implementations of each layer
        return cls(
            networks_measured(bundle, mixtures) if chooses else 0,
            table,
            len(timed) if chooses else 0,
            # The full mode with each group.
            sum(each + -(-each // GROUP) for each in parts) if table_modes else 0,
            len(bundle.modes),
        )

    def left(self, steps: Steps) -> ProfileWork:
        """Return what is left of it, if the device runs as it did."""
        return replace(
            self,
            networks=max(self.networks - steps.done("layers: "), 0),
            shares=self.shares - steps.done("share of each layer: "),
            schemes=self.schemes - steps.done("scheme of "),
            table_modes=max(self.table_modes - steps.done("whole modes") * (GROUP + 1), 0),
            latencies=0 if steps.done("latencies") else self.latencies,
        )


def estimated_seconds(
    bundle: Bundle,
    engine: Engine,
    work: ProfileWork,
    *,
    scheme_timing: TimingPlan,
    mode_timing: TimingPlan,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return about how many seconds work takes; the full mode, the slowest, stands for all."""
    builder = ModeBuilder(bundle, {})
    started = clock()
    runner = builder.runner(engine, builder.part.full)
    prepared_s = clock() - started
    runner(builder.example)
    started = clock()
    runner(builder.example)
    call_s = clock() - started
    counted = (work.networks + work.shares) * (prepared_s + COUNTED_CALLS * call_s)
    schemes = work.schemes * len(SCHEMES)
    timed = (schemes + work.table_modes) * (prepared_s + _timed_s(scheme_timing, call_s))
    return counted + timed + work.latencies * (prepared_s + _timed_s(mode_timing, call_s))


def _timed_s(timing: TimingPlan, call_s: float) -> float:
    """Return how long one callable is timed for."""
    block_s = timing.gap_ms / 1e3 + (timing.calls + 1) * call_s
    return timing.warmup * call_s + timing.blocks * block_s
