"""Energy of calls: windows under a made-up clock, and the readings made of them."""

import json
import math

import numpy as np
import pytest

from tests.helpers.energy_world import IDLE_W, QUICK, World, WorldMeter
from wenable.core.readings import Reading
from wenable.measure.device import Condition
from wenable.measure.energy import Clocks, EnergyPlan, measure_energies, record_windows
from wenable.measure.energy_windows import Recording, Window, energy_readings
from wenable.measure.meters.meter import NoMeter
from wenable.runtime.known_modes import measured_energy


def test_energy_is_power_times_time():
    world = World()
    calls = {"small": world.work("s", 0.010, 5.0), "large": world.work("l", 0.025, 8.0)}
    found = measure_energies(
        calls, WorldMeter(world), QUICK, device="a board", clocks=world.clocks()
    )
    for key, seconds, watts in (("small", 0.010, 5.0), ("large", 0.025, 8.0)):
        one = found[key]
        assert one.energy.value == pytest.approx(1e3 * watts * seconds)
        assert one.above_idle.value == pytest.approx(1e3 * (watts - IDLE_W) * seconds)
        assert one.idle_power.value == pytest.approx(IDLE_W)
        assert one.latency.value == pytest.approx(1e3 * seconds)
        assert (one.energy.unit, one.idle_power.unit, one.latency.unit) == ("mJ", "W", "ms")
        assert one.energy.count == 5
        assert one.energy.interval == "quartiles"
        assert one.energy.source == "made-up (board, measured); 5 windows in random order"
        assert one.energy.device == "a board"
        assert "rail 1" in one.energy.note
        assert "idle power is in it" in one.energy.note
        assert "idle power of 2 W taken off" in one.above_idle.note
    # 5 windows of at least a second, of calls of 10 ms and 25 ms; rounding may add one call to each
    assert found["small"].latency.count == pytest.approx(500, abs=5)
    assert found["large"].latency.count == pytest.approx(200, abs=5)


def test_a_reading_says_in_what_state_the_device_was(monkeypatch: pytest.MonkeyPatch):
    governor, absent = Condition("powersave"), Condition(None, "no cpufreq")
    states = iter(
        {"governor": governor, "clock": absent, "temperature": Condition(f"{degrees} degrees Celsius")}
        for degrees in (45, 61)
    )  # fmt: skip
    monkeypatch.setattr("wenable.measure.energy.conditions", lambda: next(states))
    world = World()
    calls = {"a": world.work("a", 0.05, 5.0)}
    recording = record_windows(calls, QUICK, meter=WorldMeter(world), clocks=world.clocks())
    assert recording.conditions == (
        "governor powersave, clock not readable,"
        " temperature 45 degrees Celsius before and 61 degrees Celsius after"
    )
    again = Recording.from_json(json.loads(json.dumps(recording.to_json())))
    found = energy_readings(again, WorldMeter(world))["a"]
    assert recording.conditions in found.energy.note
    assert recording.conditions in found.above_idle.note


