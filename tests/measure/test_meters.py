"""Which meters this machine has, and whether their counters move."""

from collections.abc import Callable

import pytest

from tests.helpers.energy_world import World, WorldMeter
from wenable.measure.meters import registry
from wenable.measure.meters.meter import MeterError, NoMeter, why_dead
from wenable.measure.meters.registry import available_meters, find_meter


def test_a_counter_has_to_move_while_the_processor_is_busy():
    world = World()

    def clock() -> float:
        world.pass_time(0.1, 5.0)
        return world.now

    assert why_dead(WorldMeter(world), clock=clock) == ""
    still = WorldMeter(world)
    still.end = lambda: 0.0
    assert "does not move: +0 J while the processor was busy for 1 s" in why_dead(
        still, clock=clock
    )
    gone = WorldMeter(world, breaks_at_s=world.now + 0.3)
    assert why_dead(gone, clock=clock) == "the sensor is gone"


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    monkeypatch.setattr(registry, "_candidates", lambda: iter(found.items()))
    return found


def make(scope: str, joules: float) -> Callable[[], object]:
    def made() -> object:
        meter = WorldMeter(World())
        meter.scope, meter.end = scope, lambda: joules
        return meter

    return made


def test_the_first_meter_that_moves_and_has_the_scope_is_found(candidates: dict):
    def absent() -> object:
        raise MeterError("there is none")

    candidates.update(
        {"a": absent, "b": make("package", 0.0), "c": make("GPU", 1.0), "d": make("package", 1.0)}
    )
    looked = available_meters(busy_s=0)
    assert [each.ok for each in looked] == [False, False, True, True]
    assert looked[0].why == "there is none"
    assert "does not move" in looked[1].why
    assert looked[2].why == "made-up, scope GPU, measured, rail 1"
    meter = find_meter(busy_s=0)
    assert not isinstance(meter, NoMeter)
    assert meter.scope == "package"
    gpu = find_meter("GPU", busy_s=0)
    assert not isinstance(gpu, NoMeter)
    assert gpu.scope == "GPU"


def test_a_gpus_counter_is_not_taken_for_the_processors(candidates: dict):
    candidates["c"] = make("GPU", 1.0)
    found = find_meter(busy_s=0)
    assert isinstance(found, NoMeter)
    assert found.reason.startswith("no energy meter with scope board or package (c: made-up")
