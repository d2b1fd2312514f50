"""Meters that the package zeus can read: GPUs, packages, Apple's chips, a Jetson's total rail."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

from wenable.measure.meters.meter import Kind, MeterError, Scope, in_guest

NOT_INSTALLED = "zeus is not installed: pip install 'wenable[energy]'"
_GETTERS = {"GPU": "get_gpus", "package": "get_cpus", "board": "get_soc"}
_WINDOW = "wenable"
_APPLE_PARTS = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "dram_mj", "ane_mj")


class ZeusMeter:
    """One of the meters of zeus (https://ml.energy/zeus).

    - `scope`: "GPU" is one GPU's own counter; "package" the processor, for those who are not root
      and run zeusd; "board" the rail of a Jetson that feeds all of it. On Apple silicon "board"
      gives the chip with its memory, and the meter's scope is "package", since that is what it is.
    - `gpu`: which GPU, by CUDA's number.
    - `drivers`: where Linux shows a Jetson's sensor; `cpuinfo`: by which a virtual machine is
      recognised.

    The work between `begin` and `end` has to be done when `end` is called: a call that leaves work
    on the GPU must wait for it. For packages, Jetsons and GPUs older than Volta, zeus starts
    processes that import the main module again, so that it needs `if __name__ == "__main__":`.

    Raises `MeterError` where zeus is not installed, or finds nothing of this scope.

    >>> from wenable.measure.meters.registry import find_meter
    >>> meter = find_meter("GPU", busy_s=0.1)  # a ZeusMeter, or `NoMeter` with the reason
    """

    step_s = 0.1  # an NVML counter steps so, and zeus asks a Jetson's sensor so

    def __init__(
        self,
        scope: Scope,
        *,
        gpu: int = 0,
        drivers: Path = Path("/sys/bus/i2c/drivers"),
        cpuinfo: Path = Path("/proc/cpuinfo"),
    ) -> None:
        if scope not in _GETTERS:
            raise ValueError(f"`scope` (={scope!r}) must be one of {', '.join(_GETTERS)}")
        self.scope: Scope = scope
        self.kind: Kind = "measured"
        device = _device(_GETTERS[scope])
        if scope == "GPU":
            self._joules = lambda found: found.gpu_energy.get(gpu)
            self.name, self.detail = _name_gpu(device, gpu)
        elif scope == "board" and type(device).__name__.startswith("Apple"):
            self.scope, self.name = "package", "apple-silicon"
            self.detail = "processor, GPU, neural engine and memory of the chip, read by zeus"
            self._joules = _apple_joules
        elif scope == "board":
            self._joules = _board_joules
            self.name, self.detail = f"ina3221:{total_rail(drivers)}", "power summed up by zeus"
        else:
            self._joules = _package_joules
            self.name, self.detail = "rapl-package", "read by zeus, without a server's memory"
            self.kind = "apportioned" if in_guest(cpuinfo) else "measured"
        self._monitor = _call(
            _load("zeus.monitor").ZeusMonitor,
            gpu_indices=[gpu] if scope == "GPU" else [],
            cpu_indices=None if scope == "package" else [],
        )

    def begin(self) -> None:
        """Start a window; raises `MeterError` where zeus cannot."""
        _call(self._monitor.begin_window, _WINDOW, sync_execution=False, restart=True)

    def end(self) -> float:
        """Return the joules since `begin`; raises `MeterError` where zeus has none."""
        found = _call(self._monitor.end_window, _WINDOW, sync_execution=False)
        joules = self._joules(found)
        if joules is None:
            raise MeterError(f"zeus gave no energy for the {self.scope}")
        return float(joules)


def _package_joules(found: Any) -> float | None:
    # Its `total_energy` is the sum over GPUs, and 0 where there is none: of no use here.
    return sum(found.cpu_energy.values()) if found.cpu_energy else None


def _board_joules(found: Any) -> float | None:
    millijoules = getattr(found.soc_energy, "total_energy_mj", None)
    return None if millijoules is None else millijoules / 1e3


def _apple_joules(found: Any) -> float | None:
    """Return the sum over the parts that this chip tells of; the processor has to be among them."""
    parts = {name: getattr(found.soc_energy, name, None) for name in _APPLE_PARTS}
    if parts["cpu_total_mj"] is None:
        return None
    return sum(each for each in parts.values() if each is not None) / 1e3


def total_rail(drivers: Path = Path("/sys/bus/i2c/drivers")) -> str:
    """Return the name of the one rail that zeus takes for a Jetson board's total.

    zeus goes by parts of names: of those with neither "cpu" nor "gpu", "system", "_in" or "total"
    make a rail the total, and the last one counts. Raises `MeterError` unless there is just one.

    >>> total_rail(Path("no such folder"))
    Traceback (most recent call last):
    wenable.measure.meters.meter.MeterError: no rail of the INA3221 sensor is named as a total: none found
    """
    rails = {
        path.read_text(encoding="ascii", errors="replace").strip()
        for driver in ("ina3221x", "ina3221")
        for folder in ("*/*", "*/*/hwmon*")
        for label in ("in*_label", "rail_name_*")
        for path in drivers.glob(f"{driver}/{folder}/{label}")
    }
    totals = [rail for rail in sorted(rails) if _is_total(rail.lower())]
    if len(totals) == 1:
        return totals[0]
    found = ", ".join(sorted(rails)) or "none found"
    few = "no rail" if not totals else f"more than one rail ({', '.join(totals)})"
    raise MeterError(f"{few} of the INA3221 sensor is named as a total: {found}")


def _is_total(rail: str) -> bool:
    processor = "cpu" in rail or "gpu" in rail
    return not processor and any(part in rail for part in ("system", "_in", "total"))


def _name_gpu(gpus: Any, gpu: int) -> tuple[str, str]:
    if not 0 <= gpu < len(gpus):
        raise MeterError(f"`gpu` (={gpu}) must be the number of a GPU; zeus sees {len(gpus)}")
    library = "nvml" if type(gpus).__name__.startswith("NVIDIA") else "amdsmi"
    counts = _call(gpus.supports_get_total_energy_consumption, gpu)
    text = f"GPU {gpu}, {_call(gpus.get_name, gpu)}"
    if counts:
        return f"{library}-counter", text
    return f"{library}-power", f"{text}, which has no counter: power summed up by zeus"


def _device(getter: str) -> Any:
    """Return zeus's devices of a sort. Asked so, zeus says why there are none; its monitor does not."""
    return _call(getattr(_load("zeus.device"), getter))


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name in ("zeus", module):
            raise MeterError(NOT_INSTALLED) from error
        raise MeterError(f"zeus cannot be imported: {error}") from error
    except ImportError as error:
        raise MeterError(f"zeus cannot be imported: {error}") from error


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call zeus; whatever goes wrong there, a driver that went away too, means no reading."""
    with warnings.catch_warnings():
        # A window of 0 J, which the caller refuses anyway.
        warnings.filterwarnings("ignore", message="The energy consumption of one or more GPUs")
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise MeterError(f"zeus: {str(error) or type(error).__name__}") from error
