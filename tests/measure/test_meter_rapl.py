"""The processor's own counters, on made-up files of Linux."""

from pathlib import Path

import pytest

from tests.helpers.energy_world import METAL_AND_GUEST, cpuinfo
from wenable.measure.meters.meter import MeterError, in_guest
from wenable.measure.meters.rapl import RaplMeter


def powercap(root: Path, **zones: tuple[str, int, int]) -> Path:
    for zone, (name, energy_uj, range_uj) in zones.items():
        folder = root / zone.replace("__", ":").replace("_", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return root


RANGE_UJ = 262_143_328_850


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
