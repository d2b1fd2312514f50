"""Methods in one space: costs by counting, modes beside extracted networks, pairs that are refused."""

import copy
import functools
import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wenable as we
from tests.helpers.algorithm_2 import algorithm_2
from tests.helpers.networks import SmallResNet, small_resnet
from wenable.core.cost_table import CostTable
from wenable.core.readings import Point, Reading, non_dominated
from wenable.graph import run_counted
from wenable.methods import Composition, method_from_json
from wenable.network.mode_costs import knobs_of_products, macs_table, tables_of_each
from wenable.strategies.joint import planned_evaluations_of_each
from wenable.training import sample_modes
from wenable.training.step import train_step

SHAPE = (2, 3, 12, 12)
LABELS = torch.arange(16) % 5
GROUPS = we.WeightEnabling((1, 2, 4))
SIZES = we.ImageSize((12, 8, 6))
BITS = we.SwitchablePrecision((32, 8))
EXITS = we.EarlyExits(("block1",))
WIDTHS = we.Slimmable((1.0, 0.5))
UNIVERSAL = we.UniversallySlimmable(0.5, 0.25)

# Methods, and modes of them; the first of each is the smallest.
COMPOSED = {
    "groups, sizes": (
        [GROUPS, SIZES],
        ("1/4,size=6", "1/2", "1,size=8", "1/4,block1.*=1/2,size=8"),
    ),
    "widths, sizes": ([WIDTHS, SIZES], ("0.5,size=6", "1,size=8", "0.5")),
    "universal, sizes": ([SIZES, UNIVERSAL], ("0.5,size=6", "0.75,size=8")),
    "exits, sizes": ([EXITS, SIZES], ("block1,size=6", "end,size=8", "block1")),
    "precision, sizes": ([BITS, SIZES], ("8-bit,size=6", "8-bit", "32-bit,size=8")),
    "widths, precision": (
        [BITS, WIDTHS],
        ("0.5,precision=8-bit", "precision=8-bit", "0.5,precision=32-bit"),
    ),
    "universal, precision, sizes": (
        [UNIVERSAL, BITS, SIZES],
        ("0.5,size=6,precision=8-bit", "0.75,precision=8-bit", "size=8,precision=8-bit", "0.5"),
    ),
    "groups, exits": ([EXITS, GROUPS], ("1/4,exit=block1", "1/4", "1,exit=block1")),
    "precision, exits": ([BITS, EXITS], ("8-bit,exit=block1", "8-bit", "32-bit,exit=block1")),
    "widths, precision, exits": (
        [EXITS, WIDTHS, BITS],
        ("0.5,precision=8-bit,exit=block1", "0.5,precision=8-bit", "precision=8-bit,exit=block1"),
    ),
    "widths, exits": ([EXITS, WIDTHS], ("0.5,exit=block1", "0.5", "1,exit=block1")),
    "universal, exits, sizes": (
        [UNIVERSAL, EXITS, SIZES],
        ("0.5,size=6,exit=block1", "0.75,exit=block1", "0.75,size=8"),
    ),
    "groups, precision, sizes": (
        [GROUPS, SIZES, BITS],
        ("1/4,size=6,precision=8-bit", "1/4,size=8,precision=8-bit", "8-bit,size=8", "1/2,size=6"),
    ),
    "all four": (
        [GROUPS, SIZES, BITS, EXITS],
        ("1/4,size=6,exit=block1,precision=8-bit", "1/2,size=8,precision=8-bit", "1,exit=block1"),
    ),
}


def images(count: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(seed))


def converted(methods, model: nn.Module | None = None) -> we.DynamicNetwork:
    return we.convert(small_resnet() if model is None else model, images(2), method=methods)


@pytest.fixture(scope="module", params=COMPOSED)
def composed(request):
    """A network of each composition with its original, and its modes calibrated."""
    torch.manual_seed(0)
    methods, texts = COMPOSED[request.param]
    model = small_resnet()
    net = converted(methods, model)
    modes = [net.space.mode(text) for text in texts]
    we.calibrate(net, modes, [images()])
    return net, model, modes


def test_the_full_mode_gives_the_bits_of_the_network(composed):
    net, model, modes = composed
    x = images()
    net.set_mode("full")
    assert torch.equal(net(x), model(x))
    assert modes[0] == net.space.smallest
    assert isinstance(net, SmallResNet)


def test_modes_are_written_as_they_are_read(composed):
    net, _, modes = composed
    every = itertools.islice(itertools.product(*(knob.options for knob in net.space.knobs)), 200)
    named = [net.space.mode(dict(zip(net.space.names, options, strict=True))) for options in every]
    for mode in (*modes, *named):
        assert net.space.mode(str(mode)) == mode
    if "size" in net.space.names and len(net.space.knobs) > 1:
        assert all(mode["size"] == 1 for mode in net.space.uniform_modes())


