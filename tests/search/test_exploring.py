"""Exploring a real network: modes calibrated, costs real, the network left in order."""

import copy
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import wenable as we
from tests.helpers.networks import converted
from tests.helpers.processes import exit_status
from wenable.core.cost_table import CostTable, tabulated
from wenable.core.journal import JournalError
from wenable.core.outcomes import Outcomes
from wenable.measure.energy import EnergyPlan
from wenable.measure.latency import TimingPlan
from wenable.runtime import DeviceProfile
from wenable.search import candidates, exploring
from wenable.search.measured_costs import mode_energies, mode_latencies
from wenable.strategies.constraints import Constraint

QUICK = TimingPlan(blocks=2, calls=2, warmup=0, gap_ms=0)


def labelled(net: we.DynamicNetwork, count: int = 40) -> list:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(count, 3, 6, 6, generator=generator)
    with torch.no_grad():
        return [(images, net(images).argmax(1))]


def test_a_search_by_macs():
    net = converted(groups=(1, 2, 4))
    data = labelled(net)  # labels are the full mode's answers: it is always right
    front = we.explore(net, data, data, min_accuracy=0.3, cost="macs", strategy="greedy")
    assert front.path[0].mode == net.space.full
    assert front.path[0].accuracy.value == 1.0
    for before, after in zip(front.path, front.path[1:], strict=False):
        assert after.mode in net.space.cheaper(before.mode)
        assert after.cost.value == net.macs(after.mode)
    assert front.cost == "macs"
    assert (front.path[-1].accuracy.known <= 0.3) or front.path[-1].mode == net.space.smallest
    # What is on the front stays calibrated, and evaluates to the very same figure.
    for point in front:
        assert net.is_calibrated(point.mode)
        assert we.evaluate(net, point.mode, data).value == point.accuracy.value
    kept = set(front.modes) | {front.chosen.mode, net.space.full}
    assert set(net.calibrated_modes) == kept


@pytest.mark.parametrize("strategy", ["knapsack", "greedy", "greedy-lazy", "nsga2"])
def test_a_front_knows_which_images_were_right(strategy):
    net = converted(groups=(1, 2, 4))
    data = labelled(net)
    images, labels = data[0]
    two = [(images[:13], labels[:13]), (images[13:], labels[13:])]
    front = we.explore(net, two, data, min_accuracy=0.3, strategy=strategy)
    for point in front.found:
        with net.using(point.mode), torch.no_grad():  # one image after the other
            right = [
                int(net.eval()(images[i : i + 1]).argmax()) == int(labels[i]) for i in range(40)
            ]
        assert point.outcomes is not None
        assert point.outcomes == Outcomes.of(right, point.outcomes.examples)
        assert point.outcomes.right == round(40 * point.accuracy.known)
    assert len({point.outcomes.examples for point in front.found if point.outcomes}) == 1


def test_a_search_by_latency_times_the_extracted_networks():
    net = converted(groups=(1, 2))
    data = labelled(net)
    front = we.explore(net, data, data, min_accuracy=0.3, cost="latency", timing=QUICK)
    assert {point.cost.unit for point in front.path} == {"ms"}
    assert all(point.cost.count == 4 for point in front.path)
    assert "eager PyTorch" in front.path[0].cost.source


def test_a_search_that_fails_leaves_no_statistics_behind():
    net = converted(groups=(1, 2, 4))
    data = labelled(net)
    we.calibrate(net, "1/4", data)
    before = set(net.calibrated_modes)

    def stop(_step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        we.explore(net, data, data, min_accuracy=0.3, on_step=stop)
    assert set(net.calibrated_modes) == before


class Denormal(torch.nn.Module):
    """Notes, while it runs, how many denormal products are not flushed to zero."""

    kept: ClassVar[list[torch.Tensor]] = []

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)
        self.tiny = torch.full((100,), 1e-39)  # too few to be shared out

    def forward(self, x):
        if not torch.compiler.is_compiling():
            Denormal.kept.append(((self.tiny * 1.0) > 0).sum())
        return self.b(self.a(x))


