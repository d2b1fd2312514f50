"""Inputs that are answered by the first mode that is sure: what is shared, who goes on, until when."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import wenable as we
from tests.core.test_escalation import slow_entropy, slow_margin
from tests.helpers.engines import NEEDS_KERNELS
from tests.helpers.methods import MODES, converted_by
from tests.helpers.networks import IMAGES
from wenable.runtime import Session
from wenable.runtime.controller import Controller
from wenable.runtime.decisions import ModeFigures
from wenable.runtime.engines import installed_engines, open_engine
from wenable.runtime.escalating import Limit, StageRun
from wenable.runtime.graph import Node, TensorType
from wenable.runtime.onnx_writer import onnx_model
from wenable.runtime.prepared import ClosedError
from wenable.runtime.ready_stages import ReadyStages, figures_of_stages
from wenable.runtime.requests import LimitedRequests
from wenable.runtime.stages import StageModel, parts_of

CHEAPEST_FIRST = {method: modes[::-1] for method, modes in MODES.items()}
IMAGES_GIVEN = 24


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("bundles"), {}
    for method in ("exits", "precision", "slimmable"):
        net = converted_by(method)
        readings = {
            mode: {"macs": we.Reading(float(net.macs(mode)), "MACs")} for mode in MODES[method]
        }
        found[method] = we.export(net, MODES[method], folder / f"{method}.wen", readings=readings)
    return found


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((IMAGES_GIVEN, *IMAGES[1:])).astype(np.float32)


def one_by_one(
    session: Session, images: np.ndarray, modes, is_sure
) -> tuple[np.ndarray, list[int]]:
    """The same by hand: each image asks whole modes in turn."""
    outputs, stages = [], []
    for image in images:
        answers = [session.run(image[None], mode=mode)[0] for mode in modes]
        stage = next((k for k, each in enumerate(answers[:-1]) if is_sure(each)), len(modes) - 1)
        outputs.append(answers[stage])
        stages.append(stage)
    return np.stack(outputs), stages


def margins_of(session: Session, images: np.ndarray, mode: str) -> list[float]:
    return sorted(slow_margin(each) for each in session.run(images, mode=mode))


ENGINES_OF = [
    *(("exits", engine) for engine in installed_engines()),
    *(("slimmable", engine) for engine in installed_engines()),
    pytest.param(
        "slimmable", "native", marks=NEEDS_KERNELS
    ),  # which have no batch norm behind exits
]


@pytest.mark.parametrize(("method", "engine"), ENGINES_OF)
def test_each_image_gets_the_answer_of_the_first_mode_that_is_sure(bundles, images, method, engine):
    modes = CHEAPEST_FIRST[method]
    with Session(bundles[method], engine=engine, threads=1) as session:
        found = margins_of(session, images, modes[0])
        threshold = (found[11] + found[12]) / 2  # half of them leave at the first
        answered = session.escalate(images, threshold, modes=modes)
        wanted, stages = one_by_one(session, images, modes, lambda y: slow_margin(y) >= threshold)
        np.testing.assert_allclose(answered.outputs, wanted, rtol=1e-4, atol=1e-5)
        assert answered.stages.tolist() == stages
        assert 0 < sum(stage == 0 for stage in stages) < len(images)
        # Without names all modes are asked, the cheapest first.
        assert session.escalate(images, threshold).stages.tolist() == stages


def test_entropy_is_a_score_too(bundles, images):
    with Session(bundles["exits"], engine="onnxruntime", threads=1) as session:
        modes = CHEAPEST_FIRST["exits"]
        first = sorted(map(slow_entropy, session.run(images, mode=modes[0])))
        threshold = (first[11] + first[12]) / 2
        answered = session.escalate(images, threshold, score="entropy")
        _, stages = one_by_one(session, images, modes, lambda y: slow_entropy(y) < threshold)
        assert answered.stages.tolist() == stages


def test_exits_compute_nothing_twice_and_what_differs_shares_nothing(bundles):
    x = np.zeros(IMAGES, np.float32)
    with Session(bundles["exits"], engine="onnxruntime", threads=1) as session:
        readings = {str(each.mode): each.readings["macs"].known for each in session.bundle.modes}
        stem, block, end = (readings[mode] for mode in CHEAPEST_FIRST["exits"])
        all_through = session.escalate(x, 1.0)
        assert all_through.stages.tolist() == [2] * len(x)
        assert all_through.cost < stem + block + end
        branches = all_through.cost - end  # those of the earlier exits, on the way
        assert 0 < branches < 0.2 * end
        assert session.escalate(x, 0.0).cost == stem
    with Session(bundles["slimmable"], engine="onnxruntime", threads=1) as session:
        readings = [each.readings["macs"].known for each in session.bundle.modes]
        assert session.escalate(x, 1.0).cost == sum(readings)


def test_a_deadline_bounds_how_far_it_goes(bundles, images):
    with Session(bundles["exits"], engine="onnxruntime", threads=1) as session:
        x = images[:1]
        session.escalate(x, 1.0)
        assert session.escalate(x, 1.0, deadline_ms=10_000).stages.tolist() == [2]
        assert session.escalate(x, 1.0, deadline_ms=1e-6).stages.tolist() == [0]
        counters = session.controller().counters
        assert (counters.within, counters.late) == (1, 1)
        for _ in range(5):
            session.escalate(x, 1.0, deadline_ms=10_000)
        # Modes that run one after another say nothing of how fast each is by itself.
        assert session.controller().slowdown == 1.0
        assert session.controller().counters.observations == 7


@dataclass(frozen=True)
class Part:
    share: float


def limit(deadline_ms: float, waits_ms=lambda: [0.0, 0.0]) -> tuple[Limit, Controller, Controller]:
    """A little mode of 5 ms, and a big one of 50, of which a tenth is left after it."""
    modes = [ModeFigures("little", 0.7, 5.0), ModeFigures("big", 0.9, 50.0)]
    stages = ReadyStages((0, 1), [Part(1.0), Part(0.9)], [], shrinks=True)
    of_stages = Controller(figures_of_stages(stages, modes))
    of_modes = Controller(modes)
    started = time.perf_counter()
    return (
        Limit(stages, of_stages, of_modes, deadline_ms, started, waits_ms), of_stages, of_modes
    )  # fmt: skip


def test_a_stage_that_few_are_left_for_does_not_make_the_machine_seem_fast():
    for _ in range(5):
        each, of_stages, of_modes = limit(200.0)
        assert each.fits(1)
        each.observe([StageRun(5.0, True), StageRun(4.0, False)], learn=True)
        assert of_modes.slowdown == of_stages.slowdown == 1.0
        assert of_modes.counters.within == 1
        assert of_stages.predictions_ms[1] == pytest.approx(45.0 * 1.1)


def test_what_the_stages_take_is_learned_of_them_alone():
    each, of_stages, of_modes = limit(200.0)
    each.fits(1)
    each.observe([StageRun(20.0, True), StageRun(180.0, True)], learn=True)
    assert of_stages.slowdown == pytest.approx(4.0)
    assert of_modes.slowdown == 1.0


def test_a_stage_that_is_not_ready_is_waited_for_and_not_learned_from():
    each, of_stages, _ = limit(200.0, lambda: [0.0, 160.0])
    assert not each.fits(1)  # 160 ms until it is ready, and 45 until it has run
    each, of_stages, _ = limit(400.0, lambda: [0.0, 160.0])
    assert each.fits(1)
    each.observe([StageRun(5.0, True), StageRun(210.0, True)], learn=True)
    assert of_stages.slowdown == 1.0


def test_modes_are_not_warmed_up_while_a_request_of_a_new_size_waits(bundles, images, monkeypatch):
    with Session(bundles["exits"], engine="onnxruntime", threads=1) as session:
        session.escalate(images, 1.0)
        monkeypatch.setattr(LimitedRequests, "warm_up", lambda *_: pytest.fail("it was measured"))
        session.escalate(images, 1.0, deadline_ms=10_000)
        assert session._sized[0].limited.begun(len(images)).slowdown == 1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 1.5}, "`threshold` (=1.5) must be from 0 to 1"),
        ({"threshold": [0.5]}, "`threshold` holds 1 values; 3 stages need 2"),
        ({"threshold": 0.5, "score": "luck"}, "`score` (='luck') must be one of margin, entropy"),
        ({"threshold": 0.5, "modes": ["end", "end"]}, "must name modes, each once"),
        ({"threshold": 0.5, "modes": []}, "must name modes, each once"),
        ({"threshold": 0.5, "modes": ["layer9"]}, "layer9"),
        ({"threshold": 0.5, "deadline_ms": -1.0}, "`deadline_ms` (=-1.0)"),
    ],
)
def test_what_makes_no_sense_is_refused(bundles, images, settings, words):
    session = Session(bundles["exits"], engine="onnxruntime", threads=1)
    with session, pytest.raises(ValueError, match=re.escape(words)):
        session.escalate(images, **settings)


def test_a_closed_session_and_a_memory_budget(bundles, images):
    modes = CHEAPEST_FIRST["exits"]
    with Session(bundles["exits"], engine="onnxruntime", threads=1) as session:
        wanted = session.escalate(images, 0.3)
    with pytest.raises(ClosedError):
        session.escalate(images, 0.3)
    with Session(bundles["exits"], engine="onnxruntime", threads=1, memory_budget_mb=8) as session:
        budgeted = session.escalate(images, 0.3, modes=modes)
        np.testing.assert_allclose(budgeted.outputs, wanted.outputs, rtol=1e-4, atol=1e-5)
        assert budgeted.cost > wanted.cost  # whole modes: nothing is held besides


# --- what two models have in common ---------------------------------------------------------------

X, Y, Z = (TensorType(name, "float32", (None, 4)) for name in "xyz")
WEIGHT = np.eye(4, dtype=np.float32)


def model(nodes, outputs=(Z,), tensors=None) -> StageModel:
    return StageModel((X,), outputs, tuple(nodes), tensors or {"w": WEIGHT}, 17)


def operations(*models: StageModel) -> list[list[str]]:
    return [[node.op for node in part.nodes] for part in parts_of(models)]


PRODUCT = Node("MatMul", ("x", "w"), ("h",))
FIRST = model([PRODUCT, Node("Relu", ("h",), ("y",))], (Y,))


def test_equal_constants_are_equal_whatever_they_are_called():
    other = Node("MatMul", ("x", "v"), ("g",)), Node("Sigmoid", ("g",), ("z",))
    assert operations(FIRST, model(other, tensors={"v": WEIGHT.copy()})) == [
        ["MatMul", "Relu"],
        ["Sigmoid"],
    ]
    assert operations(FIRST, model(other, tensors={"v": 2 * WEIGHT}))[1] == ["MatMul", "Sigmoid"]


def test_other_attributes_are_another_operation():
    leaky = [Node("LeakyRelu", ("x",), ("h",), {"alpha": alpha}) for alpha in (0.1, 0.2)]
    end = Node("Neg", ("h",), ("z",))
    assert operations(model([leaky[0], end]), model([leaky[1], end]))[1] == ["LeakyRelu", "Neg"]


def test_what_holds_no_entry_for_each_example_is_computed_again():
    turned = Node("Transpose", ("x",), ("h",), {"perm": [1, 0]})
    back = Node("Transpose", ("h",), ("g",), {"perm": [1, 0]})
    first = model([turned, back, Node("Relu", ("g",), ("z",))])
    second = model([turned, back, Node("Neg", ("g",), ("z",))])
    assert operations(first, second)[1] == ["Neg"]  # of g, which has one; h is never passed on
    third = model(
        [turned, Node("Neg", ("h",), ("i",)), Node("Transpose", ("i",), ("z",), {"perm": [1, 0]})]
    )
    assert operations(first, third)[1] == ["Transpose", "Neg", "Transpose"]


def test_a_mode_that_is_the_same_makes_its_answer_by_its_last_operation():
    assert operations(FIRST, FIRST) == [["MatMul", "Relu"], ["Relu"]]


@pytest.mark.parametrize("engine", installed_engines())
def test_a_grouped_convolution_that_is_summed_up_can_be_given_back_as_well(engine):
    # ONNX Runtime fuses the first convolution of such a sum with it.
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((16, 2, 1, 1), dtype=np.float32) for _ in range(2))
    bias = rng.standard_normal(16, dtype=np.float32)
    nodes = (
        Node("Conv", ("x", "wl", "b"), ("left",), {"group": 8}),
        Node("Conv", ("x", "wr", "b"), ("right",), {"group": 8}),
        Node("Add", ("left", "right"), ("total",)),
        Node("Relu", ("total",), ("y",)),
    )
    x, y, also = (TensorType(name, "float32", (None, 16, 8, 8)) for name in ("x", "y", "left"))
    content = onnx_model((x,), (y, also), nodes, {"wl": left, "wr": right, "b": bias}, 17)
    images = rng.standard_normal((2, 16, 8, 8), dtype=np.float32)
    total, first = open_engine(engine, 1).prepare(content)({"x": images})
    expected, other = (grouped(images, weight, 8, bias) for weight in (left, right))
    np.testing.assert_allclose(first, expected, atol=1e-5)
    np.testing.assert_allclose(total, np.maximum(expected + other, 0), atol=1e-5)


def grouped(images: np.ndarray, weight: np.ndarray, groups: int, bias: np.ndarray) -> np.ndarray:
    """A convolution of 1 x 1, group by group."""
    inputs, kernels = np.split(images, groups, axis=1), np.split(weight[:, :, 0, 0], groups)
    products = [np.einsum("oi,nihw->nohw", k, i) for i, k in zip(inputs, kernels, strict=True)]
    return np.concatenate(products, axis=1) + bias[:, None, None]


def test_under_a_budget_stages_are_made_ready_for_deadlines_too(bundles, images):
    """A deadline that leaves no time to prepare a mode: the background does it, and it is asked then."""
    with Session(
        bundles["slimmable"], engine="onnxruntime", threads=1, memory_budget_mb=64
    ) as session:
        x, until, reached = images[:1], time.monotonic() + 60, False
        while not reached and time.monotonic() < until:
            reached = session.escalate(x, 1.0, deadline_ms=45.0).stages.tolist() == [2]
            time.sleep(0.05)
        assert reached


def test_stages_go_by_measured_figures_once_there_are_some(bundles, images):
    with Session(bundles["slimmable"], engine="onnxruntime", threads=1) as session:
        modes = session._sized[0].limited.cheapest_first
        stages = session._stages.of(modes, 1)
        of_modes = Controller([ModeFigures(name, None, 5.0) for name in session.modes])
        before = session._stages.controller(stages, 1, of_modes)
        assert session._stages.controller(stages, 1, of_modes) is before
        of_modes.replace([ModeFigures(name, None, 50.0) for name in session.modes])
        again = session._stages.controller(stages, 1, of_modes)
        assert again is before
        assert again.modes[0].latency_ms == pytest.approx(50.0)