def test_an_extracted_mode_computes_and_costs_the_same(composed):
    net, _, modes = composed
    x = images()
    for mode in modes:
        assert net.is_calibrated(mode)
        plain = we.extract(net, mode).eval()
        with torch.no_grad(), net.using(mode):
            torch.testing.assert_close(plain(x), net(x))
            small = net.of_present_size((x[:1],))
            assert net.macs(mode) == run_counted(plain, small)[1]
        assert sum(each.numel() for each in plain.parameters()) == net.parameter_count(mode)


def test_a_saved_network_is_the_same_again(composed, tmp_path: Path):
    net, model, modes = composed
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), model)
    assert (loaded.space, loaded.conversion_method) == (net.space, net.conversion_method)
    x = images()
    for mode in modes:
        assert loaded.is_calibrated(str(mode))
        with torch.no_grad(), net.using(mode):
            expected = net(x)
        for other in (loaded, copy.deepcopy(net)):
            with torch.no_grad(), other.using(mode):
                assert torch.equal(other(x), expected)


def test_tables_of_each_hold_the_macs_of_every_mode(composed):
    net, _, _ = composed
    tables = tables_of_each(net, "macs")
    for number in range(40):
        mode = net.space.sample(random.Random(number))
        fixed = {knob.name: mode[knob.name] for knob in knobs_of_products(net, "macs")}
        own = [table for table in tables if table.space == net.space.fixed(fixed)]
        assert [table.cost(dict(mode)) for table in own] == [net.macs(mode)]
        operations = tables_of_each(net, "bit_operations")
        assert net.bit_operations(mode) in [
            table.cost(dict(mode))
            for table in operations
            if all(mode[knob.name] in knob.options for knob in table.space.knobs)
        ]
    if len(tables) > 1:
        with pytest.raises(
            ValueError, match="MACs are no sum over the knobs of this network: what"
        ):
            macs_table(net)


def test_all_modes_learn_together(composed):
    net, _, _ = composed
    net = copy.deepcopy(net)
    data = [(images(), LABELS)]
    for sampling in ("options", "macs"):
        config = we.TrainConfig(passes=4, epochs=2, sampling=sampling)
        assert we.train(net, data, config)
        drawn = [sample_modes(net, config, step, 60)[2] for step in range(60)]
        for knob in net.space.knobs if sampling == "options" else knobs_of_products(net, "macs"):
            assert {mode[knob.name] for mode in drawn} == set(knob.options)


def test_a_step_is_the_sandwich_of_extracted_networks():
    """Gradients reach the shared weights as they do in each mode's own network."""
    net = converted([GROUPS, we.ImageSize((12, 8))])
    modes = [net.space.mode(text) for text in ("full", "smallest", "1/2")]
    we.calibrate(net, modes, [images()])
    stem = torch.zeros_like(net.stem[0].weight)  # pyright: ignore
    for mode in modes:
        plain = we.extract(net, mode).train()
        F.cross_entropy(plain(images()), LABELS).backward()
        stem += getattr(plain, "network", plain).stem[0].weight.grad  # pyright: ignore
    before = net.stem[0].weight.detach().clone()  # pyright: ignore
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    train_step(net.train(), (images(), LABELS), modes, nn.CrossEntropyLoss(), optimizer)
    torch.testing.assert_close(net.stem[0].weight, before - 0.1 * stem, atol=1e-5, rtol=1e-4)  # pyright: ignore


# --- what does not compose ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            [GROUPS, WIDTHS],
            "WeightEnabling and Slimmable, which do not compose: groups are blocks of",
        ),
        ([UNIVERSAL, GROUPS], "UniversallySlimmable and WeightEnabling, which do not compose"),
        ([WIDTHS, UNIVERSAL], r"two methods of one kind \(widths\)"),
        ([SIZES, GROUPS, SIZES], r"two methods of one kind \(sizes\)"),
        (
            [GROUPS, we.SwitchablePrecision((32, 4))],
            r"`bits` \(=\(32, 4\)\) below 8, .* the groups",
        ),
        (
            [we.SwitchablePrecision((32, 4)), WIDTHS],
            r"`bits` \(=\(32, 4\)\) below 8, .* the widths",
        ),
        ([GROUPS, "precision"], "holds 'precision', which is no method"),
        ([we.WeightEnabling, SIZES], "which is no method; allowed: objects"),
        ([], r"`methods` \(=\(\)\) must hold at least two"),
    ],
)
def test_what_does_not_compose_is_refused_with_the_reason(methods, message: str):
    with pytest.raises(ValueError, match=message):
        converted(methods)


@pytest.mark.parametrize(("method", "kind"), [(GROUPS, "groups"), (WIDTHS, "widths")])
def test_an_exit_at_a_layer_that_switches_is_refused(method, kind: str):
    with pytest.raises(ValueError, match=rf"'block1\.conv3' would be switched by {kind}"):
        converted([method, we.EarlyExits(("block1.conv3",))])


