"""Passes that leave out what ran before a knob, against whole passes: the same bits."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import wenable as we
from tests.helpers.networks import Dense, Tokens, dense_network, give_norms_a_past, small_resnet
from wenable.graph import run_counted
from wenable.layers.batch_norm import Moments
from wenable.modules.passes import in_eval_mode
from wenable.search.prefix_reuse import PrefixReuse
from wenable.zoo import build


class Writing(nn.Module):
    """Gives a new tensor, and changes what it was given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.relu_()


class InPlace(nn.Module):
    """Activations and sums that write into what was computed before, and read it again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.relu, self.same, self.writing = nn.ReLU(inplace=True), nn.Identity(), Writing()
        self.b, self.c, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.a(x))
        z = self.b(self.relu(y))
        y = y + self.writing(z)
        same = self.same(z)
        same += y  # `y` as the activation left it, into `z`
        return self.head((self.c(same) + z).mean((2, 3)))


class Shared(nn.Module):
    """A block and its norm that run twice, and branches that run in another order than written."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early = nn.Conv2d(8, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.other = nn.Sequential(nn.Conv2d(8, 8, 1), self.twice[1])
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(torch.relu(self.early(x)))
        x = torch.relu(x) + self.other(x)
        return self.head(self.twice(torch.relu(self.late(x))).mean((2, 3)))


NOTES: dict[str, torch.Tensor] = {}


