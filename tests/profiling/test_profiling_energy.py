"""The energies in a profile: whole modes by a meter, and the table that is fitted to them."""

import json
import math
import random
import time
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import wenable as we
from tests.exporting.test_exporting import calibrated
from tests.helpers.energy_world import QUICK, World, WorldMeter
from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.core.space import Knob, Mode, Space
from wenable.measure.energy import EnergyPlan
from wenable.measure.latency import TimingPlan
from wenable.measure.meters.meter import MeterError, NoMeter
from wenable.profiling import ProfilePlan, profile
from wenable.profiling.energies import EnergyMeasurement, energy_table
from wenable.runtime import DeviceProfile, Session

SHORT = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)
BRIEF = EnergyPlan(trials=2, window_s=0.01, steps=1, warmup_s=0, cooldown_s=0, idle_s=0.01)
SPACE = Space(tuple(Knob(name, (1, 2, 4)) for name in "abcd"))
WATTS = 3.0


def random_table(unit: str, seed: int) -> CostTable:
    rng = random.Random(seed)
    costs = {knob.name: {n: rng.uniform(1, 3) / n for n in knob.options} for knob in SPACE.knobs}
    return CostTable(SPACE, unit, rng.uniform(0.5, 1), costs)


class SteadyPower:
    """A meter of a board that draws the same power whatever it does, until it breaks."""

    name, scope, kind, detail, step_s = "steady", "board", "measured", "", 0.0001

    def __init__(self, breaks_after: float = math.inf) -> None:
        self.windows, self.breaks_after = 0, breaks_after

    def begin(self) -> None:
        self.windows += 1
        if self.windows > self.breaks_after:
            raise MeterError("the sensor is gone")
        self.started_s = time.perf_counter()

    def end(self) -> float:
        return WATTS * (time.perf_counter() - self.started_s)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    net, modes = calibrated()
    accuracies = {
        mode: {"accuracy": Reading(0.9 - 0.05 * number, "top-1")}
        for number, mode in enumerate(modes)
    }
    return we.export(net, modes, tmp_path_factory.mktemp("b") / "net.wen", readings=accuracies)


def profiled(path, meter, table_modes: int = 2) -> DeviceProfile:
    return profile(
        path, threads=1, meter=meter,
        plan=ProfilePlan(2, table_modes, SHORT, SHORT, BRIEF, energy_modes=2),
    )  # fmt: skip


def test_an_energy_table_predicts_modes_it_was_not_fitted_to():
    latencies, truth = random_table("ms", 1), random_table("mJ", 2)
    rng = random.Random(0)
    seen = {
        mode: Reading(truth.cost(mode), "mJ") for mode in (SPACE.sample(rng) for _ in range(60))
    }
    table = energy_table(latencies, seen, "a meter")
    assert table.unit == "mJ"
    assert table.source == "a meter; fitted to " + f"{len(seen)} measured modes"
    others = [mode for mode in (SPACE.sample(rng) for _ in range(60)) if mode not in seen]
    watts = np.median([truth.cost(mode) / latencies.cost(mode) for mode in seen])
    fitted = [abs(table.cost(mode) / truth.cost(mode) - 1) for mode in others]
    begun = [abs(watts * latencies.cost(mode) / truth.cost(mode) - 1) for mode in others]
    assert np.median(fitted) < 0.02
    assert np.median(fitted) < np.median(begun) / 4


def test_one_power_gives_latencies_times_that_power():
    latencies = random_table("ms", 1)
    seen = {mode: Reading(WATTS * latencies.cost(mode), "mJ") for mode in SPACE.uniform_modes()}
    table = energy_table(latencies, seen, "a meter")
    for mode in (SPACE.sample(random.Random(seed)) for seed in range(10)):
        assert table.cost(mode) == pytest.approx(WATTS * latencies.cost(mode))


