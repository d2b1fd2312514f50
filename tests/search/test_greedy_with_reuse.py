"""The affordable search against the plain one: the same path, front, readings and statistics."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from tests.helpers.algorithm_2 import algorithm_2
from tests.helpers.networks import (
    IMAGES,
    Dense,
    Tokens,
    dense_network,
    give_norms_a_past,
    small_resnet,
)
from tests.helpers.processes import exit_status
from wenable.core.cost_table import CostTable, tabulated
from wenable.search import Work, estimate_search, plain_macs, search_greedily
from wenable.search import greedy as exploring
from wenable.search.candidates import Candidates
from wenable.search.recorded import Source
from wenable.search.run_identity import run_identity
from wenable.strategies.journal import Journal, JournalError

KINDS = {"greedy": we.Greedy, "greedy-lazy": we.GreedyLazy}

NETWORKS = {
    "resnet": (small_resnet, (3, 6, 6)),
    "dense layers": (dense_network, (3, 4, 4)),
    "tokens": (Tokens, (3, 6, 6)),
    "dense connections": (Dense, (3, 6, 6)),
}


def network(name: str = "resnet", seed: int = 0, groups: tuple[int, ...] = (1, 2)) -> Any:
    torch.manual_seed(seed)
    make, shape = NETWORKS[name]
    model = give_norms_a_past(make()).eval()
    return we.convert(model, torch.zeros(1, *shape), method=we.WeightEnabling(groups))


def splits(net: Any, name: str = "resnet", images: int = 150, batch: int = 80) -> tuple[list, list]:
    """Search batches whose labels the full mode mostly gives, and calibration batches."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(images, *NETWORKS[name][1], generator=generator)
    with torch.no_grad():
        labels = net(x).argmax(1)
    changed = torch.rand(images, generator=generator) < 0.1
    labels[changed] = torch.randint(5, (int(changed.sum()),), generator=generator)
    calibration = torch.randn(60, *NETWORKS[name][1], generator=generator)
    return list(zip(x.split(batch), labels.split(batch), strict=True)), list(calibration.split(35))


def assert_same(found: we.Front, expected: we.Front) -> None:
    assert found.path == expected.path  # modes, readings with all they say, costs
    assert found.points == expected.points
    assert found.chosen == expected.chosen
    assert (found.min_accuracy, found.cost, found.strategy) == (
        expected.min_accuracy, expected.cost, expected.strategy,
    )  # fmt: skip
    assert found.evaluations == len(found.explored)
    assert set(found.explored) <= set(expected.explored)


def assert_same_statistics(a: Any, b: Any) -> None:
    assert set(a.calibrated_modes) == set(b.calibrated_modes)
    for mode in a.calibrated_modes:
        mine, theirs = a.calibration(mode), b.calibration(b.space.mode(str(mode)))
        assert mine.images == theirs.images
        for name in mine.statistics or {}:
            assert torch.equal(mine.statistics[name].mean, theirs.statistics[name].mean)
            assert torch.equal(mine.statistics[name].var, theirs.statistics[name].var)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("seed", "min_accuracy"), [(0, 0.3), (1, 0.5)])
def test_the_path_is_that_of_the_plain_search(name: str, seed: int, min_accuracy: float):
    groups = (1, 2) if name == "resnet" and not seed else (1, 2, 4)
    plain, net = network(name, seed, groups), network(name, seed, groups)
    data = splits(net, name)
    expected, work = algorithm_2(plain, *data, min_accuracy=min_accuracy), Work()
    found = search_greedily(net, *data, min_accuracy=min_accuracy, work=work)
    assert_same(found, expected)
    assert_same_statistics(net, plain)
    assert net.mode == net.space.full
    assert found.evaluations <= expected.evaluations
    if name == "resnet":  # the one with more than three knobs
        assert work.total < plain_macs(plain, expected.path, 150, 60)


