"""Times, meters and counts any callable on this device; knows nothing of modes.

Each name is imported at its first use: a device that runs a bundle needs the clock and no meter.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wenable.measure.device import describe_device as describe_device
    from wenable.measure.energy import EnergyPlan as EnergyPlan
    from wenable.measure.energy import measure_energies as measure_energies
    from wenable.measure.energy import record_windows as record_windows
    from wenable.measure.energy_windows import EnergyReading as EnergyReading
    from wenable.measure.latency import measure_latencies as measure_latencies
    from wenable.measure.meters.file import FileMeter as FileMeter
    from wenable.measure.meters.file import join_windows as join_windows
    from wenable.measure.meters.meter import NoMeter as NoMeter
    from wenable.measure.meters.registry import available_meters as available_meters
    from wenable.measure.meters.registry import find_meter as find_meter

_HOMES = {
    "EnergyPlan": "energy",
    "EnergyReading": "energy_windows",
    "FileMeter": "meters.file",
    "NoMeter": "meters.meter",
    "available_meters": "meters.registry",
    "describe_device": "device",
    "find_meter": "meters.registry",
    "join_windows": "meters.file",
    "measure_energies": "energy",
    "measure_latencies": "latency",
    "record_windows": "energy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wenable.measure' has no attribute {name!r}")
    return getattr(import_module(f"wenable.measure.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