def test_each_mode_has_the_energy_that_it_drew():
    """On a made-up machine every mode draws a power of its own, which the table has to find."""
    world, latencies, truth = World(), random_table("ms", 3), random_table("mJ", 4)

    def drawing(mode: Mode):
        seconds = latencies.cost(mode) / 1e3
        return lambda inputs: world.pass_time(seconds, truth.cost(mode) / latencies.cost(mode))

    class Builder:
        part = SimpleNamespace(space=SPACE, full=SPACE.full, words="", whole=lambda mode: mode)
        example: ClassVar[dict[str, Any]] = {}

        def runner(self, engine: Any, mode: Mode):
            return engine.prepare(mode)

    engine = SimpleNamespace(name="made-up", version="1", threads=1, prepare=drawing)
    modes = SPACE.uniform_modes()
    session = SimpleNamespace(
        modes=list(map(str, modes)), example=dict, engine=engine,
        run=lambda inputs, mode: drawing(SPACE.mode(mode))(inputs),
    )  # fmt: skip
    before = DeviceProfile("bundle", "device", "made-up 1", 1, table=latencies)
    measurement = EnergyMeasurement(WorldMeter(world), QUICK, 20, world.clocks())
    found = measurement.added_to(before, session, [Builder()])
    for mode in modes:
        reading = found.energies[str(mode)]
        assert reading.known == pytest.approx(truth.cost(mode))
        assert reading.source.startswith("made-up (board, measured)")
    assert found.energy_table is not None
    assert found.energy_table.source.startswith("made-up (board, measured); made-up 1, 1 thread;")
    for mode in modes:
        assert found.energy_table.cost(mode) == pytest.approx(truth.cost(mode), rel=0.02)


def test_sessions_keep_energy_budgets_by_the_profile(exported):
    seen = []
    found = profile(
        exported, threads=1, meter=SteadyPower(), on_estimate=seen.append,
        plan=ProfilePlan(2, 2, SHORT, SHORT, BRIEF, energy_modes=2),
    )  # fmt: skip
    assert seen[0] > 0
    again = DeviceProfile.from_json(json.loads(json.dumps(found.to_json())))
    assert again.energies == found.energies
    assert again.energy_table == found.energy_table
    assert found.energy_table is not None
    assert found.energy_table.unit == "mJ"
    session = Session(exported, threads=1)
    assert set(session.modes) == set(found.energies)
    x, least = session.example(), min(each.known for each in found.energies.values())
    for limit in (least, max(each.known for each in found.energies.values())):
        session.run(x, max_energy_mj=limit)
        decision = session.controller().decisions[-1]
        allowed = [m for m in session.modes if found.energies[m].known <= limit]
        assert decision.name == allowed[0]  # modes lie in the order of their accuracy
        assert decision.energy_mj == found.energies[decision.name].known
    with pytest.raises(ValueError, match="measured for one example, not for 2"):
        session.run(session.example(2), max_energy_mj=limit)


def test_without_a_meter_there_is_no_energy_and_the_reason(exported):
    found = profiled(exported, NoMeter("this machine is virtual"))
    assert (found.energies, found.energy_table) == ({}, None)
    assert found.energy_reason == "this machine is virtual"
    session = Session(exported, threads=1)
    with pytest.raises(ValueError, match="none was measured here: this machine is virtual"):
        session.run(session.example(), max_energy_mj=1.0)


@pytest.mark.parametrize("windows", [0, 3, 14])
def test_a_meter_that_gives_out_leaves_the_rest_of_the_profile(exported, windows):
    found = profiled(exported, SteadyPower(breaks_after=windows))
    assert (found.energies, found.energy_table) == ({}, None)
    assert "the sensor is gone" in found.energy_reason
    assert any("the sensor is gone" in event for event in found.events)
    assert set(found.latencies) == set(Session(exported, threads=1).modes)


def test_energies_in_a_file_are_above_zero_and_in_mj(exported):
    values = profiled(exported, SteadyPower(), table_modes=0).to_json()
    assert values["energy_table"] is None  # it begins with the table of latencies
    one = next(iter(values["energies"]))
    for wrong in ({"value": 0.0}, {"unit": "J"}, {"value": None, "reason": "lost"}):
        bad = json.loads(json.dumps(values))
        bad["energies"][one] |= wrong
        with pytest.raises(ValueError, match="an energy"):
            DeviceProfile.from_json(bad)
