"""Searches by a device's latencies where these do not add up: beside all modes, and beside Algorithm 2."""

import itertools
from collections.abc import Mapping

import pytest
import torch

import wenable as we
from tests.helpers.algorithm_2 import algorithm_2
from tests.helpers.networks import small_resnet
from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.readings import Point, Reading, non_dominated
from wenable.network.mode_costs import macs_parts, tables_of_each
from wenable.runtime import DeviceProfile
from wenable.strategies.constraints import Constraint
from wenable.strategies.greedy_lazy import greedy_lazy

GROUPS = we.WeightEnabling((1, 4), only="block1.conv[13]")
SIZES = we.ImageSize((12, 6))
BITS = we.SwitchablePrecision((32, 8))
JOINT = {
    "groups, sizes": [GROUPS, SIZES],
    "groups, precision": [GROUPS, BITS],
    "groups, exits": [GROUPS, we.EarlyExits(("block2",))],
    "groups, sizes, precision": [GROUPS, SIZES, BITS],
    "widths, sizes": [we.Slimmable((1.0, 0.5), divisor=4), SIZES],
    "widths, exits": [we.Slimmable((1.0, 0.5), divisor=4), we.EarlyExits(("block1", "stem"))],
    "widths": we.Slimmable((1.0, 0.5, 0.25), divisor=4),
    "exits": we.EarlyExits(("block1", "stem")),
    "sizes": SIZES,
    "precision": BITS,
}
LABELS = torch.arange(16) % 5