def test_denormals_are_flushed_while_timing_only():
    net = we.convert(Denormal(), torch.zeros(1, 8), method=we.WeightEnabling((1, 2)))
    mode_latencies(net, [net.space.full], QUICK)
    assert list(map(int, Denormal.kept[-6:])) == [0] * 6  # two blocks of three calls
    net(torch.zeros(1, 8))
    assert int(Denormal.kept[-1]) == 100


def write_source_of_a_latency(path: Path, flushed: bool) -> None:
    torch.set_num_threads(2)
    torch.set_flush_denormal(flushed)
    torch.ones(4_000_000).mul_(2)  # the workers start
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    net = we.convert(model, torch.ones(1, 8))
    plan = TimingPlan(blocks=1, calls=1, warmup=0, gap_ms=0)
    path.write_text(mode_latencies(net, [net.space.full], plan)[0].source)


@pytest.mark.parametrize(
    ("first", "where"), [(True, "every thread"), (False, "the calling thread only")]
)
def test_the_source_says_where_denormals_are_flushed(tmp_path: Path, first: bool, where: str):
    """In a fresh process: workers take the setting over when they start, and never again."""
    assert exit_status(write_source_of_a_latency, tmp_path / "source", first) == 0
    assert f"denormals flushed in {where};" in (tmp_path / "source").read_text()


def test_latencies_of_other_types_of_input():
    model = torch.nn.Sequential(
        torch.nn.Embedding(9, 8), torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)
    )
    net = we.convert(model, torch.zeros(1, 3, dtype=torch.long))
    assert mode_latencies(net, net.space.uniform_modes(), QUICK)[-1].known > 0


def test_latencies_come_in_the_order_of_the_modes():
    net = converted()
    modes = [net.space.full, net.space.full]
    readings = mode_latencies(net, modes, QUICK)
    assert len(readings) == 2
    assert all(reading.known > 0 for reading in readings)


def test_what_cannot_be_searched_is_refused():
    net = converted()
    data = labelled(net)
    for settings, message in (
        ({"cost": "energy"}, "`cost` \\(='energy'\\) needs an energy meter"),
        ({"cost": "size"}, "`cost` \\(='size'\\) is unknown"),
        ({"strategy": "magic"}, "`strategy` \\(='magic'\\) is unknown"),
        ({"min_accuracy": 1.0}, "`min_accuracy` \\(=1.0\\)"),
        ({"pooled": True}, "this is the only one"),
        (
            {"cost": "latency", "strategy": we.Greedy("j.jsonl")},
            "`journal` needs MACs, or costs that are sums",
        ),
        ({"strategy": "nonsense"}, "allowed: 'knapsack', 'greedy', 'greedy-lazy', 'nsga2'"),
    ):
        with pytest.raises(ValueError, match=message):
            we.explore(net, data, data, **{"min_accuracy": 0.5, **settings})
    with pytest.raises(ValueError, match="`calibration_batches` is an iterator"):
        we.explore(net, data, iter(data), min_accuracy=0.5)


def test_without_a_strategy_it_is_exact_where_costs_are_sums_and_algorithm_2_elsewhere():
    net = converted(groups=(1, 2))
    data = labelled(net)
    table = tabulated(net.space, net.macs, "ms")
    for settings, strategy in (
        ({}, "knapsack"),
        ({"cost": "latency", "table": table}, "knapsack"),
        ({"cost": "latency", "timing": QUICK}, "greedy"),
        ({"strategy": "greedy"}, "greedy"),
        ({"strategy": we.Knapsack([Constraint(table, 1e9)])}, "knapsack"),
    ):
        front = we.explore(copy.deepcopy(net), data, data, min_accuracy=0.3, **settings)
        assert front.strategy == strategy, settings
        steps = [after.mode in net.space.cheaper(before.mode)
                 for before, after in zip(front.path, front.path[1:], strict=False)]  # fmt: skip
        if strategy == "greedy":
            assert all(steps)  # of one layer and one option each


