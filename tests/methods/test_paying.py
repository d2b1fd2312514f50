"""Options that a device runs no faster than coarser ones are not offered, trained or saved."""

import json
from typing import Any

import pytest
import torch

import wenable as we
from tests.helpers.networks import IMAGES, small_resnet
from wenable.cli.paying_words import left_out_line
from wenable.core.cost_table import CostTable
from wenable.core.space import Space
from wenable.methods import Composition, method_from_json
from wenable.runtime import DeviceProfile
from wenable.training import TrainConfig, sample_modes


def made_up(space: Space) -> tuple[CostTable, dict[str, tuple[int, ...]]]:
    """Return a table, and what of it pays: the first layer nothing, the second 1/4, others all."""
    first, second, *_ = space.names
    costs = {knob.name: {n: 8.0 / n + 1 for n in knob.options} for knob in space.knobs}
    costs[first] = dict.fromkeys(costs[first], 3.0)  # no option is faster than the whole layer
    slow = {1: 3.0, 2: 3.1, 4: 2.0, 8: 2.0, 16: 2.5}
    costs[second] = {n: slow[n] for n in costs[second]}
    table = CostTable(space, "ms", 0.5, costs, "made up", "a board")
    expected = {knob.name: knob.options for knob in space.knobs}
    return table, expected | {first: (1,), second: (1, 4)}


@pytest.fixture
def table():
    net = we.convert(small_resnet(), torch.zeros(IMAGES))
    found, expected = made_up(net.space)
    return found, expected


def test_only_options_that_pay_are_offered_and_drawn(table, tmp_path):
    table, expected = table
    net = we.convert(small_resnet(), torch.zeros(IMAGES), profile=table)
    first = table.space.names[0]
    offered = {knob.name: knob.options for knob in net.space.knobs}
    assert offered == {name: options for name, options in expected.items() if len(options) > 1}
    (alone,) = [each for each in net.left_alone if each.name == first]
    assert alone.reason == "runs no faster in groups than as a whole on a board"
    for step in range(20):
        for mode in sample_modes(net, TrainConfig(passes=6), step, 20):
            assert all(n in expected[name] for name, n in mode.items())
    # From a device's profile it is the same network.
    profile = DeviceProfile("bundle", "a board", "made-up 1", 1, table=table)
    assert we.convert(small_resnet(), torch.zeros(IMAGES), profile=profile).space == net.space
    # What is left computes what it did, and a file keeps what was left out.
    x = torch.randn(3, *IMAGES[1:])
    whole = we.convert(
        small_resnet(), torch.zeros(IMAGES), method=we.WeightEnabling(shuffle="none")
    )
    part = we.convert(
        small_resnet(), torch.zeros(IMAGES), method=we.WeightEnabling(shuffle="none"), profile=table
    )
    weights = whole.state_dict()
    kept = {name: each for name, each in part.state_dict().items() if name in weights}
    whole.load_state_dict(weights | kept)
    whole.eval()
    part.eval()
    mode = part.space.smallest
    same = whole.space.mode({**dict.fromkeys(whole.space.names, 1), **dict(mode)})
    with torch.no_grad(), whole.using(same), part.using(mode):
        torch.testing.assert_close(part(x), whole(x))
    we.save(net, tmp_path / "net.safetensors")
    again = we.load(tmp_path / "net.safetensors", small_resnet())
    assert again.space == net.space
    assert again.conversion_method == net.conversion_method
    assert {each.name: each.reason for each in again.left_alone}[first] == alone.reason


def test_options_that_were_not_measured_stay(table):
    """The device was asked for groups up to 4; what 8 and 16 take there nobody knows."""
    few = we.convert(small_resnet(), torch.zeros(IMAGES), method=we.WeightEnabling((1, 2, 4)))
    first, *others = few.space.names
    costs = {name: {1: 4.0, 2: 3.0, 4: 2.0} for name in others} | {first: {1: 4.0, 2: 5.0, 4: 5.0}}
    costs = {knob.name: {n: costs[knob.name][n] for n in knob.options} for knob in few.space.knobs}
    measured = CostTable(few.space, "ms", 0.5, costs, "made up", "a board")
    every = we.convert(small_resnet(), torch.zeros(IMAGES)).space
    found = we.convert(small_resnet(), torch.zeros(IMAGES), profile=measured).space
    offered = {knob.name: knob.options for knob in found.knobs}
    for knob in every.knobs:
        slow = (2, 4) if knob.name == first else ()
        assert offered.get(knob.name, (1,)) == tuple(n for n in knob.options if n not in slow)
    net = we.convert(small_resnet(), torch.zeros(IMAGES), profile=measured)
    profile = DeviceProfile("b", "a board", "made-up 1", 1, table=measured)
    count = sum(len(knob.options) - 1 for knob in few.space.knobs)
    assert f"{2} of {count} options are no faster" in left_out_line(net, profile)


