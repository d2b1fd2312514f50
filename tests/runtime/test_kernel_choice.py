"""With `engine="auto"` each mode runs on our kernels where they are clearly faster (replaced here)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wenable as we
from tests.helpers.networks import converted, small_resnet
from wenable.core.readings import Reading
from wenable.runtime import (
    Bundle,
    DeviceProfile,
    EngineError,
    kernel_choice,
    remembered,
    session_engine,
)
from wenable.runtime.device_profile import default_profile_path, kept_profile, write_profile
from wenable.runtime.engine import PlannedMode
from wenable.runtime.kernel_choice import ENGINE, KERNELS, agree
from wenable.runtime.session import Session

X = np.random.default_rng(0).standard_normal((2, 3, 6, 6), dtype=np.float32)


class Kernels:
    """In the place of our kernels: its answers can be told from those of an engine."""

    name, version, threads, per_batch = "native", "9", 1, False

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.planned, self.closed = refuses, 0, False

    def plan(self, graph: Any, layers: Any, weights: Any) -> PlannedMode:
        self.planned += 1
        if self.refuses:
            raise EngineError("the engine 'native' refuses the graph: Odd makes 'odd'")
        return PlannedMode(self, 1000)  # type: ignore[arg-type]

    def __call__(self, inputs: Any) -> list[np.ndarray]:
        return [np.full((len(next(iter(inputs.values()))), 5), 7, np.float32)]

    def run_and_shrink(self, inputs: Any) -> list[np.ndarray]:
        return self(inputs)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = converted(small_resnet()).eval()
    we.calibrate(net, ["1", "1/2", "1/4"], [torch.randn(8, 3, 6, 6)])
    return we.export(net, ["1", "1/2", "1/4"], tmp_path_factory.mktemp("kernels") / "net.wen")


class Timer:
    def __init__(self, engine_ms: float, kernels_ms: float) -> None:
        self.ms, self.asked = {ENGINE: engine_ms, KERNELS: kernels_ms}, 0

    def __call__(self, calls: Any, plan: Any) -> dict[str, Reading]:
        self.asked += 1
        return {way: Reading(self.ms[way], "ms") for way in calls}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return what sets the kernels and the times, with nothing remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_known", {})
    monkeypatch.setattr(kernel_choice, "waited_s", lambda: 0.0)
    monkeypatch.setattr(kernel_choice, "agree", lambda *_: True)
    monkeypatch.setattr(session_engine, "fastest_engine", lambda *_: "onnxruntime")

    def make(engine_ms: float, kernels_ms: float, refuses: bool = False) -> tuple[Kernels, Timer]:
        kernels, timer = Kernels(refuses), Timer(engine_ms, kernels_ms)
        monkeypatch.setattr(session_engine, "open_kernels", lambda threads: kernels)
        monkeypatch.setattr(kernel_choice, "measure_latencies", timer)
        return kernels, timer

    return make


def runs_kernels(session: Session, mode: str) -> bool:
    same = bool(np.all(session.run(X, mode=mode) == 7))
    assert session.engine_of(mode) == ("native" if same else "onnxruntime")
    return same


@pytest.mark.parametrize(
    ("engine_ms", "kernels_ms", "taken"), [(4.0, 2.0, True), (2.0, 4.0, False), (2.0, 1.99, False)]
)
def test_kernels_run_what_they_run_clearly_faster(path, world, engine_ms, kernels_ms, taken):
    kernels, timer = world(engine_ms, kernels_ms)
    with Session(path, threads=1) as session:
        assert [runs_kernels(session, mode) for mode in session.modes] == [taken] * 3
        session.run(X, mode="1/4")
        assert timer.asked == 3  # once for each mode
    assert kernels.closed


def test_what_was_found_is_remembered(path, world, monkeypatch, tmp_path):
    world(4.0, 2.0)
    Session(path, threads=1).prepare("1/4")
    files = (tmp_path / "cache" / "wenable" / "choices").iterdir()
    [file] = [each for each in files if "native" in each.name]
    assert json.loads(file.read_text()) == {"1/4": KERNELS}
    monkeypatch.setattr(remembered, "_known", {})  # another process
    _, timer = world(2.0, 4.0)
    again = Session(path, threads=1)
    assert runs_kernels(again, "1/4")
    assert timer.asked == 0
    assert not runs_kernels(again, "1/2")
    assert timer.asked == 1


def test_kernels_that_answer_otherwise_are_not_taken_and_that_is_remembered(
    path, world, monkeypatch
):
    kernels, timer = world(4.0, 2.0)
    monkeypatch.setattr(kernel_choice, "agree", agree)
    assert not runs_kernels(Session(path, threads=1), "1/4")
    assert not runs_kernels(Session(path, threads=1), "1/4")
    assert (kernels.planned, timer.asked) == (1, 0)


INFINITE = np.array([1.0, -np.inf, np.nan, np.inf], np.float32)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (INFINITE, INFINITE.copy(), True),
        (INFINITE, -INFINITE, False),
        (np.array([1.0, 0.0, 0.0, 0.0]), INFINITE, False),
        (np.array([np.nan, 2.0]), np.array([1.0, 2.0]), False),
        (np.array([[1.0, 2.0]]), np.array([1.0, 2.0]), False),
        (np.zeros((0, 4)), np.zeros((0, 4)), True),
        (np.array([3, 4]), np.array([3, 5]), False),
        (np.array([True]), np.array([True]), True),
    ],
)
def test_which_answers_agree(found: np.ndarray, expected: np.ndarray, same: bool):
    assert agree(found, expected, 1e-3) is same


def test_a_graph_that_kernels_refuse_runs_on_the_engine_and_is_asked_once(path, world):
    kernels, timer = world(4.0, 2.0, refuses=True)
    session = Session(path, threads=1)
    assert [runs_kernels(session, mode) for mode in session.modes] == [False] * 3
    assert (kernels.planned, timer.asked) == (1, 0)


def test_under_a_budget_nothing_is_timed(path, world):
    _, timer = world(4.0, 2.0)
    assert not runs_kernels(Session(path, threads=1, memory_budget_mb=50), "1/4")
    assert timer.asked == 0
    assert runs_kernels(Session(path, threads=1), "1/4")
    assert runs_kernels(Session(path, threads=1, memory_budget_mb=50), "1/4")  # remembered


def test_an_engine_that_was_named_a_profile_or_a_choice_keeps_kernels_out(path, world):
    kernels, _ = world(4.0, 2.0)
    named = Session(path, engine="onnxruntime", threads=1)
    plain = named.profile
    profile = DeviceProfile(
        plain.bundle, plain.device, plain.engine, 1, schemes={"1/4": "gathered"}
    )
    chosen = Session(path, threads=1, profile=profile)
    assert not any(runs_kernels(each, "1/4") for each in (named, chosen))
    assert kernels.planned == 0


def test_profiles_of_both_decide_for_each_mode_and_say_what_to_expect(path, world, tmp_path):
    kernels, timer = world(4.0, 2.0)
    engine = Session(path, engine="onnxruntime", threads=1).engine
    for each, ms in (
        (engine, {"1": 8, "1/2": 5, "1/4": 4}),
        (kernels, {"1": 9, "1/2": 4.9, "1/4": 1}),
    ):
        kept = kept_profile(Bundle(path).structure, each)
        latencies = {mode: Reading(value, "ms", p99=2.0 * value) for mode, value in ms.items()}
        kept = replace(kept, latencies=latencies)
        write_profile(
            default_profile_path(kept.bundle, kept.device, kept.engine, kept.threads),
            kept.to_json(),
        )
    session = Session(path, threads=1)
    assert session.engine.name == "onnxruntime"
    assert [runs_kernels(session, mode) for mode in session.modes] == [False, False, True]
    assert timer.asked == 0
    expected = [session.profile.latencies[mode].known for mode in session.modes]
    assert expected == [8, 5, 1]
