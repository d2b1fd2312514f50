"""What a bundle and a profile say of the modes, as far as choosing among them goes."""

from __future__ import annotations

from dataclasses import dataclass

from wenable.core.readings import Reading
from wenable.runtime.bundle import Bundle, ExportedMode
from wenable.runtime.device_profile import DeviceProfile

_NO_ENERGY = "the bundle has no energy reading"


@dataclass(frozen=True)
class KnownMode:
    """One mode.

    - `rank`: by what it is preferred: accuracy, or where one has none, the share of the MACs.
    - `share`: its multiply-accumulates beside the others', without a unit.
    - `energy`: of one example in mJ, as it was measured, or why there is none.
    """

    name: str
    rank: float | None
    share: float
    energy: Reading


def known_modes(bundle: Bundle, profile: DeviceProfile, measured_at: str = "") -> list[KnownMode]:
    """Return what is known of each mode of a bundle, in their order.

    - `measured_at`: the size of images that energies were measured at, where the bundle is at another.
    """
    ranks, shares = _ranks(bundle), _shares(bundle)
    energies = [_energy(each, profile) for each in bundle.modes]
    if measured_at:
        unknown = Reading(None, "mJ", reason=f"measured for images of {measured_at}")
        energies = [each if each.value is None else unknown for each in energies]
    return [
        KnownMode(str(each.mode), ranks[number], shares[number], energies[number])
        for number, each in enumerate(bundle.modes)
    ]


def _values(bundle: Bundle, name: str) -> list[float] | None:
    """Return the readings of this name, or None where a mode has none."""
    found = [each.readings.get(name) for each in bundle.modes]
    values = [reading.value for reading in found if reading and reading.value is not None]
    return values if len(values) == len(found) else None


def _ranks(bundle: Bundle) -> list[float | None]:
    for name in ("accuracy", "macs"):
        values = _values(bundle, name)
        if values is None:
            continue
        errors = [each.readings[name].lower_is_better for each in bundle.modes]
        if any(errors) or min(values) < 0:
            values = _between_worst_and_best(values, errors[0])
        most = max(*values, 1.0)
        return [value / most for value in values]
    return [None] * len(bundle.modes)


def _between_worst_and_best(values: list[float], lower_is_better: bool) -> list[float]:
    """Return figures in the same order from 0 for the worst to 1 for the best."""
    signed = [-value if lower_is_better else value for value in values]
    least, span = min(signed), (max(signed) - min(signed)) or 1.0
    return [(value - least) / span for value in signed]


def _shares(bundle: Bundle) -> list[float]:
    macs = _values(bundle, "macs")
    if macs is not None and min(macs) > 0:
        return macs
    layers = bundle.layers.values()
    return [
        sum(each.inputs * each.outputs / mode.mode[each.knob] for each in layers) or 1.0
        for mode in bundle.modes
    ]


def _energy(exported: ExportedMode, profile: DeviceProfile) -> Reading:
    """Return the energy of a mode: that of this device before what its bundle tells."""
    reading = profile.energies.get(str(exported.mode)) or exported.readings.get("energy")
    if reading is None:
        why = _NO_ENERGY
        if not profile.energies and profile.energy_reason:
            why = f"{_NO_ENERGY}, and none was measured here: {profile.energy_reason}"
        return Reading(None, "mJ", reason=why)
    return measured_energy(reading)


def measured_energy(reading: Reading) -> Reading:
    """Return an energy that may stand for a budget: one that was measured; else why it is none."""
    if reading.unit != "mJ" or reading.is_modelled:
        why = reading.reason or "its reading was modelled, not measured in mJ"
        return Reading(None, "mJ", reason=why)
    return reading