def seeded(groups: tuple[int, ...]) -> we.DynamicNetwork:
    torch.manual_seed(0)
    return converted(groups=groups)


def explore_until_killed(journal: Path, steps: int, strategy: Any = we.Greedy) -> None:
    net, left = seeded((1, 2, 4)), [steps]
    data = labelled(net)

    def die(step: Any) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    strategy = strategy(journal=journal)
    we.explore(net, data, data, min_accuracy=0.3, strategy=strategy, on_step=die)


def test_a_search_that_was_killed_goes_on_by_its_journal(tmp_path: Path, monkeypatch):
    journal = tmp_path / "search.jsonl"
    assert exit_status(explore_until_killed, journal, 4) == -9
    known = journal.read_text().count('"kind":"evaluation"')
    seen: list[Any] = []
    evaluate_each = candidates.evaluate_each

    def counted(net, mode, *rest, **settings):
        seen.append(mode)
        return evaluate_each(net, mode, *rest, **settings)

    monkeypatch.setattr(candidates, "evaluate_each", counted)
    net = seeded((1, 2, 4))
    data = labelled(net)
    search = {"min_accuracy": 0.3}
    expected = we.explore(copy.deepcopy(net), data, data, strategy="greedy", **search)
    whole, seen[:] = len(seen), []
    assert (
        we.explore(copy.deepcopy(net), data, data, strategy=we.Greedy(journal), **search)
        == expected
    )
    # The mode where it stood is run once more: the answers of each image are not in the journal.
    assert len(seen) <= whole - known + 1
    seen.clear()
    assert we.explore(net, data, data, strategy=we.Greedy(journal), **search) == expected
    assert seen == []
    assert set(net.calibrated_modes) == {*expected.modes, expected.chosen.mode, net.space.full}


@pytest.mark.parametrize("strategy", [we.Knapsack, we.NSGA2])
def test_a_search_of_sums_that_was_killed_evaluates_no_mode_twice(
    strategy: Any, tmp_path: Path, monkeypatch
):
    journal = tmp_path / "search.jsonl"
    assert exit_status(explore_until_killed, journal, 6, strategy) == -9
    noted = [json.loads(line)["entry"] for line in journal.read_text().splitlines()[1:]]
    seen: list[we.Mode] = []
    evaluate_each = exploring.evaluate_each

    def counted(net, mode, *rest, **settings):
        seen.append(mode)
        return evaluate_each(net, mode, *rest, **settings)

    net = seeded((1, 2, 4))
    data = labelled(net)
    expected = we.explore(copy.deepcopy(net), data, data, min_accuracy=0.3, strategy=strategy())
    monkeypatch.setattr(exploring, "evaluate_each", counted)
    kept = {"min_accuracy": 0.3, "strategy": strategy(journal=journal)}
    found = we.explore(net, data, data, **kept)
    assert found == expected
    assert {str(point.mode): point.outcomes for point in found} == {
        str(point.mode): point.outcomes for point in expected
    }
    before = [net.space.mode(entry["mode"]) for entry in noted]
    assert len(before) >= 6
    assert sorted(map(str, [*before, *seen])) == sorted({str(p.mode) for p in expected.explored})
    # Modes that only the journal knew are calibrated all the same, and answer as they did.
    assert set(net.calibrated_modes) == {*found.modes, found.chosen.mode, net.space.full}
    for point in found:
        assert we.evaluate(net, point.mode, data).known == point.accuracy.known
    with pytest.raises(JournalError, match=r"threshold: 0\.3 there, 0\.4 here"):
        we.explore(net, data, data, **{**kept, "min_accuracy": 0.4})


def test_two_searches_on_one_journal_are_refused_and_the_first_goes_on(tmp_path: Path):
    net = seeded((1, 2))
    data = labelled(net)
    search = {"min_accuracy": 0.3, "strategy": we.Greedy(tmp_path / "search.jsonl")}
    refused = []

    def another(_step):
        with pytest.raises(JournalError, match=r"search\.jsonl is in use by another process"):
            we.explore(copy.deepcopy(net), data, data, **search)
        refused.append(1)

    front = we.explore(net, data, data, on_step=another, **search)
    assert len(refused) == len(front.path) - 1 > 0
    again = we.explore(seeded((1, 2)), data, data, **search)
    assert again == front


