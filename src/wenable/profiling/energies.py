"""The energy of a bundle's modes on this device, and a table of it for modes that it does not hold."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.measure.energy import Clocks, EnergyPlan, measure_energies
from wenable.measure.energy_windows import Key
from wenable.measure.meters.meter import Meter, MeterError, NoMeter
from wenable.measure.meters.registry import find_meter
from wenable.profiling.attribution import REST
from wenable.profiling.cost_tables import fitted_table, wanted_modes
from wenable.profiling.layer_times import Progress
from wenable.profiling.parts import parts_of
from wenable.profiling.plan import ENERGY_PLAN
from wenable.profiling.steps import Steps
from wenable.profiling.whole_modes import Calls, ModeBuilder, measure_in_groups
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import DeviceProfile
from wenable.runtime.engine import describe_engine
from wenable.runtime.session import Session

"""Windows shorter than where energy alone is measured: a table needs many modes."""
_ON_GPU = ("CUDA", "Tensorrt", "ROCM", "MIGraphX")


def meter_of(engine: str) -> Meter | NoMeter:
    """Return the meter of what an engine runs on: of a GPU for ONNX Runtime's providers of GPUs."""
    on_gpu = engine.partition(":")[2].startswith(_ON_GPU)
    return find_meter("GPU") if on_gpu else find_meter()


@dataclass(frozen=True)
class EnergyMeasurement:
    """Measures the energy of the modes of a session, and of others for a table.

    - `meter`: of what the engine runs on; `plan`: how each mode is measured.
    - `table_modes`: to how many random modes the table is fitted, besides the uniform ones; 0 for none.
    - `clocks`: replaced in tests.
    """

    meter: Meter
    plan: EnergyPlan = ENERGY_PLAN
    table_modes: int = 12
    clocks: Clocks | None = None

    def settings(self) -> dict[str, Any]:
        """Return what makes this measurement another than others."""
        return {
            "meter": _meter_words(self.meter),
            "plan": asdict(self.plan),
            "table_modes": self.table_modes,
        }

    def seconds(self, bundle: Bundle) -> float:
        """Return about how many seconds it takes."""
        table = 0
        if self.table_modes:
            parts = [each for each in parts_of(bundle) if each.space.size > 1]
            table = sum(len(wanted_modes(each, self.table_modes)) for each in parts)
        one_s = self.plan.cooldown_s + self.plan.warmup_s + self.plan.window_s
        return 2 * self.plan.idle_s + (len(bundle.modes) + table) * self.plan.trials * one_s

    def added_to(
        self,
        profile: DeviceProfile,
        session: Session,
        builders: Sequence[ModeBuilder],
        on_progress: Progress = lambda done, of, what: None,
        steps: Steps | None = None,
    ) -> DeviceProfile:
        """Return a profile with the energies of the session's modes for one example, and their tables.

        Where the meter gives out it has neither, and says why.

        - `builders`: of the modes of each part of the space for which the profile has a table.
        """
        steps = steps or Steps()
        on_progress(0, 1, "energies of the modes")
        try:
            energies = steps.time("energies of the modes", lambda: self._of_session(session))
            tables = self._tables(builders, session, profile, energies, on_progress, steps)
        except MeterError as error:
            steps.report(f"energies: {error}")
            return replace(profile, energy_reason=str(error))
        found = replace(profile, energies=energies, energy_reason="")
        if profile.table is None:
            return replace(found, energy_parts=tuple(tables))
        return replace(found, energy_table=tables[0] if tables else None)

    def _tables(
        self,
        builders: Sequence[ModeBuilder],
        session: Session,
        profile: DeviceProfile,
        energies: Mapping[str, Reading],
        on_progress: Progress,
        steps: Steps,
    ) -> list[CostTable]:
        """Return the tables of the same parts as those of the latencies, as far as they are asked for."""
        tables, latencies = [], profile.tables("latency")
        for builder, table in zip(builders, latencies, strict=True):
            if table.space.size == 1:
                tables.append(builder.part.table(energies[str(builder.part.full)]))
            elif self.table_modes:
                tables.append(self._table(builder, session, table, on_progress, steps))
        return tables

    def _of_session(self, session: Session) -> dict[str, Reading]:
        inputs = session.example()
        calls: dict[str, Callable[[], object]] = {
            mode: lambda mode=mode: session.run(inputs, mode=mode) for mode in session.modes
        }
        return self._measured(calls)

    def _table(
        self,
        builder: ModeBuilder,
        session: Session,
        latencies: CostTable,
        on_progress: Progress,
        steps: Steps,
    ) -> CostTable:
        def energies(calls: Calls) -> Mapping[Mode, Reading]:
            return self._measured(calls)

        wanted, what = wanted_modes(builder.part, self.table_modes), f"energies{builder.part.words}"
        found = measure_in_groups(
            builder, session.engine, wanted, energies, what, on_progress, steps
        )
        source = f"{_meter_words(self.meter)}; {describe_engine(session.engine)}"
        return energy_table(latencies, found, source)

    def _measured(self, calls: Mapping[Key, Callable[[], object]]) -> dict[Key, Reading]:
        found = measure_energies(calls, self.meter, self.plan, clocks=self.clocks)
        for each in found.values():
            if each.energy.value is None:
                raise MeterError(each.energy.reason)
        return {key: each.energy for key, each in found.items()}


def energy_table(latencies: CostTable, found: Mapping[Mode, Reading], source: str) -> CostTable:
    """Return what each option of each knob costs in mJ, fitted to the energies of whole modes.

    No meter tells layers apart. So the fit begins with the latencies of the layers at one power, and
    departs from them as far as the measured modes ask for.

    - `latencies`: a table in ms of the same engine; `found`: at least one mode with its energy.
    """
    watts = statistics.median(each.known / latencies.cost(mode) for mode, each in found.items())
    prior = {
        knob: {n: watts * ms for n, ms in row.items()} for knob, row in latencies.costs.items()
    }
    prior[REST] = {1: watts * latencies.rest}
    return fitted_table(latencies.space, prior, found, source, unit="mJ")


def _meter_words(meter: Meter) -> str:
    return f"{meter.name} ({meter.scope}, {meter.kind})"