def test_with_little_memory_the_path_is_the_same():
    plain, net, cache_mb = network(), network(), 0.02
    data = splits(net)
    expected = algorithm_2(plain, *data, min_accuracy=0.3)
    assert_same(
        search_greedily(net, *data, min_accuracy=0.3, settings=we.Greedy(cache_mb=cache_mb)),
        expected,
    )
    assert_same_statistics(net, plain)


def test_ties_go_to_the_layer_that_runs_first():
    """With labels that are all wrong but one class and equal costs, many candidates are equal."""
    plain, net = network(), network()
    x = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    data = [(x, net(x).argmax(1))], [x]
    even = {name: {1: 2.0, 2: 1.0} for name in net.space.names}
    table = CostTable(net.space, "ms", 50.0, even)
    found = search_greedily(net, *data, min_accuracy=0.1, cost=table)

    def accuracy(mode: we.Mode) -> float:
        we.calibrate(plain, mode, data[1])
        return we.evaluate(plain, mode, data[0]).known

    mode = net.space.full
    for point in found.path[1:]:
        candidates = net.space.cheaper(mode)
        losses = [table.cost(each) / (accuracy(each) or 1e-300) for each in candidates]
        mode = candidates[losses.index(min(losses))]
        assert point.mode == mode
        assert point.cost.known == table.cost(mode)
    assert found.cost == "ms"


def test_a_table_of_macs_gives_the_path_by_macs():
    net = network()
    data = splits(net)
    table = tabulated(net.space, net.macs, "MACs")
    by_table = search_greedily(net, *data, min_accuracy=0.3, cost=table)
    by_count = search_greedily(net, *data, min_accuracy=0.3)
    assert [p.mode for p in by_table.path] == [p.mode for p in by_count.path]


def test_modes_that_were_calibrated_before_are_taken_as_they_are():
    def prepared() -> Any:
        net = network()
        generator = torch.Generator().manual_seed(7)
        modes = ["full", *net.space.cheaper(net.space.full)[2:5]]
        we.calibrate(net, modes, [2 * torch.randn(30, 3, 6, 6, generator=generator)])
        return net

    plain, net = prepared(), prepared()
    data = splits(net)
    assert_same(
        search_greedily(net, *data, min_accuracy=0.3), algorithm_2(plain, *data, min_accuracy=0.3)
    )
    assert_same_statistics(net, plain)


def test_certain_errors_are_errors_of_a_whole_evaluation():
    """Also of modes whose statistics, of other images, share nothing with those of the others."""
    net, stand = network(groups=(1, 2, 4)), "1/2"
    search, calibration = splits(net)
    modes = net.space.cheaper(net.space.mode(stand))
    generator = torch.Generator().manual_seed(7)
    we.calibrate(net, [modes[-1], modes[2]], [2 * torch.randn(30, 3, 6, 6, generator=generator)])
    candidates = Candidates(net, search, calibration, 100, Work())
    order = candidates.hardest_first(candidates.margins_of(net.space.mode(stand)))
    knobs = dict(zip(modes, net.space.names, strict=True))
    halves = [candidates.certain_errors(knobs, half) for half in (order[:70], order[70:])]
    for mode, *found in zip(modes, *halves, strict=True):
        exact = candidates.errors_in(candidates.evaluate(mode))
        assert exact - 2 <= sum(found) <= exact  # two may be too close to tell


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_recorded_of_a_mode_serves_its_neighbours(name: str):
    """Bit for bit, evaluated whole, and in the looks; with what a neighbour recorded as well."""
    net, other = network(name, groups=(1, 2, 4)), network(name, groups=(1, 2, 4))
    data, work, plain_work = splits(net, name), Work(), Work()
    candidates = Candidates(net, *data, 100, work)
    plain = Candidates(other, *data, 100, plain_work)
    for each in (candidates, plain):
        each.evaluate(each.net.space.full)
    stand = net.space.uniform(2)
    for _ in range(2):  # the second time from a mode that was itself run in part
        candidates.evaluate(stand)
        plain.evaluate(other.space.mode(str(stand)))
        modes = net.space.cheaper(stand)
        pairs = [(mode, next(n for n in mode if mode[n] != stand[n])) for mode in modes]
        candidates.calibrate_neighbours(dict(pairs))
        order = candidates.hardest_first(candidates.margins_of(stand))
        looked = candidates.certain_errors(dict(pairs), order[:50], stand)
        for (mode, knob), wrong in zip(pairs, looked, strict=True):
            same = other.space.mode(str(mode))
            assert candidates.evaluate(mode, Source(stand, knob)) == plain.evaluate(same)
            assert torch.equal(candidates.margins_of(mode), plain.margins_of(same))
            exact = int((plain.margins_of(same)[order[:50]] < 0).sum())
            assert exact - 1 <= wrong <= exact  # one may be too close to tell
        stand = modes[-1]
    assert work.macs["evaluation"] < plain_work.macs["evaluation"]


