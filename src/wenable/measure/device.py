"""What machine this is, in words a reader can compare."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path


def describe_device() -> str:
    """Return the processor, the cores this process may use, and the system.

    >>> "cores" in describe_device()
    True
    """
    return f"{processor()}, {usable_cores()} cores, {platform.system()} {platform.machine()}"


def conditions(system: Path = Path("/sys")) -> dict[str, str]:
    """Return what is known of the processor's present state: its governor and temperature.

    - `system`: where Linux tells of its devices; replaced in tests. What cannot be read is left out.
    """
    found = {}
    governor = _first_text(system / "devices/system/cpu", "cpu0/cpufreq/scaling_governor")
    if governor:
        found["governor"] = governor
    temperature = _first_text(system / "class/thermal", "thermal_zone*/temp")
    if temperature.lstrip("-").isdigit():
        found["temperature"] = f"{int(temperature) / 1000:.0f} degrees Celsius"
    return found


def _first_text(folder: Path, pattern: str) -> str:
    for path in sorted(folder.glob(pattern)):
        with contextlib.suppress(OSError):
            return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, or "unknown processor"."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    # x86 says "model name"; many Arm boards say "Model" or "Hardware" only.
    for label in ("model name", "Model", "Hardware"):
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == label and value.strip():
                return value.strip()
    return platform.processor() or "unknown processor"
