"""Bundles whose modes take smaller images: the session makes them smaller, or takes the mode's own size."""

from __future__ import annotations

import json
import random
import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.engines import SESSION_ENGINES
from tests.helpers.mutations import bundle_of, parts_of
from tests.helpers.networks import give_norms_a_past
from wenable.core.resampling import resampled
from wenable.measure.latency import TimingPlan
from wenable.measure.meters.meter import NoMeter
from wenable.profiling import ProfilePlan, profile
from wenable.runtime import Bundle, BundleError, Session

SIZES = (32, 24, 16)
QUICK = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@cache
def of_methods(which: str) -> tuple[we.DynamicNetwork, Path]:
    """A network of `JOINED` and its bundle; written once for all tests, which change neither."""
    return exported(Path(mkdtemp()), *JOINED[which])


def exported(
    folder: Path, methods: Any, modes: list[str], sides: tuple[int, int] = (32, 32)
) -> tuple[we.DynamicNetwork, Path]:
    torch.manual_seed(0)
    net = we.convert(
        give_norms_a_past(Net().eval()), torch.zeros(1, 3, *sides), method=methods
    ).eval()
    we.calibrate(net, modes, [torch.randn(8, 3, *sides)])
    return net, we.export(net, modes, folder / "net.wen")


MODES = ["full", "24", "16"]
JOINT_MODES = ["full", "1/4", "1,size=16", "1/2,size=24", "1/4,size=16"]
GROUPS = we.WeightEnabling(groups=(1, 2, 4), shuffle="all")
JOINED: dict[str, tuple[Any, list[str]]] = {
    "sizes": (we.ImageSize(SIZES), MODES),
    "groups and sizes": ([GROUPS, we.ImageSize(SIZES)], JOINT_MODES),
    "widths and sizes": (
        [we.UniversallySlimmable(), we.ImageSize(SIZES)], ["full", "0.55,size=24", "1,size=16"],
    ),
}  # fmt: skip


def images(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)


def expected(net: we.DynamicNetwork, mode: str, x: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return we.extract(net, mode)(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("engine", SESSION_ENGINES)
@pytest.mark.parametrize("which", list(JOINED))
def test_a_session_answers_as_the_extracted_network_at_both_sizes(which: str, engine: str):
    (net, path), (_, modes) = of_methods(which), JOINED[which]
    session = Session(path, engine=engine, threads=1)
    x = images(3, 32, 32)
    for mode, number in zip(modes, range(len(modes)), strict=True):
        answers = expected(net, mode, x)
        np.testing.assert_allclose(session.run(x, mode=mode), answers, rtol=1e-4, atol=1e-4)
        own = session.bundle.inputs_of(number)[0].shape[2:]
        smaller = x if own == (32, 32) else resampled(x, *own)  # type: ignore[misc]
        np.testing.assert_allclose(session.run(smaller, mode=mode), answers, rtol=1e-4, atol=1e-4)


def test_both_sides_shrink_by_the_same_ratio(tmp_path: Path):
    net, path = exported(tmp_path, we.ImageSize((32, 24)), ["full", "24"], (32, 64))
    session = Session(path, engine="onnxruntime", threads=1)
    assert [session.bundle.inputs_of(number)[0].shape[2:] for number in (0, 1)] == [
        (32, 64),
        (24, 48),
    ]
    x = images(2, 32, 64)
    np.testing.assert_allclose(session.run(x, mode="24"), expected(net, "24", x), atol=1e-4)


def test_weights_stand_once_whatever_the_number_of_sizes(tmp_path: Path):
    _, one = exported(tmp_path, GROUPS, ["full"])
    _, many = of_methods("groups and sizes")
    whole = {name: each for name, each in Bundle(one)._tensors.items() if each.size > 64}
    kept = {name: each for name, each in Bundle(many)._tensors.items() if each.size > 64}
    assert set(kept) == set(whole)
    assert len(Bundle(many)._graphs) == len(SIZES)  # groups have none of their own


def test_a_deadline_takes_full_images_and_chooses_among_the_sizes():
    net, path = of_methods("sizes")
    with Session(path, engine="onnxruntime", threads=1) as session:
        session.warm_up((2,))
        x = images(2, 32, 32)
        y = session.run(x, deadline_ms=1000.0)
        np.testing.assert_allclose(y, expected(net, "full", x), atol=1e-4)
        with pytest.raises(ValueError, match=r"must have shape \(N, 3, 32, 32\), N above 0"):
            session.run(images(2, 16, 16), deadline_ms=1000.0)


def test_other_sizes_are_refused_with_those_that_fit():
    _, path = of_methods("sizes")
    session = Session(path, engine="onnxruntime", threads=1)
    with pytest.raises(
        ValueError, match=r"must have shape \(N, 3, 32, 32\) or \(N, 3, 16, 16\), N above 0"
    ):
        session.run(images(1, 24, 24), mode="16")


def test_a_bundle_without_the_full_size_is_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _, path = exported(tmp_path, [GROUPS, we.ImageSize(SIZES)], ["1/2,size=24", "1/4,size=16"])
    plan = ProfilePlan(mixtures=1, scheme_timing=QUICK, mode_timing=QUICK)
    found = profile(path, engine="onnxruntime", threads=1, plan=plan, meter=NoMeter("not asked"))
    assert set(found.latencies) == {str(each.mode) for each in Bundle(path).modes}


def test_the_full_size_need_not_be_exported(tmp_path: Path):
    net, path = exported(tmp_path, we.ImageSize(SIZES), ["24", "16"])
    session = Session(path, engine="onnxruntime", threads=1)
    x = images(2, 32, 32)
    np.testing.assert_allclose(session.run(x), expected(net, "24", x), atol=1e-4)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda inputs: inputs[0]["shape"].__setitem__(3, 8),  # the network's is the smaller one
        lambda inputs: inputs[0]["shape"].__setitem__(1, 1),
        lambda inputs: inputs[0]["shape"].pop(),
        lambda inputs: inputs[0].__setitem__("name", "other"),
        lambda inputs: inputs[0].__setitem__("dtype", "int64"),
        lambda inputs: inputs.append(dict(inputs[0])),
        lambda inputs: inputs.clear(),
        lambda inputs: inputs[0]["shape"].__setitem__(2, 2**40),
        lambda inputs: inputs[0]["shape"].__setitem__(2, "32"),
    ],
)
def test_inputs_that_do_not_fit_are_one_error_in_one_line(tmp_path: Path, spoil: Any):
    _, path = of_methods("sizes")
    manifest, tensors = parts_of(path.read_bytes())
    spoil(manifest["inputs"])
    other = tmp_path / "spoiled.wen"
    other.write_bytes(bundle_of(manifest, tensors))
    with pytest.raises(BundleError) as error:
        Bundle(other)
    assert "\n" not in str(error.value)
    assert json.dumps(manifest)  # it was the manifest that was spoiled, and nothing else


def test_random_modes_of_the_joint_space(tmp_path: Path):
    rng = random.Random(0)
    space = of_methods("groups and sizes")[0].space
    modes = list(dict.fromkeys(str(space.sample(rng)) for _ in range(6)))
    net, path = exported(tmp_path, [GROUPS, we.ImageSize(SIZES)], modes)
    session = Session(path, engine="onnxruntime", threads=1)
    x = images(2, 32, 32)
    for mode in modes:
        np.testing.assert_allclose(session.run(x, mode=mode), expected(net, mode, x), atol=1e-4)