def test_windows_are_interleaved_after_warm_up_and_rest():
    world = World()
    calls = {name: world.work(name, 0.1, 5.0) for name in "abc"}
    record_windows(calls, QUICK, meter=WorldMeter(world), clocks=world.clocks())
    blocks = "".join(world.log).split("sleep")
    assert blocks[0] == "abc"  # opened before the idle power is measured
    assert blocks[1:3] == ["", ""]  # a rest, then the idle window
    trials = blocks[3:]
    assert all(len(set(block)) == 1 for block in trials)
    assert all(len(block) in (12, 13, 14) for block in trials)  # 0.2 s of warm-up and 1 s
    rounds = ["".join(block[0] for block in trials[i : i + 3]) for i in range(0, 15, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 1


def test_a_window_lasts_for_enough_steps_of_the_counter():
    for step_s, least_s in ((0.001, 5.0), (0.1, 5.0), (1.0, 50.0)):
        world = World()
        plan = EnergyPlan(trials=1, warmup_s=0, cooldown_s=0, idle_s=10.0)
        meter = WorldMeter(world, step_s=step_s)
        recording = record_windows(
            {"a": world.work("a", 0.05, 5.0)}, plan, meter=meter, clocks=world.clocks()
        )
        assert recording.trials["a"][0].seconds == pytest.approx(least_s, abs=0.051)
        assert recording.idle.seconds == pytest.approx(max(10.0, least_s))


@pytest.mark.parametrize(("call_s", "longest_s"), [(0.05, 0.02), (0.0001, 0.02 * 0.01)])
def test_pauses_are_random_and_short_beside_the_work(call_s: float, longest_s: float):
    world = World()
    plan = EnergyPlan(trials=1, window_s=100 * 30.5 * call_s, steps=1, cooldown_s=0, idle_s=1)
    pauses: list[float] = []
    clocks = world.clocks()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clocks.sleep(seconds)

    calls = {"a": world.work("a", call_s, 5.0)}
    meter = WorldMeter(world, step_s=1e-6)
    watched = Clocks(clocks.clock, sleep, clocks.stamp)
    recording = record_windows(calls, plan, meter=meter, clocks=watched)
    window = recording.trials["a"][0]
    between = pauses[-(window.calls // 100) :]
    assert len(between) == 30
    assert len(set(between)) == 30
    assert max(between) <= longest_s * 1.001
    assert sum(between) == pytest.approx(window.pauses_s)
    assert window.pauses_s < 0.02 * window.seconds
    # What is drawn in the pauses is in the reading, and the reader is told how long they were.
    drawn = window.calls * call_s * 5.0 + window.pauses_s * IDLE_W
    reading = energy_readings(recording, meter)["a"].energy
    assert reading.value == pytest.approx(1e3 * drawn / window.calls)
    assert f"pauses {100 * window.pauses_s / window.seconds:.1f} %" in reading.note


def test_quartiles_are_those_of_the_windows():
    drawn = [3.0, 9.0, 4.0, 7.0, 5.5, 6.0]
    windows = tuple(Window(0, 5, 5.0, calls=10, joules=joules) for joules in drawn)
    recording = Recording({"a": windows}, {"a": Reading(1.0, "ms")}, Window(0, 9, 9.0, joules=0.9))
    found = energy_readings(recording, WorldMeter(World()))["a"]
    per_call_mj = np.array(drawn) / 10 * 1e3
    for reading, values in ((found.energy, per_call_mj), (found.above_idle, per_call_mj - 50)):
        quartiles = np.quantile(values, (0.25, 0.5, 0.75))
        assert (reading.low, reading.value, reading.high) == pytest.approx(tuple(quartiles))


def test_without_a_meter_nothing_is_run_and_the_reason_stands():
    def call() -> None:
        raise AssertionError("it was called")

    found = measure_energies({"a": call}, NoMeter("this board has none"))["a"]
    for reading in (found.energy, found.above_idle, found.idle_power):
        assert reading.value is None
        assert reading.reason == "this board has none"
    assert found.energy.unit == "mJ"
    assert found.latency.value is None
    assert "this board has none" in found.latency.reason


def test_a_meter_that_disappears_half_way_gives_no_energy():
    world = World()
    calls = {name: world.work(name, 0.05, 5.0) for name in "ab"}
    meter = WorldMeter(world, breaks_at_s=10.0)
    found = measure_energies(calls, meter, QUICK, clocks=world.clocks())
    for one in found.values():
        assert one.energy.value is None
        assert "gave out in window" in one.energy.reason
        assert "the sensor is gone" in one.energy.reason
        assert one.latency.value == pytest.approx(50.0)  # which was measured
    assert world.now < 13.0


def test_a_meter_that_is_gone_from_the_start_gives_reasons_for_everything():
    world = World()
    meter = WorldMeter(world, breaks_at_s=-1.0)
    one = measure_energies({"a": world.work("a", 0.05, 5.0)}, meter, QUICK, clocks=world.clocks())[
        "a"
    ]
    assert "the idle window" in one.energy.reason
    assert one.latency.value is None
    assert "the sensor is gone" in one.latency.reason


def test_a_counter_that_stands_still_or_falls_is_no_reading():
    for joules in (0.0, -3.0, math.nan):
        world = World()
        meter = WorldMeter(world)
        meter.end = lambda joules=joules: joules
        calls = {"a": world.work("a", 0.05, 5.0)}
        reading = measure_energies(calls, meter, QUICK, clocks=world.clocks())["a"].energy
        assert reading.value is None
        assert "stood still in the idle window" in reading.reason


def test_less_than_idle_is_noise_and_not_a_negative_energy():
    world = World()
    calls = {"a": world.work("a", 0.05, 1.5)}  # below the idle power
    found = measure_energies(calls, WorldMeter(world), QUICK, clocks=world.clocks())["a"]
    assert found.energy.value == pytest.approx(75.0)
    assert found.above_idle.value is None
    assert "no more than idle" in found.above_idle.reason


def test_an_error_of_the_callable_is_not_taken_for_the_meters():
    world = World()

    def call() -> None:
        raise RuntimeError("the network is broken")

    with pytest.raises(RuntimeError, match="the network is broken"):
        measure_energies({"a": call}, WorldMeter(world), QUICK, clocks=world.clocks())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", 0),
        ("steps", 0),
        ("pause_every", 0),
        ("window_s", 0),
        ("idle_s", -1),
        ("pause_ms", -1),
    ],
)
def test_plans_that_measure_nothing_are_refused(name: str, value: float):
    with pytest.raises(ValueError, match=f"`{name}` \\(={value}\\) must be"):
        EnergyPlan(**{name: value})


@pytest.mark.parametrize("kind", ["measured", "apportioned"])
def test_what_a_meter_gave_satisfies_a_budget_of_the_runtime(kind: str):
    world = World()
    meter = WorldMeter(world)
    meter.kind = kind
    one = measure_energies({"a": world.work("a", 0.05, 5.0)}, meter, QUICK, clocks=world.clocks())[
        "a"
    ]
    assert measured_energy(one.energy).value == pytest.approx(250.0)
    assert kind in one.energy.source
    missing = measure_energies({"a": int}, NoMeter("none"))["a"]
    assert measured_energy(missing.energy).value is None
