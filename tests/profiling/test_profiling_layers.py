"""What layers take inside networks: operations shared out among layers, tables fitted, predictions."""

import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import wenable as we
from tests.exporting.test_exporting import calibrated
from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.core.space import Knob, Space
from wenable.measure.latency import TimingPlan
from wenable.profiling import layer_times, measure_layers, whole_modes
from wenable.profiling.attribution import REST, times_of_layers
from wenable.profiling.cost_tables import fitted_table, measure_cost_table
from wenable.profiling.refitting import refitted
from wenable.profiling.verification import kendall_tau, verify
from wenable.profiling.whole_modes import ModeBuilder, time_modes
from wenable.runtime import Bundle, DeviceProfile, Session
from wenable.runtime.building import BuiltModel, build, choose_each
from wenable.runtime.engine import EngineError, OperationTime
from wenable.runtime.engines import installed_engines, open_engine
from wenable.runtime.graph import Node
from wenable.runtime.implementations import Implementation, as_written, gathered

SHORT = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    net, modes = calibrated(shuffle="all")
    return Bundle(we.export(net, modes, tmp_path_factory.mktemp("bundle") / "net.wen"))


def operation(*names: str, ms: float, computes: bool = True) -> OperationTime:
    return OperationTime(names, computes, ms)


def built(*nodes: tuple[str, list[str], str], layers: Mapping[str, str]) -> BuiltModel:
    return BuiltModel(
        tuple(Node(op, inputs, [output]) for op, inputs, output in nodes), {}, layers, b""
    )


RESIDUAL = built(
    ("Conv", ["x"], "stem"),
    ("Gather", ["stem"], "a.order"),
    ("Conv", ["a.order"], "a"),
    ("Relu", ["a"], "a.relu"),
    ("Conv", ["a.relu"], "b"),
    ("Conv", ["stem"], "shortcut"),
    ("Add", ["b", "shortcut"], "sum"),
    ("Relu", ["sum"], "y"),
    layers={"a.order": "A", "a": "A", "b": "B", "shortcut": "S"},
)


def test_an_operation_goes_to_the_layer_that_brought_it():
    found = times_of_layers(
        RESIDUAL,
        [
            operation("stem", ms=1.0),
            operation("a.order", ms=2.0, computes=False),
            operation(ms=4.0, computes=False),  # a change of layout before the layer
            operation("a", "a.relu", ms=8.0),
            operation("b", ms=16.0),
            operation("shortcut", ms=32.0),
            operation("y", ms=64.0, computes=False),
        ],
    )
    assert found == {REST: 1.0, "A": 2 + 4 + 8.0, "B": 16.0, "S": 32 + 64.0}


def test_a_convolution_that_has_the_name_of_what_was_fused_into_it_is_still_its_layers():
    found = times_of_layers(
        RESIDUAL,
        [
            operation("stem", ms=1.0),
            operation("a.order", ms=2.0, computes=False),
            operation("a.relu", ms=8.0),
            operation("shortcut", ms=32.0),
            operation("y", ms=16.0),  # the sum and the last activation in the convolution b
        ],
    )
    assert found == {REST: 1.0, "A": 10.0, "B": 16.0, "S": 32.0}


def test_a_change_of_layout_behind_a_layer_is_of_that_layer():
    model = built(("Conv", ["x"], "a"), ("Conv", ["a"], "depthwise"), layers={"a": "A"})
    found = times_of_layers(
        model,
        [operation("a", ms=1.0), operation(ms=2.0, computes=False), operation("depthwise", ms=4.0)],
    )
    assert found == {REST: 0.0, "A": 7.0}


@pytest.mark.parametrize("engine", installed_engines())
@pytest.mark.parametrize("choose", [as_written, gathered])
def test_the_operations_of_an_engine_are_shared_out_whole(bundle, engine, choose):
    number = [str(each.mode) for each in bundle.modes].index("1/4")
    weights = bundle.weights_of(number)
    implementations = choose_each(bundle.layers, weights.options, choose)
    model = build(bundle.graph_of(0), bundle.layers, weights, implementations)
    operations = open_engine(engine, 1).operation_times(model.content, bundle.example(), 2)
    assert sum(each.computes for each in operations) >= len(bundle.layers)
    found = times_of_layers(model, operations)
    assert sum(found.values()) == pytest.approx(sum(each.ms for each in operations))
    assert all(found[layer] > 0 for layer in bundle.layers)


