"""`Session(batch=...)`: what is chosen by timing is timed with that many examples, and remembered so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wenable as we
from tests.helpers.engines import NEEDS_KERNELS, NEEDS_OPENVINO
from tests.helpers.networks import converted, small_resnet
from wenable.core.readings import Reading
from wenable.runtime import engine_choice, first_choice, kernel_choice, remembered
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import default_profile_path, kept_profile, write_profile
from wenable.runtime.engine_choice import fastest_engine
from wenable.runtime.engines import installed_engines, installed_version, open_engine
from wenable.runtime.session import Session

MODES = ["1", "1/2", "1/4"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = converted(small_resnet()).eval()
    we.calibrate(net, MODES, [torch.randn(8, 3, 6, 6)])
    return we.export(net, MODES, tmp_path_factory.mktemp("batches") / "net.wen")


class Clock:
    """In the place of a measurement: one call takes a fixed time and a time for each example."""

    def __init__(self, fixed_ms: dict[str, float], each_ms: dict[str, float]) -> None:
        self.fixed_ms, self.each_ms, self.batches = fixed_ms, each_ms, []

    def __call__(self, calls: Any, plan: Any) -> dict[Any, Reading]:
        found = {}
        for key, call in calls.items():
            what = key if isinstance(key, str) else key[0]
            [inputs] = call.args
            rows = len(next(iter(inputs.values())))
            self.batches.append(rows)
            assert len(call()[0]) == rows
            found[key] = Reading(self.fixed_ms[what] + rows * self.each_ms[what], "ms")
        return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return what puts a clock into the place of all measurements, with nothing remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(**ways: tuple[float, float]) -> Clock:
        names = {way.replace("_", " "): times for way, times in ways.items()}
        made = Clock(*({name: times[i] for name, times in names.items()} for i in (0, 1)))
        monkeypatch.setattr(remembered, "_known", {})  # another process
        for module in (engine_choice, first_choice, kernel_choice):
            monkeypatch.setattr(module, "measure_latencies", made)
        for module in (first_choice, kernel_choice):
            monkeypatch.setattr(module, "waited_s", lambda: 0.0)
        return made

    return make


@NEEDS_KERNELS
def test_kernels_and_engine_are_timed_with_batches_and_each_is_remembered(path, clock, monkeypatch):
    monkeypatch.setattr("wenable.runtime.session_engine.fastest_engine", lambda *_: "onnxruntime")
    kernels = {"our kernels": (0.0, 1.0), "engine": (3.0, 0.5)}  # 1: 1 and 3.5; 8: 8 and 7

    def runs_on(mode: str, batch: int) -> tuple[str, Clock]:
        made = clock(as_written=(1.0, 1.0), measured=(2.0, 2.0))
        made.fixed_ms |= {way: fixed for way, (fixed, _) in kernels.items()}
        made.each_ms |= {way: each for way, (_, each) in kernels.items()}
        with Session(path, threads=1, batch=batch) as session:
            return session.engine_of(mode), made

    for again in (False, True):
        for batch, wanted in ((1, "native"), (8, "onnxruntime")):
            engine, made = runs_on("1/4", batch)
            assert engine == wanted
            assert set(made.batches) == (set() if again else {batch})


def test_how_layers_are_executed_is_timed_with_batches(path, clock):
    for batch, table in ((1, False), (8, True)):
        made = clock(as_written=(0.0, 1.0), measured=(3.0, 0.5))  # 1: 1 and 3.5; 8: 8 and 7
        session = Session(path, engine="onnxruntime", threads=1, batch=batch)
        choices = session.implementations(2)
        assert set(made.batches) == {batch}
        assert any(each.groups == 1 for each in choices.values()) == table


@NEEDS_OPENVINO
def test_engines_are_timed_with_batches_and_each_is_remembered(path, clock):
    bundle = Bundle(path)
    for again in (False, True):
        for batch, wanted in ((1, "openvino"), (8, "onnxruntime")):
            made = clock(
                onnxruntime=(3.0, 0.5),
                openvino=(0.0, 1.0),
                as_written=(1.0, 1.0),
                measured=(2.0, 2.0),
            )
            assert fastest_engine(bundle, 1, batch) == wanted
            assert set(made.batches) == (set() if again else {batch})


@NEEDS_OPENVINO
def test_an_engine_that_was_not_taken_is_not_loaded_again(path, clock):
    clock(onnxruntime=(1.0, 1.0), openvino=(2.0, 2.0), as_written=(1.0, 1.0), measured=(2.0, 2.0))
    assert fastest_engine(Bundle(path), 1) == "onnxruntime"
    script = f"""
import json, sys
from wenable.runtime.session import Session
with Session({str(path)!r}, threads=1) as session:
    session.run(session.example())
    print(json.dumps([session.engine.name, "openvino" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) == ["onnxruntime", False]


def test_the_version_of_a_package_is_told_without_loading_it():
    for name in installed_engines():
        assert open_engine(name, 1).version.startswith(installed_version(name))


def test_a_profile_is_of_one_example(path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle, engine = Bundle(path), open_engine("onnxruntime", 1)
    nothing = kept_profile(bundle.structure, engine)
    known = nothing.to_json() | {"schemes": {"1/4": "whole"}}
    write_profile(default_profile_path(nothing.bundle, nothing.device, nothing.engine, 1), known)
    settings: dict[str, Any] = {"engine": "onnxruntime", "threads": 1}
    assert Session(path, **settings).profile.schemes == {"1/4": "whole"}
    session = Session(path, **settings, batch=2)
    assert session.profile == nothing
    x = np.zeros((2, 3, 6, 6), np.float32)
    for mode in MODES:
        np.testing.assert_allclose(
            session.run(x, mode=mode), Session(path, **settings).run(x, mode=mode), atol=1e-5
        )
    with pytest.raises(ValueError, match=r"`profile` is of one example.*`batch` \(=2\)"):
        Session(path, **settings, batch=2, profile=nothing)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "8", None])
def test_a_batch_is_a_whole_number_above_0(path, batch):
    with pytest.raises(ValueError, match=r"`batch` \(=.*\) must be a whole number above 0"):
        Session(path, engine="onnxruntime", batch=batch)