def test_one_method_in_a_list_is_that_method():
    assert converted([GROUPS]).conversion_method == GROUPS
    assert converted(GROUPS).space == converted([GROUPS]).space


def test_the_class_of_groups_and_precision_is_a_name_for_the_list():
    short = we.WeightEnablingWithPrecision((1, 2, 4), (32, 8))
    model = small_resnet()
    named, listed = converted(short, model), converted([GROUPS, BITS], model)
    assert named.space == listed.space
    assert named.switchable_layers == listed.switchable_layers
    assert Composition((short, SIZES)).methods == (GROUPS, BITS, SIZES)


def test_settings_survive_json():
    method = Composition((GROUPS, SIZES, BITS))
    assert method_from_json(json.loads(json.dumps(method.to_json()))) == method
    with pytest.raises(ValueError, match=r"`method` .*='width'.* is unknown to this version"):
        method_from_json({"method": "composition", "methods": [{"method": "width"}]})
    with pytest.raises(ValueError, match="not the JSON form"):
        method_from_json({"method": "composition"})


def test_a_bundle_holds_a_composition_of_methods_that_it_holds():
    assert Composition((GROUPS, SIZES, BITS)).fits_bundle

    class Own:
        def plan(self, *_: object) -> None: ...

    assert not Composition((SIZES, Own())).fits_bundle  # type: ignore[arg-type]


# --- searches -------------------------------------------------------------------------------------


def searched(net: we.DynamicNetwork, **settings) -> we.Front:
    data = [(images(), LABELS)]
    return we.explore(net, data, data, min_accuracy=0.0, **settings)


@pytest.mark.parametrize("strategy", [we.Knapsack(count=4, rounds=2), we.Greedy()])
def test_a_joint_space_is_searched_by_macs(strategy):
    methods = [we.WeightEnabling((1, 4), exclude="block2.*"), we.ImageSize((12, 6))]
    net = converted(methods)
    steps = []
    front = searched(net, strategy=strategy, on_step=steps.append)
    for point in (*front.points, *front.path):
        assert point.cost.known == net.macs(point.mode)
        assert net.is_calibrated(point.mode) or point not in front.points
    assert {point.mode["size"] for point in front.explored} == {1, 2}
    assert front.path[0].mode == net.space.full
    assert len({step.most for step in steps}) == 1
    if isinstance(strategy, we.Knapsack):
        tables = tables_of_each(net, "macs")
        most = planned_evaluations_of_each(net.space, tables, count=4, rounds=2)
        assert front.evaluations <= most == steps[0].most


@pytest.mark.parametrize("second", [we.ImageSize((12, 6)), EXITS])
def test_greedy_in_a_joint_space_takes_the_path_of_the_plain_algorithm(second):
    """Candidates share passes and race; neither may show, nor what a cut-off pass left out."""
    model, paths = small_resnet(), []
    data = [(images(), LABELS)]
    for search in (functools.partial(we.explore, strategy="greedy"), algorithm_2):
        torch.manual_seed(0)  # the branch of an exit is drawn
        net = converted([we.WeightEnabling((1, 4), only="block*.conv1"), second], model)
        front = search(net, data, data, min_accuracy=0.0)
        assert all(net.is_calibrated(point.mode) for point in front.points)
        paths.append([(str(point.mode), point.accuracy.known) for point in front.path])
    assert paths[0] == paths[1]


def test_the_front_of_a_joint_space_is_that_of_all_its_modes():
    """Sixteen modes: all can be evaluated, and the search by parts finds what that finds."""
    net = converted([we.WeightEnabling((1, 4), only="block1.conv*"), we.ImageSize((12, 6))])
    front = searched(net, strategy=we.Knapsack(count=8, rounds=2))
    every = itertools.product(*(knob.options for knob in net.space.knobs))
    points = []
    for options in every:
        mode = net.space.mode(dict(zip(net.space.names, options, strict=True)))
        we.calibrate(net, mode, [images()])
        accuracy = we.evaluate(net, mode, [(images(), LABELS)])
        points.append(Point(mode, accuracy, Reading(net.macs(mode), "MACs")))
    best = non_dominated(tuple(points))
    assert [(p.cost.known, p.accuracy.known) for p in front] == [
        (p.cost.known, p.accuracy.known) for p in best
    ]


def test_what_cannot_be_right_in_a_joint_space_is_refused():
    net = converted([we.WeightEnabling((1, 4)), we.ImageSize((12, 6))])
    costs = {knob.name: dict.fromkeys(knob.options, 1.0) for knob in net.space.knobs}
    table = CostTable(net.space, "ms", 0.0, costs)
    with pytest.raises(ValueError, match="what a layer costs here depends on 'size' too; leave it"):
        searched(net, cost="latency", table=table)