class BatchMean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


def test_a_network_that_mixes_images_is_evaluated_in_its_own_batches_only():
    def mixing() -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(108, 16), BatchMean(), nn.ReLU(), nn.Linear(16, 16),
            nn.ReLU(), nn.Linear(16, 5),
        )  # fmt: skip
        return we.convert(model.eval(), torch.ones(2, 3, 6, 6), method=we.WeightEnabling((1, 2, 4)))

    plain, net, work = mixing(), mixing(), Work()
    x = torch.randn(3, 40, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    data = [(each, net(each).argmax(1)) for each in x], list(x)
    expected = algorithm_2(plain, *data, min_accuracy=0.3)
    found = search_greedily(net, *data, min_accuracy=0.3, work=work)
    assert_same(found, expected)
    assert work.macs["looks"] == 17 * net.macs("full")  # those that showed it


def test_networks_with_several_inputs():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 16)
            self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.norm(self.c(self.a(x) * torch.relu(self.b(y))))))

    def two() -> Any:
        torch.manual_seed(1)
        return we.convert(Two().eval(), (torch.ones(1, 8), torch.ones(1, 8)))

    plain, net, generator = two(), two(), torch.Generator().manual_seed(3)
    pairs = [tuple(torch.randn(2, 50, 8, generator=generator)) for _ in range(2)]
    search = [(pair, net(*pair).argmax(1)) for pair in pairs]
    calibration = [(pair, None) for pair in pairs]
    expected = algorithm_2(plain, search, calibration, min_accuracy=0.3)
    assert_same(search_greedily(net, search, calibration, min_accuracy=0.3), expected)
    assert_same_statistics(net, plain)


def test_lazy_greedy_evaluates_less_and_its_readings_are_real():
    net, plain = network(groups=(1, 2, 4)), network(groups=(1, 2, 4))
    data, work = splits(net), Work()
    exact = algorithm_2(plain, *data, min_accuracy=0.3)
    lazy = search_greedily(net, *data, min_accuracy=0.3, settings=we.GreedyLazy(), work=work)
    assert lazy.strategy == "greedy-lazy"
    assert lazy.evaluations < exact.evaluations
    assert work.total < plain_macs(net, exact.path, 150, 60)
    for point in lazy:
        assert we.evaluate(net, point.mode, data[0]).known == point.accuracy.known


# --- what it computes ---------------------------------------------------------------------------------


def test_the_plain_work_is_what_the_plain_search_runs():
    net = network()
    data, seen = splits(net), []
    net.register_forward_pre_hook(lambda module, args: seen.append(module.macs() * len(args[0])))
    front = algorithm_2(net, *data, min_accuracy=0.3)
    assert sum(seen) == plain_macs(net, front.path, 150, 60)


