"""Profiling that is killed goes on; a device that changes its speed is noticed, in a run and between."""

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wenable as we
from tests.exporting.test_exporting import calibrated
from tests.helpers.processes import exit_status
from wenable.core.journal import Journal, JournalError
from wenable.core.readings import Reading
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.profiling import ProfilePlan, on_device, profile, whole_modes
from wenable.profiling.drift import measure_steadily
from wenable.profiling.on_device import journal_path
from wenable.profiling.steps import Steps
from wenable.runtime import Bundle, DeviceProfile, session_engine
from wenable.runtime.device_profile import default_profile_path
from wenable.runtime.engine import OperationTime
from wenable.runtime.engines import open_engine

SHORT = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)
PLAN = ProfilePlan(mixtures=2, table_modes=3, scheme_timing=SHORT, mode_timing=SHORT)
SETTINGS = {"threads": 1, "plan": PLAN}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    net, modes = calibrated(shuffle="all")
    return Bundle(we.export(net, modes, tmp_path_factory.mktemp("bundle") / "net.wen"))


def fail() -> Any:
    raise AssertionError("this was done before")


# --- steps


def two_sittings(path: Path, first_ms: float, second_ms: float) -> tuple[Steps, list[str]]:
    """Steps after a first sitting, in which each kind was done once."""
    with Journal(path, {"run": 1}, kind="profile") as journal:
        steps = Steps(journal)
        steps.begin(first_ms)
        assert steps.count("counted", lambda: {"a": 2.0}) == {"a": 2.0}
        assert steps.time("timed", lambda: {"1": Reading(4.0, "ms")})["1"].known == 4.0
        assert steps.choose("chosen", lambda: "merged") == "merged"
        steps.report("it grew hot")
    seen: list[str] = []
    again = Steps(Journal(path, {"run": 1}, kind="profile"), seen.append)
    again.begin(second_ms)
    return again, seen


def test_what_is_done_is_not_done_again(tmp_path: Path):
    steps, seen = two_sittings(tmp_path / "j", 10.0, 11.0)
    assert steps.count("counted", fail) == {"a": 2.0}
    assert steps.time("timed", fail)["1"] == Reading(4.0, "ms")
    assert steps.choose("chosen", fail) == "merged"
    assert seen == ["interrupted after 3 measurements"]
    assert steps.events == ["it grew hot", *seen]
    assert (steps.done("c"), steps.done("timed"), steps.done("other")) == (2, 1, 0)


@pytest.mark.parametrize(("now_ms", "words"), [(15.0, "50% slower"), (5.0, "50% faster")])
def test_what_was_measured_at_another_speed_is_held_against_the_present_one(
    tmp_path: Path, now_ms: float, words: str
):
    steps, seen = two_sittings(tmp_path / "j", 10.0, now_ms)
    assert f"the device was {words} afterwards" in seen[0]
    assert steps.count("counted", fail) == {"a": pytest.approx(2.0 * now_ms / 10.0)}
    assert steps.time("timed", lambda: {"1": Reading(6.0, "ms")})["1"].known == 6.0
    assert steps.time("timed", fail)["1"].known == 6.0  # once
    assert steps.choose("chosen", fail) == "merged"


def test_an_event_is_told_once(tmp_path: Path):
    seen: list[str] = []
    steps = Steps(report=seen.append)
    for _ in range(2):
        steps.report("group 3 again")
    assert seen == steps.events == ["group 3 again"]


def test_a_device_that_stays_slow_is_measured_three_times_and_no_more():
    tried: list[tuple[int, int]] = []

    def measure(number: int, attempt: int) -> float:
        tried.append((number, attempt))
        return 2.0 if number == 1 else 1.0

    found = measure_steadily(3, measure, lambda took: took)
    assert tried == [(0, 1), (1, 1), (2, 1), (1, 2), (1, 3)]
    assert found == [(1.0, 0.0), (2.0, 1.0), (1.0, 0.0)]
    assert measure_steadily(1, lambda number, attempt: 3.0, lambda took: took, usual=2.0) == [
        (3.0, 0.5)
    ]


# --- a run that is killed


class Dying(on_device.Journal):
    """Ends its process when it holds so many entries, in the middle of the next."""

    left = 0

    def append(self, entry: Any) -> None:
        if Dying.left == 0:
            os.write(self._descriptor, b'{"crc32":"01234567","entry":{"kin')
            os.kill(os.getpid(), signal.SIGKILL)
        Dying.left -= 1
        super().append(entry)


def profile_until_killed(path: Path, entries: int) -> None:
    Dying.left, on_device.Journal = entries, Dying
    on_device.profile(path, **SETTINGS)


def killed_after(entries: int, bundle: Bundle) -> Path:
    """Kill a run when its journal has so many entries; return the journal."""
    assert exit_status(profile_until_killed, bundle.path, entries) == -9
    engine = open_engine("onnxruntime", 1)
    path = journal_path(
        default_profile_path(
            bundle.structure, on_device.describe_device(), f"{engine.name} {engine.version}", 1
        )
    )
    assert path.is_file()
    return path


