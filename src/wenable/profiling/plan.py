"""How thoroughly a device is profiled."""

from __future__ import annotations

from dataclasses import dataclass

from wenable.measure.energy import EnergyPlan
from wenable.measure.latency import TimingPlan

SCHEME_TIMING = TimingPlan(blocks=4, calls=12, warmup=3, gap_ms=10.0)
MODE_TIMING = TimingPlan(blocks=6, calls=20, warmup=3, gap_ms=50.0)
ENERGY_PLAN = EnergyPlan(window_s=1.0, warmup_s=0.3, cooldown_s=0.5, idle_s=5.0)


@dataclass(frozen=True)
class ProfilePlan:
    """What `profile` measures, and how often.

    - `mixtures`: how many random ways to execute the network are measured to tell what each layer
      takes, besides those that treat all layers alike; see `measure_layers`.
    - `table_modes`: to how many random modes the cost table is fitted, besides the uniform ones; 0
      for no table.
    - `scheme_timing`, `mode_timing`: how often whole modes are timed, to choose how each is run and
      for the profile's latencies.
    - `energy_plan`: how the energy of each mode is measured; `energy_modes`: to how many random modes
      its table is fitted, besides the uniform ones; 0 for no table.

    >>> ProfilePlan(table_modes=0).mixtures
    12
    """

    mixtures: int = 12
    table_modes: int = 30
    scheme_timing: TimingPlan = SCHEME_TIMING
    mode_timing: TimingPlan = MODE_TIMING
    energy_plan: EnergyPlan = ENERGY_PLAN
    energy_modes: int = 12
