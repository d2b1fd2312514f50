"""What was measured of a bundle on one device: how its layers run fastest, how long its modes take."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from wenable.core.cost_table import CostTable
from wenable.core.files import write_whole
from wenable.core.readings import Reading
from wenable.core.user_cache import cache_path, why_not_kept
from wenable.measure.device import Condition, describe_device
from wenable.runtime.building import Choose, choose_each
from wenable.runtime.engine import PRECISIONS, Engine, precision_of
from wenable.runtime.implementations import (
    BundleLayer,
    Implementation,
    as_written,
    default_implementation,
    gathered,
    gathered_last,
    implementations_of,
    merged_last,
    stored_implementations_of,
    whole,
)
from wenable.runtime.stored_order import Chain

FORMAT, VERSION = "wenable-device-profile", 2
_NO_TABLE = "no cost table: "
"""How the event begins that says why."""

SCHEMES: dict[str, tuple[Choose | None, bool]] = {
    "measured": (None, True),
    "measured convolutions": (None, False),
    "as written": (as_written, True),
    "gathered": (gathered, True),
    "gathered last": (gathered_last, True),
    "merged": (default_implementation, True),
    "merged last": (merged_last, True),
    "whole": (whole, True),
}
"""Ways to execute all layers of a mode: a fixed one, or None for what was measured of each, and then
whether pointwise convolutions may run as matrix products."""


@dataclass(frozen=True)
class DeviceProfile:
    """The choices and readings of one bundle on one device with one engine.

    - `bundle`: the structure of the bundle they belong to: others of the same network share it.
    - `device`, `engine`, `threads`: what they were measured on.
    - `times_ms`: layer -> implementation -> its time; what is missing takes the default implementation.
    - `schemes`: mode, as text -> which of `SCHEMES` is fastest for it as a whole: layers that are
      fast by themselves need not be so beside each other. `"measured"` where nothing is said.
    - `latencies`: mode, as text -> its latency for one example.
    - `conditions`: the state of the device when the measurement began: its governor, clock and
      temperature, each with the reason where it cannot be read; `conditions_after`: when it ended.
    - `table`: the latency of any mode as a sum, fitted to whole modes, where it was measured. Where no
      sum holds for all modes, `parts` are those of parts of the space (`CostParts`); see `tables`.
    - `energies`: mode, as text -> its energy for one example; `energy_table` and `energy_parts`: as those
      of the latency. Without a meter all are absent, and `energy_reason` says why.
    - `precision`: that the engine computed in; the name of the engine says others than float32 too.
    - `macs`: mode, as text -> its multiply-accumulates for one example, which tell networks apart.
    - `events`: what happened meanwhile, as that the device grew slower and what was measured again.
    """

    bundle: str
    device: str
    engine: str
    threads: int
    times_ms: Mapping[str, Mapping[Implementation, float]] = field(default_factory=dict)
    latencies: Mapping[str, Reading] = field(default_factory=dict)
    schemes: Mapping[str, str] = field(default_factory=dict)
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    table: CostTable | None = None
    events: tuple[str, ...] = ()
    conditions_after: Mapping[str, Condition] = field(default_factory=dict)
    energies: Mapping[str, Reading] = field(default_factory=dict)
    energy_table: CostTable | None = None
    energy_reason: str = ""
    parts: tuple[CostTable, ...] = ()
    energy_parts: tuple[CostTable, ...] = ()
    precision: str = "float32"
    macs: Mapping[str, float] = field(default_factory=dict)

    def tables(self, cost: str) -> tuple[CostTable, ...]:
        """Return the tables of a cost, `"latency"` or `"energy"`: one, one for each part, or none."""
        one, parts = {
            "latency": (self.table, self.parts),
            "energy": (self.energy_table, self.energy_parts),
        }[cost]
        return parts if one is None else (one,)

    def why_no_tables(self, cost: str) -> str:
        """Return why it has no table of a cost; "" if it has."""
        if self.tables(cost):
            return ""
        if cost == "energy" and self.energy_reason:
            return self.energy_reason
        told = (each for each in self.events if each.startswith(_NO_TABLE))
        again = "it was not measured; do so again with `wenable profile`"
        return next(told, again).removeprefix(_NO_TABLE)

    def choose(self, layer: BundleLayer, option: int, products: bool = True) -> Implementation:
        """Return how a layer is executed in an option by itself: as measured, or by the table.

        - `products`: whether pointwise convolutions may run as matrix products.
        """
        times = self._times(layer.name, products)
        known = [each for each in implementations_of(layer, option) if each in times]
        return min(known, key=times.__getitem__, default=self._default(layer, option))

    def _default(self, layer: BundleLayer, option: int) -> Implementation:
        # OpenVINO keeps the channels of a position together; see `Shuffling`.
        last = self.engine.startswith("openvino")
        return default_implementation(layer, option, "gather last" if last else "gather")

    def implementations(
        self,
        layers: Mapping[str, BundleLayer],
        known: Mapping[str, Chain],
        options: Mapping[str, int],
        scheme: str = "measured",
    ) -> dict[str, Implementation]:
        """Return how every layer is executed in a mode, by one of `SCHEMES`.

        Where a shuffle can be stored by the layer before (`known`), that is done if that layer runs as
        a whole anyway, or if both together were measured to be faster so; never `"as written"`.
        """
        fixed, products = SCHEMES[scheme]
        if fixed is not None:
            chosen = choose_each(layers, options, fixed)
            return chosen if fixed is as_written else _with_free_stores(chosen, layers, known)
        chosen = choose_each(layers, options, partial(self.choose, products=products))
        for name, chain in known.items():
            option = options[layers[name].knob]
            pair = self._stored(
                layers[name], option, chosen[chain.producer], chosen[name], chain, products
            )
            if option > 1 and pair is not None:
                chosen[chain.producer], chosen[name] = pair
        return chosen

    def _stored(
        self,
        reader: BundleLayer,
        option: int,
        before: Implementation,
        now: Implementation,
        chain: Chain,
        products: bool,
    ) -> tuple[Implementation, Implementation] | None:
        """Return the implementations of producer and reader with the shuffle stored, where that pays.

        - `before`, `now`: theirs with the shuffle as it is.
        """
        times = self._times(reader.name, products)
        of_producer = self._times(chain.producer, products)
        ways = [each for each in stored_implementations_of(reader, option) if each in times]
        dense = Implementation(1)
        if ways and now in times:
            best = min(ways, key=times.__getitem__)
            saved = times[now] - times[best]
            if before.groups > 1:
                if before not in of_producer or dense not in of_producer:
                    return None
                saved -= of_producer[dense] - of_producer[before]
            return (dense, best) if saved > 0 else None
        # Nothing was measured: what a whole producer stores in order is a shuffle less.
        free = _is_free(reader, before, now)
        return (before, replace(now, shuffling="stored")) if free else None

    def _times(self, name: str, products: bool) -> dict[Implementation, float]:
        times = self.times_ms.get(name, {})
        return {each: ms for each, ms in times.items() if products or not each.product}

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "bundle": self.bundle,
            "device": self.device,
            "engine": self.engine,
            "threads": self.threads,
            "times_ms": {
                layer: [[each.to_json(), ms] for each, ms in times.items()]
                for layer, times in self.times_ms.items()
            },
            "schemes": dict(self.schemes),
            "conditions": _conditions_to_json(self.conditions),
            "conditions_after": _conditions_to_json(self.conditions_after),
            "table": self.table.to_json() if self.table else None,
            "latencies": {mode: asdict(each) for mode, each in self.latencies.items()},
            "energies": {mode: asdict(each) for mode, each in self.energies.items()},
            "energy_table": self.energy_table.to_json() if self.energy_table else None,
            "energy_reason": self.energy_reason,
            "parts": [each.to_json() for each in self.parts],
            "energy_parts": [each.to_json() for each in self.energy_parts],
            "precision": self.precision,
            "macs": dict(self.macs),
            "events": list(self.events),
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
                    str(layer): {Implementation.from_json(each): _time(ms) for each, ms in times}
                    for layer, times in values["times_ms"].items()
                },
                {str(mode): _latency(each) for mode, each in values["latencies"].items()},
                {str(mode): _scheme(each) for mode, each in _schemes(values).items()},
                _conditions(values["conditions"]),
                _table(values["table"], "ms"),
                tuple(str(each) for each in values.get("events", ())),
                _conditions(values.get("conditions_after", {})),
                {str(mode): _energy(each) for mode, each in values.get("energies", {}).items()},
                _table(values.get("energy_table"), "mJ"),
                str(values.get("energy_reason", cls.energy_reason)),
                _tables(values.get("parts", ()), "ms"),
                _tables(values.get("energy_parts", ()), "mJ"),
                _precision(values),
                {str(mode): float(count) for mode, count in values.get("macs", {}).items()},
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
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} is no device profile: {error}") from error

    def check_fits(self, bundle: str, engine: Engine) -> None:
        """Raise `ValueError` where it was measured of another network, or in another way.

        That is in another precision, by another engine, or with another number of threads. Warns
        (`UserWarning`) where it was measured on another device.

        - `bundle`: the structure of the bundle.
        """
        computes_in = precision_of(engine)
        if self.precision != computes_in:
            raise ValueError(
                f"`profile` was measured in {self.precision}; this session computes in {computes_in}"
            )
        for what, expected, found in (
            ("bundle", bundle, self.bundle),
            ("engine", f"{engine.name} {engine.version}", self.engine),
            ("threads", engine.threads, self.threads),
        ):
            if found != expected:
                raise ValueError(
                    f"`profile` was measured with {what} {found}; this session has {expected}"
                )
        if self.device != (here := describe_device()):
            warnings.warn(
                f"`profile` was measured on {self.device}, and this is {here}: its times and energies are"
                " taken for those of this device",
                stacklevel=4,
            )


def without_modes(profile: DeviceProfile) -> DeviceProfile:
    """Return a profile without what was measured of whole modes."""
    return replace(profile, latencies={}, energies={})


def scheme_of(profile: DeviceProfile, mode: str) -> str | None:
    """Return the scheme of a mode by a profile; None where it has measured nothing of its layers."""
    return profile.schemes.get(mode, "measured" if profile.times_ms else None)


def _is_free(reader: BundleLayer, before: Implementation, now: Implementation) -> bool:
    """Say whether storing the order costs nothing: the layer before runs as a whole anyway."""
    return before.groups == 1 and now.groups > 1 and reader.input_order() is not None


def _with_free_stores(
    chosen: dict[str, Implementation],
    layers: Mapping[str, BundleLayer],
    known: Mapping[str, Chain],
) -> dict[str, Implementation]:
    """Return implementations in which a shuffle is stored wherever the layer before runs as a whole."""
    return {
        name: replace(now, shuffling="stored")
        if name in known and _is_free(layers[name], chosen[known[name].producer], now)
        else now
        for name, now in chosen.items()
    }


def _conditions_to_json(conditions: Mapping[str, Condition]) -> dict[str, Any]:
    return {name: asdict(each) for name, each in conditions.items()}


def _conditions(values: Mapping[str, Any]) -> dict[str, Condition]:
    """Return conditions; profiles of before had those only that could be read, as texts."""
    return {
        str(name): Condition(each) if isinstance(each, str) else Condition(**each)
        for name, each in values.items()
    }


def _schemes(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return them by their former name, too, which older profiles have."""
    return values["schemes"] if "schemes" in values else values["policies"]


