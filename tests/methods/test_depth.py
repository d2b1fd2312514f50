"""Early exits: the truncated network, its costs, its training, and inputs that leave on the way."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from tests.core.test_escalation import slow_entropy, slow_margin
from tests.helpers.networks import IMAGES, SmallResNet, dense_network, small_resnet
from wenable.cascades.early_exits import run_with_exits
from wenable.layers.exits import ExitPoint, ExitReached
from wenable.methods import EarlyExits

EXITS = ("block1", "stem")  # in the other order than they are reached
MODES = ("end", "block1", "stem")


def converted(model: nn.Module | None = None, exits=EXITS) -> we.DynamicNetwork:
    model = small_resnet() if model is None else model
    return we.convert(model, torch.zeros(IMAGES), method=EarlyExits(exits))


def slow_exit(net, x: torch.Tensor, name: str) -> torch.Tensor:
    """The truncated network by hand: each step of `SmallResNet` up to an exit, and its branch."""
    features = net.stem(x) if name == "stem" else net.block1(torch.relu(net.stem(x)))
    point = net.get_submodule(name)
    maps = features.double().flatten(2)
    means = torch.stack([maps[:, :, p] for p in range(maps.shape[2])]).sum(0) / maps.shape[2]
    return means @ point.exit_weight.double().T + point.exit_bias.double()


@pytest.fixture(scope="module")
def net() -> we.DynamicNetwork:
    torch.manual_seed(0)
    return converted()


# --- modes ----------------------------------------------------------------------------------------


def test_the_full_mode_is_the_network_and_its_weights_keep_their_names():
    model = small_resnet()
    net, x = converted(model), torch.randn(IMAGES)
    assert torch.equal(net(x), model(x))
    names = [name for name, _ in net.named_parameters() if "exit_" not in name]
    assert names == [name for name, _ in model.named_parameters()]
    assert isinstance(net, SmallResNet)
    assert net.space.knobs == (we.Knob("exit", (1, 2, 3), labels=MODES),)


def test_an_exits_output_is_that_of_the_network_truncated_by_hand(net):
    x = torch.randn(IMAGES)
    for name in ("block1", "stem"):
        with torch.no_grad():
            expected = slow_exit(net, x, name)
            with net.using(name):
                found = net(x)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_what_lies_behind_an_exit_is_not_run(net):
    called = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, module in net.named_modules()
        if name in ("stem", "block1", "block2", "fc")
    ]
    with net.using("block1"), torch.no_grad():
        net(torch.randn(IMAGES))
    for handle in handles:
        handle.remove()
    assert called == ["stem", "block1"]


@pytest.mark.parametrize("mode", MODES)
def test_an_extracted_exit_is_the_truncated_network_of_standard_layers(net, mode: str):
    plain, x = we.extract(net, mode), torch.randn(3, 3, 9, 7)  # another size than was traced
    with net.using(mode), torch.no_grad():
        torch.testing.assert_close(plain(x), net(x))
    for module in plain.modules():
        assert "wenable" not in type(module).__module__
    assert sum(p.numel() for p in plain.parameters()) == net.parameter_count(mode)
    assert not any("exit_weight" in name for name, _ in plain.named_parameters())


@pytest.mark.parametrize("mode", MODES)
def test_macs_are_those_that_torch_counts(net, mode: str):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), net.using(mode):
        net(torch.zeros(1, *IMAGES[1:]))
    assert counter.get_total_flops() == 2 * net.macs(mode)


def test_a_sequential_network_can_exit_from_inside():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    net, x = converted(model, ("0", "1.0")), torch.randn(IMAGES)
    assert torch.equal(net(x), model(x))
    assert len(net.get_submodule("0")) == 2  # type: ignore[arg-type]
    for mode in ("end", "1.0", "0"):
        with net.using(mode), torch.no_grad():
            torch.testing.assert_close(we.extract(net, mode)(x), net(x))


def test_copies_and_files_keep_the_exits(net, tmp_path):
    x = torch.randn(IMAGES)
    path = we.save(net, tmp_path / "net.safetensors")
    for other in (copy.deepcopy(net), we.load(path, model=SmallResNet())):
        for mode in MODES:
            with net.using(mode), other.using(mode), torch.no_grad():
                assert torch.equal(other(x), net(x))


def test_a_part_of_the_network_that_stops_says_so(net):
    with net.using("stem"), pytest.raises(ExitReached, match="run the network, not a part of it"):
        net.stem(torch.randn(IMAGES))


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ((), "must name at least one module"),
        (("",), "and not the network itself"),
        (("stem", "stem"), "names a module more than once"),
        (("nothing",), "'nothing', which is no module of the network; its modules are 'stem'"),
        (("fc",), r"'fc', which writes shape \(2, 5\); an exit needs maps"),
    ],
)
def test_exits_that_cannot_be_are_refused(exits, message: str):
    with pytest.raises(ValueError, match=message):
        converted(exits=exits)


class Visited(nn.Module):
    """Runs one module as often as it is told, and another that wraps its maps."""

    def __init__(self, times: int = 1, wrap: bool = False) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pair, self.head = Pair() if wrap else nn.ReLU(), nn.Linear(8, 5)
        self.times = times

    def forward(self, x):
        x = self.stem(x)
        for _ in range(self.times):
            x = self.twice(x)
        x = self.pair(x)
        x = sum(x) if isinstance(x, tuple) else x
        return self.head(x.mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x.relu(), x.neg().relu()


@pytest.mark.parametrize("exits", [("twice",), ("stem", "twice")])
def test_an_exit_behind_what_runs_twice_is_refused_by_name(exits):
    with pytest.raises(ValueError, match="`exits` names 'twice', which is run 2 times in a pass"):
        converted(Visited(times=2).eval(), exits)


@pytest.mark.parametrize("exits", [("pair",), ("stem", "pair")])
def test_an_exit_behind_what_returns_several_tensors_is_refused_by_name(exits):
    with pytest.raises(ValueError, match="`exits` names 'pair', which returns a tuple"):
        converted(Visited(wrap=True).eval(), exits)


def test_a_branch_behind_what_has_no_weights_is_of_the_type_of_the_network():
    model, x = Visited().eval().double(), torch.randn(IMAGES).double()
    net = we.convert(model, x, method=EarlyExits(("stem", "pair")))
    with net.using("pair"), torch.no_grad():
        answer = net(x)
        maps = torch.relu(model.twice(model.stem(x)))
    point = net.get_submodule("pair")
    torch.testing.assert_close(
        answer, F.linear(maps.mean((2, 3)), point.exit_weight, point.exit_bias)
    )


def test_every_exit_is_run_before_the_network_is_handed_back():
    class Late(Visited):
        """Reaches a module behind the first exit past its place."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.in_use = nn.Sequential(self.stem), [self.twice]

        def forward(self, x):
            return self.head(self.pair(self.in_use[0](self.stem(x))).mean((2, 3)))

    method = [EarlyExits(("stem", "pair")), we.Slimmable((1.0, 0.5), divisor=4)]
    with pytest.raises(ValueError, match=r"`model` \(=Late\) does not run in mode 0.5"):
        we.convert(Late().eval(), torch.zeros(IMAGES), method=method)


