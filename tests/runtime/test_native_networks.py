"""Whole networks on our own kernels: each exported mode against its extracted network."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import wenable as we
from tests.helpers.networks import give_norms_a_past
from wenable.runtime import Session
from wenable.runtime.bundle import Bundle
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import is_installed
from wenable.runtime.native_operations import RULES
from wenable.runtime.native_packing import PackedWeights
from wenable.runtime.native_plan import Planner, UnsupportedError

NEEDS_KERNELS = pytest.mark.skipif(
    not is_installed("native"), reason="our own kernels are not built here"
)

# The smallest of each family whose shapes differ: 64 pixels leave maps of 2x2 at the end.
NETWORKS = {
    "resnet18": 64, "resnet50": 64, "mobilenet_v2": 64, "efficientnet_b0": 64, "resnext50_32x4d": 64,
    "regnet_y_400mf": 64, "mobilenet_v3_small": 64, "mnasnet0_5": 64, "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64, "densenet121": 64, "vgg11": 224,
}  # fmt: skip


def exported(name: str, size: int, folder: Path) -> tuple[we.DynamicNetwork, list[we.Mode], Path]:
    torch.manual_seed(0)
    model = give_norms_a_past(torchvision.models.get_model(name, weights=None).eval())
    x = torch.randn(1, 3, size, size)
    net = we.convert(model, x, method=we.WeightEnabling(groups=(1, 2, 4, 8, 16), shuffle="all"))
    rng = random.Random(1)
    modes = list(dict.fromkeys([net.space.full, net.space.smallest, net.space.sample(rng)]))
    we.calibrate(net, modes, [torch.randn(4, 3, size, size)])
    return net, modes, we.export(net, modes, folder / f"{name}.wen")


@NEEDS_KERNELS
@pytest.mark.parametrize("name", NETWORKS)
def test_every_mode_gives_what_its_extracted_network_gives(name: str, tmp_path: Path):
    net, modes, path = exported(name, NETWORKS[name], tmp_path)
    x = torch.randn(2, 3, NETWORKS[name], NETWORKS[name])
    session = Session(path, engine="native", threads=2)
    for mode in modes:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            expected = we.extract(net, mode).eval()(x).numpy()
        found = session.run(x.numpy(), mode=mode)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), str(mode)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("mobilenet_v3_small", 32, tmp_path_factory.mktemp("small"))[2]


@NEEDS_KERNELS
def test_modes_share_what_they_have_in_common_and_the_budget_counts_it_once(small: Path):
    session = Session(small, engine="native", threads=1)
    session.prepare(session.modes[0])
    one = session.bytes_held
    for mode in session.modes[1:]:
        session.prepare(mode)
    weights = sum(each.nbytes for each in session.bundle.weights_of(0).tensors.values())
    assert one > weights
    # Beside the classifier and all that switches nothing, a mode of 1/16 holds little.
    assert one < session.bytes_held < one + len(session.modes) * weights
    tight = Session(small, engine="native", threads=1, memory_budget_mb=one / 2**20)
    for mode in tight.modes:
        tight.prepare(mode)
    assert tight.bytes_held <= one or len(tight.prepared_modes) == 1


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


def _run_in_child(session: Session, x: np.ndarray, answers: multiprocessing.Queue[str]) -> None:
    try:
        session.run(x)
        answers.put("ran")
    except EngineError as error:
        answers.put(str(error))


@NEEDS_KERNELS
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_was_forked_is_told_to_open_its_own(small: Path):
    session = Session(small, engine="native", threads=2)
    x = session.example()
    session.run(x)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_run_in_child, args=(session, x, answers))
    child.start()
    assert "open it in the process that runs it" in answers.get(timeout=60)
    child.join()


class Odd(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(self.second(self.first(x)), 1)


def test_an_operation_that_is_not_known_is_refused_by_name(tmp_path: Path):
    net = we.convert(Odd().eval(), torch.randn(1, 3, 8, 8))
    path = we.export(net, ["full"], tmp_path / "odd.wen")
    bundle = Bundle(path)
    planner = Planner(bundle.graph, bundle.layers, bundle.weights_of(0), PackedWeights())
    with pytest.raises(
        UnsupportedError, match="CumSum makes 'cumsum', and there is no kernel for it"
    ):
        planner.plan(RULES)


def test_a_plan_gives_planes_that_are_held_together_places_of_their_own(small: Path):
    """Needs no compiler: no two buffers that are held at the same time overlap."""
    bundle = Bundle(small)
    for number in range(len(bundle.modes)):
        planner = Planner(bundle.graph, bundle.layers, bundle.weights_of(number), PackedWeights())
        plan = planner.plan(RULES)
        buffers, overrun = planner.memory.buffers, planner.memory.overrun
        for i, one in enumerate(buffers):
            assert one.start >= 0
            assert one.start + one.size(overrun) <= plan.arena
            for other in buffers[:i]:
                apart = one.last < other.made or other.last < one.made
                before, after = sorted([one, other], key=lambda each: each.start)
                assert apart or before.start + before.size(overrun) <= after.start
