"""Every method's modes stand in a bundle, and give what their extracted networks give."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.engines import NEEDS_KERNELS
from tests.helpers.methods import METHODS, MODES, converted_by
from tests.helpers.mutations import parts_of
from tests.helpers.networks import Tokens, give_norms_a_past
from tests.helpers.small_families import SMALL_FAMILIES
from wenable.exporting import writing
from wenable.measure import NoMeter
from wenable.measure.latency import TimingPlan
from wenable.profiling import profile
from wenable.profiling.plan import ProfilePlan
from wenable.profiling.verification import verify
from wenable.runtime.bundle import Bundle
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import installed_engines
from wenable.runtime.session import Session
from wenable.zoo.reference import CifarResNet

ENGINES = installed_engines()
INTEGERS = 0.02
"""How far answers of integers of 8 bits are off here; the small network adds up four such layers."""


@dataclass(frozen=True)
class Written:
    """A network and the bundle of its modes."""

    net: we.DynamicNetwork
    path: Path

    def expected(self, mode: str, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return extracted(self.net, mode)(torch.from_numpy(x)).numpy()


@cache
def extracted(net: we.DynamicNetwork, mode: str) -> nn.Module:
    return we.extract(net, mode).eval()


@cache
def written(method: str) -> Written:
    net = converted_by(method)
    return Written(net, we.export(net, MODES[method], Path(mkdtemp()) / "net.wen"))


def images(net: we.DynamicNetwork, count: int = 3) -> np.ndarray:
    shape = net.example_batch[0].shape[1:]
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", METHODS)
def test_every_mode_gives_the_answers_of_the_extracted_network(method: str, engine: str):
    made = written(method)
    session = Session(made.path, engine=engine, threads=1)
    assert session.modes == tuple(str(made.net.space.mode(mode)) for mode in MODES[method])
    answers = []
    for mode in MODES[method]:
        for count in (1, 3):
            x = images(made.net, count)
            found = session.run(x, mode=mode)
            allowed = INTEGERS if "bit" in mode and "32" not in mode else 2e-5
            assert difference(found, made.expected(mode, x)) < allowed, mode
        answers.append(found)
    # Modes are told apart by more than they may be off.
    for one, other in itertools.pairwise(answers):
        assert difference(one, other) > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_modes_share_the_weights_and_add_little(method: str):
    made = written(method)
    manifest, tensors = parts_of(made.path.read_bytes())
    norms = sum(each.nbytes for name, each in tensors.items() if name.startswith("norms."))
    weights = sum(each.nbytes for each in tensors.values()) - norms
    held = 4 * sum(p.numel() for p in made.net.parameters()) + 4 * sum(
        b.numel() for b in made.net.buffers()
    )
    assert weights <= held + 4096  # with small constants of the graphs
    for number, mode in enumerate(manifest["modes"]):
        channels = sum(norm.num_features for norm in made.net.switchable_norms().values())
        own = tensors[f"norms.{number}"].nbytes
        assert own <= 8 * channels
        graph = manifest["graphs"][mode["graph"]] if mode["graph"] else {}
        assert len(json.dumps([mode, graph])) <= 65536


def test_modes_of_one_structure_have_one_graph_and_exits_one_each():
    graphs = {
        method: parts_of(written(method).path.read_bytes())[0]["graphs"] for method in METHODS
    }
    assert {method: len(each) for method, each in graphs.items()} == {
        "slimmable": 1, "us-net": 1, "exits": 3, "precision": 1, "groups and precision": 1,
        "widths and precision": 1, "widths and exits": 3,
    }  # fmt: skip
    lengths = [len(each["nodes"]) for each in graphs["exits"]]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 3


def test_a_narrower_mode_is_a_corner_of_the_weight():
    made = written("slimmable")
    bundle = Bundle(made.path)
    number = bundle.number_of("0.5")
    weights, plain = bundle.weights_of(number), we.extract(made.net, "0.5")
    seen = 0
    for name, parameter in plain.named_parameters():
        if name in weights.tensors:
            np.testing.assert_array_equal(weights.tensors[name], parameter.detach().numpy())
            seen += 1
    assert seen >= len(made.net.switchable_norms())
    assert all(not each.flags.writeable for each in weights.tensors.values())


def test_a_narrower_exit_is_a_corner_of_the_branch():
    made = written("widths and exits")
    manifest, tensors = parts_of(made.path.read_bytes())
    branches = {name: each.shape for name, each in tensors.items() if "exit" in name}
    assert branches == {
        "weights.block1.exit_weight": (5, 32), "weights.block1.exit_bias": (5,),
        "weights.stem.exit_weight": (5, 16), "weights.stem.exit_bias": (5,),
    }  # fmt: skip
    views = [mode.get("views", {}) for mode in manifest["modes"]]
    cut = [{name: each for name, each in found.items() if "exit" in name} for found in views]
    assert cut == [
        {}, {}, {}, {"block1.exit_weight": {"columns": 16}}, {"stem.exit_weight": {"columns": 8}},
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["groups and precision", "widths and precision"])
def test_layers_of_8_bits_are_integers_in_the_model(method: str):
    made = written(method)
    session = Session(made.path, engine="onnxruntime", threads=1)
    rounded = 0
    for mode in (each for each in MODES[method] if "16" not in each):
        number = session.bundle.number_of(mode)
        model = onnx.load_from_string(session.model(number))
        onnx.checker.check_model(model, full_check=True)
        kinds = [node.op_type for node in model.graph.node]
        integers = [
            each for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT8
        ]
        layers = len(session.bundle.weights_of(number).roundings)
        assert kinds.count("QuantizeLinear") == layers
        assert len([each for each in integers if len(each.dims) > 1]) == layers
        rounded += layers
    assert rounded > 0


@NEEDS_KERNELS
@pytest.mark.parametrize("method", METHODS)
def test_our_kernels_run_a_mode_or_refuse_it_by_name(method: str):
    made = written(method)
    x = images(made.net)
    with Session(made.path, engine="native", threads=1) as session:
        for mode in MODES[method]:
            if "bit" in mode and "32" not in mode:
                with pytest.raises(EngineError, match=r"refuses the graph: .* no kernel for it$"):
                    session.run(x, mode=mode)
            else:
                found = session.run(x, mode=mode)
                assert difference(found, made.expected(mode, x)) < 2e-5


class Flattened(nn.Module):
    """Grouped and depthwise convolutions, and maps that are flattened into a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect")
        self.conv2 = nn.Conv2d(16, 32, 3, 2, groups=4, bias=False)
        self.norm, self.depthwise = nn.BatchNorm2d(32), nn.Conv2d(32, 64, 1, groups=32)
        self.hidden, self.norm1d = nn.Linear(256, 24), nn.BatchNorm1d(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv2(torch.relu(self.conv1(x)))))
        x = self.depthwise(x).flatten(1)
        return self.head(torch.relu(self.norm1d(self.hidden(x))))


