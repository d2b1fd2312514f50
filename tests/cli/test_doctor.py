"""`wenable doctor` says what is there, and why what is there cannot be used."""

import json
from pathlib import Path

from tests.helpers.command_line import run
from tests.helpers.engines import KERNELS_ARE_BUILT
from wenable.cli.doctor import engine_finding, gpu_words
from wenable.runtime.engine import EngineError


def test_doctor_says_what_is_there():
    findings = {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)}
    assert findings["torch"]["found"]
    meters = [each for what, each in findings.items() if what.startswith("energy: ")]
    assert meters
    assert all(each["detail"] for each in meters)  # found or not, it is said why
    engines = {what: each for what, each in findings.items() if what.startswith("engine: ")}
    assert set(engines) == {"engine: onnxruntime", "engine: openvino", "engine: native"}
    assert engines["engine: native"]["found"] == KERNELS_ARE_BUILT
    assert "on the processor with up to" in engines["engine: onnxruntime"]["detail"]
    assert {"governor", "clock", "temperature", "gpu"} <= set(findings)
    shown = run("doctor").stdout
    assert "processor" in shown


def test_doctor_shows_the_brackets_of_extras(monkeypatch):
    monkeypatch.setattr("wenable.cli.doctor.open_engine", open_nothing)
    monkeypatch.setattr("wenable.cli.doctor.is_installed", lambda name: False)
    shown = " ".join(run("doctor").stdout.split())
    assert "wenable[openvino]" in shown.replace("│ │ │ ", "")


def open_nothing(name: str):
    raise EngineError("not there")


def test_an_engine_that_is_installed_and_broken_says_why(monkeypatch):
    def broken(name: str):
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr("wenable.cli.doctor.open_engine", broken)
    what, found, words = engine_finding("openvino")
    assert (what, found) == ("engine: openvino", False)
    assert words == "installed, and cannot be opened: libgomp.so.1: cannot open shared object file"


def test_a_gpu_that_torch_cannot_use_is_no_gpu_that_is_absent(tmp_path: Path):
    assert gpu_words("torch 2, built for no GPU", tmp_path / "absent").startswith("none was found")
    (tmp_path / "0000:01:00.0").mkdir()
    said = gpu_words("torch 2, built for no GPU", tmp_path)
    assert said == "NVIDIA's driver shows 1, which cannot be used (torch 2, built for no GPU)"