def test_networks_without_classes_are_refused():
    with pytest.raises(ValueError, match=r"must be \(N, classes\)"):
        converted(nn.Sequential(nn.Conv2d(3, 8, 3)), ("0",))
    with pytest.raises(ValueError, match="which writes shape"):
        we.convert(dense_network(), torch.zeros(2, 3, 4, 4), method=EarlyExits(("1",)))


def test_searches_take_the_method(net):
    batch = torch.randn(8, 3, 6, 6), torch.arange(8) % 5
    front = we.explore(net, [batch], [batch[0]], min_accuracy=0.0)
    assert front.points
    assert {point.cost.known for point in front.points} <= {net.macs(mode) for mode in MODES}


def test_settings_survive_json():
    method = EarlyExits("layer1")
    assert EarlyExits.from_json(method.to_json()) == method
    with pytest.raises(ValueError, match="is not 'early-exits'"):
        EarlyExits.from_json({"method": "width"})
    with pytest.raises(ValueError, match="not the JSON form"):
        EarlyExits.from_json({"method": "early-exits"})


# --- training -------------------------------------------------------------------------------------


def test_a_step_over_all_exits_has_the_gradients_of_the_joint_loss():
    net, labels = converted(), torch.tensor([1, 3])
    x, reference = torch.randn(IMAGES), copy.deepcopy(net)
    for mode in MODES:
        net.set_mode(mode)
        F.cross_entropy(net(x), labels).backward()
    # BranchyNet's joint loss, in one pass: the features of each exit come from the one trunk.
    stem = reference.stem(x)
    block1 = reference.block1(torch.relu(stem))
    final = reference.fc(reference.block2(block1).mean((2, 3)))
    losses = [
        F.cross_entropy(reference.stem.exit_outputs(stem), labels),
        F.cross_entropy(reference.block1.exit_outputs(block1), labels),
        F.cross_entropy(final, labels),
    ]
    torch.stack(losses).sum().backward()
    others = dict(reference.named_parameters())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, others[name].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distillation", [False, True])