def images(count: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


DATA = [(images(), LABELS)]


def converted(methods) -> we.DynamicNetwork:
    torch.manual_seed(0)  # the branch of an exit is drawn
    return we.convert(small_resnet(), images(2), method=methods)


def outer(net: we.DynamicNetwork) -> list[str]:
    """The knobs that change more than groups: those whose options have names."""
    return [knob.name for knob in net.space.knobs if knob.labels]


def ms(net: we.DynamicNetwork, mode: Mapping[str, int]) -> float:
    """A made-up device, on which no option of size, width, exit or precision takes a share of its own."""
    part = 1.0
    for place, knob in enumerate(net.space.knobs):
        if knob.labels:
            part *= 1 - 0.23 * knob.options.index(mode[knob.name]) - 0.02 * place
    layers = [
        (3.0 + place) / mode[knob.name] ** part
        for place, knob in enumerate(net.space.knobs)
        if not knob.labels
    ]
    return part * (5.0 + sum(layers))


def device(net: we.DynamicNetwork) -> DeviceProfile:
    """The profile of that device: a table for each part, written down one by one."""
    tables = []
    names = outer(net)
    for options in itertools.product(
        *(net.space.knobs[net.space.position(n)].options for n in names)
    ):
        space = net.space.fixed(dict(zip(names, options, strict=True)))
        full, costs = dict(space.full), {}
        for knob in space.knobs:
            row = {n: ms(net, full | {knob.name: n}) for n in knob.options}
            costs[knob.name] = {n: each - min(row.values()) for n, each in row.items()}
        rest = ms(net, dict(space.smallest))
        tables.append(CostTable(space, "ms", rest, costs, "made up", "a board"))
    return DeviceProfile("b", "a board", "made-up 1", 1, parts=tuple(tables))


@pytest.fixture(scope="module", params=JOINT)
def joint(request) -> tuple[we.DynamicNetwork, DeviceProfile]:
    net = converted(JOINT[request.param])
    return net, device(net)


def every_mode(net: we.DynamicNetwork) -> list[we.Mode]:
    rows = itertools.product(*(knob.options for knob in net.space.knobs))
    return [net.space.mode(dict(zip(net.space.names, row, strict=True))) for row in rows]


def test_the_front_is_that_of_all_modes(joint):
    net, profile = joint
    steps: list[we.SearchStep] = []
    front = we.explore(
        net, DATA, DATA, min_accuracy=0.0, cost="latency", profile=profile,
        strategy=we.Knapsack(count=8, rounds=2), on_step=steps.append,
    )  # fmt: skip
    assert front.cost == "latency"
    points = []
    for mode in every_mode(net):
        if not net.is_calibrated(mode):
            we.calibrate(net, mode, [images()])
        accuracy = we.evaluate(net, mode, DATA)
        points.append(Point(mode, accuracy, Reading(ms(net, mode), "ms")))
    best = non_dominated(tuple(points))
    assert [p.accuracy.known for p in front] == [p.accuracy.known for p in best]
    assert [p.cost.known for p in front] == pytest.approx([p.cost.known for p in best])
    assert all(point.cost.device == "a board" for point in front)
    assert {step.most for step in steps} <= {max(step.most for step in steps)}
    assert front.evaluations <= len(points)


@pytest.mark.parametrize("name", ["groups, sizes, precision", "groups, exits", "widths, sizes"])
def test_greedy_walks_all_knobs_as_algorithm_2_does(name: str):
    paths = []
    for search in (we.explore, algorithm_2):
        net = converted(JOINT[name])
        profile = device(net)
        if search is we.explore:
            front = we.explore(
                net,
                DATA,
                DATA,
                min_accuracy=0.0,
                cost="latency",
                profile=profile,
                strategy="greedy",
            )
        else:
            front = algorithm_2(
                net, DATA, DATA, min_accuracy=0.0, table=CostParts(net.space, profile.parts)
            )
        paths.append([(str(p.mode), p.accuracy.known, p.cost.known) for p in front.path])
        assert front.path[-1].mode == net.space.smallest
    assert paths[0] == paths[1]


def test_what_was_not_measured_is_refused_by_name():
    net = converted(JOINT["groups, sizes, precision"])
    profile = device(net)
    few = DeviceProfile("b", "a board", "made-up 1", 1, parts=profile.parts[:1] + profile.parts[3:])
    search = {"min_accuracy": 0.0, "cost": "latency"}
    with pytest.raises(
        ValueError, match=r"`profile` has no cost of 8-bit, 1,size=6, and what others"
    ):
        we.explore(net, DATA, DATA, profile=few, **search)
    with pytest.raises(ValueError, match=r"`profile` has no table of latency: it was not measured"):
        we.explore(net, DATA, DATA, profile=DeviceProfile("b", "", "", 1), **search)
    nothing = DeviceProfile("b", "", "", 1, energy_reason="it is virtual")
    with pytest.raises(ValueError, match="`profile` has no table of energy: it is virtual"):
        we.explore(net, DATA, DATA, profile=nothing, min_accuracy=0.0, cost="energy")
    other = converted(JOINT["groups, sizes"])
    with pytest.raises(
        ValueError, match="`profile` does not fit this network: `tables` holds one of another"
    ):
        we.explore(other, DATA, DATA, profile=profile, **search)
    with pytest.raises(
        ValueError, match=r"counted without it; allowed with it: 'latency', 'energy'"
    ):
        we.explore(net, DATA, DATA, profile=profile, min_accuracy=0.0)
    with pytest.raises(ValueError, match="a profile has its own tables"):
        we.explore(net, DATA, DATA, profile=profile, table=profile.parts, **search)


def evaluated(net: we.DynamicNetwork, mode: we.Mode) -> Reading:
    if not net.is_calibrated(mode):
        we.calibrate(net, mode, [images()])
    return we.evaluate(net, mode, DATA)


@pytest.mark.parametrize("name", ["groups, exits"])
def test_greedy_lazy_walks_all_knobs_as_its_plain_form_does(name: str):
    net, other = converted(JOINT[name]), converted(JOINT[name])
    profile = device(net)
    front = we.explore(
        net, DATA, DATA, min_accuracy=0.0, cost="latency", profile=profile, strategy="greedy-lazy"
    )
    plain = greedy_lazy(
        other.space,
        lambda mode: evaluated(other, mode),
        lambda modes: [Reading(ms(other, mode), "ms") for mode in modes],
        0.0,
    )
    assert [str(point.mode) for point in front.path] == [str(point.mode) for point in plain.path]
    assert [p.cost.known for p in front.path] == pytest.approx([p.cost.known for p in plain.path])


@pytest.mark.parametrize("name", ["groups, precision", "groups, exits"])
def test_nsga2_finds_the_front_within_constraints_where_it_may_try_every_mode(name: str):
    pytest.importorskip("optuna")
    net = converted(JOINT[name])
    profile = device(net)
    latency, macs = CostParts(net.space, profile.parts), macs_parts(net)
    most = 0.8 * ms(net, net.space.full)
    front = we.explore(
        net, DATA, DATA, min_accuracy=0.0,
        strategy=we.NSGA2(trials=200, constraints=[Constraint(latency, most)]),
    )  # fmt: skip
    within = [mode for mode in every_mode(net) if ms(net, mode) <= most]
    points = [Point(m, evaluated(net, m), Reading(net.macs(m), "MACs")) for m in within]
    best = non_dominated(tuple(points))
    assert 0 < len(best) < net.space.size
    assert [p.accuracy.known for p in front] == [p.accuracy.known for p in best]
    assert [p.cost.known for p in front] == pytest.approx([p.cost.known for p in best])
    assert all(macs.cost(mode) == net.macs(mode) for mode in front.modes)


@pytest.mark.parametrize("name", ["groups, precision", "widths, sizes"])
def test_a_knapsack_by_macs_keeps_a_constraint_on_a_devices_latency(name: str):
    net = converted(JOINT[name])
    latency = CostParts(net.space, device(net).parts)
    most = 0.6 * ms(net, net.space.full)
    front = we.explore(
        net, DATA, DATA, min_accuracy=0.0,
        strategy=we.Knapsack(count=8, rounds=2, constraints=[Constraint(latency, most)]),
    )  # fmt: skip
    within = [mode for mode in every_mode(net) if ms(net, mode) <= most]
    points = [Point(m, evaluated(net, m), Reading(net.macs(m), "MACs")) for m in within]
    assert [p.accuracy.known for p in front] == [
        p.accuracy.known for p in non_dominated(tuple(points))
    ]
    assert all(ms(net, mode) <= most for mode in front.modes)


@pytest.mark.parametrize("methods", [BITS, [GROUPS, BITS]])
def test_few_bits_are_not_timed_as_rounded_floats(methods):
    net = converted(methods)
    with pytest.raises(ValueError, match=r"layers of 8 bits are rounded floats and take longer"):
        we.explore(net, DATA, DATA, min_accuracy=0.0, cost="latency")


def test_one_sum_is_no_cost_of_groups_and_precision():
    net = converted([GROUPS, BITS])
    rows = {knob.name: dict.fromkeys(knob.options, 1.0) for knob in net.space.knobs}
    with pytest.raises(ValueError, match="what a layer costs here depends on 'precision' too"):
        we.explore(
            net,
            DATA,
            DATA,
            min_accuracy=0.0,
            cost="latency",
            table=CostTable(net.space, "ms", 0.0, rows),
        )


def test_a_profile_of_parts_is_read_as_it_was_written():
    net = converted(JOINT["groups, sizes"])
    profile = device(net)
    assert DeviceProfile.from_json(profile.to_json()) == profile
    assert profile.tables("latency") == profile.parts
    assert profile.why_no_tables("latency") == ""
    assert len(tables_of_each(net, "macs")) == len(profile.parts)
