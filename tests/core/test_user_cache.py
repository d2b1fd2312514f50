"""Without a home folder, or with one that is no use, everything works that does not need one."""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import wenable as we
from tests.helpers.networks import converted, small_resnet
from wenable.cli.main import app
from wenable.core.user_cache import cache_path, why_not_kept
from wenable.measure import NoMeter
from wenable.measure.latency import TimingPlan
from wenable.profiling import ProfilePlan, on_device, profile
from wenable.runtime.device_profile import DeviceProfile, kept_profile
from wenable.runtime.session import Session
from wenable.training.implementation_memory import ImplementationMemory, default_memory_path

SHORT = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = converted(small_resnet()).eval()
    we.calibrate(net, ["full", "1/4"], [torch.randn(8, 3, 6, 6)])
    return we.export(net, ["full", "1/4"], tmp_path_factory.mktemp("cache") / "net.wen")


@pytest.fixture(params=["no home", "home is a file", "home cannot be written"])
def useless_home(request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if request.param == "no home":

        def unknown(number: int) -> Any:
            raise KeyError(f"getpwuid(): uid not found: {number}")

        monkeypatch.setattr("pwd.getpwuid", unknown)
        monkeypatch.delenv("HOME", raising=False)
    elif request.param == "home is a file":
        (tmp_path / "home").write_text("")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
    else:  # made so that it holds for root too, whom no permission stops
        monkeypatch.setenv("HOME", "/proc/1/no-such-home")
    return request.param


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "auto"])
def test_a_session_opens_and_runs(useless_home: str, bundle: Path, engine: str):
    session = Session(bundle, engine=engine, threads=1)
    answer = session.run(np.zeros((1, 3, 6, 6), np.float32), mode="1/4")
    assert answer.shape == (1, 5)
    assert session.profile.latencies == {}


def test_a_profile_is_measured_written_where_asked_and_said_not_to_be_kept(
    useless_home: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings: dict[str, Any] = {
        "engine": "onnxruntime", "threads": 1, "meter": NoMeter("not asked for"),
        "plan": ProfilePlan(0, 0, SHORT, SHORT),
    }  # fmt: skip
    with pytest.warns(RuntimeWarning, match="the profile is not kept for sessions: .*`profile`$"):
        found = profile(bundle, **settings)
    assert set(found.latencies) == {"1", "1/4"}

    # The command says it before it measures, unless there is a file to write.
    def not_reached(*_: Any, **__: Any) -> None:
        raise AssertionError("it began to measure")

    monkeypatch.setattr("wenable.profiling.profile", not_reached)
    done = CliRunner().invoke(app, ["profile", str(bundle)])
    assert done.exit_code == 1
    assert "the profile could not be kept: " in " ".join(done.output.split())
    assert "name a file with --out" in " ".join(done.output.split())
    monkeypatch.setattr("wenable.profiling.profile", lambda *_, **__: found)
    out = tmp_path / "here.json"
    done = CliRunner().invoke(app, ["profile", str(bundle), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "not kept for sessions (" in " ".join(done.output.split())
    assert DeviceProfile.read(out) == found
    assert Session(bundle, engine="onnxruntime", threads=1, profile=out).profile == found


def test_times_of_implementations_are_not_remembered(useless_home: str):
    path = default_memory_path()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory = ImplementationMemory(path)
    memory.put("layer", {1: {"grouped": 1.0}})
    if path is None:
        memory.write()
    else:
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            memory.write()


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="needs to be root")
def test_another_users_home_is_no_obstacle(bundle: Path, tmp_path: Path):
    """As in a container that keeps HOME=/root and runs as a user without a name."""
    code = """
import os, sys
import numpy as np
from wenable.runtime import Session

def answers():
    for engine in ("onnxruntime", "openvino", "auto"):
        session = Session(sys.argv[1], engine=engine, threads=1)
        print(session.run(np.zeros((1, 3, 6, 6), "f")).shape)

os.environ["HOME"] = sys.argv[2]
answers()  # all is imported that this user may not be allowed to read
os.setgid(54321)
os.setuid(54321)
answers()
del os.environ["HOME"]
answers()
"""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for folder in bundle.parents:
        if folder != Path(tempfile.gettempdir()) and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o055)
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(home)], env=environment, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["(1, 5)"] * 9 + [""]


DAMAGED = {
    "empty": "",
    "cut off": '{"format": "wenable-device-prof',
    "a list": "[]",
    "of another version": '{"format": "wenable-device-profile", "version": 1}',
    "without contents": '{"format": "wenable-device-profile", "version": 2}',
    "no text": "\udcff\udcfe",
    "deeply nested": "[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_kept_profile_that_is_damaged_is_ignored_with_a_warning(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = kept_place(bundle)
    place.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.warns(RuntimeWarning, match=r"the profile kept in .*\.json is ignored \("):
        session = Session(bundle, engine="onnxruntime", threads=1)
    assert session.run(np.zeros((1, 3, 6, 6), np.float32)).shape == (1, 5)
    # The same file is an error where somebody asks for it.
    with pytest.raises(ValueError, match="is no device profile"):
        Session(bundle, engine="onnxruntime", threads=1, profile=place)


@pytest.mark.parametrize(
    ("key", "value"), [("bundle", "0" * 64), ("engine", "onnxruntime 0.1"), ("threads", 7)]
)
def test_a_kept_profile_of_something_else_is_ignored_with_a_warning(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place, session = kept_place(bundle), Session(bundle, engine="onnxruntime", threads=1)
    place.write_text(json.dumps(session.profile.to_json() | {key: value}))
    with pytest.warns(RuntimeWarning, match=f"is ignored .*with {key} {value}; this session has"):
        assert Session(bundle, engine="onnxruntime", threads=1).profile == session.profile


def test_a_folder_in_the_profiles_place_is_ignored_with_a_warning(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept_place(bundle).mkdir()
    with pytest.warns(RuntimeWarning, match="is ignored"):
        Session(bundle, engine="onnxruntime", threads=1)


def kept_place(bundle: Path) -> Path:
    session = Session(bundle, engine="onnxruntime", threads=1)
    found = session.profile
    place = on_device.default_profile_path(found.bundle, found.device, found.engine, found.threads)
    assert place is not None
    place.parent.mkdir(parents=True, exist_ok=True)
    assert kept_profile(found.bundle, session.engine) == found
    return place


def test_what_cannot_be_written_is_told_before_the_work(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def not_reached(*_: Any, **__: Any) -> None:
        raise AssertionError("it began to measure")

    monkeypatch.setattr("wenable.profiling.profile", not_reached)
    monkeypatch.setattr("wenable.profiling.comparison.compare", not_reached)
    for command in ("profile", "bench"):
        out = tmp_path / "absent" / "out.json"
        done = CliRunner().invoke(app, [command, str(bundle), "--out", str(out)])
        assert done.exit_code == 1
        assert "there is no folder" in " ".join(done.output.split())


def test_reasons_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert why_not_kept(None) == "this user has no home folder; set HOME or XDG_CACHE_HOME"
    assert why_not_kept(tmp_path / "new" / "file") == ""
    (tmp_path / "file").write_text("")
    assert "cannot be made" in why_not_kept(tmp_path / "file" / "folder" / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path("a", "b") == tmp_path / "wenable" / "a" / "b"
