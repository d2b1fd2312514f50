"""A profile belongs to the precision it was measured in: what else computes otherwise does not take it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import wenable as we
from tests.helpers.engines import NEEDS_OPENVINO
from wenable.cli.main import app
from wenable.measure import NoMeter
from wenable.measure.latency import TimingPlan
from wenable.profiling import ProfilePlan, profile
from wenable.profiling.comparison import compare
from wenable.profiling.verification import verify
from wenable.runtime import DeviceProfile, Session

SHORT = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)
PLAN = ProfilePlan(1, 2, scheme_timing=SHORT, mode_timing=SHORT)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = we.convert(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 16),
                     method=we.WeightEnabling((1, 2)))  # fmt: skip
    return we.export(net, ["full", "1/2"], tmp_path_factory.mktemp("precision") / "net.wen")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that is said to have it; OpenVINO takes the hint on any."""
    from wenable.runtime.engine_openvino import OpenVino

    monkeypatch.setattr(OpenVino, "precisions", ("float32", "bfloat16"))


def measured(path: Path, precision: str) -> DeviceProfile:
    return profile(
        path, engine="openvino", threads=1, precision=precision, plan=PLAN, meter=NoMeter("not asked")
    )  # fmt: skip


@NEEDS_OPENVINO
def test_a_session_in_another_precision_does_not_take_it(path, cache, has_bfloat16):
    found = measured(path, "bfloat16")
    assert found.precision == "bfloat16"
    assert all("bfloat16" in each.source for each in found.latencies.values())
    assert found.table is not None
    assert "bfloat16" in found.table.source
    assert DeviceProfile.from_json(json.loads(json.dumps(found.to_json()))) == found
    settings = {"engine": "openvino", "threads": 1}
    with Session(path, precision="bfloat16", **settings) as same:
        assert same.profile == found  # kept for this user
    with Session(path, **settings) as other:
        assert not other.profile.latencies
    words = r"^`profile` was measured in bfloat16; this session computes in float32$"
    with pytest.raises(ValueError, match=words):
        Session(path, profile=found, **settings)
    assert set(verify(path, found, engine="openvino", timing=SHORT).measured) == {"1", "1/2"}
    with pytest.raises(ValueError, match="with precision bfloat16; this one has float32"):
        verify(path, found, engine="openvino", precision="float32", timing=SHORT)


@NEEDS_OPENVINO
def test_a_processor_without_units_is_measured_in_float32_and_told(path, cache, monkeypatch):
    from wenable.runtime.engine_openvino import OpenVino

    monkeypatch.setattr(OpenVino, "precisions", ("float32",))
    found = measured(path, "bfloat16")
    assert found.precision == "float32"
    assert "measured in float32: this processor has no units for bfloat16" in found.events


def test_profiles_of_before_have_the_precision_of_their_engine():
    plain = DeviceProfile("b", "a board", "openvino 2026.4", 1)
    for engine, precision in (
        ("openvino 2026.4", "float32"),
        ("openvino 2026.4 float16", "float16"),
    ):
        values = replace(plain, engine=engine).to_json()
        del values["precision"]
        assert DeviceProfile.from_json(values).precision == precision
    with pytest.raises(ValueError, match=r"a precision \(='half'\) must be one of float32"):
        DeviceProfile.from_json(plain.to_json() | {"precision": "half"})


@NEEDS_OPENVINO
def test_a_comparison_is_in_one_precision_where_engines_offer_it(path, has_bfloat16):
    rows = compare(
        path, engines=["onnxruntime", "openvino"], threads=1, precision="bfloat16", timing=SHORT
    )
    assert {(row.engine, "bfloat16" in row.version) for row in rows} == {
        ("onnxruntime", False), ("openvino", True),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"\(='bfloat16'\) is offered by none of onnxruntime; 'op"):
        compare(path, engines=["onnxruntime"], precision="bfloat16")
    with pytest.raises(ValueError, match=r"\(='half'\) is unknown; allowed: float32"):
        compare(path, engines=["onnxruntime"], precision="half")


@NEEDS_OPENVINO
def test_the_commands_take_a_precision(path, cache, tmp_path, monkeypatch, has_bfloat16):
    import numpy as np

    def run(*arguments: object) -> tuple[int, str, str]:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])
        return done.exit_code, done.stdout, " ".join(done.stderr.split())

    np.save(tmp_path / "x.npy", np.zeros((1, 16), np.float32))
    for name in ("profile", "verify"):  # as the commands would call them, but quicker
        module = "wenable.profiling" if name == "profile" else "wenable.profiling.verification"
        quick = {"profile": {"plan": PLAN}, "verify": {"timing": SHORT}}[name]
        whole = {"profile": profile, "verify": verify}[name]
        monkeypatch.setattr(
            f"{module}.{name}", lambda *a, whole=whole, quick=quick, **kw: whole(*a, **kw, **quick)
        )
    on = ("--engine", "openvino", "--precision", "bfloat16")
    board = tmp_path / "board.json"
    code, out, err = run("profile", path, *on, "--threads", 1, "--no-energy", "--out", board)
    assert code == 0, err
    assert json.loads(board.read_text())["precision"] == "bfloat16"
    assert "bfloat16, 1 thread" in out
    code, out, err = run("verify", path, board, "--engine", "openvino")
    assert code == 0, err
    code, out, err = run("verify", path, board, "--engine", "openvino", "--precision", "float32")
    assert code != 0
    assert "with precision bfloat16; this one has float32" in err
    assert run("run", path, tmp_path / "x.npy", *on)[0] == 0
    code, _, err = run("run", path, tmp_path / "x.npy", "--engine", "onnxruntime", *on[2:])
    assert code != 0
    assert "not offered by onnxruntime" in err
    code, _, err = run("bench", path, "--engines", "onnxruntime", *on[2:])
    assert code != 0
    assert "is offered by none of onnxruntime" in err


def test_a_profile_is_of_one_engine(path: Path):
    with pytest.raises(
        ValueError, match=r"`engine` \(='auto'\) must name one engine here; allowed: onnx"
    ):
        profile(path, engine="auto")