def test_the_work_that_is_told_is_what_the_layers_ran():
    net, work = network(), Work()
    data = splits(net)
    for parameter in net.parameters():
        parameter.requires_grad_(False)  # or the counter fails
    with FlopCounterMode(display=False) as counter:
        search_greedily(net, *data, min_accuracy=0.5, work=work)
    # The trial runs other modes than the full one as well, and is counted as if it did not.
    found = counter.get_total_flops() // 2
    assert work.total - work.macs["trial"] < found < work.total


def test_no_search_takes_more_than_was_estimated():
    for plain in (True, False):
        net, work = network(), Work()
        data = splits(net)
        most = estimate_search(net, 150, 60, plain=plain)
        if plain:
            front = algorithm_2(net, *data, min_accuracy=0.0)
            total = plain_macs(net, front.path, 150, 60)
        else:
            front = search_greedily(net, *data, min_accuracy=0.0, work=work)
            total = work.total
        assert front.evaluations <= most.evaluations
        assert total <= most.macs == most.full_passes * net.macs("full")
    with pytest.raises(ValueError, match=r"`search_images` \(=0\) must be at least 1"):
        estimate_search(network(), 0, 60)


# --- the journal --------------------------------------------------------------------------------------


class Dying(Journal):
    """Ends its process when it holds so many entries, in the middle of the next."""

    left = 0

    def append(self, entry: Any) -> None:
        if Dying.left == 0:
            os.write(self._descriptor, b'{"crc32":"01234567","entry":{"kin')
            os.kill(os.getpid(), signal.SIGKILL)
        Dying.left -= 1
        super().append(entry)


def search_until_killed(path: Path, strategy: str, after: int) -> None:
    Dying.left, exploring.Journal = after, Dying
    net = network()
    search_greedily(net, *splits(net), min_accuracy=0.5, settings=KINDS[strategy](path))


@pytest.mark.parametrize(("strategy", "after"), [("greedy", 9), ("greedy-lazy", 6)])
def test_killed_in_the_middle_it_goes_on_to_the_same_front(
    tmp_path: Path, strategy: Any, after: int
):
    path = tmp_path / "search.jsonl"
    assert exit_status(search_until_killed, path, strategy, after) == -9
    lines = path.read_bytes().splitlines()
    assert len(lines) == after + 1  # and one that is half written
    first, again, work, whole = network(), network(), Work(), Work()
    data = splits(first)
    expected = search_greedily(
        first, *data, min_accuracy=0.5, settings=KINDS[strategy](), work=whole
    )
    found = search_greedily(
        again, *data, min_accuracy=0.5, settings=KINDS[strategy](path), work=work
    )
    assert found == expected
    assert_same_statistics(again, first)
    assert work.total < whole.total
    # A third time nothing is left to evaluate but what the front needs.
    assert (
        search_greedily(network(), *data, min_accuracy=0.5, settings=KINDS[strategy](path)) == found
    )


def test_the_journal_tells_every_evaluation_and_step(tmp_path: Path):
    net = network()
    data = splits(net)
    front = search_greedily(net, *data, min_accuracy=0.3, settings=we.Greedy(tmp_path / "j.jsonl"))
    entries = [
        json.loads(line)["entry"] for line in (tmp_path / "j.jsonl").read_text().splitlines()
    ]
    evaluated = {
        e["mode"]: e["right"] / e["total"] for e in entries[1:] if e["kind"] == "evaluation"
    }
    assert evaluated == {str(p.mode): p.accuracy.known for p in front.explored}
    steps = [entry["mode"] for entry in entries[1:] if entry["kind"] == "step"]
    assert steps == [str(point.mode) for point in front.path[1:]]


