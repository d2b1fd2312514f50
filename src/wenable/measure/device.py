"""What machine this is, in words a reader can compare."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


def describe_device() -> str:
    """Return the processor, the cores this process may use, and the system.

    >>> "core" in describe_device()
    True
    """
    cores = usable_cores()
    counted = f"{cores} core{'' if cores == 1 else 's'}"
    return f"{processor()}, {counted}, {platform.system()} {platform.machine()}"


def same_device(one: str, other: str) -> bool:
    """Say whether two descriptions are of one device, however many of its cores a process might use.

    >>> same_device("A, 2 cores, Linux x86_64", "A, 1 core, Linux x86_64")
    True
    >>> same_device("A, 2 cores, Linux x86_64", "B, 2 cores, Linux x86_64")
    False
    """
    parts = (re.sub(r", \d+ cores?, ", ", ", each) for each in (one, other))
    return len(set(parts)) == 1


@dataclass(frozen=True, slots=True)
class Condition:
    """What is known of the device's present state, as its temperature.

    - `value`: with its unit, for readers; None where it cannot be read, and `reason` says why.

    Raises `ValueError` for a missing value without its reason.

    >>> print(Condition("45 degrees Celsius"), "|", Condition(None, "there is no sensor"))
    45 degrees Celsius | not readable (there is no sensor)
    """

    value: str | None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError("a condition without a value needs its `reason`")

    def __str__(self) -> str:
        return f"not readable ({self.reason})" if self.value is None else self.value


def conditions(system: Path = Path("/sys")) -> dict[str, Condition]:
    """Return the processor's governor, clock and temperature, each with why where there is none.

    - `system`: where Linux tells of its devices; replaced in tests.

    The temperature is that of the processor where a zone says so, and of the first zone elsewhere.

    >>> list(conditions(Path("no such folder")))
    ['governor', 'clock', 'temperature']
    """
    frequencies = system / "devices/system/cpu"
    governor = _first_text(frequencies, "cpu0/cpufreq/scaling_governor")
    clock_khz = _first_text(frequencies, "cpu0/cpufreq/scaling_cur_freq")
    return {
        "governor": Condition(governor or None, f"{frequencies} shows no scaling_governor"),
        "clock": Condition(
            f"{int(clock_khz) / 1000:.0f} MHz" if clock_khz.isdecimal() else None,
            f"{frequencies} shows no scaling_cur_freq",
        ),
        "temperature": _temperature(system / "class/thermal"),
    }


def conditions_words(before: Mapping[str, Condition], after: Mapping[str, Condition]) -> str:
    """Return in what state a device was, before and after something was measured.

    >>> said = {"governor": Condition("powersave"), "temperature": Condition("45 degrees Celsius")}
    >>> conditions_words(said, said | {"temperature": Condition("61 degrees Celsius")})
    'governor powersave, temperature 45 degrees Celsius before and 61 degrees Celsius after'
    >>> conditions_words({"clock": Condition(None, "no cpufreq")}, {})
    'clock not readable'
    """
    words = []
    for name, first in before.items():
        then = after.get(name, first)
        if first.value is None:
            words.append(f"{name} not readable")
        elif then.value in (None, first.value):
            words.append(f"{name} {first}")
        else:
            words.append(f"{name} {first} before and {then} after")
    return ", ".join(words)


def _temperature(zones: Path) -> Condition:
    found = [zone for zone in sorted(zones.glob("thermal_zone*")) if _milli(zone) is not None]
    if not found:
        return Condition(None, f"{zones} shows no temperature")
    # x86_pkg_temp, cpu-thermal, CPU-therm; others tell of the wireless card or the board.
    of_cpu = [zone for zone in found if re.search("cpu|pkg|soc", _kind(zone), re.IGNORECASE)]
    zone = (of_cpu or found)[0]
    kind = f" ({_kind(zone)})" if _kind(zone) else ""
    return Condition(f"{(_milli(zone) or 0) / 1000:.0f} degrees Celsius{kind}")


def _milli(zone: Path) -> int | None:
    text = _first_text(zone, "temp")
    return int(text) if text.lstrip("-").isdecimal() else None


def _kind(zone: Path) -> str:
    return _first_text(zone, "type")


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
