"""Whole networks on our own kernels: each exported mode against its extracted network."""

from __future__ import annotations

import os
import random
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import wenable as we
from tests.helpers.engines import NEEDS_KERNELS
from tests.helpers.native_reference import network_of
from tests.helpers.networks import give_norms_a_past
from tests.helpers.small_families import SMALL_FAMILIES
from wenable.methods import Method
from wenable.runtime import Session
from wenable.runtime.building import ModeWeights
from wenable.runtime.bundle import Bundle
from wenable.runtime.engine import EngineError, ModeEngine
from wenable.runtime.engines import open_engine
from wenable.runtime.graph import NORM, Graph, Node, TensorType
from wenable.runtime.native.constant_norms import with_constant_norms
from wenable.runtime.native.operations import RULES
from wenable.runtime.native.packing import PackedWeights
from wenable.runtime.native.plan import Planner, UnsupportedError

SIZE = 48
"""Of an image: there are odd sizes on the way."""
OTHER_SIZES = {"vgg": 56}
"""Its adaptive pooling has windows of one size only where the 7 x 7 places of its classifier divide it."""
WHOLE = os.environ.get("WENABLE_NATIVE_NETWORKS", "").split()
"""Names of torchvision's networks to test as they are, of 224 pixels; minutes each."""


def exported(
    model: torch.nn.Module, size: int, path: Path
) -> tuple[we.DynamicNetwork, list[we.Mode], Path]:
    x = torch.randn(1, 3, size, size)
    net = we.convert(
        give_norms_a_past(model.eval()), x,
        method=we.WeightEnabling(groups=(1, 2, 4, 8, 16), shuffle="all"),
    )  # fmt: skip
    rng = random.Random(
        1
    )  # modes share packed weights: mixed ones in which a layer meets several others
    modes = [net.space.full, net.space.smallest, *(net.space.sample(rng) for _ in range(2))]
    we.calibrate(net, modes, [torch.randn(4, 3, size, size)])
    return net, modes, we.export(net, modes, path)


@NEEDS_KERNELS
@pytest.mark.parametrize("name", [*SMALL_FAMILIES, *WHOLE])
def test_every_mode_is_that_of_onnx_runtime_and_of_the_extracted_network(name: str, tmp_path: Path):
    torch.manual_seed(0)
    if name in SMALL_FAMILIES:
        model, size = SMALL_FAMILIES[name](), OTHER_SIZES.get(name, SIZE)
    else:
        model, size = torchvision.models.get_model(name, weights=None), 224
    net, modes, path = exported(model, size, tmp_path / "net.wen")
    x = torch.randn(3, 3, size, size)
    sessions = [Session(path, engine="native", threads=threads) for threads in (1, 3)]
    engine = Session(path, engine="onnxruntime", threads=1)
    for mode in modes:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            plain = we.extract(net, mode).eval()(x).numpy()
        for session in sessions:
            found = session.run(x.numpy(), mode=mode)
            for expected in (plain, engine.run(x.numpy(), mode=mode)):
                assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), str(mode)


METHODS: dict[str, Method] = {
    "static": we.Static(),
    "exits": we.EarlyExits(("features.2", "features.3")),
    "widths": we.Slimmable((1.0, 0.5)),
    "size": we.ImageSize((SIZE, 32)),
}