def test_a_run_that_is_killed_goes_on_where_it_stopped(bundle: Bundle, cache: Path):
    path = killed_after(40, bundle)
    kept = [json.loads(line)["entry"] for line in path.read_bytes().splitlines()[:-1]]
    names = {entry["name"] for entry in kept if entry.get("kind") == "step"}
    assert len(names) > 20
    measured: list[str] = []
    real = Steps._values

    def watched(self: Steps, name: str, measure: Any) -> Any:
        return real(self, name, lambda: (measured.append(name), measure())[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "_values", watched)
        found = profile(bundle.path, **SETTINGS)
    again = {name for name in measured if name in names}
    drifted = any("afterwards" in event for event in found.events)
    assert not again or drifted  # nothing, unless this machine changed its speed meanwhile
    assert any(event.startswith(f"interrupted after {len(names)}") for event in found.events)
    assert set(found.latencies) == {str(each.mode) for each in bundle.modes}
    assert found.table is not None
    assert not path.exists()
    assert DeviceProfile.read(path.with_suffix(".json")) == found


def test_a_run_with_other_settings_does_not_go_on(bundle: Bundle, cache: Path):
    path = killed_after(5, bundle)
    before = path.read_bytes()
    with pytest.raises(
        JournalError, match=r"another run \(mixtures: 2 there, 5 here\); call that run"
    ):
        profile(bundle.path, threads=1, plan=replace(PLAN, mixtures=5))
    assert path.read_bytes().startswith(before[: before.rindex(b"\n")])
    with (
        Journal(path, json.loads(before.splitlines()[0])["entry"]["run"], kind="profile"),
        pytest.raises(JournalError, match="in use by another process"),
    ):
        profile(bundle.path, **SETTINGS)


def test_where_files_cannot_be_locked_nothing_is_kept(bundle: Bundle, cache: Path, monkeypatch):
    monkeypatch.setattr(on_device, "SUPPORTED", False)
    found = profile(bundle.path, threads=1, plan=replace(PLAN, table_modes=0))
    assert found.latencies
    assert not list(cache.rglob("*.journal"))


# --- a device that throttles


class World:
    """A made-up clock and engine: what a call takes depends on the model and on the hour."""

    name, version, threads, per_batch = "onnxruntime", "made-up", 1, False

    def __init__(self) -> None:
        self.now, self.real = 0.0, open_engine("onnxruntime", 1)
        self.slow_from = self.slow_to = float("inf")
        # By model: on a busy machine the real engine's events do not always come in one order.
        self.operations: dict[bytes, list[OperationTime]] = {}

    @property
    def pace(self) -> float:
        return 2.0 if self.slow_from <= self.now < self.slow_to else 1.0

    def held_bytes(self, model: int, computed: int) -> int:
        return model + computed

    def prepare(self, model: bytes, batch: int | None = None) -> Any:
        def run(inputs: Any) -> list[np.ndarray]:
            self.now += self.pace * (1e-3 + 1e-7 * len(model))
            return [np.zeros(1)]

        run.run_and_shrink = run  # type: ignore[attr-defined]
        return run

    def operation_times(self, model: bytes, inputs: Any, calls: int) -> list[OperationTime]:
        self.now += 0.01 * self.pace
        if model not in self.operations:
            self.operations[model] = self.real.operation_times(model, inputs, 1)
        return [
            OperationTime(each.names, each.computes, 0.1 * self.pace)
            for each in self.operations[model]
        ]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, cache: Path) -> World:
    world = World()
    timed = partial(measure_latencies, clock=lambda: world.now, sleep=world.sleep)
    for module in (on_device, whole_modes):
        monkeypatch.setattr(module, "measure_latencies", timed)
    monkeypatch.setattr(session_engine, "open_engine", lambda *_: world)
    return world


WHOLE = {"threads": 1, "plan": replace(PLAN, table_modes=20, mixtures=6)}


def when(world: World, bundle: Bundle) -> dict[str, float]:
    """Run once and return when each kind of measurement began, by the made-up clock."""
    began: dict[str, float] = {}

    def seen(done: int, of: int, what: str) -> None:
        began.setdefault(what, world.now)

    found = profile(bundle.path, on_progress=seen, **WHOLE)
    assert found.events == ()
    start, world.now = world.now, 0.0
    return began | {"end": start}


def same_table(found: DeviceProfile, expected: DeviceProfile) -> None:
    assert found.table is not None
    assert expected.table is not None
    for mode in found.table.space.uniform_modes():
        assert found.table.cost(mode) == pytest.approx(expected.table.cost(mode), rel=0.02)


def test_a_device_that_throttles_for_a_while_is_measured_again_and_it_is_said(
    bundle: Bundle, world: World
):
    began = when(world, bundle)
    expected = profile(bundle.path, **WHOLE)
    world.now = 0.0
    # Slow while the second group of the table's modes is timed, and fast again afterwards.
    world.slow_from, world.slow_to = (began[f"whole modes, group {n}"] for n in (2, 3))
    told: list[str] = []
    found = profile(bundle.path, on_event=told.append, **WHOLE)
    assert told == ["whole modes, group 2: measured again, the speed had changed"]
    assert DeviceProfile.from_json(json.loads(json.dumps(found.to_json()))).events == tuple(told)
    same_table(found, expected)


def test_a_device_that_throttles_while_layers_are_counted(bundle: Bundle, world: World):
    began = when(world, bundle)
    expected = profile(bundle.path, **WHOLE)
    world.now = 0.0
    # From the middle of the third group of networks to just beyond its end.
    world.slow_from = began["layers: mixture 2"]
    world.slow_to = world.slow_from + 2.0 * (began["layers: mixture 6"] - world.slow_from) + 0.06
    found = profile(bundle.path, **WHOLE)
    assert found.events == ("layers, group 3: measured again, the speed had changed",)
    for layer, times in expected.times_ms.items():
        assert found.times_ms[layer] == pytest.approx(times)


def test_a_device_that_stays_slow_says_so(bundle: Bundle, world: World):
    began = when(world, bundle)
    world.slow_from = began["latencies of the modes"] + 0.02
    found = profile(bundle.path, **WHOLE)
    assert "latencies of the modes: measured again, the speed had changed" in found.events
    assert found.table is not None  # all of it was timed at one speed
    full = found.table.space.full
    assert found.table.cost(full) == pytest.approx(found.latencies[str(full)].known, rel=0.05)