def _scheme(name: Any) -> str:
    if name not in SCHEMES:
        raise ValueError(f"a scheme (={name!r}) must be one of {', '.join(SCHEMES)}")
    return str(name)


def _time(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"a time (={value!r}) must be above 0 ms")
    return float(value)


def _table(values: Any, unit: str) -> CostTable | None:
    table = CostTable.from_json(values) if values is not None else None
    if table is not None and table.unit != unit:
        raise ValueError(f"a cost table is in {table.unit} instead of {unit}")
    return table


def _precision(values: Mapping[str, Any]) -> str:
    """Return the precision; profiles of before have it behind the engine's version, if any."""
    last = str(values["engine"]).rpartition(" ")[2]
    name = values.get("precision", last if last in PRECISIONS else PRECISIONS[0])
    if name not in PRECISIONS:
        raise ValueError(f"a precision (={name!r}) must be one of {', '.join(PRECISIONS)}")
    return str(name)


def _tables(values: Sequence[Any], unit: str) -> tuple[CostTable, ...]:
    return tuple(table for each in values if (table := _table(each, unit)) is not None)


def _latency(values: Mapping[str, Any]) -> Reading:
    return _positive(Reading(**values), "a latency", "ms")


def _energy(values: Mapping[str, Any]) -> Reading:
    return _positive(Reading(**values), "an energy", "mJ")


