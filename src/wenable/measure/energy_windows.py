"""What was run between which moments, kept until its energy is known, and the readings made of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from wenable.core.readings import Reading
from wenable.measure.latency import quantile
from wenable.measure.meters.meter import Described

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of time, in which one callable was called again and again, or nothing was.

    - `start_s`, `stop_s`: seconds since 1970, by this machine's clock.
    - `seconds`: how long it was, by the clock that times calls.
    - `calls`: how many calls it holds; `pauses_s`: the pauses between them, in all.
    - `joules`: None until a meter has told.
    """

    start_s: float
    stop_s: float
    seconds: float
    calls: int = 0
    pauses_s: float = 0.0
    joules: float | None = None

    def why_no_stamps(self) -> str:
        """Return why its moments cannot be looked up: this machine's clock was set; "" if they can."""
        by_stamps_s = self.stop_s - self.start_s
        if abs(by_stamps_s - self.seconds) <= 0.01 * self.seconds:
            return ""
        return (
            f"the window that began at {self.start_s:.3f} lasted {self.seconds:.3f} s, but its stamps are"
            f" {by_stamps_s:.3f} s apart: this machine's clock was set meanwhile"
        )


@dataclass(frozen=True, slots=True)
class Recording(Generic[Key]):
    """The windows of a measurement.

    - `trials`: the windows of each callable; `latencies`: what its calls took in the same windows.
    - `idle`: a window in which nothing was called.
    - `device`: what ran; `failure`: why there is no energy, where a meter gave out.
    - `conditions`: the device's governor, clock and temperature, before and after.

    >>> idle = Window(start_s=0.0, stop_s=10.0, seconds=10.0)
    >>> latency = Reading(2.0, "ms")
    >>> trial = Window(start_s=20.0, stop_s=25.0, seconds=5.0, calls=2500)
    >>> recording = Recording({"full": (trial,)}, {"full": latency}, idle, "a board")
    >>> Recording.from_json(recording.to_json()) == recording
    True
    """

    trials: Mapping[Key, tuple[Window, ...]]
    latencies: Mapping[Key, Reading]
    idle: Window
    device: str = ""
    failure: str = ""
    conditions: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the keys as text; raises `ValueError` where two keys look alike."""
        names = [str(key) for key in self.trials]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"two keys of the recording read {name!r}; as text they must differ"
                )
        return {
            "format": "wenable-energy-windows",
            "version": 1,
            "device": self.device,
            "failure": self.failure,
            "conditions": self.conditions,
            "idle": asdict(self.idle),
            "trials": {
                str(key): [asdict(each) for each in self.trials[key]] for key in self.trials
            },
            "latencies": {str(key): asdict(each) for key, each in self.latencies.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recording[str]:
        """Return the recording of `to_json`, its keys as text; raises `ValueError` if it is none."""
        if values.get("format") != "wenable-energy-windows":
            raise ValueError("`values` is not the JSON form of a recording of windows")
        if values.get("version") != 1:
            raise ValueError(f"the recording has version {values.get('version')!r}; this reads 1")
        try:
            return Recording(
                {
                    key: tuple(Window(**one) for one in each)
                    for key, each in values["trials"].items()
                },
                {key: Reading(**each) for key, each in values["latencies"].items()},
                Window(**values["idle"]),
                str(values["device"]),
                str(values["failure"]),
                str(values.get("conditions", "")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"`values` is not the JSON form of a recording: {error}") from error


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """What one callable costs.

    - `energy`: mJ a call, with everything the meter saw in that time, idle power too.
    - `latency`: ms a call, of the same calls.
    - `above_idle`: mJ a call without what the machine would have drawn idle.
    - `idle_power`: W.
    """

    energy: Reading
    latency: Reading
    above_idle: Reading
    idle_power: Reading


def energy_readings(recording: Recording[Key], meter: Described) -> dict[Key, EnergyReading]:
    """Return the readings of a recording whose windows have their joules.

    - `recording`: as `record_windows` returns it, or with the joules of a wall meter.
    - `meter`: what measured.

    The value is the median over the windows of one callable, with their quartiles. Where the
    recording has a failure, or a window has no joules, the readings have a reason and no value.

    >>> from types import SimpleNamespace
    >>> meter = SimpleNamespace(name="wall meter", scope="system", kind="measured", detail="")
    >>> windows = tuple(Window(0.0, 5.0, 5.0, calls=100, joules=j) for j in (24.0, 25.0, 26.0))
    >>> idle = Window(0.0, 10.0, 10.0, joules=20.0)
    >>> found = energy_readings(Recording({"a": windows}, {"a": Reading(50.0, "ms")}, idle), meter)
    >>> print(found["a"].energy, "|", found["a"].above_idle, "|", found["a"].idle_power)
    250 mJ (245 to 255) | 150 mJ (145 to 155) | 2 W
    """
    return {key: _reading_of(key, recording, meter) for key in recording.trials}


def absent(latency: Reading, reason: str, device: str = "") -> EnergyReading:
    """Return readings of energy that have none but the reason, beside a latency.

    >>> print(absent(Reading(2.0, "ms"), "no meter").energy)
    not measured (no meter)
    """
    energy = Reading(None, "mJ", reason=reason, device=device)
    return EnergyReading(energy, latency, energy, Reading(None, "W", reason=reason, device=device))


def _reading_of(key: Key, recording: Recording[Key], meter: Described) -> EnergyReading:
    windows, idle, device = recording.trials[key], recording.idle, recording.device
    latency = recording.latencies[key]
    if recording.failure:
        return absent(latency, recording.failure, device)
    if idle.joules is None or not windows or any(each.joules is None for each in windows):
        return absent(latency, "windows were recorded without the energy used in them", device)
    source = f"{meter.name} ({meter.scope}, {meter.kind}); {len(windows)} windows in random order"
    note = "; ".join(each for each in (_note(windows, meter), recording.conditions) if each)
    watts = idle.joules / idle.seconds
    gross = [1e3 * (each.joules or 0.0) / each.calls for each in windows]
    net = [
        mj - 1e3 * watts * each.seconds / each.calls
        for mj, each in zip(gross, windows, strict=True)
    ]
    return EnergyReading(
        _median(gross, source, device, f"{note}; idle power is in it"),
        latency,
        _median(net, source, device, f"{note}; idle power of {watts:.3g} W taken off"),
        Reading(
            watts,
            "W",
            count=1,
            source=f"{meter.name} ({meter.scope}, {meter.kind}); {idle.seconds:.3g} s without calls",
            device=device,
            note=meter.detail,
        ),
    )


def _note(windows: Sequence[Window], meter: Described) -> str:
    calls, seconds = sum(each.calls for each in windows), sum(each.seconds for each in windows)
    pauses = 100 * sum(each.pauses_s for each in windows) / seconds
    text = f"{calls} calls in {seconds:.3g} s, pauses {pauses:.1f} % of them"
    return f"{meter.detail}; {text}" if meter.detail else text


def _median(values_mj: Sequence[float], source: str, device: str, note: str) -> Reading:
    ordered = sorted(values_mj)
    value = quantile(ordered, 0.5)
    if value <= 0:
        reason = f"it drew no more than idle ({value:.3g} mJ a call), which no work can: noise"
        return Reading(None, "mJ", source=source, device=device, note=note, reason=reason)
    return Reading(
        value,
        "mJ",
        low=quantile(ordered, 0.25),
        high=quantile(ordered, 0.75),
        interval="quartiles",
        count=len(ordered),
        source=source,
        device=device,
        note=note,
    )