class Counting:
    """An engine whose operations take what a test says, and which refuses what it is told to."""

    name, version, threads = "counting", "1", 1

    def __init__(self, cost, refuses=lambda nodes: False) -> None:
        self.cost, self.refuses = cost, refuses

    def operation_times(self, model, inputs, calls):
        nodes = model.nodes
        if self.refuses(nodes):
            raise EngineError("refused")
        return [
            OperationTime((node.outputs[0],), node.op == "Conv", self.cost(node)) for node in nodes
        ]


def as_built(monkeypatch):
    """Hand the engine the nodes themselves instead of the bytes it would have to read again."""
    real = layer_times.build
    monkeypatch.setattr(
        layer_times, "build", lambda *given: replace(real(*given), content=real(*given))
    )


def test_the_best_implementation_is_the_one_with_the_least_time_and_its_shuffle_counts(
    bundle, monkeypatch
):
    as_built(monkeypatch)

    def cost(node: Node) -> float:
        if node.op == "Conv":
            return {1: 8.0, 2: 6.0, 4: 5.0, 8: 4.5}.get(int(node.attributes["group"]), 4.4)
        return {"Gather": 3.0, "Transpose": 0.1}.get(node.op, 0.01)

    times = measure_layers(bundle, Counting(cost), mixtures=3)
    known = DeviceProfile(bundle.structure, "", "", 1, times)
    for name, layer in bundle.layers.items():
        best = known.choose(layer, 4, products=False)
        assert best.groups == 4
        if layer.input_order() is not None:
            assert best.shuffling == "transpose"
        assert times[name][Implementation(1)] > times[name][best]


def test_what_an_engine_refuses_is_not_chosen(bundle, monkeypatch):
    as_built(monkeypatch)

    def refuses(nodes) -> bool:
        return any(node.op == "Transpose" for node in nodes)

    times = measure_layers(bundle, Counting(lambda node: 1.0, refuses), mixtures=3)
    tried = {each.shuffling for by in times.values() for each in by if each.groups > 1}
    assert tried == {"gather", "stored"} or tried == {"gather"}


SPACE = Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2)), Knob("c", (1, 2, 4))))


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_a_fitted_table_finds_a_sum_again_from_a_prior_that_is_off(seed):
    rng = random.Random(seed)
    costs = {k.name: {n: rng.uniform(1, 5) / n for n in k.options} for k in SPACE.knobs}
    truth = CostTable(SPACE, "ms", 1.0, costs)
    prior = {
        name: {n: ms * rng.uniform(0.85, 1.15) for n, ms in row.items()}
        for name, row in costs.items()
    } | {REST: {1: rng.uniform(0.9, 1.1)}}
    every = [
        SPACE.mode(dict(zip(SPACE.names, options, strict=True)))
        for options in itertools.product(*(knob.options for knob in SPACE.knobs))
    ]
    found = fitted_table(
        SPACE, prior, {mode: Reading(truth.cost(mode), "ms") for mode in every}, "test"
    )
    errors = [abs(found.cost(mode) / truth.cost(mode) - 1) for mode in every]
    before = [
        abs((1 * prior[REST][1] + sum(prior[k][n] for k, n in mode.items())) / truth.cost(mode) - 1)
        for mode in every
    ]
    assert np.median(errors) < 0.01
    assert np.median(errors) <= np.median(before)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_kendalls_tau_is_scipys(pairs):
    expected = scipy.stats.kendalltau(*zip(*pairs, strict=True)).statistic
    assert kendall_tau(pairs) == pytest.approx(0.0 if np.isnan(expected) else expected)