def test_a_journal_of_another_search_is_refused(tmp_path: Path):
    net, path = network(), tmp_path / "j.jsonl"
    data = splits(net)
    search_greedily(net, *data, min_accuracy=0.5, settings=we.Greedy(path))

    def again(net: Any = net, search: Any = data[0], kind: Any = we.Greedy, **more: Any) -> None:
        search_greedily(net, search, data[1], settings=kind(path), **{"min_accuracy": 0.5, **more})

    net.forget_calibrations([m for m in net.calibrated_modes if m != net.space.full])
    again()
    net.forget_calibrations([m for m in net.calibrated_modes if m != net.space.full])
    for change, message in (
        ({"min_accuracy": 0.4}, "threshold: 0.5 there, 0.4 here"),
        ({"kind": we.GreedyLazy}, "strategy: 'greedy' there"),
        ({"search": data[0][::-1]}, "search: .*'crc32'"),
        ({"net": network(seed=1)}, "weights: "),
        ({"cost": tabulated(net.space, net.macs, "MACs")}, "cost: 'macs' there"),
    ):
        with pytest.raises(JournalError, match=message):
            again(**change)


def test_a_journal_of_other_shuffles_or_statistics_is_refused(tmp_path: Path):
    """Neither is among the weights, and modes answer otherwise."""
    net, path = network(), tmp_path / "j.jsonl"
    search, calibration = splits(net)
    smallest = net.space.smallest
    we.calibrate(net, smallest, calibration[:1])
    header = run_identity(net, {"search": search}, "macs", "greedy", 0.5)
    search_greedily(net, search, calibration, settings=we.Greedy(path), min_accuracy=0.5)
    net.forget_calibrations([m for m in net.calibrated_modes if m != net.space.full])
    we.calibrate(net, smallest, calibration[:1])
    assert run_identity(net, {"search": search}, "macs", "greedy", 0.5) == header
    we.calibrate(net, smallest, calibration)
    changed = run_identity(net, {"search": search}, "macs", "greedy", 0.5)
    assert {key for key in header if header[key] != changed[key]} == {"statistics"}
    with pytest.raises(JournalError, match="statistics: "):
        search_greedily(net, search, calibration, settings=we.Greedy(path), min_accuracy=0.5)
    model = small_resnet()
    shuffled = we.convert(model, torch.zeros(IMAGES), method=we.WeightEnabling(shuffle="all"))
    plain = we.convert(model, torch.zeros(IMAGES), method=we.WeightEnabling(shuffle="none"))
    headers = [run_identity(each, {}, "macs", "greedy", 0.5) for each in (shuffled, plain)]
    assert {key for key in headers[0] if headers[0][key] != headers[1][key]} == {"method"}


# --- refusals -----------------------------------------------------------------------------------------


def test_what_cannot_be_searched_is_refused():
    net = network()
    search, calibration = splits(net)
    other = tabulated(network("tokens").space, lambda mode: 1.0, "MACs")
    for change, message in (
        ({"cost": "latency"}, r"`cost` \(='latency'\) must be known before"),
        ({"cost": other}, "`cost` is a table for the space of another network"),
        ({"min_accuracy": 1.0}, r"`min_accuracy` \(=1.0\) must be an accuracy"),
        ({"min_accuracy": 0.99}, r"`min_accuracy` \(=0.99\) cannot be reached"),
        ({"settings": we.Greedy(cache_mb=-1)}, r"`cache_mb` \(=-1\)"),
        ({"search_batches": iter(search)}, "`search_batches` is an iterator"),
    ):
        arguments = {"min_accuracy": 0.5, "search_batches": search, **change}
        with pytest.raises(ValueError, match=message):
            search_greedily(net, calibration_batches=calibration, **arguments)
    assert net.calibrated_modes == (net.space.full,)


def test_batches_that_come_in_another_order_are_refused():
    net = network()
    search, calibration = splits(net)

    class Turning:
        turn = 0

        def __iter__(self):
            self.turn += 1
            return iter(search if self.turn % 2 else search[::-1])

    with pytest.raises(ValueError, match="`search_batches` came in another order than before"):
        search_greedily(net, Turning(), calibration, min_accuracy=0.3)
    assert net.calibrated_modes == (net.space.full,)
