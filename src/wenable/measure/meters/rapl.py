"""Reads the energy of the processor's packages from Linux's powercap files, with no helper process."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from wenable.measure.meters.meter import Kind, MeterError, Scope, in_guest

# More than any package draws. A window in which it could use up the counter's whole range is
# refused, since a counter that went round twice looks like one that went round once.
_MOST_WATTS = 1000.0


class RaplMeter:
    """The processor's packages, by the counters Intel calls RAPL; AMD's look the same to Linux.

    - `root`: the folder of the power zones.
    - `cpuinfo`: by which a virtual machine is recognised: there, a counter is the host's, shared
      out by processor time, and `kind` is "apportioned".
    - `clock`: seconds; replaced in tests.

    The sum over the packages is given, which on servers leaves out the memory. Raises `MeterError`
    where there is no such counter, or it cannot be read: since Linux 5.10 only root may.

    >>> import tempfile
    >>> files = {"name": "package-0", "energy_uj": "5000000", "max_energy_range_uj": "262143328850"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     zone = Path(folder, "intel-rapl:0")
    ...     zone.mkdir()
    ...     _ = [zone.joinpath(name).write_text(text) for name, text in files.items()]
    ...     meter = RaplMeter(Path(folder))
    ...     meter.begin()
    ...     _ = zone.joinpath("energy_uj").write_text("7500000")
    ...     meter.end()
    2.5
    """

    name = "rapl-package"
    scope: Scope = "package"
    step_s = 0.001

    def __init__(
        self,
        root: Path = Path("/sys/class/powercap"),
        *,
        cpuinfo: Path = Path("/proc/cpuinfo"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._zones = _package_zones(root)
        self._ranges_uj = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._clock = clock
        self._started_s = 0.0
        self._before_uj = self._counters()
        self.kind: Kind = "apportioned" if in_guest(cpuinfo) else "measured"
        names = ", ".join((zone / "name").read_text().strip() for zone in self._zones)
        self.detail = f"{names}, without a server's memory"

    def begin(self) -> None:
        """Start a window; raises `MeterError` where a counter cannot be read."""
        self._before_uj = self._counters()
        self._started_s = self._clock()

    def end(self) -> float:
        """Return the joules since `begin`, counters that went round included.

        Raises `MeterError` where a counter cannot be read, or may have gone round twice.
        """
        after_uj, seconds = self._counters(), self._clock() - self._started_s
        longest_s = min(self._ranges_uj) / 1e6 / _MOST_WATTS
        if seconds > longest_s:
            raise MeterError(
                f"the window of {seconds:.0f} s is too long for {self.name}: its counter may have"
                f" gone round twice; allowed: {longest_s:.0f} s"
            )
        used_uj = 0.0
        for before, after, range_uj in zip(self._before_uj, after_uj, self._ranges_uj, strict=True):
            used_uj += after - before if after >= before else after + range_uj - before
        return used_uj / 1e6

    def _counters(self) -> list[float]:
        return [_number(zone / "energy_uj") for zone in self._zones]


def _package_zones(root: Path) -> list[Path]:
    """Return the packages' zones: not their parts, nor "psys", nor the same again by mmio."""
    if not root.is_dir():
        raise MeterError(
            f"there is no folder {root}, where Linux shows the processor's energy; most virtual"
            " machines and Arm boards have none"
        )
    zones = [zone for zone in root.iterdir() if re.fullmatch(r"intel-rapl:\d+", zone.name)]
    packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if not packages:
        raise MeterError(f"{root} shows no processor package (intel-rapl:0 and so on)")
    return sorted(packages, key=lambda zone: int(zone.name.partition(":")[2]))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise MeterError(
            f"{path} is not readable by this user; since Linux 5.10 only root may, unless somebody"
            f" allows it: sudo chmod a+r {path}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise MeterError(f"{path} cannot be read: {error}") from error


def _number(path: Path) -> float:
    text = _text(path)
    if not text.isdecimal():
        raise MeterError(f"{path} (={text!r}) must hold a whole number of microjoules")
    return float(text)