def test_all_exits_learn(distillation: bool):
    net = converted()
    labels = torch.arange(40) % 5
    x = torch.randn(40, 3, 6, 6) * 0.1 + torch.eye(5)[labels][:, :3, None, None]
    before = [_loss(net, mode, x, labels) for mode in MODES]
    config = we.TrainConfig(passes=3, epochs=15, learning_rate=0.05, distillation=distillation)
    assert we.train(net, [(x, labels)], config)
    after = [_loss(net, mode, x, labels) for mode in MODES]
    assert all(b < a for a, b in zip(before, after, strict=True))
    assert net.is_calibrated("stem")  # the trunk is the same in all modes, and so are its norms


def _loss(net, mode: str, x: torch.Tensor, labels: torch.Tensor) -> float:
    with net.using(mode), torch.no_grad():
        return float(F.cross_entropy(net(x), labels))


# --- inputs that leave on the way -----------------------------------------------------------------


def one_by_one(net, x: torch.Tensor, limits, is_sure):
    outputs, stages, macs = [], [], 0
    branches = [16 * 5, 32 * 5]
    for image in x:
        for stage, mode in enumerate(reversed(MODES)):
            with net.using(mode), torch.no_grad():
                y = net(image[None])[0]
            if stage == 2 or is_sure(y.tolist(), limits[stage]):
                break
        outputs.append(y.numpy())
        stages.append(stage)
        macs += net.macs(mode) + sum(branches[:stage])
    return np.array(outputs), stages, macs / len(x)


def distance_to_limits(net, x, limits, measure) -> float:
    """How close any answer comes to a limit: nearer than rounding, either side is right."""
    distances = []
    for mode, limit in zip(reversed(MODES), limits, strict=False):
        with net.using(mode), torch.no_grad():
            distances += [abs(measure(y.tolist()) - limit) for y in net(x)]
    return min(distances)


@given(st.integers(0, 10**6), st.tuples(st.floats(0, 1), st.floats(0, 1)), st.booleans())
def test_a_batch_is_answered_as_its_inputs_are_one_by_one(net, seed: int, shares, by_entropy: bool):
    x = 3 * torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    limits = [share * (math.log(5) if by_entropy else 1.0) for share in shares]
    assume(distance_to_limits(net, x, limits, slow_entropy if by_entropy else slow_margin) > 1e-5)
    if by_entropy:
        expected = one_by_one(net, x, limits, lambda y, limit: slow_entropy(y) < limit)
        found = run_with_exits(net, x, limits)
    else:
        expected = one_by_one(net, x, limits, lambda y, limit: slow_margin(y) >= limit)
        found = run_with_exits(net, x, limits, "margin")
    assert found.stages.tolist() == expected[1]
    np.testing.assert_allclose(found.outputs, expected[0], rtol=1e-4, atol=1e-4)
    assert found.cost == pytest.approx(expected[2])


