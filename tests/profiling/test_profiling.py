"""Measuring a bundle on a device, and sessions that choose by what was measured."""

import json
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from tests.exporting.test_exporting import calibrated, close, expected_of, images
from tests.helpers.networks import Dense, Tokens, give_norms_a_past
from wenable.core.readings import Reading
from wenable.measure.latency import TimingPlan
from wenable.profiling import ProfilePlan, choose_schemes, measure_modes, on_device, profile
from wenable.profiling.comparison import compare
from wenable.runtime import BudgetError, Bundle, DeviceProfile, EngineError, Session, engine_choice
from wenable.runtime.building import build_model
from wenable.runtime.device_profile import SCHEMES, default_profile_path
from wenable.runtime.engines import installed_engines
from wenable.runtime.implementations import (
    BundleLayer,
    Implementation,
    default_implementation,
    implementations_of,
    stored_implementations_of,
)

SHORT = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)
EXACT = Reading(5.0, "mJ", source="INA3221")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, its modes and their bundle, with the accuracies that a search would have found."""
    net, modes = calibrated(shuffle="all")
    accuracies = {
        mode: {"accuracy": Reading(0.9 - 0.05 * number, "top-1")}
        for number, mode in enumerate(modes)
    }
    folder = tmp_path_factory.mktemp("bundle")
    return net, modes, we.export(net, modes, folder / "net.wen", readings=accuracies)


def test_a_profile_is_kept_and_taken_up(exported, cache):
    net, modes, path = exported
    seen = []
    found = profile(
        path, threads=1,
        plan=ProfilePlan(2, 3, scheme_timing=SHORT, mode_timing=SHORT),
        on_progress=lambda done, of, what: seen.append((done, of, what)),
    )  # fmt: skip
    assert set(found.latencies) == {str(mode) for mode in modes}
    bundle = Bundle(path)
    assert set(found.times_ms) == set(bundle.layers)
    for name, times in found.times_ms.items():
        layer = bundle.layers[name]
        finest = max(layer.options)
        assert set(times) <= {
            *implementations_of(layer, finest),
            *stored_implementations_of(layer, finest),
        }
        assert {each.groups for each in times} == set(layer.options)
        assert all(ms > 0 for ms in times.values())
    assert all(0 <= done < of for done, of, _ in seen)
    for kind in ("layers: whole", "layers: best at 1/16", "whole modes, group 1", "the share of"):
        assert any(what.startswith(kind) for _, _, what in seen), kind
    assert found.table is not None
    assert found.table.cost("full") > 0
    assert set(found.schemes) == {str(mode) for mode in modes if mode != net.space.full}
    assert list(cache.rglob("*.json")) == [
        default_profile_path(found.bundle, found.device, found.engine, 1)
    ]
    session = Session(path, engine="onnxruntime", threads=1)
    assert session.profile == found
    x = images(net)
    for mode in modes:
        close(session.run(x, mode=mode), expected_of(net, mode, x))
    # Another number of threads is another device to measure.
    assert not Session(path, engine="onnxruntime", threads=2).profile.latencies


def test_the_fastest_implementation_is_chosen_and_a_finer_option_has_more_to_choose_from():
    layer = BundleLayer("conv", "conv", (1, 2, 4, 8), 64, 64)
    times = {
        Implementation(8): 4.0,
        Implementation(4): 1.0,
        Implementation(2): 3.0,
        Implementation(1): 2.0,
    }
    known = DeviceProfile("bundle", "here", "engine", 1, {"conv": times})
    chosen = {n: known.choose(layer, n) for n in (2, 4, 8)}
    assert chosen == {2: Implementation(1), 4: Implementation(4), 8: Implementation(4)}
    taken = [times[chosen[n]] for n in (2, 4, 8)]
    assert taken == sorted(taken, reverse=True)  # invariant 6 of the design


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_every_scheme_gives_the_same_answers(exported, cache, scheme):
    net, modes, path = exported
    plain = Session(path, engine="onnxruntime", threads=1)
    schemes = {str(mode): scheme for mode in modes}
    known = replace(plain.profile, schemes=schemes)
    session = Session(path, engine="onnxruntime", threads=1, profile=known)
    x = images(net)
    for mode in modes:
        close(session.run(x, mode=mode), expected_of(net, mode, x))


def test_the_scheme_that_is_fastest_for_the_whole_mode_is_taken(exported, cache, monkeypatch):
    _, _, path = exported
    plain = Session(path, engine="onnxruntime", threads=1)

    def timed(calls, _):
        assert list(calls) == list(SCHEMES)
        return {name: Reading(1.0 if name == "gathered" else 2.0, "ms") for name in calls}

    monkeypatch.setattr(on_device, "measure_latencies", timed)
    chosen = choose_schemes(plain.bundle, plain.engine, plain.profile, lambda *_: None)
    assert set(chosen.values()) == {"gathered"}
    session = Session(
        path, engine="onnxruntime", threads=1, profile=replace(plain.profile, schemes=chosen)
    )
    used = session.implementations(session.modes.index("1/4")).values()
    assert {each.shuffling for each in used} == {"gather"}


class Inverted(nn.Module):
    """Two inverted residuals, as MobileNet-V2 has them: a depthwise layer between the pointwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.blocks = nn.Sequential(*(self._block(stride) for stride in (1, 2)))
        self.head = nn.Linear(16, 5)

    def _block(self, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(),
            nn.Conv2d(32, 32, 3, stride, 1, groups=32), nn.BatchNorm2d(32), nn.ReLU6(),
            nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("model", [Inverted, Dense])
@pytest.mark.parametrize("producer_ms", [0.5, 50.0])
def test_a_shuffle_can_be_stored_by_the_layer_before(tmp_path, cache, model, producer_ms):
    net, modes = calibrated(give_norms_a_past(model()), shuffle="all")
    # A producer that runs in its full option anyway has its reader's shuffle for nothing.
    modes.append(net.space.mode({**dict.fromkeys(net.space.names, 1), net.space.names[1]: 4}))
    we.calibrate(net, modes[-1:], [torch.randn(16, 3, 6, 6)])
    path = we.export(net, modes, tmp_path / "net.wen")
    plain = Session(path, engine="onnxruntime", threads=1)
    times = {
        name: {Implementation(1): producer_ms}
        | {each: 10.0 for each in implementations_of(layer, 16) if each.groups > 1}
        | dict.fromkeys(stored_implementations_of(layer, 16), 0.1)
        for name, layer in plain.bundle.layers.items()
    }
    session = Session(
        path, engine="onnxruntime", threads=1, profile=replace(plain.profile, times_ms=times)
    )
    x, stored = images(net), 0
    for number, mode in enumerate(modes):
        close(session.run(x, mode=mode), expected_of(net, mode, x))
        used = [each.shuffling for each in session.implementations(number).values()]
        stored += used.count("stored")
    if model is Dense:  # what others read as well cannot be put in another order
        assert stored == 0
    else:
        assert stored > 0


@pytest.mark.parametrize(("scheme", "free"), [("merged last", True), ("as written", False)])
def test_a_fixed_scheme_stores_a_shuffle_where_that_is_free_and_the_plain_export_never(
    tmp_path, cache, scheme, free
):
    net, _ = calibrated(give_norms_a_past(Inverted()), shuffle="all")
    producer, reader = net.space.names[0:2]
    mode = net.space.mode({**dict.fromkeys(net.space.names, 4), producer: 1})
    we.calibrate(net, [mode], [torch.randn(16, 3, 6, 6)])
    path = we.export(net, [mode], tmp_path / "net.wen")
    plain = Session(path, engine="onnxruntime", threads=1)
    known = replace(plain.profile, schemes={str(mode): scheme})
    session = Session(path, engine="onnxruntime", threads=1, profile=known)
    assert (session.implementations(0)[reader].shuffling == "stored") is free
    x = images(net)
    close(session.run(x, mode=mode), expected_of(net, mode, x))


def test_without_a_profile_the_gather_follows_the_layout_of_the_engine():
    layer = BundleLayer("conv", "conv", (1, 2, 4, 8, 16), 64, 64, shuffle_groups=8)
    for engine, shuffling in (("openvino 2026.4", "gather last"), ("onnxruntime 1.32", "gather")):
        assert DeviceProfile("", "", engine, 1).choose(layer, 16) == Implementation(4, shuffling)


def test_what_cannot_be_stored_is_refused_instead_of_computed_wrongly(exported):
    _, _, path = exported
    session = Session(path, engine="onnxruntime", threads=1)
    number = session.modes.index("1/4")
    implementations = session.implementations(number)
    weights, layers = session.bundle.weights_of(number), session.bundle.layers
    shuffled = [name for name, layer in layers.items() if layer.input_order() is not None]
    for name in shuffled:
        wrong = {**implementations, name: Implementation(4, "stored")}
        with pytest.raises(ValueError, match="cannot be stored in its order"):
            build_model(session.bundle.graph_of(0), layers, weights, wrong)


def test_dense_layers_are_measured_too(tmp_path, cache):
    net, modes = calibrated(Tokens(), shuffle="all")
    path = we.export(net, modes, tmp_path / "tokens.wen")
    found = profile(path, threads=1, plan=ProfilePlan(1, 0, scheme_timing=SHORT, mode_timing=SHORT))
    assert found.table is None
    x = images(net)
    session = Session(path, engine="onnxruntime", threads=1, profile=found)
    for mode in modes:
        close(session.run(x, mode=mode), expected_of(net, mode, x))


def a_profile(session: Session, latencies_ms: list[float]) -> DeviceProfile:
    profile = session.profile
    readings = {
        mode: Reading(ms, "ms", p99=1.1 * ms)
        for mode, ms in zip(session.modes, latencies_ms, strict=True)
    }
    return DeviceProfile(
        profile.bundle, profile.device, profile.engine, profile.threads, {}, readings
    )


def test_a_deadline_takes_the_most_accurate_mode_that_meets_it(exported, cache):
    net, modes, path = exported
    plain = Session(path, engine="onnxruntime", threads=1)
    known = a_profile(plain, [1e4 / (number + 1) for number in range(len(modes))])
    session = Session(path, engine="onnxruntime", threads=1, profile=known)
    x = images(net, 1)
    close(session.run(x, deadline_ms=1e6), expected_of(net, modes[0], x))
    assert session.controller().decisions[-1].name == str(modes[0])
    fresh = Session(path, engine="onnxruntime", threads=1, profile=known)
    close(fresh.run(x, deadline_ms=6000), expected_of(net, modes[1], x))
    assert fresh.controller().counters.within == 1
    strict = Session(path, engine="onnxruntime", threads=1, profile=known)
    strict.run(x, deadline_ms=1e-3)
    last = strict.controller().decisions[-1]
    assert not last.meets
    assert last.name == str(modes[-1])
    with pytest.raises(BudgetError, match="meet"):
        strict.run(x, deadline_ms=1e-6, strict=True)


def test_without_latencies_the_modes_are_measured_for_each_size_of_batch(exported, cache):
    net, modes, path = exported
    session = Session(path, engine="onnxruntime", threads=1)
    x = images(net, 2)
    session.run(x, deadline_ms=1e4)
    assert session.controller(2).decisions[-1].name == str(modes[0])
    assert not session.controller(1).decisions  # other figures, other decisions
    assert session.controller(2) is session.controller(2)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_make_no_sense_are_refused(exported, cache, limit):
    net, _, path = exported
    session = Session(path, engine="onnxruntime", threads=1)
    with pytest.raises(ValueError, match=r"`deadline_ms` .* must be a finite number above 0"):
        session.run(images(net, 1), deadline_ms=limit)
    with pytest.raises(ValueError, match=r"`mode` .* and a limit were both given"):
        session.run(images(net, 1), deadline_ms=3.0, mode="1")


def test_energy_budgets_need_a_reading_that_was_measured(exported, tmp_path, cache):
    net, modes, path = exported
    x = images(net, 1)
    with pytest.raises(ValueError, match="the bundle has no energy reading"):
        Session(path, engine="onnxruntime", threads=1).run(x, max_energy_mj=5.0)
    modelled = Reading(5.0, "mJ", source="modelled from MACs")
    for reading, works in ((EXACT, True), (modelled, False)):
        readings = {mode: {"energy": reading} for mode in modes}
        other = we.export(net, modes, tmp_path / "energy.wen", readings=readings)
        session = Session(other, engine="onnxruntime", threads=1)
        if works:
            close(session.run(x, max_energy_mj=5.5), expected_of(net, modes[0], x))
        else:
            with pytest.raises(ValueError, match="modelled"):
                session.run(x, max_energy_mj=5.5)


def test_a_profile_of_something_else_is_refused(exported, tmp_path, cache):
    _, _, path = exported
    session = Session(path, engine="onnxruntime", threads=1)
    with pytest.raises(
        ValueError, match="`profile` was measured with threads 1; this session has 2"
    ):
        Session(path, engine="onnxruntime", threads=2, profile=session.profile)
    values = session.profile.to_json()
    for change, message in (
        ({"bundle": "0" * 64}, "measured with bundle 0000"),
        ({"engine": "onnxruntime 0.1"}, r"measured with engine onnxruntime 0\.1"),
        ({"version": 7}, "is no device profile: it is of another kind or version"),
        ({"times_ms": {"conv": [[{"groups": 0}, 1.0]]}}, "is no device profile"),
        ({"times_ms": {"conv": [[Implementation(2).to_json(), -1.0]]}}, "must be above 0 ms"),
        ({"times_ms": 3}, "is no device profile"),
        ({"schemes": {"1/2": "magic"}}, "must be one of measured, measured convolutions"),
        ({"latencies": {"1": {"value": -1, "unit": "ms"}}}, "must be above 0 ms"),
        ({"latencies": {"1": {"value": float("nan"), "unit": "ms"}}}, "finite"),
    ):
        file = tmp_path / "profile.json"
        file.write_text(json.dumps(values | change))
        with pytest.raises(ValueError, match=message):
            Session(path, engine="onnxruntime", threads=1, profile=file)
    with pytest.raises(FileNotFoundError):
        Session(path, engine="onnxruntime", threads=1, profile=tmp_path / "none.json")


def test_a_implementation_that_a_layer_lacks_falls_back_to_the_default(exported):
    _, _, path = exported
    bundle = Bundle(path)
    layer = next(iter(bundle.layers.values()))
    wrong = {layer.name: {Implementation(64): 0.1, Implementation(4): 5.0, Implementation(2): 1.0}}
    given = DeviceProfile(bundle.structure, "here", "engine", 1, wrong)
    assert given.choose(layer, 4) == Implementation(2)
    assert DeviceProfile("", "", "", 1).choose(layer, 4) == default_implementation(layer, 4)
    assert DeviceProfile.from_json(json.loads(json.dumps(given.to_json()))) == given


def test_measured_modes_are_those_of_the_session(exported, cache):
    _, modes, path = exported
    session = Session(path, engine="onnxruntime", threads=1)
    readings = measure_modes(session, SHORT)
    assert list(readings) == [str(mode) for mode in modes]
    assert all(each.unit == "ms" and each.count == 4 for each in readings.values())
    assert "onnxruntime" in readings["1"].source


def test_a_comparison_holds_all_that_is_compared(exported, cache):
    _, _, path = exported
    rows = compare(path, engines=["onnxruntime"], threads=1, modes=["1/2"], timing=SHORT)
    assert [(row.mode, row.threads) for row in rows] == [("1/2", 1)]
    assert rows[0].full_over_ours == rows[0].full["onnxruntime"].known / rows[0].ours.known
    assert rows[0].best_plain == ("onnxruntime", rows[0].plain["onnxruntime"])
    assert rows[0].best_plain_over_ours == rows[0].best_plain[1].known / rows[0].ours.known
    assert json.loads(json.dumps(rows[0].to_json()))["mode"] == "1/2"


def test_an_engine_that_is_not_installed_is_named_with_the_way_to_get_it(exported, monkeypatch):
    _, _, path = exported
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install 'wenable\[openvino\]'"):
        Session(path, engine="openvino")
    with pytest.raises(EngineError, match="no engine is installed"):
        Session(path)


@pytest.mark.skipif(len(installed_engines()) < 2, reason="there is nothing to choose between")
def test_auto_takes_the_engine_that_is_fastest_and_remembers_it(exported, cache, monkeypatch):
    _, _, path = exported
    for fastest in ("openvino", "onnxruntime"):

        def timed(calls, _, fastest=fastest):
            return {each: Reading(1.0 if each[0] == fastest else 2.0, "ms") for each in calls}

        with monkeypatch.context() as patch:
            patch.setattr(engine_choice, "measure_latencies", timed)
            assert Session(path, threads=1).engine.name == fastest
        with monkeypatch.context() as patch:
            patch.setattr(engine_choice, "measure_latencies", None)
            assert Session(path, threads=1).engine.name == fastest
        for file in cache.rglob("*.json"):
            file.write_text("{")  # damaged: measured anew


def test_auto_times_the_models_that_a_session_will_run(exported, cache, monkeypatch):
    _, _, path = exported
    built, build = [], engine_choice.build_model

    def recorded(graph, layers, weights, implementations):
        built.append(implementations)
        return build(graph, layers, weights, implementations)

    monkeypatch.setattr(engine_choice, "build_model", recorded)
    monkeypatch.setattr(
        engine_choice,
        "measure_latencies",
        lambda calls, _: dict.fromkeys(calls, Reading(1.0, "ms")),
    )
    Session(path, threads=1)
    for engine in installed_engines():
        session = Session(path, engine=engine, threads=1)
        assert session.implementations(len(session.modes) - 1) in built


def test_requests_with_deadlines_from_many_threads(exported, cache):
    net, modes, path = exported
    session = Session(path, engine="onnxruntime", threads=1)
    x = images(net, 1)
    expected = [expected_of(net, mode, x) for mode in modes]
    session.controller()
    failures = []

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(30):
            answer = session.run(x, deadline_ms=rng.choice([0.01, 0.1, 1.0, 100.0]))
            if not any(np.allclose(answer, each, atol=1e-3) for each in expected):
                failures.append(answer)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert session.controller().counters.decisions == 120


def test_former_arguments_are_answered_with_the_plan(exported):
    with pytest.raises(TypeError, match=r"`mixtures` of profile is called `plan=ProfilePlan\(mixt"):
        profile(exported[2], mixtures=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        profile(exported[2], nonsense=3)
