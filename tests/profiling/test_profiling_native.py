"""Profiles of our own kernels: whole modes, and tables from the counters of their steps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import wenable as we
from tests.exporting.test_exporting import calibrated
from tests.helpers.engines import NEEDS_KERNELS
from wenable.core.space import Knob, Space
from wenable.measure.latency import TimingPlan
from wenable.profiling import ProfilePlan, profile
from wenable.profiling.attribution import REST
from wenable.profiling.comparison import compare
from wenable.profiling.cost_tables import spread_modes
from wenable.profiling.verification import verify
from wenable.profiling.whole_modes import ModeBuilder
from wenable.runtime import Bundle, Session
from wenable.runtime.engine import ModeEngine
from wenable.runtime.engines import installed_engines, open_engine

SHORT = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)
PLAN = ProfilePlan(table_modes=4, scheme_timing=SHORT, mode_timing=SHORT)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("native")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        net, modes = calibrated(shuffle="all")
        yield we.export(net, modes, folder / "net.wen")


@NEEDS_KERNELS
def test_a_profile_of_our_kernels_has_modes_and_a_table_and_no_choice_of_implementations(
    path: Path,
):
    found = profile(path, engine="native", threads=1, plan=PLAN)
    bundle = Bundle(path)
    assert found.engine.startswith("native ")
    assert set(found.latencies) == {str(each.mode) for each in bundle.modes}
    assert not found.times_ms
    assert not found.schemes
    assert found.table is not None
    assert set(found.table.costs) == set(bundle.space.names)
    assert Session(path, engine="native", threads=1).profile == found
    result = verify(path, found, engine="native", timing=SHORT)
    assert set(result.predicted) == set(result.measured)
    assert all(ms > 0 for ms in result.predicted.values())


@NEEDS_KERNELS
def test_the_time_of_every_step_is_shared_out_and_belongs_to_the_layers(path: Path):
    bundle, engine = Bundle(path), open_engine("native", 1)
    assert isinstance(engine, ModeEngine)
    planned = engine.plan(bundle.graph_of(1), bundle.layers, bundle.weights_of(1))
    steps = [1.0 + number for number in range(len(planned.runner.steps))]  # type: ignore[attr-defined]
    planned.runner.step_times = lambda inputs, calls: steps  # type: ignore[attr-defined]
    times = engine.layer_times(planned, bundle.example(), 3)
    assert set(times) == {REST, *bundle.layers}
    assert sum(times.values()) == pytest.approx(sum(steps))
    assert all(ms > 0 for ms in times.values())
    measured = ModeBuilder(bundle, {}).layer_times(engine, bundle.space.full, 2)
    assert set(measured) == set(times)


@NEEDS_KERNELS
def test_our_kernels_are_compared_with_the_plain_exports_of_engines(path: Path):
    rows = compare(path, engines=["native"], threads=1, timing=SHORT)
    assert {each.engine for each in rows} == {"native"}
    for each in rows:
        assert set(each.plain) == set(each.full) == set(installed_engines())
        assert each.best_plain[0] in installed_engines()


def test_modes_that_are_drawn_for_a_table_span_the_range_of_costs():
    space = Space(tuple(Knob(f"k{number}", (1, 2, 4, 8, 16)) for number in range(40)))

    def cost(mode: we.Mode) -> float:
        return sum(1 / n for n in mode.options) / len(mode.options)

    costs = sorted(cost(each) for each in spread_modes(space, random.Random(0), 40))
    assert costs[0] < 0.12
    assert costs[-1] > 0.8
    independent = [cost(space.sample(random.Random(n))) for n in range(40)]
    assert costs[-1] - costs[0] > 2 * (max(independent) - min(independent))
