"""Profiles of bundles whose modes differ in more than groups: each part is measured by its own modes."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import wenable as we
from tests.helpers.engines import NEEDS_KERNELS
from tests.helpers.networks import small_resnet
from wenable.core.cost_parts import CostParts
from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.measure import NoMeter
from wenable.measure.latency import TimingPlan
from wenable.profiling import ProfilePlan, profile, whole_modes
from wenable.profiling.cost_tables import spread_modes
from wenable.profiling.parts import parts_of
from wenable.profiling.verification import verify
from wenable.profiling.whole_modes import ModeBuilder
from wenable.runtime import Bundle, DeviceProfile, Session

QUICK = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)
PLAN = ProfilePlan(mixtures=1, table_modes=3, scheme_timing=QUICK, mode_timing=QUICK)
METHODS = [
    we.WeightEnabling((1, 4), only="block1.conv[13]"),
    we.ImageSize((12, 6)),
    we.SwitchablePrecision((32, 8)),
]
FULL_OF_EACH = ["full", "8-bit", "1,size=6", "8-bit,size=6"]


@pytest.fixture(scope="module")
def net() -> we.DynamicNetwork:
    images = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    made = we.convert(small_resnet(), images[:2], method=METHODS).eval()
    we.calibrate(made, [*FULL_OF_EACH, "1/4,size=6,precision=8-bit"], [images])
    return made


@pytest.fixture(scope="module")
def probe(net, tmp_path_factory) -> Path:
    """A bundle that holds the full mode of every part."""
    return we.export(net, FULL_OF_EACH, tmp_path_factory.mktemp("probe") / "net.wen")


def parts_ms(mode: Mode) -> dict[str, float]:
    """What layers take on a made-up device, on which every part has costs of its own; "" is the rest."""
    share = {1: 1.0, 2: 0.4}[mode["size"]] * {1: 1.0, 4: 0.6}[mode["precision"]]
    first, last = mode["block1.conv1"], mode["block1.conv3"]
    return {
        "": share * 5.0, "block1.conv1": share * 4.0 / first**share, "block1.conv3": share * 2.0 / last,
    }  # fmt: skip


def ms(mode: Mode) -> float:
    return sum(parts_ms(mode).values())


def shapes(model: bytes) -> list[Any]:
    """Return what a model computes, without the values of its weights."""
    read = onnx.load_from_string(model)
    found: list[Any] = [
        [(d.dim_value, d.dim_param) for d in read.graph.input[0].type.tensor_type.shape.dim]
    ]
    found += [(n.op_type, len(n.input), [str(a) for a in n.attribute]) for n in read.graph.node]
    return found + sorted((list(t.dims), t.data_type) for t in read.graph.initializer)


def test_a_mode_that_is_built_from_another_is_that_mode_but_for_values(net, probe, tmp_path):
    mode = "1/4,size=6,precision=8-bit"
    bundle = Bundle(we.export(net, [mode], tmp_path / "own.wen"))
    expected = ModeBuilder(bundle, {})(bundle.space.mode(mode)).content
    parts = parts_of(Bundle(probe))
    assert [str(part.full) for part in parts] == ["1", "8-bit", "1,size=6", "8-bit,size=6"]
    wanted = parts[3].bundle.space.mode(mode)
    built = ModeBuilder(parts[3].bundle, {}, parts[3].number)
    assert shapes(built(wanted).content) == shapes(expected)
    others = [ModeBuilder(part.bundle, {}, part.number) for part in parts[:3]]
    for other in others:
        with pytest.raises(ValueError, match="in more than groups, and cannot be built from that"):
            other(wanted)


def test_every_part_is_predicted_by_its_own_measurements(probe, monkeypatch):
    bundle = Bundle(probe)
    monkeypatch.setattr(
        whole_modes, "_measure_group",
        lambda _b, _e, modes, _t: {mode: Reading(ms(mode), "ms") for mode in modes},
    )  # fmt: skip
    monkeypatch.setattr(
        ModeBuilder, "layer_times", lambda self, _engine, mode, _calls: parts_ms(mode)
    )
    said: list[str] = []
    found = profile(
        probe, threads=1, plan=PLAN, meter=NoMeter("not asked"),
        on_progress=lambda done, of, what: said.append(what),
    )  # fmt: skip
    assert found.table is None
    costs = CostParts(bundle.space, found.tables("latency"))
    assert costs.missing(1) == []
    for options in itertools.product(*(knob.options for knob in bundle.space.knobs)):
        mode = bundle.space.mode(dict(zip(bundle.space.names, options, strict=True)))
        assert costs.cost(mode) == pytest.approx(ms(mode), rel=0.01)
    assert any(each.startswith("whole modes at 8-bit,size=6, group 1") for each in said)
    assert DeviceProfile.from_json(json.loads(json.dumps(found.to_json()))) == found
    with Session(probe, engine="onnxruntime", threads=1) as session:
        assert session.profile == found  # kept for this user


def test_a_real_profile_is_searched_by_and_verified(net, probe):
    found = profile(probe, threads=1, plan=PLAN, meter=NoMeter("not asked"))
    data = [(torch.randn(16, 3, 12, 12), torch.arange(16) % 5)]
    front = we.explore(net, data, data, min_accuracy=0.0, cost="latency", profile=found)
    assert {(p.mode["size"], p.mode["precision"]) for p in front.explored} == {
        (1, 1), (1, 4), (2, 1), (2, 4),
    }  # fmt: skip
    assert "predicted by a table: onnxruntime" in front.points[0].cost.source
    also = ["1/4,size=6,precision=8-bit"]
    verified = verify(probe, found, also=also, timing=QUICK)
    space = Bundle(probe).space
    drawn = [space.mode(mode) for mode in verified.measured]
    counts = Counter((mode["size"], mode["precision"]) for mode in drawn)
    assert len(counts) == 4
    assert min(counts.values()) >= 2  # of six in each part, drawn of four modes
    costs = CostParts(space, found.parts)
    assert verified.predicted == {mode: costs.cost(mode) for mode in verified.measured}
    assert also[0] in {str(space.mode(mode)) for mode in verified.measured}


def test_parts_that_the_bundle_lacks_are_named_and_not_priced(net, tmp_path):
    path = we.export(net, ["full", "8-bit,size=6"], tmp_path / "two.wen")
    found = profile(path, threads=1, plan=PLAN, meter=NoMeter("not asked"))
    assert len(found.parts) == 2
    assert (
        "no cost table for 8-bit, 1,size=6: the bundle holds no mode of these, and what others take"
        " says nothing of them" in found.events
    )
    data = [(torch.randn(16, 3, 12, 12), torch.arange(16) % 5)]
    with pytest.raises(ValueError, match=r"`profile` has no cost of 8-bit, 1,size=6, and what"):
        we.explore(net, data, data, min_accuracy=0.0, cost="latency", profile=found)
    with pytest.raises(ValueError, match=r"of mode 8-bit: none was measured with"):
        verify(path, found, also=["8-bit"], timing=QUICK)


@NEEDS_KERNELS
def test_our_kernels_measure_the_parts_that_they_run(net, tmp_path):
    path = we.export(net, ["full", "1,size=6"], tmp_path / "sizes.wen")
    found = profile(path, engine="native", threads=1, plan=PLAN, meter=NoMeter("not asked"))
    assert len(found.parts) == 2
    drawn = spread_modes(found.parts[1].space, random.Random(0), 4)
    assert all(found.parts[1].cost(dict(mode)) > 0 for mode in drawn)


def test_precision_and_exits_are_exported_profiled_and_searched(tmp_path):
    torch.manual_seed(0)
    images = torch.randn(16, 3, 12, 12)
    method = [we.SwitchablePrecision((32, 8)), we.EarlyExits(("block1",))]
    cut = we.convert(small_resnet(), images[:2], method=method).eval()
    modes = ["32-bit", "8-bit", "32-bit,exit=block1", "8-bit,exit=block1"]
    we.calibrate(cut, modes, [images])
    path = we.export(cut, modes, tmp_path / "net.wen")
    with Session(path, engine="onnxruntime", threads=1) as session:
        for mode in modes:
            with torch.no_grad():
                expected = we.extract(cut, mode)(images)
            found = torch.from_numpy(session.run(images.numpy(), mode=mode))
            assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    found = profile(path, threads=1, plan=PLAN, meter=NoMeter("not asked"))
    data = [(images, torch.arange(16) % 5)]
    front = we.explore(cut, data, data, min_accuracy=0.0, cost="latency", profile=found)
    assert {str(p.mode): p.cost.known for p in front.explored} == {
        mode: each.known for mode, each in found.latencies.items()
    }
    assert all(p.cost.source.startswith("measured as a whole: ") for p in front.explored)
