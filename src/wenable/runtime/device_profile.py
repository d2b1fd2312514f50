"""What was measured of a bundle on one device: how its layers run fastest, how long its modes take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from wenable.runtime.lowering import Lowering, SwitchableLayer, default_lowering, lowerings_of
from wenable.tables import Reading

FORMAT, VERSION = "wenable-device-profile", 1


@dataclass(frozen=True)
class DeviceProfile:
    """The choices and readings of one bundle on one device with one engine.

    - `bundle`: the identity of the bundle they belong to.
    - `device`, `engine`, `threads`: what they were measured on.
    - `lowerings`: layer -> pattern -> how it is executed; what is missing takes the default.
    - `latencies`: mode, as text -> its latency for one example.
    """

    bundle: str
    device: str
    engine: str
    threads: int
    lowerings: Mapping[str, Mapping[int, Lowering]] = field(default_factory=dict)
    latencies: Mapping[str, Reading] = field(default_factory=dict)

    def choose(self, layer: SwitchableLayer, pattern: int) -> Lowering:
        """Return how a layer is executed in a pattern: as measured, or by the default table."""
        kept = self.lowerings.get(layer.name, {}).get(pattern)
        # A profile is a file: what it says is held against what the layer can.
        return kept if kept in lowerings_of(layer, pattern) else default_lowering(layer, pattern)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "bundle": self.bundle,
            "device": self.device,
            "engine": self.engine,
            "threads": self.threads,
            "lowerings": {
                layer: {str(n): each.to_json() for n, each in patterns.items()}
                for layer, patterns in self.lowerings.items()
            },
            "latencies": {mode: asdict(each) for mode, each in self.latencies.items()},
        }

    @classmethod
    def from_json(cls, values: Any) -> DeviceProfile:
        """Return what `to_json` wrote; raises `ValueError` where it is not that."""
        try:
            if values["format"] != FORMAT or values["version"] != VERSION:
                raise ValueError("it is of another kind or version")
            return cls(
                str(values["bundle"]), str(values["device"]), str(values["engine"]),
                int(values["threads"]),
                {
                    str(layer): {int(n): Lowering.from_json(each) for n, each in patterns.items()}
                    for layer, patterns in values["lowerings"].items()
                },
                {str(mode): _latency(each) for mode, each in values["latencies"].items()},
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a device profile lacks {error}") from error

    @classmethod
    def read(cls, path: Path) -> DeviceProfile:
        """Return the profile in a file.

        Raises `FileNotFoundError`, or `ValueError` where it is no profile.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is no device profile: {error}") from error


def _latency(values: Mapping[str, Any]) -> Reading:
    reading = Reading(**values)
    if reading.unit != "ms" or reading.value is None or not 0 < reading.value < math.inf:
        raise ValueError(f"a latency (={reading.value} {reading.unit}) must be above 0 ms")
    return reading


def default_profile_path(bundle: str, device: str, engine: str, threads: int) -> Path:
    """Return where the profile of a bundle on this device is kept for this user."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{engine}-{threads}-{device}")
    return user_cache_path("wenable") / "profiles" / f"{bundle[:16]}-{words}.json"