def test_what_left_is_not_computed_any_further(net):
    seen = []
    handle = net.block2.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    x = torch.randn(20, 3, 6, 6)
    found = run_with_exits(net, x, 1.3)
    left = int((found.stages == 2).sum())
    run_with_exits(net, x, math.inf)  # all leave at once
    handle.remove()
    assert seen == ([left] if left else [])
    assert str(net.mode) == "end"
    assert all(p.listener is None for p in net.modules() if isinstance(p, ExitPoint))


def test_a_shortcut_around_an_exit_is_refused():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            x = self.stem(x)
            return self.fc((x + self.inner(x)).mean((2, 3)))

    net, x = converted(Around(), ("inner",)), torch.randn(8, 3, 6, 6)
    with torch.no_grad(), net.using("inner"):
        scores = sorted(slow_entropy(y.tolist()) for y in net(x))
    for limit in (scores[3], (scores[-1] + scores[-2]) / 2):  # several are left, and one
        with pytest.raises(ValueError, match="something leads around an exit"):
            run_with_exits(net, x, limit)


def test_a_shortcut_that_is_a_concatenation_is_refused_too():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            self.fc = nn.Linear(16, 5)

        def forward(self, x):
            x = self.stem(x)
            return self.fc(torch.cat([x, self.inner(x)], 1).mean((2, 3)))

    net, x = converted(Beside(), ("inner",)), torch.randn(8, 3, 6, 6)
    with torch.no_grad(), net.using("inner"):
        scores = sorted(slow_entropy(y.tolist()) for y in net(x))
    with pytest.raises(ValueError, match="something leads around an exit"):
        run_with_exits(net, x, scores[3])


def test_networks_without_exits_and_wrong_thresholds_are_refused(net):
    plain = we.convert(small_resnet(), torch.zeros(IMAGES))
    with pytest.raises(ValueError, match="`net` has no exits"):
        run_with_exits(plain, torch.zeros(IMAGES), 0.5)
    with pytest.raises(ValueError, match="holds 1 values; 3 stages need 2"):
        run_with_exits(net, torch.zeros(IMAGES), [0.5])
    with pytest.raises(ValueError, match="must be from 0 to 1, as the margin is"):
        run_with_exits(net, torch.zeros(IMAGES), 2.0, "margin")


class Behind(nn.Module):
    """A part that mixes positions behind an exit: recurrent, or attention."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.part, self.head = part, nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.part(x, x, x)[0] if isinstance(self.part, nn.MultiheadAttention) else self.part(x)
        x = x[0] if isinstance(x, tuple) else x
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("part", "macs"),
    [
        (nn.GRU(16, 16, batch_first=True), 64 * 3 * 16 * (16 + 16)),
        (nn.LSTM(16, 16, batch_first=True), 64 * 4 * 16 * (16 + 16)),
        # three projections and one back, queries times keys, and their softmax times values
        (nn.MultiheadAttention(16, 4, batch_first=True), 64 * 4 * 16 * 16 + 2 * 64 * 64 * 16),
        (
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
            64 * 4 * 16 * 16 + 2 * 64 * 64 * 16 + 2 * 64 * 16 * 32,
        ),
    ],
)
def test_whatever_lies_behind_an_exit_is_not_run_and_costs_nothing(part: nn.Module, macs: int):
    model, x = Behind(part).eval(), torch.randn(2, 3, 8, 8)
    net = we.convert(model, x, method=we.EarlyExits(("stem",)))
    stem, branch = 64 * 27 * 16, 16 * 5
    assert net.macs("full") == stem + macs + 16 * 5
    assert net.macs("stem") == stem + branch
    entered = []
    handle = net.part.register_forward_hook(lambda *_: entered.append(1))
    with net.using("stem"):
        assert net(x).shape == (2, 5)
    handle.remove()
    assert not entered
