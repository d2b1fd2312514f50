"""What was found to be fast on this device, remembered between runs."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wenable.core.files import write_whole
from wenable.core.user_cache import cache_path
from wenable.layers.implementations import GROUPED
from wenable.layers.weight_enabled import WeightEnabled

FORMAT, VERSION = "wenable-implementations", 1

MARGIN = 0.9
"""Another way than the one written is taken only where it takes less than this share of the time."""


def default_memory_path() -> Path | None:
    """Return the file that the runs of this user share; None where no home folder can be told."""
    return cache_path("implementations.json")


def fastest(times_ms: Mapping[str, float]) -> str:
    """Return the way that takes least time, or the one written where none is clearly faster.

    >>> fastest({"grouped": 1.0, "dense": 0.99}), fastest({"grouped": 1.0, "dense": 0.5})
    ('grouped', 'dense')
    """
    best = min(times_ms, key=lambda name: times_ms[name])
    return best if times_ms[best] < MARGIN * times_ms[GROUPED] else GROUPED


class ImplementationMemory:
    """The times of implementations on one device, read from a file and written back to it.

    - `path`: a JSON file, made where it is not there; None remembers nothing between runs. A damaged
      one is told of and replaced.
    - `device`: what the times belong to: the processor or GPU, its threads, and torch's version.
    """

    def __init__(self, path: Path | None, device: str = "") -> None:
        self.path = path
        self.device = f"{device}; {torch.get_num_threads()} threads; torch {torch.__version__}"
        self._times: dict[str, dict[int, dict[str, float]]] = {}
        self._new: dict[str, Any] = {}
        for key, options in self._read().get(self.device, {}).items():
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                self._times[key] = {
                    int(n): {str(name): float(ms) for name, ms in times.items()}
                    for n, times in options.items()
                }

    def _read(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT or values["version"] != VERSION:
                raise ValueError("it is of another kind or version")
            return {str(device): dict(times) for device, times in values["devices"].items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            warnings.warn(
                f"{self.path} cannot be read ({error}); the implementations are timed anew",
                RuntimeWarning,
                stacklevel=2,
            )
            return {}

    def get(self, key: str, layer: WeightEnabled) -> dict[int, str] | None:
        """Return the implementations of a layer like this one, or None where they have to be timed."""
        times = self._times.get(key, {})
        for n in layer.knob.options:
            if set(times.get(n, {})) != set(layer.implementations_of(n)):
                return None
        return {n: fastest(times[n]) for n in layer.knob.options}

    def put(self, key: str, times: dict[int, dict[str, float]]) -> None:
        """Remember the times of a layer; `write` makes it last."""
        self._times[key] = self._new[key] = times

    def write(self) -> None:
        """Add what was put to the file; a file that cannot be written is told of, and no more."""
        if self.path is None or not self._new:
            return
        devices = self._read()  # another run may have written since
        devices.setdefault(self.device, {}).update(self._new)
        values = {"format": FORMAT, "version": VERSION, "devices": devices}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(values, indent=1) + "\n")
        except OSError as error:
            warnings.warn(
                f"{self.path} cannot be written ({error}); the next run times the implementations again",
                RuntimeWarning,
                stacklevel=2,
            )
        self._new = {}
