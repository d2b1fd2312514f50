"""A session's precision: what an engine offers, what is refused, and when another one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import wenable as we
from tests.helpers.engines import NEEDS_OPENVINO
from wenable.runtime import session_engine
from wenable.runtime.engine import EngineError, HasPrecisions, describe_engine
from wenable.runtime.engines import is_installed, open_engine
from wenable.runtime.session import Session
from wenable.runtime.session_engine import TOLERANCE, is_near


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = we.convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.zeros(1, 8),
                     method=we.WeightEnabling((1, 2)))  # fmt: skip
    return we.export(net, ["full", "1/2"], tmp_path_factory.mktemp("precision") / "net.wen")


@NEEDS_OPENVINO
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "auto"])
def test_answers_are_right_and_the_session_says_what_computed_them(path, precision):
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    with Session(path, engine="openvino", threads=1) as exact:
        expected = {mode: exact.run(x, mode=mode) for mode in exact.modes}
        assert exact.precision == "float32"
    with Session(path, engine="openvino", threads=1, precision=precision) as session:
        had: Any = session.engine
        assert session.precision in ("float32", precision) or precision == "auto"
        assert session.precision in had.precisions
        assert (session.precision in describe_engine(had)) == (session.precision != "float32")
        for mode in session.modes:
            most = np.abs(expected[mode]).max()
            np.testing.assert_allclose(session.run(x, mode=mode), expected[mode], atol=0.05 * most)
    if session.precision == "float32":  # as on a processor without units for others
        assert session.engine.version == exact.engine.version


def test_what_an_engine_does_not_offer_is_refused_in_one_line(path):
    with pytest.raises(
        ValueError, match=r"^`precision` \(='half'\) is unknown; allowed: float32, "
    ):
        Session(path, engine="onnxruntime", precision="half")
    for engine in filter(is_installed, ("onnxruntime",)):
        words = (
            rf"^`precision` \(='bfloat16'\) is not offered by {engine}, which computes in float32"
        )
        with pytest.raises(ValueError, match=words):
            Session(path, engine=engine, precision="bfloat16")
        with Session(path, engine=engine, threads=1, precision="auto") as session:
            assert session.precision == "float32"
    with pytest.raises((ValueError, EngineError), match=r"not offered by native|not installed"):
        open_engine("native", 1, "float16")


class Engine:
    """An engine whose answers are off by a share, and whose calls take a time, by precision."""

    name, version, threads, per_batch = "other", "1", 1, False

    def __init__(self, off: dict[str, float], precision: str = "float32") -> None:
        self.off, self.precision, self.asked = off, precision, []

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(self.off)

    def in_precision(self, precision: str) -> Engine:
        return Engine(self.off, precision)

    def prepare(self, model: bytes, batch: int | None = None) -> Any:
        if self.off[self.precision] > 1:
            raise EngineError("no such precision for this model")
        return lambda inputs: [np.array([[1.0, -2.0]]) * (1 + self.off[self.precision])]

    def held_bytes(self, model: int, computed: int) -> int:
        return 0

    def operation_times(self, *_: Any) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("off", "ms", "taken"),
    [
        ({"float32": 0.0}, {"float32": 9}, "float32"),  # nothing to choose from
        ({"float32": 0.0, "bfloat16": 0.01}, {"float32": 9, "bfloat16": 4}, "bfloat16"),
        ({"float32": 0.0, "bfloat16": 0.01}, {"float32": 9, "bfloat16": 8.9}, "float32"),
        ({"float32": 0.0, "bfloat16": 0.05}, {"float32": 9, "bfloat16": 4}, "float32"),
        ({"float32": 0.0, "bfloat16": 0.05, "float16": 0.001},
         {"float32": 9, "bfloat16": 1, "float16": 5}, "float16"),
        ({"float32": 0.0, "bfloat16": 9.0}, {"float32": 9, "bfloat16": 1}, "float32"),
    ],
)  # fmt: skip
def test_auto_takes_the_fastest_that_stays_near(path, monkeypatch, tmp_path, off, ms, taken):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("wenable.runtime.remembered._known", {})

    def measured(calls: dict[Any, Any], _: Any) -> dict[Any, we.Reading]:
        timed.append(set(calls))
        return {key: we.Reading(float(ms[key[0]]), "ms") for key in calls}

    timed: list[Any] = []
    monkeypatch.setattr(session_engine, "measure_latencies", measured)
    engine: Any = Engine(off)
    assert isinstance(engine, HasPrecisions)
    bundle = session_engine.Bundle(path)
    assert session_engine.fastest_precision(bundle, engine) == taken
    asked = len(timed)
    assert session_engine.fastest_precision(bundle, engine) == taken  # remembered
    assert len(timed) == asked


@given(
    st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=4),
    st.lists(st.floats(-0.05, 0.05), min_size=4, max_size=4),
)
def test_near_is_a_share_of_the_largest(values, shares):
    expected = np.array(values)
    most = max(map(abs, values))
    found = expected + np.array(shares[: len(values)]) * most
    limit = max(abs(each) for each in shares[: len(values)])
    if abs(limit - TOLERANCE) > 1e-6:
        assert is_near(found, expected) == (limit < TOLERANCE or most == 0)
    assert not is_near(np.full(1, np.nan), expected[:1])
    masked = np.append(expected, -np.inf)
    assert is_near(masked, masked)
    assert not is_near(np.append(expected, np.inf), masked)
