"""Timing under a fake clock: blocks, order, quantiles; and words for the machine."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenable.measure.device import Condition, conditions, describe_device, processor
from wenable.measure.latency import TimingPlan, latency_reading, measure_latencies, quantile


class FakeTime:
    """A clock that only moves when something is called or slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def work(self, name: str, seconds: float, log: list[str]):
        def call() -> None:
            log.append(name)
            self.now += seconds

        return call


def test_calls_come_in_whole_blocks_in_random_order():
    time, log = FakeTime(), []
    calls = {name: time.work(name, cost, log) for name, cost in (("a", 0.002), ("b", 0.005))}
    plan = TimingPlan(blocks=4, calls=3, warmup=2, gap_ms=10, seed=1)
    readings = measure_latencies(calls, plan, source="a test", clock=time.clock, sleep=time.sleep)
    assert readings["a"].value == pytest.approx(2.0)
    assert readings["b"].value == pytest.approx(5.0)
    assert readings["a"].count == 12
    assert log.count("a") == 2 + 4 * (1 + 3)
    assert readings["a"].source == "a test; 4 blocks of 3 calls in random order"
    assert log[:4] == ["a", "a", "b", "b"]
    blocks = [log[4 + i : 8 + i] for i in range(0, len(log) - 4, 4)]  # one more call wakes threads
    assert all(len(set(block)) == 1 for block in blocks)
    order = "".join(block[0] for block in blocks)
    assert sorted(order) == list("aaaabbbb")
    assert order not in ("aaaabbbb", "bbbbaaaa")
    assert time.slept == [0.01] * 8


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=50))
def test_quantiles_are_numpys(times: list[float]):
    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        assert quantile(sorted(times), share) == pytest.approx(np.quantile(times, share))
    reading = latency_reading(times)
    assert reading.p90 == pytest.approx(np.quantile(times, 0.9))
    assert reading.interval == "quartiles"
    assert reading.low is not None
    assert reading.high is not None
    assert reading.low <= reading.known <= reading.high


@pytest.mark.parametrize("name", ["blocks", "calls"])
def test_plans_without_calls_are_refused(name: str):
    with pytest.raises(ValueError, match=f"`{name}` \\(=0\\) must be at least 1"):
        TimingPlan(**{name: 0})


def test_the_processor_is_read_or_unknown(tmp_path: Path):
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor : 0\nmodel name\t: A Fast One\n")
    arm.write_text("processor : 0\nBogoMIPS : 1\nModel : A Board Rev 1.0\n")
    assert processor(x86) == "A Fast One"
    assert processor(arm) == "A Board Rev 1.0"
    assert processor(tmp_path / "absent")
    assert "cores" in describe_device()


def test_what_the_system_tells_of_the_processors_state(tmp_path: Path):
    nothing = conditions(tmp_path)
    assert {name: each.value for name, each in nothing.items()} == {
        "governor": None, "clock": None, "temperature": None,
    }  # fmt: skip
    assert "shows no scaling_governor" in nothing["governor"].reason
    assert "class/thermal shows no temperature" in nothing["temperature"].reason
    scaling = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    scaling.mkdir(parents=True)
    (scaling / "scaling_governor").write_text("performance\n")
    (scaling / "scaling_cur_freq").write_text("2400000\n")
    zones = {"thermal_zone0": ("iwlwifi", "38000"), "thermal_zone1": ("x86_pkg_temp", "45200")}
    for name, (kind, temperature) in zones.items():
        (tmp_path / "class/thermal" / name).mkdir(parents=True)
        (tmp_path / "class/thermal" / name / "type").write_text(f"{kind}\n")
        (tmp_path / "class/thermal" / name / "temp").write_text(f"{temperature}\n")
    assert {name: each.value for name, each in conditions(tmp_path).items()} == {
        "governor": "performance",
        "clock": "2400 MHz",
        "temperature": "45 degrees Celsius (x86_pkg_temp)",
    }
    # A sensor that gives nothing sensible is passed over.
    (tmp_path / "class/thermal/thermal_zone1/temp").write_text("?\n")
    assert conditions(tmp_path)["temperature"].value == "38 degrees Celsius (iwlwifi)"


def test_a_state_that_is_missing_has_a_reason():
    with pytest.raises(ValueError, match="needs its `reason`"):
        Condition(None)
