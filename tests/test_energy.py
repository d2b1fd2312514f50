"""Energy: meters on made-up counters, traces against closed forms, windows under a made-up clock."""

import json
import math
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenable.measure import meters as meters_module
from wenable.measure.energy import Clocks, EnergyPlan, measure_energies, record_windows
from wenable.measure.energy_windows import Recording, Window, energy_readings
from wenable.measure.meter import MeterError, NoMeter, in_guest, why_dead
from wenable.measure.meter_file import FileMeter, join_windows
from wenable.measure.meter_rapl import RaplMeter
from wenable.measure.meter_zeus import ZeusMeter, total_rail
from wenable.measure.meters import available_meters, find_meter
from wenable.measure.power_trace import PowerTrace
from wenable.measure.trace_csv import read_trace
from wenable.runtime.session import _measured_energy
from wenable.tables import Reading

IDLE_W = 2.0
EPOCH_S = 1.7e9
QUICK = EnergyPlan(
    trials=5, window_s=1.0, steps=1, warmup_s=0.2, cooldown_s=0.5, idle_s=4.0, pause_ms=0, seed=3
)


class World:
    """A clock that only moves when something is called or slept, and the energy drawn meanwhile."""

    def __init__(self) -> None:
        self.now, self.joules = 0.0, 0.0
        self.history = [(0.0, IDLE_W)]  # from when on which power
        self.log: list[str] = []

    def pass_time(self, seconds: float, watts: float) -> None:
        self.history += [(self.now, watts), (self.now + seconds, IDLE_W)]
        self.now += seconds
        self.joules += seconds * watts

    def work(self, name: str, seconds: float, watts: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.pass_time(seconds, watts)

        return call

    def clocks(self) -> Clocks:
        def sleep(seconds: float) -> None:
            self.log.append("sleep")
            self.pass_time(seconds, IDLE_W)

        return Clocks(lambda: self.now, sleep, lambda: EPOCH_S + self.now)


class WorldMeter:
    """A meter that is right, in steps, until it breaks."""

    name, scope, kind, detail = "made-up", "board", "measured", "rail 1"

    def __init__(
        self, world: World, *, step_s: float = 0.01, breaks_at_s: float = math.inf
    ) -> None:
        self.world, self.step_s, self.breaks_at_s = world, step_s, breaks_at_s
        self.before = 0.0

    def begin(self) -> None:
        self.before = self._read()

    def end(self) -> float:
        return self._read() - self.before

    def _read(self) -> float:
        if self.world.now > self.breaks_at_s:
            raise MeterError("the sensor is gone")
        return self.world.joules


# --- windows of calls


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
    assert _measured_energy(one.energy) == pytest.approx(250.0)
    assert kind in one.energy.source
    missing = measure_energies({"a": int}, NoMeter("none"))["a"]
    assert _measured_energy(missing.energy) is None


# --- the processor's counters


def powercap(root: Path, **zones: tuple[str, int, int]) -> Path:
    for zone, (name, energy_uj, range_uj) in zones.items():
        folder = root / zone.replace("__", ":").replace("_", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return root


def cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n")
    return path


RANGE_UJ = 262_143_328_850
METAL_AND_GUEST = [("vmx", "measured"), ("hypervisor", "apportioned")]


def test_packages_are_summed_and_nothing_is_counted_twice(tmp_path: Path):
    before = {
        "intel_rapl__0": ("package-0", 1_000_000, RANGE_UJ),
        "intel_rapl__0__0": ("core", 500_000, RANGE_UJ),  # within package 0
        "intel_rapl__0__1": ("dram", 500_000, RANGE_UJ),
        "intel_rapl__1": ("package-1", 7_000_000, RANGE_UJ),
        "intel_rapl__2": ("psys", 9_000_000, RANGE_UJ),  # the platform, the packages within
        "intel_rapl_mmio__0": ("package-0", 1_000_000, RANGE_UJ),  # the same again
    }
    root = powercap(tmp_path / "powercap", **before)
    (root / "dtpm").mkdir()
    meter = RaplMeter(root, cpuinfo=cpuinfo(tmp_path, "vmx"), clock=lambda: 0.0)
    meter.begin()
    powercap(
        root, **{zone: (name, uj + 2_500_000, top) for zone, (name, uj, top) in before.items()}
    )
    assert meter.end() == pytest.approx(5.0)
    assert (meter.name, meter.scope, meter.kind) == ("rapl-package", "package", "measured")
    assert "package-0, package-1" in meter.detail


def test_a_counter_that_went_round_is_made_whole(tmp_path: Path):
    root = powercap(tmp_path, intel_rapl__0=("package-0", RANGE_UJ - 3_000_000, RANGE_UJ))
    meter = RaplMeter(root, clock=lambda: 0.0)
    meter.begin()
    powercap(root, intel_rapl__0=("package-0", 4_000_000, RANGE_UJ))
    assert meter.end() == pytest.approx(7.0)


def test_windows_in_which_it_may_have_gone_round_twice_are_refused(tmp_path: Path):
    root = powercap(tmp_path, intel_rapl__0=("package-0", 5, 65_532_610_987))
    times = iter([0.0, 65.0, 100.0, 166.0])
    meter = RaplMeter(root, clock=lambda: next(times))
    meter.begin()
    meter.end()
    meter.begin()
    with pytest.raises(MeterError, match=r"66 s is too long for rapl-package.*allowed: 66 s"):
        meter.end()


@pytest.mark.parametrize(("flags", "kind"), METAL_AND_GUEST)
def test_in_a_guest_the_counter_is_apportioned(tmp_path: Path, flags: str, kind: str):
    root = powercap(tmp_path, intel_rapl__0=("package-0", 5, RANGE_UJ))
    file = cpuinfo(tmp_path, flags)
    assert in_guest(file) == (kind == "apportioned")
    assert RaplMeter(root, cpuinfo=file).kind == kind
    assert not in_guest(tmp_path / "absent")


def test_counters_that_cannot_be_read_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MeterError, match=r"there is no folder .*absent"):
        RaplMeter(tmp_path / "absent")
    with pytest.raises(MeterError, match="shows no processor package"):
        RaplMeter(powercap(tmp_path / "psys", intel_rapl__0=("psys", 5, RANGE_UJ)))
    broken = powercap(tmp_path / "broken", intel_rapl__0=("package-0", 5, RANGE_UJ))
    (broken / "intel-rapl:0" / "energy_uj").write_text("\n")
    with pytest.raises(MeterError, match=r"energy_uj \(=''\) must hold a whole number"):
        RaplMeter(broken)
    root = powercap(tmp_path / "root", intel_rapl__0=("package-0", 5, RANGE_UJ))
    read_text = Path.read_text

    def as_a_user(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", as_a_user)
    with pytest.raises(MeterError, match=r"energy_uj is not readable by this user.*only root"):
        RaplMeter(root)


def test_a_counter_that_goes_away_within_a_window_is_an_error(tmp_path: Path):
    root = powercap(tmp_path, intel_rapl__0=("package-0", 5, RANGE_UJ))
    meter = RaplMeter(root)
    meter.begin()
    (root / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(MeterError, match="energy_uj cannot be read"):
        meter.end()


# --- whether a counter moves


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


# --- zeus, made up


class FakeZeus:
    """A stand-in for the package: what it has of devices, and what a window of it gives."""

    class ZeusBaseError(Exception):
        pass

    def __init__(self) -> None:
        self.gpus: object = self.ZeusBaseError("NVML and AMDSMI unavailable.")
        self.cpus: object = self.ZeusBaseError("RAPL unavailable")
        self.soc: object = self.ZeusBaseError("No observable SoC was found")
        # What zeus gives on a machine with no meter at all, `total_energy` being 0.
        self.window: object = SimpleNamespace(
            gpu_energy={}, cpu_energy=None, soc_energy=None, total_energy=0
        )
        self.made: list[dict[str, object]] = []
        self.windows: list[tuple[str, str, object]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def getter(name: str) -> Callable[[], object]:
            def get() -> object:
                device = getattr(self, name)
                if isinstance(device, Exception):
                    raise device
                return device

            return get

        fake = self

        class ZeusMonitor:
            def __init__(self, **kwargs: object) -> None:
                fake.made.append(kwargs)

            def begin_window(self, key: str, sync_execution: bool = True, restart: bool = False):
                fake.windows.append(("begin", key, sync_execution))

            def end_window(self, key: str, sync_execution: bool = True) -> object:
                fake.windows.append(("end", key, sync_execution))
                if isinstance(fake.window, Exception):
                    raise fake.window
                return fake.window

        contents = {
            "zeus": {},
            "zeus.device": {f"get_{name}": getter(name) for name in ("gpus", "cpus", "soc")},
            "zeus.monitor": {"ZeusMonitor": ZeusMonitor},
        }
        for name, values in contents.items():
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            vars(module).update(values)
            monkeypatch.setitem(sys.modules, name, module)


class NVIDIAGPUs:
    def __init__(self, counts: bool = True) -> None:
        self.counts = counts

    def __len__(self) -> int:
        return 2

    def get_name(self, gpu: int) -> str:
        return f"Made-up {gpu}"

    def supports_get_total_energy_consumption(self, gpu: int) -> bool:
        return self.counts


@pytest.fixture
def zeus(monkeypatch: pytest.MonkeyPatch) -> FakeZeus:
    fake = FakeZeus()
    fake.install(monkeypatch)
    return fake


def test_a_gpus_counter_is_read_through_zeus(zeus: FakeZeus):
    zeus.gpus = NVIDIAGPUs()
    zeus.window = SimpleNamespace(gpu_energy={1: 12.5}, cpu_energy={0: 99.0}, soc_energy=None)
    meter = ZeusMeter("GPU", gpu=1)
    assert (meter.name, meter.scope, meter.kind) == ("nvml-counter", "GPU", "measured")
    assert meter.detail == "GPU 1, Made-up 1"
    # Only this GPU: others that idle beside it, and the processor, are not its work.
    assert zeus.made == [{"gpu_indices": [1], "cpu_indices": []}]
    meter.begin()
    assert meter.end() == 12.5
    # zeus would wait for the GPU with torch, which may be absent; the calls have to wait.
    assert [what[2] for what in zeus.windows] == [False, False]


def test_an_old_gpus_power_is_called_so(zeus: FakeZeus):
    zeus.gpus = NVIDIAGPUs(counts=False)
    meter = ZeusMeter("GPU")
    assert meter.name == "nvml-power"
    assert "no counter" in meter.detail
    with pytest.raises(MeterError, match=r"`gpu` \(=2\) must be the number of a GPU; zeus sees 2"):
        ZeusMeter("GPU", gpu=2)


@pytest.mark.parametrize(("flags", "kind"), METAL_AND_GUEST)
def test_packages_through_zeus(zeus: FakeZeus, tmp_path: Path, flags: str, kind: str):
    zeus.cpus = object()
    zeus.window = SimpleNamespace(gpu_energy={}, cpu_energy={0: 3.0, 1: 4.0}, soc_energy=None)
    meter = ZeusMeter("package", cpuinfo=cpuinfo(tmp_path, flags))
    assert (meter.name, meter.kind) == ("rapl-package", kind)
    assert zeus.made == [{"gpu_indices": [], "cpu_indices": None}]
    meter.begin()
    assert meter.end() == 7.0


def test_what_zeus_leaves_empty_is_no_energy(zeus: FakeZeus):
    zeus.gpus, zeus.cpus = NVIDIAGPUs(), object()
    empty = zeus.window
    for scope in ("GPU", "package"):
        zeus.window = empty
        meter = ZeusMeter(scope)
        meter.begin()
        with pytest.raises(MeterError, match=f"zeus gave no energy for the {scope}"):
            meter.end()
        zeus.window = OSError("the driver went away")
        with pytest.raises(MeterError, match="the driver went away"):
            meter.end()


def test_zeus_says_why_it_has_none(zeus: FakeZeus):
    for scope, reason in (
        ("GPU", "NVML"),
        ("package", "RAPL unavail"),
        ("board", "No observable SoC"),
    ):
        with pytest.raises(MeterError, match=f"zeus: {reason}"):
            ZeusMeter(scope)
    with pytest.raises(
        ValueError, match=r"`scope` \(='system'\) must be one of GPU, package, board"
    ):
        ZeusMeter("system")


def rails(root: Path, *names: str) -> Path:
    """A Jetson's sensor as Linux shows it, in the newer layout."""
    folder = root / "ina3221" / "1-0040" / "hwmon" / "hwmon3"
    folder.mkdir(parents=True)
    for number, name in enumerate(names, start=1):
        (folder / f"in{number}_label").write_text(f"{name}\n")
    return root


def test_a_jetsons_total_rail_is_named(zeus: FakeZeus, tmp_path: Path):
    zeus.soc = object()
    zeus.window = SimpleNamespace(soc_energy=SimpleNamespace(total_energy_mj=2500.0))
    drivers = rails(tmp_path, "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    meter = ZeusMeter("board", drivers=drivers)
    assert (meter.name, meter.scope) == ("ina3221:VDD_IN", "board")
    meter.begin()
    assert meter.end() == 2.5
    zeus.window = SimpleNamespace(soc_energy=SimpleNamespace(total_energy_mj=None))
    with pytest.raises(MeterError, match="no energy for the board"):
        meter.end()


def test_boards_without_one_total_rail_have_no_meter(tmp_path: Path):
    without = rails(tmp_path / "a", "VDD_GPU_SOC", "VDD_CPU_IN", "VIN_SYS_5V0")
    with pytest.raises(MeterError, match=r"no rail .* VDD_CPU_IN, VDD_GPU_SOC, VIN_SYS_5V0"):
        total_rail(without)
    with pytest.raises(MeterError, match=r"more than one rail \(SYSTEM, VDD_IN\)"):
        total_rail(rails(tmp_path / "b", "VDD_IN", "SYSTEM"))
    old = tmp_path / "c" / "ina3221x" / "1-0040" / "iio:device0"
    old.mkdir(parents=True)
    (old / "rail_name_0").write_text("POM_5V_IN\n")
    (old / "rail_name_1").write_text("POM_5V_GPU\n")
    assert total_rail(tmp_path / "c") == "POM_5V_IN"


def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("zeus.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zeus", None)  # as if it were not installed
    with pytest.raises(MeterError, match=r"zeus is not installed: pip install 'wenable\[energy\]'"):
        ZeusMeter("GPU")
    found = {each.name: each.why for each in available_meters(busy_s=0.01)}
    assert found["zeus (GPU, package, Jetson board)"].startswith("zeus is not installed")
    gpu = find_meter("GPU", busy_s=0.01)
    assert isinstance(gpu, NoMeter)
    assert "zeus is not installed" in gpu.reason


def test_the_true_zeus_has_a_meter_or_a_reason():
    pytest.importorskip("zeus.monitor")
    looked = available_meters(busy_s=0.2)
    assert [each.name for each in looked] == [
        "zeus board", "rapl-package", "zeus package", "zeus GPU",
    ]  # fmt: skip
    assert all(each.why for each in looked)
    assert all(each.meter.name for each in looked if each.meter)
    if not Path("/sys/class/powercap").exists():
        assert "rapl" in {each.name: each.why for each in looked}["zeus package"].lower()


# --- which meters there are


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    monkeypatch.setattr(meters_module, "_candidates", lambda: iter(found.items()))
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


# --- traces


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


# --- the meter beside the machine


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
    assert _measured_energy(reading) == pytest.approx(500.0, rel=0.01)


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
    late = FileMeter(path, clock=clocks.stamp)  # which nobody writes on
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