@pytest.mark.parametrize("strategy", ["greedy", "knapsack"])
def test_a_search_by_a_devices_table_takes_its_costs_from_there(strategy):
    net = converted(groups=(1, 2, 4))
    data = labelled(net)
    macs = tabulated(net.space, net.macs, "MACs")
    costs = {name: {n: cost / 1e3 for n, cost in row.items()} for name, row in macs.costs.items()}
    table = CostTable(net.space, "ms", macs.rest / 1e3, costs, "onnxruntime", "a board")
    front = we.explore(
        net, data, data, min_accuracy=0.3, cost="latency", table=table, strategy=strategy
    )
    assert front.strategy == strategy
    for point in front:
        assert point.cost.value == pytest.approx(net.macs(point.mode) / 1e3)
        assert "table: onnxruntime" in point.cost.source
        assert point.cost.device == "a board"
        assert net.is_calibrated(point.mode)
        assert we.evaluate(net, point.mode, data).value == point.accuracy.value
    assert set(net.calibrated_modes) == {*front.modes, front.chosen.mode}


def test_tables_that_do_not_belong_are_refused():
    net = converted(groups=(1, 2))
    data = labelled(net)
    other = converted(groups=(1, 2, 4))
    for given, words in (
        ({"table": tabulated(other.space, other.macs, "ms"), "cost": "latency"}, "another network"),
        ({"table": tabulated(net.space, net.macs, "mJ"), "cost": "latency"}, "is in mJ"),
        ({"strategy": "knapsack", "cost": "latency"}, "needs costs that are sums"),
    ):
        with pytest.raises(ValueError, match=words):
            we.explore(net, data, data, min_accuracy=0.3, **given)


class Battery:
    """A meter that says what a test knows: so much for every second of a clock."""

    name, scope, kind, step_s, detail = "battery", "board", "measured", 0.0, ""

    def begin(self) -> None:
        self.since = time.perf_counter()

    def end(self) -> float:
        return 2.0 * (time.perf_counter() - self.since)


def test_energy_is_measured_by_a_meter_and_has_its_source():
    net = converted(groups=(1, 2))
    we.calibrate(net, net.space.uniform_modes(), labelled(net))
    plan = EnergyPlan(trials=2, window_s=0.02, steps=1, warmup_s=0.0, cooldown_s=0.0, idle_s=0.01)
    for reading in mode_energies(net, net.space.uniform_modes(), Battery(), plan):
        assert reading.unit == "mJ"
        assert reading.known > 0
        assert "battery" in reading.source


@pytest.mark.parametrize(
    ("former", "message"),
    [
        ({"threshold": 0.5}, "`threshold` of explore is called `min_accuracy` now"),
        ({"limits": []}, r"`limits` .* is called `strategy=wenable\.Knapsack\(constraints"),
        ({"journal": "j"}, r"is called `strategy=wenable\.Greedy\(journal"),
        ({"nonsense": 1}, "unexpected keyword argument 'nonsense'"),
    ],
)
def test_former_names_are_answered_with_the_present_ones(former, message):
    net = converted(groups=(1, 2))
    with pytest.raises(TypeError, match=message):
        we.explore(net, labelled(net), labelled(net), **{"min_accuracy": 0.1, **former})


@pytest.mark.parametrize(
    ("former", "present"), [("exact", "knapsack"), ("evolve", "nsga2"), ("plain", "greedy")]
)
def test_former_strategies_are_answered_with_the_present_ones(former, present):
    net = converted(groups=(1, 2))
    with pytest.raises(ValueError, match=f"'{former}'.* is called '{present}' now"):
        we.explore(net, labelled(net), labelled(net), min_accuracy=0.1, strategy=former)