def test_layers_with_chains_of_their_own_keep_them(table):
    table, _ = table
    first, second, *_ = table.space.names
    few = we.convert(small_resnet(), torch.zeros(IMAGES), method=we.WeightEnabling((1, 2))).space
    costs = {knob.name: {1: 4.0, 2: 3.0} for knob in few.knobs}
    measured = CostTable(few, "ms", 0.5, costs, "made up", "a board")
    method = we.WeightEnabling((1, 2), groups_of={second: (1, 4, 16)})
    found = we.convert(small_resnet(), torch.zeros(IMAGES), method=method, profile=measured)
    offered = {knob.name: knob.options for knob in found.space.knobs}
    assert offered[first] == (1, 2)
    assert set(offered[second]) <= {1, 4, 16}
    assert 4 in offered[second]


def test_a_profile_of_another_network_is_refused_where_its_knobs_are_the_same(table):
    """Sixteen pixels in the place of twelve: the knobs are alike, and what they cost is not."""
    table, _ = table
    net = we.convert(small_resnet(), torch.zeros(IMAGES), profile=table)
    count = net.macs("full")
    of_it, of_another = (
        DeviceProfile("b", "a board", "made-up 1", 1, table=table, macs={"1": float(macs)})
        for macs in (count, count + 1)
    )
    assert we.convert(small_resnet(), torch.zeros(IMAGES), profile=of_it).space == net.space
    with pytest.raises(ValueError, match="`profile` is of another network, or of another size of"):
        we.convert(small_resnet(), torch.zeros(IMAGES), profile=of_another)


def test_modes_of_a_profile_are_compared_as_the_whole_network_has_them(table):
    """A network without the options that do not pay has another mode by the name of 1/4."""
    table, _ = table
    whole = we.convert(small_resnet(), torch.zeros(IMAGES))
    first = whole.space.names[0]
    alone = tuple(whole.space.mode(f"1,{name}=1/4") for name in whole.space.names)
    macs = {str(mode): float(whole.macs(mode)) for mode in whole.space.uniform_modes() + alone}
    profile = DeviceProfile("b", "a board", "made-up 1", 1, table=table, macs=macs)
    net = we.convert(small_resnet(), torch.zeros(IMAGES), profile=profile)
    assert first not in net.space.names
    assert net.macs("1/4") != macs["1/4"]
    macs[str(alone[1])] += 1  # of an option that both have
    other = DeviceProfile("b", "a board", "made-up 1", 1, table=table, macs=macs)
    with pytest.raises(ValueError, match="`profile` is of another network, or of another size of"):
        we.convert(small_resnet(), torch.zeros(IMAGES), profile=other)


def test_a_profile_with_a_table_for_each_size_says_what_to_do(table):
    table, _ = table
    parts = DeviceProfile("b", "a board", "made-up 1", 1, parts=(table,))
    with pytest.raises(ValueError, match="profile a bundle that has groups alone"):
        we.convert(small_resnet(), torch.zeros(IMAGES), profile=parts)


def test_older_files_leave_nothing_out():
    values = we.WeightEnabling().to_json()
    old = {key: value for key, value in values.items() if not key.startswith("worth")}
    assert method_from_json(json.loads(json.dumps(old))) == we.WeightEnabling()


def test_in_a_composition_the_groups_are_what_is_left_out(table):
    table, expected = table
    net = we.convert(
        small_resnet(), torch.zeros(IMAGES), method=[we.WeightEnabling(), we.ImageSize((6, 4))],
        profile=table,
    )  # fmt: skip
    second = table.space.names[1]
    assert {k.name: k.options for k in net.space.knobs}[second] == expected[second]
    assert isinstance(net.conversion_method, Composition)


def test_what_does_not_go_together_is_refused(table):
    table, _ = table
    without = DeviceProfile("bundle", "a board", "made-up 1", 1)
    names = json.dumps(table.to_json()).replace(table.space.names[0], "elsewhere")
    other = CostTable.from_json(json.loads(names))
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"profile": without}, "`profile` has no cost table"),
        ({"profile": other}, "is of another network"),
        ({"profile": table, "method": we.Slimmable()}, r"`method` \(Slimmable\) has no groups"),
        (
            {"profile": table, "method": we.WeightEnabling(tie="block")},
            "one knob of several layers",
        ),
    )
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            we.convert(small_resnet(), torch.zeros(IMAGES), **arguments)