NETWORKS = {
    "grouped and flattened": (Flattened, "slimmable", (2, 3, 6, 6)),
    "padded channels": (partial(CifarResNet, 1, 10), "slimmable", (2, 3, 16, 16)),
    "tokens": (Tokens, "groups and precision", (2, 3, 6, 6)),
    "mobilenet v2": (SMALL_FAMILIES["mobilenet v2"], "slimmable", (2, 3, 32, 32)),
    "resnet": (SMALL_FAMILIES["basic resnet"], "us-net", (2, 3, 32, 32)),
    "narrow and rounded": (Flattened, "widths and precision", (2, 3, 6, 6)),
    "rounded mobilenet": (SMALL_FAMILIES["mobilenet v2"], "precision", (2, 3, 32, 32)),
    "grouped rounded mobilenet": (
        SMALL_FAMILIES["mobilenet v2"], "groups and precision", (2, 3, 32, 32)
    ),
    "narrow rounded mobilenet": (
        SMALL_FAMILIES["mobilenet v2"], "widths and precision", (2, 3, 32, 32)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_other_kinds(tmp_path: Path, name: str):
    model, method, shape = NETWORKS[name]
    torch.manual_seed(1)
    net = converted_by(method, give_norms_a_past(model()).eval(), shape)
    path = we.export(net, MODES[method], tmp_path / "net.wen")
    made, x = Written(net, path), images(net)
    for engine in ENGINES:
        session = Session(path, engine=engine, threads=1)
        for mode in MODES[method]:
            # Deeper networks of random weights make more of what rounding decides.
            allowed = 0.1 if "bit" in mode and "32" not in mode else 1e-4
            assert difference(session.run(x, mode=mode), made.expected(mode, x)) < allowed, mode


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from wenable.runtime import Session
path, x = sys.argv[1:]
with Session(path, engine="onnxruntime", threads=1) as session:
    for mode in session.modes:
        print(mode, session.run(np.load(x), mode=mode).ravel()[:2].tolist())
    session.warm_up()
    assert session.run(np.load(x)[:1], deadline_ms=1000).shape == (1, 5)
    print(session.controller().decisions[-1].name)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_device_without_torch_runs_the_modes_and_keeps_a_deadline(tmp_path: Path, method: str):
    made = written(method)
    x = images(made.net)
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(made.path), str(tmp_path / "x.npy")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *answers, chosen = done.stdout.splitlines()
    session = Session(made.path, engine="onnxruntime", threads=1)
    assert len(answers) == len(session.modes)
    for mode, line in zip(session.modes, answers, strict=True):
        text, _, numbers = line.partition(" ")
        assert text == mode
        found = session.run(x, mode=mode).ravel()[:2]
        np.testing.assert_allclose(json.loads(numbers), found, rtol=1e-4, atol=1e-5)
    assert chosen in session.modes


QUICK = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=1.0)


@pytest.mark.parametrize(
    "method", ["slimmable", "exits", "groups and precision", "widths and precision"]
)
def test_modes_are_profiled_and_verified_as_wholes(method: str):
    made = written(method)
    plan = ProfilePlan(mixtures=1, table_modes=2, scheme_timing=QUICK, mode_timing=QUICK)
    found = profile(
        made.path, engine="onnxruntime", threads=1, plan=plan, meter=NoMeter("not asked")
    )
    modes = {str(made.net.space.mode(mode)) for mode in MODES[method]}
    assert set(found.latencies) == modes
    assert found.table is None
    grouped = method == "groups and precision"
    parts = {
        "groups and precision": 2,
        "widths and precision": 5,
    }  # options of all knobs but groups
    assert len(found.parts) == parts.get(method, 3)
    assert bool(found.times_ms) == grouped
    assert (
        any(each.startswith("no times of layers: none runs in") for each in found.events) != grouped
    )
    verified = verify(made.path, found, engine="onnxruntime", timing=QUICK)
    if not grouped:
        assert verified.predicted == {mode: found.latencies[mode].known for mode in modes}
        assert set(verified.measured) == set(verified.repeated) == modes
    with pytest.raises(
        ValueError, match=r"was not exported|is no option|an option that nothing|no knob"
    ):
        verify(made.path, found, also=["1/3"], timing=QUICK)
    with Session(made.path, engine="onnxruntime", threads=1) as session:
        assert session.profile == found  # it was kept for this user


def test_a_mode_that_is_rounded_otherwise_is_not_written(tmp_path: Path, monkeypatch: Any):
    net = converted_by("precision")
    views_of = writing.views_of

    def wrong(*given: Any) -> Any:
        found = views_of(*given)
        return {
            name: replace(view, rounding=view.rounding and replace(view.rounding, scale=1e-3))
            for name, view in found.items()
        }

    monkeypatch.setattr(writing, "views_of", wrong)
    with pytest.raises(RuntimeError, match=r"the layer 'block1.conv1' in mode 8-bit differs"):
        we.export(net, ["8-bit"], tmp_path / "net.wen")
    assert not list(tmp_path.iterdir())


def test_a_range_that_was_never_seen_is_asked_for(tmp_path: Path):
    torch.manual_seed(0)
    net = we.convert(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1)),
                     torch.zeros(1, 3, 4, 4), method=we.SwitchablePrecision((32, 8)))  # fmt: skip
    with (
        pytest.warns(we.UncalibratedWarning),
        pytest.raises(ValueError, match=r"was never seen; train, or call wenable\.calib"),
    ):
        we.export(net.eval(), ["8-bit"], tmp_path / "net.wen")
    assert not list(tmp_path.iterdir())


def test_an_exit_goes_with_a_network_that_ends_in_another_operation(tmp_path: Path):
    """The branch ends in a product, and the network in a change of shape: outputs are called alike."""
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 4), nn.Flatten()]
    net = we.convert(
        nn.Sequential(*layers).eval(), torch.zeros(1, 3, 6, 6), method=we.EarlyExits("1")
    )
    x = torch.randn(2, 3, 6, 6)
    path = we.export(net.eval(), ["end", "1"], tmp_path / "net.wen")
    with Session(path, engine="onnxruntime") as session:
        for mode in ("end", "1"):
            with torch.no_grad(), net.using(mode):
                expected = net(x).numpy()
            np.testing.assert_allclose(session.run(x.numpy(), mode=mode), expected, atol=1e-6)
