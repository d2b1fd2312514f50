"""A meter that writes a file: traces against closed forms, joined with windows."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.energy_world import EPOCH_S, IDLE_W, QUICK, World, WorldMeter
from wenable.measure.energy import measure_energies, record_windows
from wenable.measure.energy_windows import Recording, Window, energy_readings
from wenable.measure.meters.file import FileMeter, join_windows
from wenable.measure.meters.meter import MeterError
from wenable.measure.meters.power_trace import PowerTrace
from wenable.measure.meters.trace_csv import read_trace
from wenable.runtime.known_modes import measured_energy


def test_constant_power_and_a_ramp_give_their_closed_forms():
    times = np.arange(0.0, 100.0, 0.5)
    constant = PowerTrace.of_powers(times.tolist(), np.full(times.size, 7.0).tolist())
    ramp = PowerTrace.of_powers(times.tolist(), (3.0 + 0.25 * times).tolist())
    for start, stop in ((10.0, 60.0), (10.2, 59.9), (0.0, 99.5), (33.3, 50.1)):
        assert constant.joules(start, stop) == pytest.approx(7.0 * (stop - start))
        exact = 3.0 * (stop - start) + 0.125 * (stop**2 - start**2)
        assert ramp.joules(start, stop) == pytest.approx(exact)


@given(
    st.lists(st.tuples(st.floats(0.1, 2.0), st.floats(0.0, 50.0)), min_size=3, max_size=30),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_uneven_samples_give_the_integral_of_the_lines_between_them(
    samples, one: float, two: float
):
    steps, powers = zip(*samples, strict=True)
    times = np.cumsum(steps)
    start, stop = sorted(times[0] + np.array((one, two)) * (times[-1] - times[0]))
    trace = PowerTrace.of_powers(times.tolist(), powers)
    if not times[0] <= start < stop <= times[-1]:
        return
    fine = np.union1d(np.linspace(start, stop, 50), times[(times > start) & (times < stop)])
    heights = np.interp(fine, times, powers)
    reference = float((np.diff(fine) * (heights[1:] + heights[:-1]) / 2).sum())
    assert trace.joules(start, stop, max_gap_share=math.inf) == pytest.approx(reference, abs=1e-6)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 20.1), (5, 5), (8, 3), (30, 40)])
def test_windows_outside_the_trace_are_refused(start: float, stop: float):
    trace = PowerTrace.of_powers(range(21), [1.0] * 21, "meter.csv")
    with pytest.raises(
        ValueError, match=r"must lie within meter.csv, which goes from 0.000 to 20.000"
    ):
        trace.joules(start, stop, max_gap_share=1)


def test_gaps_are_refused_only_where_they_are_and_only_when_large():
    times = [t for t in range(200) if not 100 < t < 110]
    trace = PowerTrace.of_powers(times, [1.0] * len(times), "meter.csv")
    assert trace.joules(10, 90) == pytest.approx(80.0)
    assert trace.joules(115, 190) == pytest.approx(75.0)
    for start, stop in ((50, 150), (105, 180), (20, 105)):
        with pytest.raises(
            ValueError, match=r"meter.csv has a gap of 10 s .*`max_gap_share` \(=0.05\)"
        ):
            trace.joules(start, stop)
    assert trace.joules(50, 150, max_gap_share=0.1) == pytest.approx(100.0)


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "meter.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "time,power_w\n1000,5\n1001,5\n1002,7\n",
        "\ufeffTime (s);Power [W];note\n# a remark\n1000;5;x\n\n1001;5;\n1002;7;\n",
        "timestamp\tPower (mW)\n1000\t5000\n1001\t5000\n1002\t7000\n",
        "Voltage (V),time,Current (mA)\n10,1000,500\n10,1001,500\n10,1002,700\n",
        "time,watts\n1970-01-01T00:16:40Z,5\n1970-01-01 01:16:41+01:00,5\n1970-01-01T00:16:42+00:00,7\n",
        "time,energy_j\n1000,40\n1001,45\n1002,51\n",
        "time,Energy (Wh)\n1000,1\n1001,1.0013888888889\n1002,1.0030555555556\n",
    ],
)
def test_headers_units_and_times_of_several_meters(tmp_path: Path, text: str):
    trace = read_trace(csv_file(tmp_path, text))
    assert trace.joules(1000, 1002, max_gap_share=1) == pytest.approx(11.0)


def test_an_energy_counter_that_starts_again_is_made_whole(tmp_path: Path):
    # 3 W, in a counter of 0 to 10 J, which starts again twice.
    rows = "".join(f"{t},{(4 + 3 * t) % 10}\n" for t in range(9))
    path = csv_file(tmp_path, f"time,energy_j\n{rows}")
    trace = read_trace(path, wraps_at_j=10)
    assert trace.joules(0, 8, max_gap_share=1) == pytest.approx(24.0)
    assert trace.joules(1.5, 6.5, max_gap_share=1) == pytest.approx(15.0)
    with pytest.raises(
        ValueError, match=r"line 4 of meter.csv: energy falls from 7 to 0 J.*`wraps_at_j`"
    ):
        read_trace(path)
    with pytest.raises(ValueError, match=r"`wraps_at_j` \(=5\) must be above every energy"):
        read_trace(path, wraps_at_j=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,power_w\n1,5\n", "must hold a header and at least two samples"),
        ("time,temperature\n1,5\n2,5\n", "must name a time, and power_w"),
        ("power_w,voltage_v\n1,5\n2,5\n", "must name a time, and power_w"),
        ("time,voltage_v\n1,5\n2,5\n", "must name a time, and power_w"),
        ("time,power_w,watts\n1,5,5\n2,5,5\n", "2 columns of power"),
        (
            "time,power_w\n1,5\n3,5\n2,5\n",
            r"line 4 .*: time \(=2.0\) must be after the last, 3.0",
        ),
        ("time,power_w\n1,5\n1,5\n", "must be after the last"),
        ("time,power_w\n1,5\n2,nan\n", "line 3 of meter.csv: 'nan' must be a finite number"),
        ("time,power_w\n1,5\n2,inf\n", "'inf' must be a finite number"),
        ("time,power_w\n1,5\n2\n", "line 3 of meter.csv: '' must be a finite number"),
        ("time;power_w\n1;5\n2;5,5\n", "'5,5' must be a finite number"),
        (
            "time,power_w\n1,5\n2,-0.5\n",
            r"line 3 of meter.csv: power \(=-0.5 W\) must not be negative",
        ),
        ("time,voltage_v,current_a\n1,5,1\n2,5,-1\n", r"power \(=-5 W\) must not be negative"),
        (
            "time,power_w\n2026-01-01T12:00:00,5\n2026-01-01T12:00:01,5\n",
            "must have its offset from UTC",
        ),
        ("time,power_w\n2026-13-01T12:00:00Z,5\n2,5\n", "must be a time of ISO 8601"),
    ],
)
def test_traces_that_are_not_sound_are_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_trace(csv_file(tmp_path, text))


def write_history(
    folder: Path, world: World, *, offset_s: float = 0.0, step_s: float = 0.002
) -> Path:
    """What a wall meter would write down of a made-up world."""
    times = np.arange(0.0, world.now + 1, step_s)
    changes, powers = np.array(world.history).T
    watts = powers[np.searchsorted(changes, times, side="right") - 1]
    rows = (f"{EPOCH_S + offset_s + t:.4f},{w}" for t, w in zip(times, watts, strict=True))
    return csv_file(folder, "time,power_w\n" + "\n".join(rows) + "\n")


@pytest.mark.parametrize("offset_s", [0.0, 120.0])
def test_windows_are_joined_with_the_trace_of_a_wall_meter(tmp_path: Path, offset_s: float):
    world = World()
    calls = {"small": world.work("s", 0.1, 5.0), "large": world.work("l", 0.25, 9.0)}
    recording = record_windows(calls, QUICK, step_s=0.002, device="a board", clocks=world.clocks())
    kept = json.loads(json.dumps(recording.to_json()))
    meter = FileMeter(write_history(tmp_path, world, offset_s=offset_s), offset_s=offset_s)
    found = join_windows(Recording.from_json(kept), meter)
    # A sample's length is wrong at either end of a window, at most.
    for key, seconds, watts in (("small", 0.1, 5.0), ("large", 0.25, 9.0)):
        assert found[key].energy.value == pytest.approx(1e3 * watts * seconds, rel=0.005)
        assert found[key].above_idle.value == pytest.approx(
            1e3 * (watts - IDLE_W) * seconds, rel=0.01
        )
        assert found[key].latency.value == pytest.approx(1e3 * seconds)
    assert found["small"].energy.source.startswith("wall meter (system, measured); 5 windows")
    assert "trace meter.csv" in found["small"].energy.note
    assert found["small"].energy.device == "a board"
    if offset_s:
        with pytest.raises(ValueError, match=r"must lie within meter.csv"):
            join_windows(recording, FileMeter(meter.path))


def test_a_file_called_after_a_model_is_still_measured(tmp_path: Path):
    world = World()
    recording = record_windows({"a": world.work("a", 0.1, 5.0)}, QUICK, clocks=world.clocks())
    path = write_history(tmp_path, world).rename(tmp_path / "model.csv")
    reading = join_windows(recording, FileMeter(path))["a"].energy
    assert measured_energy(reading).value == pytest.approx(500.0, rel=0.01)
    assert not reading.is_modelled


def test_a_file_that_is_written_in_time_is_a_meter_like_any_other(tmp_path: Path):
    world = World()
    path = tmp_path / "meter.csv"
    clocks = world.clocks()

    class Written(FileMeter):
        def end(self) -> float:
            write_history(tmp_path, world)
            return super().end()

    world.pass_time(1.0, IDLE_W)
    write_history(tmp_path, world)
    meter = Written(path, scope="board", clock=clocks.stamp)
    assert meter.step_s == pytest.approx(0.002, rel=1e-3)
    found = measure_energies({"a": world.work("a", 0.1, 5.0)}, meter, QUICK, clocks=clocks)["a"]
    assert found.energy.value == pytest.approx(500.0, rel=0.01)
    late = FileMeter(path, clock=clocks.stamp, sleep=clocks.sleep)  # which nobody writes on
    found = measure_energies({"a": world.work("a", 0.1, 5.0)}, late, QUICK, clocks=clocks)["a"]
    assert found.energy.value is None
    assert "must lie within meter.csv" in found.energy.reason
    absent = FileMeter(tmp_path / "absent.csv", clock=clocks.stamp)
    found = measure_energies({"a": world.work("a", 0.1, 5.0)}, absent, QUICK, clocks=clocks)["a"]
    assert "absent.csv" in found.energy.reason
    with pytest.raises(ValueError, match=r"`max_gap_share` \(=0\) must be above 0 and at most 1"):
        FileMeter(path, max_gap_share=0)


def test_a_clock_that_was_set_during_a_window_is_found_out(tmp_path: Path):
    world = World()
    recording = record_windows({"a": world.work("a", 0.1, 5.0)}, QUICK, clocks=world.clocks())
    first = recording.trials["a"][0]
    moved = Window(first.start_s, first.stop_s + 0.5, first.seconds, first.calls)
    changed = Recording({"a": (moved,)}, recording.latencies, recording.idle)
    with pytest.raises(ValueError, match="this machine's clock was set meanwhile"):
        join_windows(changed, FileMeter(write_history(tmp_path, world)))


def test_a_clock_that_is_set_during_a_window_ends_a_live_measurement(tmp_path: Path):
    world = World()
    rows = (f"{EPOCH_S + 0.02 * step:.2f},5\n" for step in range(10000))
    path = csv_file(tmp_path, "time,power_w\n" + "".join(rows))
    clocks = world.clocks()
    middle_s = 0.5 + QUICK.idle_s + 0.5 + 0.2 + 0.3  # of the first window

    def stamp() -> float:
        return clocks.stamp() + (30.0 if world.now > middle_s else 0.0)

    meter = FileMeter(path, clock=stamp)
    calls = {"a": world.work("a", 0.1, 5.0)}
    set_clocks = replace(clocks, stamp=stamp)
    reason = measure_energies(calls, meter, QUICK, clocks=set_clocks)["a"].energy.reason
    assert re.search(r"in window 1 of 5 of a: .* clock was set meanwhile", reason)
    counted = measure_energies(calls, WorldMeter(world), QUICK, clocks=set_clocks)["a"].energy
    assert counted.value is not None


def test_the_end_of_a_window_waits_for_the_sample_that_closes_it(tmp_path: Path):
    """A meter writes its samples after the moments that they are of, and some of them in pieces."""
    world = World()
    clocks = world.clocks()
    path, waits = tmp_path / "meter.csv", list[float]()

    def written(until_s: float, rest: str = "") -> None:
        rows = (f"{EPOCH_S + 0.5 * step},5\n" for step in range(int(2 * until_s) + 1))
        csv_file(tmp_path, "time,power_w\n" + "".join(rows) + rest)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        world.pass_time(seconds, IDLE_W)
        # First half a line, then all that is due.
        written(20.0, f"{EPOCH_S + 20.5}") if len(waits) == 1 else written(world.now)

    meter = FileMeter(path, clock=clocks.stamp, sleep=sleep)
    world.now = 5.0
    written(world.now)
    meter.begin()
    world.now = 20.2
    written(20.0)
    assert meter.end() == pytest.approx(5.0 * 15.2)
    assert waits == [0.5, 0.5]
    waits.clear()
    stopped = FileMeter(path, clock=clocks.stamp, sleep=waits.append)
    stopped.begin()
    world.now += 30.0
    with pytest.raises(MeterError, match=r"must lie within meter\.csv"):
        stopped.end()
    assert waits == [0.5] * 5


def test_windows_without_energy_and_broken_recordings():
    world = World()
    recording = record_windows({"a": world.work("a", 0.1, 5.0)}, QUICK, clocks=world.clocks())
    reading = energy_readings(recording, WorldMeter(world))["a"].energy
    assert reading.value is None
    assert "without the energy" in reading.reason
    values = recording.to_json()
    with pytest.raises(ValueError, match="not the JSON form"):
        Recording.from_json({**values, "format": "something"})
    with pytest.raises(ValueError, match="version 2; this reads 1"):
        Recording.from_json({**values, "version": 2})
    with pytest.raises(ValueError, match="not the JSON form"):
        Recording.from_json({**values, "idle": None})
    alike = Recording({1: (), "1": ()}, {}, recording.idle)
    with pytest.raises(ValueError, match="two keys of the recording read '1'"):
        alike.to_json()