def test_settings_of_a_strategy_reach_it():
    net = converted(groups=(1, 2, 4))
    data = labelled(net)

    def explored(strategy) -> we.Front:
        return we.explore(copy.deepcopy(net), data, data, min_accuracy=0.0, strategy=strategy)

    assert explored(we.NSGA2(trials=7)).evaluations == 7
    one = net.space.uniform(2)
    assert explored(we.NSGA2(trials=2, start=[one])).explored[1].mode == one
    few = explored(we.Knapsack(count=1, rounds=1)).evaluations
    assert few < explored(we.Knapsack(count=6, rounds=4)).evaluations
    most = Constraint(tabulated(net.space, net.macs, "MACs"), net.macs("1/2"))
    for strategy in (we.Knapsack([most]), we.NSGA2([most], trials=40)):
        assert all(net.macs(point.mode) <= net.macs("1/2") for point in explored(strategy))


@pytest.mark.parametrize(
    "budgets", [np.linspace(60_000, 90_000, 3), iter([60_000, 90_000])], ids=type
)
def test_budgets_may_be_an_array_or_be_gone_through_once(budgets: Any):
    net = converted(groups=(1, 2, 4))
    data = labelled(net)
    least, most = net.macs(net.space.smallest), net.macs("full")
    scaled = (least + (each - 60_000) / 30_000 * (most - least) for each in budgets)
    budgets = np.array(list(scaled)) if isinstance(budgets, np.ndarray) else scaled
    front = we.explore(
        net,
        data,
        data,
        min_accuracy=np.float32(0.0),
        strategy=we.Knapsack(budgets=budgets, rounds=1),
    )
    assert net.space.smallest in [point.mode for point in front.explored]
    assert json.loads(json.dumps(front.to_json()))["min_accuracy"] == 0.0


@pytest.mark.parametrize("budgets", [5, ["many"], [None], "12", ["12"], b"12", [2.0, "3"]])
def test_budgets_that_are_no_numbers_are_refused(budgets: Any):
    with pytest.raises(ValueError, match=r"`budgets` \(=.*\) must be numbers"):
        we.Knapsack(budgets=budgets)


def test_a_profile_of_a_network_with_more_options_says_what_to_do():
    net, other = converted(groups=(1, 2)), converted(groups=(1, 2, 4))
    data = labelled(net)
    table = tabulated(other.space, other.macs, "ms")
    profile = DeviceProfile("b", "a board", "made-up 1", 1, table=table)
    with pytest.raises(
        ValueError, match=r"`profile` does not fit.*lacks \(4\).*profile a bundle of"
    ) as told:
        we.explore(net, data, data, min_accuracy=0.3, cost="latency", profile=profile)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize("mode", ["1", "1/2"])
def test_a_profile_of_another_network_with_the_same_knobs_is_refused(mode: str):
    net = converted(groups=(1, 2))
    data, table = labelled(net), tabulated(net.space, net.macs, "ms")
    for macs, fits in ((net.macs(mode), True), (2 * net.macs(mode), False)):
        profile = DeviceProfile("b", "a board", "e 1", 1, table=table, macs={mode: float(macs)})
        search = {"min_accuracy": 0.3, "cost": "latency", "profile": profile}
        if fits:
            we.explore(net, data, data, **search)
        else:
            with pytest.raises(
                ValueError, match="`profile` is of another network, or of another size"
            ):
                we.explore(net, data, data, **search)


@pytest.mark.parametrize("strategy", ["greedy", "greedy-lazy", "knapsack"])
def test_networks_that_take_more_than_tensors_are_searched(strategy: str):
    class Halved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 2)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            x = self.first(x).relu()
            return self.second(x if mask is None else x * mask)

    torch.manual_seed(0)
    net = we.convert(Halved(), (torch.zeros(2, 8), None), method=we.WeightEnabling((1, 2)))
    x = torch.randn(40, 8)
    with torch.no_grad():
        data = [((x, None), net(x, None).argmax(1))]
    front = we.explore(net, data, data, min_accuracy=0.3, strategy=strategy)
    assert front.path[0].accuracy.value == 1.0
    assert front.strategy == strategy
