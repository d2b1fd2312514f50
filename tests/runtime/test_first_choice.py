"""Without a profile a mode is executed as written, unless the default table is clearly faster here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wenable as we
from tests.helpers.networks import converted, small_resnet
from wenable.core.readings import Reading
from wenable.runtime import DeviceProfile, first_choice, remembered
from wenable.runtime.building import choose_each
from wenable.runtime.bundle import Bundle
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import installed_engines
from wenable.runtime.first_choice import AS_WRITTEN, TABLE
from wenable.runtime.implementations import as_written
from wenable.runtime.known_modes import known_modes
from wenable.runtime.session import Session

X = np.random.default_rng(0).standard_normal((2, 3, 6, 6), dtype=np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    net = converted(small_resnet()).eval()
    we.calibrate(net, ["1", "1/2", "1/4"], [torch.randn(8, 3, 6, 6)])
    return net, we.export(net, ["1", "1/2", "1/4"], tmp_path_factory.mktemp("first") / "net.wen")


class Timer:
    """In the place of a measurement: says what it is told, and counts how often it was asked."""

    def __init__(self, written_ms: float, table_ms: float) -> None:
        self.ms, self.asked = {AS_WRITTEN: written_ms, TABLE: table_ms}, 0

    def __call__(self, calls: Any, plan: Any) -> dict[str, Reading]:
        self.asked += 1
        for call in calls.values():
            call()
        return {scheme: Reading(self.ms[scheme], "ms") for scheme in calls}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return what makes a timer, with nothing remembered, and a device that is not loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_known", {})
    monkeypatch.setattr(first_choice, "waited_s", lambda: 0.0)

    def make(written_ms: float, table_ms: float) -> Timer:
        timer = Timer(written_ms, table_ms)
        monkeypatch.setattr(first_choice, "measure_latencies", timer)
        return timer

    return make


def opened(path: Path, **settings: Any) -> Session:
    return Session(path, engine="onnxruntime", threads=1, **settings)


def is_as_written(session: Session, number: int) -> bool:
    options = session.bundle.weights_of(number).options
    wanted = choose_each(session.bundle.layers, options, as_written)
    return session.implementations(number) == wanted


@pytest.mark.parametrize(
    ("written_ms", "table_ms", "written"),
    [(4.41, 4.74, True), (2.25, 2.86, True), (5.0, 4.9, True), (5.0, 5.0, True), (5.0, 4.0, False)],
)
@pytest.mark.parametrize("engine", installed_engines())
def test_the_faster_way_is_taken_and_what_is_written_in_doubt(
    exported, timed, engine: str, written_ms: float, table_ms: float, written: bool
):
    net, path = exported
    timed(written_ms, table_ms)
    session = Session(path, engine=engine, threads=1)
    for number, mode in enumerate(("1", "1/2", "1/4")):
        expected = we.extract(net, mode)(torch.from_numpy(X)).detach().numpy()
        np.testing.assert_allclose(session.run(X, mode=mode), expected, rtol=1e-3, atol=1e-4)
        if number:
            assert is_as_written(session, number) is written


def test_what_was_found_out_is_remembered_in_the_process_and_for_the_user(
    exported, timed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    _, path = exported
    timer = timed(5.0, 4.0)
    for _ in range(3):
        session = opened(path)
        session.prepare("1/2")
        session.prepare("1/4")
        session.prepare("1")  # there is nothing to choose in the full mode
    assert timer.asked == 2
    (file,) = (tmp_path / "cache" / "wenable" / "choices").iterdir()
    assert json.loads(file.read_text()) == {"1/2": TABLE, "1/4": TABLE}
    # Another process, which knows what is in the file only.
    monkeypatch.setattr(remembered, "_known", {})
    again = timed(4.0, 5.0)
    assert not is_as_written(opened(path), 2)
    assert again.asked == 0
    # Another number of threads is another device.
    Session(path, engine="onnxruntime", threads=2).prepare("1/4")
    assert again.asked == 1


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"1/2": "nonsense", "1/4": 7}', "null", "[" * 10**5]
)
def test_a_damaged_memory_is_timed_anew(
    exported, timed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
):
    _, path = exported
    timed(5.0, 4.0)
    opened(path).prepare("1/4")
    (file,) = (tmp_path / "cache" / "wenable" / "choices").iterdir()
    file.write_text(content)
    monkeypatch.setattr(remembered, "_known", {})
    timer = timed(5.0, 4.0)
    opened(path).prepare("1/4")
    assert timer.asked == 1
    assert json.loads(file.read_text()) == {"1/4": TABLE}


def test_what_was_timed_under_load_is_not_remembered_for_the_user(
    exported, timed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    _, path = exported
    timed(5.0, 4.0)
    waited = iter(range(1000))
    monkeypatch.setattr(first_choice, "waited_s", lambda: float(next(waited)))
    session = opened(path)
    assert not is_as_written(session, 2)
    assert not (tmp_path / "cache" / "wenable" / "choices").exists()
    assert not is_as_written(opened(path), 2)  # but the process gives the same bits again


def test_under_a_budget_nothing_is_timed(exported, timed):
    _, path = exported
    timer = timed(5.0, 1.0)
    session = opened(path, memory_budget_mb=10)
    session.run(X, mode="1/4")
    assert is_as_written(session, 2)
    opened(path).prepare("1/4")  # and what another session found out is taken
    assert timer.asked == 1
    assert not is_as_written(opened(path, memory_budget_mb=10), 2)


def test_with_a_profile_or_a_choice_nothing_is_timed(exported, timed):
    _, path = exported
    timer, plain = timed(5.0, 1.0), opened(path).profile
    schemes = {"1/2": "gathered", "1/4": "whole"}
    known = DeviceProfile(plain.bundle, plain.device, plain.engine, plain.threads, schemes=schemes)
    for session in (opened(path, profile=known), opened(path, choose=as_written)):
        for mode in session.modes:
            session.run(X, mode=mode)
    assert timer.asked == 0


def test_a_way_that_the_engine_refuses_is_not_taken(exported, timed, monkeypatch):
    _, path = exported
    timer, session = timed(1.0, 5.0), opened(path)
    prepare, refused = session.engine.prepare, session.model(2)
    assert is_as_written(session, 2)
    monkeypatch.setattr(remembered, "_known", {})

    class Choosy:
        def __getattr__(self, name: str) -> Any:
            return getattr(session.engine, name)

        def prepare(self, model: bytes, batch: int | None = None) -> Any:
            if model == refused:
                raise EngineError("no such thing")
            return prepare(model)

    again = opened(path)
    again._sized[0].choice._engine = Choosy()
    monkeypatch.setattr(remembered, "cache_path", lambda *_: None)
    assert not is_as_written(again, 2)
    assert timer.asked == 1  # there was nothing to time it against


def test_the_models_are_timed_for_real(exported, timed, monkeypatch):
    _, path = exported
    calls: list[int] = []
    measure = first_choice.measure_latencies
    monkeypatch.setattr(
        first_choice, "measure_latencies", lambda c, plan: calls.append(len(c)) or measure(c, plan)
    )
    assert opened(path).run(X, mode="1/4").shape == (2, 5)
    assert calls == [2]


def test_what_a_profile_says_of_modes_does_not_hold_for_another_choice(exported):
    _, path = exported
    plain = opened(path).profile
    slow = {mode: Reading(1e6, "ms") for mode in opened(path).modes}
    known = DeviceProfile(plain.bundle, plain.device, plain.engine, plain.threads, latencies=slow)
    with opened(path, profile=known) as session:
        assert min(session.controller().predictions_ms) > 1e5
    with opened(path, profile=known, choose=as_written) as session:
        assert max(session.controller().predictions_ms) < 1e5


def test_a_profile_of_another_device_is_told_of(exported):
    _, path = exported
    plain = opened(path).profile
    other = DeviceProfile(plain.bundle, "a board", plain.engine, plain.threads)
    with pytest.warns(UserWarning, match="`profile` was measured on a board, and this is "):
        opened(path, profile=other).close()


def test_energies_of_other_images_are_none(exported):
    _, path = exported
    bundle = Bundle(path)
    energies = {str(each.mode): Reading(5.0, "mJ", source="a meter") for each in bundle.modes}
    profile = DeviceProfile("", "", "", 1, energies=energies)
    assert [each.energy.value for each in known_modes(bundle, profile)] == [5.0] * 3
    for each in known_modes(bundle, profile, "64x64"):
        assert each.energy.value is None
        assert each.energy.reason == "measured for images of 64x64"