def test_a_group_that_ran_at_another_speed_is_timed_again(bundle, monkeypatch):
    full = bundle.space.full
    builder = ModeBuilder(bundle, {})
    modes = [bundle.space.sample(random.Random(seed)) for seed in range(3 * whole_modes.GROUP)]
    seen: list[int] = []

    def timed(_builder, _engine, group, _timing):
        place = modes.index(group[1]) // whole_modes.GROUP
        seen.append(place)
        slow = 2.0 if place == 1 and seen.count(1) == 1 else 1.0
        return {mode: Reading(slow * (3.0 if mode == full else 2.0), "ms") for mode in group}

    monkeypatch.setattr(whole_modes, "_measure_group", timed)
    found = time_modes(builder, open_engine("onnxruntime", 1), modes, SHORT)
    assert seen == [0, 1, 2, 1]
    assert {reading.known for reading in found.values()} == {2.0}
    assert not any(reading.note for reading in found.values())

    def throttled(_builder, _engine, group, _timing):
        slow = 2.0 if modes.index(group[1]) // whole_modes.GROUP == 2 else 1.0
        return {mode: Reading(slow * (3.0 if mode == full else 2.0), "ms") for mode in group}

    monkeypatch.setattr(whole_modes, "_measure_group", throttled)
    found = time_modes(builder, open_engine("onnxruntime", 1), modes, SHORT)
    assert found[modes[-1]].note == "the device ran 100% slower meanwhile"
    assert found[modes[0]].note == ""


def test_a_table_predicts_modes_it_has_not_seen_and_says_how_well(bundle, tmp_path, monkeypatch):
    engine = open_engine("onnxruntime", 1)
    table = measure_cost_table(ModeBuilder(bundle, {}), engine, SHORT, modes=6, calls=2)
    assert table.space == bundle.space
    assert "fitted to" in table.source
    session = Session(bundle.path, engine="onnxruntime", threads=1)
    profile = replace(session.profile, table=table)
    assert DeviceProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile
    found = verify(bundle.path, profile, also=["full"], timing=SHORT)
    assert len(found.measured) >= 24
    assert "1" in found.measured
    assert found.device == table.device
    assert {reading.device for reading in found.measured.values()} == {found.device}
    values = json.loads(json.dumps(found.to_json()))
    assert values["median_error"] == found.median_error
    assert set(found.repeated) == set(found.measured)
    noise = [
        abs(values["modes"][i]["repeated"]["value"] / each["measured"]["value"] - 1)
        for i, each in enumerate(values["modes"])
    ]
    assert values["repeat_error"] == found.repeat_error == pytest.approx(np.median(noise))
    once = replace(found, repeated={})
    assert (once.repeat_error, once.repeat_tau) == (None, None)
    same = replace(found, repeated=found.measured)
    assert (same.repeat_error, same.repeat_tau) == (0.0, 1.0)
    assert values["modes"][0]["measured"]["unit"] == "ms"
    (again,) = refitted(CostParts(table.space, (table,)), found.measured).tables
    assert "fitted again" in again.source
    errors = [abs(again.cost(mode) / reading.known - 1) for mode, reading in found.measured.items()]
    assert np.median(errors) <= found.median_error + 1e-9


def test_a_profile_that_does_not_belong_is_refused(bundle):
    session = Session(bundle.path, engine="onnxruntime", threads=1)
    with pytest.raises(ValueError, match="has no cost table"):
        verify(bundle.path, session.profile)
    for change, words in (
        ({"bundle": "0" * 64}, "measured with network 000"),
        ({"engine": "onnxruntime 0.1"}, r"measured with engine onnxruntime 0\.1"),
        (
            {"table": CostTable(Space((Knob("a", (1, 2)),)), "ms", 1.0, {"a": {1: 1.0, 2: 0.5}})},
            "measured with space",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            verify(bundle.path, replace(session.profile, **change))
    with pytest.raises(ValueError, match="must be at least 24"):
        verify(bundle.path, session.profile, modes=3)


@pytest.mark.parametrize("tables", [True, False])
def test_a_profile_of_another_device_is_not_verified_here(bundle, tables, monkeypatch):
    """Measurements would bear the name of a device that they were not made on."""
    if not tables:  # then the exported modes are measured
        monkeypatch.setattr("wenable.profiling.verification.parts_of", lambda _: [])
    profile = Session(bundle.path, engine="onnxruntime", threads=1).profile
    found = replace(profile, device="a board, 4 cores, Linux aarch64")
    with pytest.raises(
        ValueError, match=r"`profile` was measured on a board, 4 .*, and this is .*:"
    ):
        verify(bundle.path, found, timing=SHORT)


def test_bundles_of_one_network_share_their_structure_and_others_do_not(bundle, tmp_path):
    net, modes = calibrated(shuffle="all")
    assert Bundle(we.export(net, modes[:1], tmp_path / "a.wen")).structure == bundle.structure
    other, wanted = calibrated(shuffle="none")
    assert Bundle(we.export(other, wanted, tmp_path / "b.wen")).structure != bundle.structure
