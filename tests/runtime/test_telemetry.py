"""Engines report to nobody, unless the user has asked for it: seen in what a process leaves behind."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import wenable as we
from tests.helpers.networks import converted, small_resnet
from wenable.runtime import telemetry

SOURCE = Path(we.__file__).parent
ONE_REQUEST = """
import os, sys, threading
import numpy as np
from wenable.runtime import Session
session = Session(sys.argv[1], engine=sys.argv[2], threads=1)
session.run(np.zeros((1, 3, 6, 6), np.float32))
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry")))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = converted(small_resnet()).eval()
    net.set_mode("full")
    import torch

    we.calibrate(net, ["full"], [torch.zeros(2, 3, 6, 6)])
    return we.export(net, ["full"], tmp_path_factory.mktemp("telemetry") / "net.wen")


def process(home: Path, *command: str, **variables: str) -> str:
    """Run a process as on a machine of a user whose home is `home`, and return what it printed."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
            if name in os.environ}  # fmt: skip
    environment = kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=True
    ).stdout


def left_behind(home: Path) -> list[str]:
    return sorted(str(each.relative_to(home)) for each in home.rglob("*") if each.is_file())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_session_leaves_nothing_in_the_home_of_its_user(bundle: Path, tmp_path: Path, engine):
    said = process(tmp_path, "-c", ONE_REQUEST, str(bundle), engine)
    assert left_behind(tmp_path) == []
    assert said.strip() == "[]"  # and OpenVINO's package was not loaded


def test_a_user_who_set_the_switch_is_not_overruled(bundle: Path, tmp_path: Path):
    """The control of the test above: it would see telemetry, where the engine has any."""
    process(tmp_path, "-c", ONE_REQUEST, str(bundle), "onnxruntime", ORT_DISABLE_TELEMETRY="0")
    has_some = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 29)
    reported = any(each.endswith("onnxruntime.db") for each in left_behind(tmp_path))
    assert reported == (has_some and sys.platform == "linux")


def test_a_user_who_opted_in_to_openvinos_is_not_overruled(tmp_path: Path):
    pytest.importorskip("openvino_telemetry")
    code = "import sys, wenable.runtime.quiet_openvino; print('openvino_telemetry' in sys.modules)"
    (tmp_path / "intel").mkdir()
    for kept, loaded in (("0", False), ("1", True)):
        (tmp_path / "intel" / "openvino_telemetry").write_text(kept)
        # Their own switch for continuous integration keeps it from sending here.
        assert process(tmp_path, "-c", code, CI="true").strip() == str(loaded)


def test_openvinos_package_can_be_imported_afterwards(tmp_path: Path):
    pytest.importorskip("openvino_telemetry")
    code = "import wenable.runtime.quiet_openvino, openvino_telemetry as t; print(t.Telemetry.__name__)"
    assert process(tmp_path, "-c", code).strip() == "Telemetry"


@pytest.mark.parametrize(
    ("engine", "variables", "words"),
    [
        ("onnxruntime", {}, "telemetry off when wenable imports it"),
        ("onnxruntime", {"ORT_DISABLE_TELEMETRY": "1"}, "telemetry off (ORT_DISABLE_TELEMETRY=1)"),
        ("onnxruntime", {"ORT_DISABLE_TELEMETRY": "0"}, "as ORT_DISABLE_TELEMETRY=0 says"),
        ("openvino", {}, "telemetry off"),
    ],
)
def test_what_is_so_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path, engine, variables, words):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert words in telemetry.telemetry_words(engine)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_one_place_imports_an_engine(engine: Any):
    found = [path.name for path in SOURCE.rglob("*.py") if engine in imports(path)]
    assert found == [f"quiet_{engine}.py"]