@NEEDS_KERNELS
@pytest.mark.parametrize("name", METHODS)
def test_modes_of_every_method_run(name: str, tmp_path: Path):
    """Norms that no knob sets were refused: those of a static network, and of one with exits."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, SIZE, SIZE)
    model = give_norms_a_past(SMALL_FAMILIES["mobilenet v2"]().eval())
    net = we.convert(model, x, method=METHODS[name])
    modes = net.space.uniform_modes()
    if name != "static":
        we.calibrate(net, modes, [x])
    path = we.export(net, modes, tmp_path / "net.wen")
    with Session(path, engine="native", threads=2) as session:
        for mode in modes:
            with torch.no_grad():
                plain = we.extract(net, mode).eval()(x).numpy()
            found = session.run(x.numpy(), mode=mode)
            assert np.abs(found - plain).max() <= 1e-4 * np.abs(plain).max(), str(mode)


@given(st.integers(1, 5), st.booleans(), st.floats(1e-6, 1.0), st.integers(0, 10**6))
def test_norms_with_statistics_are_the_scale_and_shift_of_the_mode(
    channels: int, says: bool, epsilon: float, seed: int
):
    draw = np.random.default_rng(seed)
    given = dict(zip("abcd", draw.uniform(0.1, 2, (4, channels)).astype(np.float32), strict=True))
    attributes = {"epsilon": epsilon} if says else {}
    nodes = (Node("BatchNormalization", ("x", *"abcd"), ("y",), attributes),)
    graph = Graph((TensorType("x", "float32", (None, channels, 2, 2)),),
                  (TensorType("y", "float32", (None, channels, 2, 2)),), nodes, 18)  # fmt: skip
    changed, weights = with_constant_norms(graph, ModeWeights({}, given, {}))
    (node,) = changed.nodes
    assert (node.op, node.inputs, node.outputs) == (NORM, ("x",), ("y",))
    scale, shift = weights.norms[node.layer]
    x = draw.standard_normal((3, channels, 2, 2))
    gamma, beta, mean, variance = (
        torch.from_numpy(given[name].astype(np.float64)) for name in "abcd"
    )
    norm = torch.nn.functional.batch_norm(
        torch.from_numpy(x), mean, variance, gamma, beta, eps=epsilon if says else 1e-5
    )
    found = x * scale[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(found, norm.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "epsilon"),
    [
        ({"b": np.ones(4)}, 1e-5),
        ({"c": np.ones((1, 3))}, 1e-5),
        ({"d": np.float32(1)}, 1e-5),
        ({}, "x"),
    ],
)
def test_norms_that_do_not_fit_are_left_to_be_refused_by_name(change: dict[str, Any], epsilon: Any):
    given: dict[str, Any] = dict.fromkeys("abcd", np.ones(3, np.float32)) | change
    node = Node("BatchNormalization", ("x", *"abcd"), ("y",), {"epsilon": epsilon})
    type_ = TensorType("x", "float32", (None, 3, 2, 2))
    graph = Graph((type_,), (replace(type_, name="y"),), (node,), 18)
    changed, _ = with_constant_norms(graph, ModeWeights({}, given, {}))
    assert changed.nodes == (node,)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small")
    return exported(SMALL_FAMILIES["mobilenet v3"](), 32, folder / "small.wen")[2]


@NEEDS_KERNELS
def test_modes_share_what_they_have_in_common(small: Path):
    bundle, engine = Bundle(small), open_engine("native", 1)
    assert isinstance(engine, ModeEngine)
    planned = [
        engine.plan(bundle.graph_of(number), bundle.layers, bundle.weights_of(number))
        for number in range(3)
    ]
    weights = sum(each.nbytes for each in bundle.weights_of(0).tensors.values())
    assert planned[0].bytes > weights
    arrays = [{id(array) for array in each.runner.packed} for each in planned]  # type: ignore
    assert arrays[0] & arrays[1]  # the classifier, and all that switches nothing
    assert arrays[0] - arrays[1]


@NEEDS_KERNELS
def test_a_budget_holds_for_our_kernels(small: Path):
    free = Session(small, engine="native", threads=1)
    free.prepare(free.modes[0])
    one = free.prepared_mb
    tight = Session(small, engine="native", threads=1, memory_budget_mb=1.01 * one)
    for mode in tight.modes:
        tight.run(tight.example(4), mode=mode)
        assert tight.prepared_mb <= 1.01 * one


@NEEDS_KERNELS
def test_several_threads_at_once_get_their_own_answers(small: Path):
    session = Session(small, engine="native", threads=2)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((1, 3, 32, 32)).astype(np.float32) for _ in range(4)]
    expected = {
        (i, mode): session.run(x, mode=mode) for i, x in enumerate(inputs) for mode in session.modes
    }
    wrong: list[object] = []

    def ask(number: int) -> None:
        for _ in range(20):
            for mode in session.modes:
                if not np.array_equal(
                    session.run(inputs[number], mode=mode), expected[number, mode]
                ):
                    wrong.append((number, mode))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@NEEDS_KERNELS
def test_a_session_that_waits_burns_no_core(small: Path):
    session = Session(small, engine="native", threads=3)
    session.run(session.example())
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


class Odd(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(4, 16, 3, padding=1), torch.nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(self.second(self.first(x)), 1)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    net = we.convert(Odd().eval(), torch.randn(1, 4, 8, 8))
    return we.export(net, ["full"], tmp_path / "odd.wen")


def test_an_operation_that_is_not_known_is_refused_by_name(odd: Path):
    """Needs no compiler: the plan refuses it."""
    bundle = Bundle(odd)
    planner = Planner(bundle.graph_of(0), bundle.layers, bundle.weights_of(0), PackedWeights())
    with pytest.raises(
        UnsupportedError, match="CumSum makes 'cumsum', and there is no kernel for it"
    ):
        planner.plan(RULES)


@NEEDS_KERNELS
@pytest.mark.parametrize(
    ("part", "whole"),
    [
        ((0, 2**63 - 1, 1), True),
        ((0, 2**31 - 1, 1), True),
        ((-1, -(2**63), -1), False),
        ((0, 1, 1), False),
        ((1, 2**63 - 1, 1), False),
        ((0, 64, 1), False),
    ],
)
def test_other_than_the_whole_batch_in_order_is_refused(part: tuple[int, int, int], whole: bool):
    start, end, step = part
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    constants = {"start": start, "end": end, "axis": 0, "step": step}
    nodes = [("Slice", ["x", *constants], "part", {}), ("Relu", ["part"], "y", {})]
    tensors = {name: np.array([value]) for name, value in constants.items()}
    run = network_of(nodes, {"x": x}, tensors, {"y": x.shape})
    if whole:
        np.testing.assert_array_equal(run(open_engine("native", 1))[0], np.maximum(x, 0))
    else:
        with pytest.raises(EngineError, match=r"Slice makes 'part'.* examples"):
            run(open_engine("native", 1))


@NEEDS_KERNELS
def test_a_session_refuses_it_in_one_line_and_auto_takes_an_engine(odd: Path):
    session = Session(odd, engine="native")
    with pytest.raises(EngineError, match=r"^the engine 'native' refuses the graph: CumSum .*\w$"):
        session.prepare("full")
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8), dtype=np.float32)
    free = Session(odd, engine="auto")
    expected = Session(odd, engine="onnxruntime").run(x)
    np.testing.assert_allclose(free.run(x), expected, atol=1e-5)
    assert free.engine_of("full") == free.engine.name != "native"


def test_a_plan_gives_planes_that_are_held_together_places_of_their_own(small: Path):
    """Needs no compiler: no two buffers that are held at the same time overlap."""
    bundle = Bundle(small)
    for number in range(len(bundle.modes)):
        planner = Planner(
            bundle.graph_of(number), bundle.layers, bundle.weights_of(number), PackedWeights()
        )
        plan = planner.plan(RULES)
        buffers, overrun = planner.memory.buffers, planner.memory.overrun
        for i, one in enumerate(buffers):
            assert one.start >= 0
            assert one.start + one.size(overrun) <= plan.arena
            for other in buffers[:i]:
                apart = one.last < other.made or other.last < one.made
                before, after = sorted([one, other], key=lambda each: each.start)
                assert apart or before.start + before.size(overrun) <= after.start
