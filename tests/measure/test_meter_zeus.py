"""Meters through zeus, by a stand-in for the package, and by the package where it is installed."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.helpers.energy_world import METAL_AND_GUEST, cpuinfo
from wenable.measure.meters.meter import MeterError, NoMeter
from wenable.measure.meters.registry import available_meters, find_meter
from wenable.measure.meters.zeus import ZeusMeter, total_rail


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


class AppleSilicon:
    """Named as zeus names the class; nothing but the name is looked at."""


def test_apples_chip_is_the_sum_of_the_parts_it_tells_of(zeus: FakeZeus):
    zeus.soc = AppleSilicon()
    told = SimpleNamespace(
        cpu_total_mj=1000, efficiency_cores_mj=[300, 300], performance_cores_mj=[400],
        dram_mj=200, gpu_mj=50, gpu_sram_mj=None, ane_mj=0,
    )  # fmt: skip
    zeus.window = SimpleNamespace(soc_energy=told)
    meter = ZeusMeter("board")
    # The chip with its memory is no board: a display and a disk are not in it.
    assert (meter.name, meter.scope, meter.kind) == ("apple-silicon", "package", "measured")
    assert zeus.made == [{"gpu_indices": [], "cpu_indices": []}]
    meter.begin()
    assert meter.end() == 1.25  # the cores are in the processor's total
    told.cpu_total_mj = None
    with pytest.raises(MeterError, match="zeus gave no energy for the package"):
        meter.end()
    zeus.window = SimpleNamespace(soc_energy=None)
    with pytest.raises(MeterError, match="zeus gave no energy for the package"):
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
    assert found["zeus (GPU, package, Jetson, Apple)"].startswith("zeus is not installed")
    gpu = find_meter("GPU", busy_s=0.01)
    assert isinstance(gpu, NoMeter)
    assert "zeus is not installed" in gpu.reason


def test_the_true_zeus_has_a_meter_or_a_reason():
    pytest.importorskip("zeus.monitor")
    looked = available_meters(busy_s=0.2)
    assert [each.name for each in looked] == [
        "zeus SoC (Jetson, Apple)", "rapl-package", "zeus package", "zeus GPU",
    ]  # fmt: skip
    assert all(each.why for each in looked)
    assert all(each.meter.name for each in looked if each.meter)
    if not Path("/sys/class/powercap").exists():
        assert "rapl" in {each.name: each.why for each in looked}["zeus package"].lower()