class Watching(nn.Sequential):
    """Leaves a note that is read later: no output tells of it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        NOTES["mean"] = input.mean(1, keepdim=True)
        return super().forward(input)


class Noting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.watched, self.second = Watching(nn.Linear(108, 8)), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.watched(x.flatten(1)))
        return self.head(self.second(x) + NOTES["mean"])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (small_resnet, (3, 6, 6)),
    "dense layers": (dense_network, (3, 4, 4)),
    "tokens": (Tokens, (3, 6, 6)),
    "dense connections": (Dense, (3, 6, 6)),
    "in place": (InPlace, (3, 6, 6)),
    "shared": (Shared, (3, 6, 6)),
    "digits": (lambda: build("wenable.zoo:digits_resnet", width=8), (1, 8, 8)),
}


def network(name: str) -> tuple[we.DynamicNetwork, tuple[int, ...]]:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = give_norms_a_past(make()).eval()
    return we.convert(model, torch.zeros(1, *shape), method=we.WeightEnabling((1, 2, 4))), shape


def images(shape: tuple[int, ...], count: int = 5, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cache_mb", [0.0, 0.005, 100.0])
def test_the_outputs_are_the_same_bits(name: str, cache_mb: float):
    net, shape = network(name)
    reuse, draw = PrefixReuse(net, cache_mb), random.Random(1)
    # The rules find what cannot be left out; the trial behind them has nothing to mend.
    assert all(reuse.start(knob) >= 0 for knob in net.space.names)
    used = 0
    for stand in [net.space.full, net.space.sample(draw), net.space.sample(draw)]:
        x, other = images(shape), images(shape, seed=4)
        with torch.inference_mode(), in_eval_mode(net):
            with net.using(stand), reuse.recording(len(x)) as outputs:
                net(x)
            for knob in net.space.knobs:
                for option in knob.options:
                    with net.using(stand.replace({knob.name: option})):
                        net(other)
                        for _ in range(2):  # a recorded output serves again and again
                            with reuse.replaying(knob.name, outputs, len(x)):
                                found = net(x)
                            assert torch.equal(found, net(x)), (knob.name, option)
                used += len(reuse.cut(knob.name, len(x)).units)
    assert used or cache_mb < 1
    assert used == 0 or cache_mb > 0


@pytest.mark.parametrize(
    "name", ["resnet", "dense layers", "dense connections", "shared", "digits"]
)
def test_what_norms_see_is_the_same_bits(name: str):
    """While calibrating, a norm that is left out saw in the recorded pass what it would see."""
    net, shape = network(name)
    reuse, x, norms = PrefixReuse(net), images(shape, 9), net.switchable_norms()

    def seen() -> dict[str, Moments]:
        found = {name: Moments() for name in norms}
        for each, norm in norms.items():
            norm.collecting = found[each]
        return found

    left_out = 0
    with torch.no_grad(), in_eval_mode(net):
        stand = seen()
        with reuse.recording(len(x)) as outputs:
            net(x)
        for knob in net.space.knobs:
            cut = reuse.cut(knob.name, len(x))
            with net.using(net.space.full.replace({knob.name: knob.options[-1]})):
                whole = seen()
                net(x)
                part = seen()
                with reuse.replaying(knob.name, outputs, len(x)):
                    net(x)
            for each in norms:
                got, expected = (stand if each in cut.norms else part)[each], whole[each]
                assert got.count == expected.count
                assert got.total is not None
                assert torch.equal(got.total, expected.total)
                assert torch.equal(got.total_of_squares, expected.total_of_squares)
            left_out += len(cut.norms)
    assert bool(left_out) == (name != "shared")  # whose one norm runs again at the end


@pytest.mark.parametrize("name", NETWORKS)
def test_the_macs_are_those_that_torch_counts(name: str):
    net, shape = network(name)
    reuse, x = PrefixReuse(net), images(shape, 1)
    with torch.no_grad(), in_eval_mode(net), reuse.recording(1) as outputs:
        net(x)
    for knob in net.space.knobs:
        mode = net.space.full.replace({knob.name: knob.options[-1]})
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), in_eval_mode(net), net.using(mode):
            for parameter in net.parameters():
                parameter.requires_grad_(False)
            with reuse.replaying(knob.name, outputs, 1), counter:
                net(x)
        assert counter.get_total_flops() // 2 == reuse.macs(mode, knob.name, 1)


def test_statistics_of_the_full_mode_do_not_hide_what_can_be_left_out():
    net, shape = network("resnet")
    units = [PrefixReuse(net).cut(name, 5).units for name in net.space.names]
    we.calibrate(net, "full", [images(shape, 20)])
    calibrated = net(images(shape))
    assert [PrefixReuse(net).cut(name, 5).units for name in net.space.names] == units
    assert torch.equal(net(images(shape)), calibrated)


def test_later_knobs_leave_out_more():
    net, _ = network("resnet")
    reuse = PrefixReuse(net)
    shares = [reuse.macs(net.space.full, name, 1) / net.macs("full") for name in net.space.names]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.1
    assert reuse.cut("block2.conv1", 1).units == ("stem", "block1")  # the outermost, and no more


def test_a_note_between_modules_is_noticed():
    """The trial finds it: with another batch in between, the note is of that one."""
    net = we.convert(Noting().eval(), torch.zeros(1, 3, 6, 6), method=we.WeightEnabling((1, 2)))
    assert net.space.names == ("watched.0", "second")
    reuse = PrefixReuse(net)
    assert reuse.cut("second", 5).units == ()
    assert reuse.start("second") == -1


def test_the_network_is_left_as_it_was():
    net, shape = network("resnet")
    before = {name: dict(module.__dict__) for name, module in net.named_modules()}
    reuse = PrefixReuse(net)
    with pytest.raises(ValueError, match="must have 4 dimensions"), reuse.recording(2):
        net(images(shape, 2)[0])
    with reuse.recording(2) as outputs:
        net(images(shape, 2))
    with pytest.raises(ZeroDivisionError), reuse.replaying("block2.conv1", outputs, 2):
        raise ZeroDivisionError
    for name, module in net.named_modules():
        assert "forward" not in module.__dict__
        assert module.training == before[name]["training"]
        assert len(module._forward_hooks) == len(before[name]["_forward_hooks"])
        assert len(module._forward_pre_hooks) == len(before[name]["_forward_pre_hooks"])
    assert net.mode == net.space.full


def test_a_negative_limit_is_refused():
    net, _ = network("tokens")
    with pytest.raises(ValueError, match=r"`cache_mb` \(=-1\) must be at least 0"):
        PrefixReuse(net, -1)


class Attending(nn.Module):
    """Blocks with attention and a kernel of their own, which need not run again."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.blocks = nn.Sequential(*[AttendingBlock() for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(x)).mean(1))


class AttendingBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0] @ self.kernel
        return x + self.mlp(x)


def test_attention_that_is_left_out_is_not_counted():
    net = we.convert(Attending(), torch.randn(1, 6, 8), method=we.WeightEnabling((1, 2)))
    reuse, x = PrefixReuse(net), torch.randn(1, 6, 8)
    attention = 4 * 6 * 8 * 8 + 2 * 6 * 6 * 8 + 6 * 8 * 8
    mlp, embed, head = 2 * 6 * 8 * 16, 6 * 8 * 8, 16
    assert net.macs("full") == embed + 3 * (attention + mlp) + head
    last = "blocks.2.mlp.2"
    mode = net.space.full.replace({last: 2})
    # Two blocks are left out whole; of the last one attention runs again, which gives no single tensor.
    found = reuse.macs(mode, last, 1)
    with torch.no_grad(), in_eval_mode(net), reuse.recording(1) as outputs:
        net(x)
    with in_eval_mode(net), net.using(mode), reuse.replaying(last, outputs, 1):
        ran = run_counted(net, (x,))[1]
    assert found == ran == attention + mlp // 4 + head