def _positive(reading: Reading, what: str, unit: str) -> Reading:
    if reading.unit != unit or reading.value is None or not 0 < reading.value < math.inf:
        raise ValueError(f"{what} (={reading.value} {reading.unit}) must be above 0 {unit}")
    return reading


def write_profile(path: Path, values: Any) -> None:
    """Write a profile's plain values, whole or not at all; raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(values, indent=1) + "\n")


def default_profile_path(bundle: str, device: str, engine: str, threads: int) -> Path | None:
    """Return where the profile of a bundle on this device is kept for this user.

    None where no home folder can be told: nothing is kept then.
    """
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{engine}-{threads}-{device}")
    # What an older version kept is not looked at: it is measured again.
    return cache_path("profiles", f"{bundle[:16]}-{words}-v{VERSION}.json")


def why_no_profile_is_kept() -> str:
    """Return why profiles cannot be kept for this user; "" where they can."""
    return why_not_kept(cache_path("profiles", "any.json"))


def no_profile(bundle: str, engine: Engine) -> DeviceProfile:
    """Return the profile of a bundle, by its structure, that nothing was measured of here."""
    words, device = f"{engine.name} {engine.version}", describe_device()
    return DeviceProfile(bundle, device, words, engine.threads, precision=precision_of(engine))


def kept_profile(bundle: str, engine: Engine) -> DeviceProfile:
    """Return what was measured of a bundle here and kept for this user; an empty one if nothing was.

    - `bundle`: its structure.

    A file that cannot be read, is damaged or belongs to something else is ignored with a warning:
    nobody has asked for it.
    """
    nothing = no_profile(bundle, engine)
    path = default_profile_path(bundle, nothing.device, nothing.engine, engine.threads)
    if path is None:
        return nothing
    try:
        kept = DeviceProfile.read(path)
        kept.check_fits(bundle, engine)
    except (FileNotFoundError, NotADirectoryError):
        return nothing
    except (OSError, ValueError) as error:
        warnings.warn(
            f"the profile kept in {path} is ignored ({error}); remove it, or measure again with"
            " wenable profile",
            RuntimeWarning,
            stacklevel=2,
        )
        return nothing
    return kept
