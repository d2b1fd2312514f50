"""Incremental training: what is trained keeps its bits, and what is added learns."""

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, small_resnet

X = torch.randn(24, *IMAGES[1:], generator=torch.Generator().manual_seed(1))
Y = torch.randint(5, (24,), generator=torch.Generator().manual_seed(2))
BATCHES = [(X[:12], Y[:12]), (X[12:], Y[12:])]
SLIMMABLE = we.Slimmable((1.0, 0.75, 0.5, 0.25), divisor=2)
UNIVERSAL = we.UniversallySlimmable(0.25, 0.25, divisor=2)


def converted(method) -> we.DynamicNetwork:
    return we.convert(small_resnet(), torch.zeros(IMAGES), method=method)


def outputs(net: we.DynamicNetwork, mode: we.Mode) -> torch.Tensor:
    with torch.no_grad(), net.using(mode):
        return net(X)


CONFIGS = {
    "decay and momentum": we.TrainConfig(epochs=2, weight_decay=0.1, learning_rate=0.1),
    "clipped": we.TrainConfig(epochs=2, clip_grad=0.5, grad_accum_steps=2),
    "adamw, averaged": we.TrainConfig(epochs=2, optimizer="adamw", ema_decay=0.3),
    "rmsproptf": we.TrainConfig(epochs=2, optimizer="rmsproptf", learning_rate=0.01),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_narrower_widths_keep_their_outputs_to_the_bit(name: str):
    net = converted(SLIMMABLE)
    kept: dict[we.Mode, torch.Tensor] = {}

    def end_stage(mode: we.Mode) -> None:
        assert net.mode == mode
        assert not net.training
        for earlier, before in kept.items():
            assert torch.equal(outputs(net, earlier), before)
        kept[mode] = outputs(net, mode)

    steps = []
    we.train_incrementally(net, BATCHES, CONFIGS[name], on_step=steps.append, on_stage=end_stage)
    assert [str(mode) for mode in kept] == ["0.25", "0.5", "0.75", "1"]
    assert [len(report.modes) for report in steps] == [1] * 16
    assert [report.modes[0] for report in steps[::4]] == list(kept)
    assert not net.training
    assert net.mode == net.space.full


def test_with_one_affine_they_keep_them_once_calibrated():
    net = converted(UNIVERSAL)
    kept: dict[we.Mode, torch.Tensor] = {}

    def end_stage(mode: we.Mode) -> None:
        for earlier in (*kept, mode):
            we.calibrate(net, earlier, [X])
            found = outputs(net, earlier)
            assert torch.equal(found, kept.setdefault(earlier, found))

    config = CONFIGS["decay and momentum"]
    we.train_incrementally(net, BATCHES, config, on_stage=end_stage)
    assert len(kept) == 4


def test_a_stage_changes_what_it_adds_and_nothing_else():
    net = converted(UNIVERSAL)
    names = ("block2.conv2.weight", "block2.bn2.weight", "stem.0.weight", "fc.weight", "fc.bias")
    before = {name: net.get_parameter(name).detach().clone() for name in names}
    changed: dict[str, dict[str, torch.Tensor]] = {}

    def end_stage(mode: we.Mode) -> None:
        changed[str(mode)] = {}
        for name in names:
            now = net.get_parameter(name).detach().clone()
            changed[str(mode)][name] = now != before[name]
            before[name] = now

    config = we.TrainConfig(epochs=3, weight_decay=0.1)
    we.train_incrementally(net, BATCHES, config, on_stage=end_stage)
    first, second = changed["0.25"], changed["0.5"]
    inner = first["block2.conv2.weight"]
    assert bool(inner[:4, :4].any())
    assert not inner[4:].any()
    assert not inner[:, 4:].any()
    wider = second["block2.conv2.weight"]
    assert bool(wider[4:8, :8].any())
    assert bool(wider[:4, 4:8].any())  # what old channels read of the new ones
    assert not wider[:4, :4].any()
    assert not wider[8:].any()
    assert not wider[:, 8:].any()
    assert bool(second["block2.bn2.weight"][4:8].any())
    assert not second["block2.bn2.weight"][:4].any()
    assert bool(second["fc.weight"][:, 8:16].any())
    assert not second["fc.weight"][:, :8].any()
    # What has no channels to add is trained in the first stage.
    assert bool(first["fc.bias"].any())
    assert not any(bool(changed[mode]["fc.bias"].any()) for mode in ("0.5", "0.75", "1"))


def test_each_added_width_learns():
    """A task that any width can learn: the mean of a colour is positive, or not."""
    labels = (X[:, 0].mean((1, 2)) > 0).long()
    net = converted(SLIMMABLE)
    losses: dict[str, list[float]] = {}
    we.train_incrementally(
        net,
        [(X, labels)],
        we.TrainConfig(epochs=40, learning_rate=0.05, weight_decay=0),
        on_step=lambda r: losses.setdefault(str(r.modes[0]), []).append(r.losses[0]),
    )
    assert all(each[-1] < 0.8 * each[0] for each in losses.values())


def test_layers_that_do_not_switch_are_trained_in_the_first_stage():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.ConvTranspose1d(3, 3, 1)
            self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x.flatten(2)).view_as(x)
            return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    net = we.convert(Net(), torch.zeros(IMAGES), method=we.Slimmable((1.0, 0.5), divisor=2))
    assert [each.name for each in net.left_alone] == ["first"]
    seen = [net.get_parameter("first.weight").detach().clone()]
    we.train_incrementally(
        net,
        BATCHES,
        we.TrainConfig(epochs=1),
        on_stage=lambda _: seen.append(net.get_parameter("first.weight").detach().clone()),
    )
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("widths", [SLIMMABLE, UNIVERSAL], ids=["slimmable", "universal"])
def test_exits_of_a_width_are_trained_together_and_keep_their_bits(widths):
    """A wider stage moves the columns of each branch that it adds, and nothing a narrower exit reads."""
    net = converted([widths, we.EarlyExits(("block1",))])
    kept: dict[we.Mode, torch.Tensor] = {}
    weights, passes = [], set()

    def answers(mode: we.Mode) -> torch.Tensor:
        if not net.is_calibrated(mode):
            we.calibrate(net, mode, [X])
        return outputs(net, mode)

    def end_stage(mode: we.Mode) -> None:
        both = [mode, mode.replace({"exit": 2})]
        kept.update({each: answers(each) for each in both})
        weights.append(net.get_parameter("block1.exit_weight").detach().clone())

    begun = net.get_parameter("block1.exit_weight").detach().clone()
    config = we.TrainConfig(epochs=2, learning_rate=0.1, weight_decay=0.1)
    we.train_incrementally(
        net, BATCHES, config, on_step=lambda r: passes.add(len(r.losses)), on_stage=end_stage
    )
    assert passes == {2}
    assert len(kept) == 8
    for mode, expected in kept.items():
        assert torch.equal(answers(mode), expected), mode
    channels = begun.shape[1]
    for stage, after in enumerate(weights):
        before, narrower = (weights[stage - 1], stage * channels // 4) if stage else (begun, 0)
        added = (after != before).any(dim=0).nonzero().flatten().tolist()
        assert added == list(range(narrower, (stage + 1) * channels // 4))


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        (we.WeightEnabling((1, 2)), None, "the method 'weight-enabling', whose modes do not add"),
        (we.SwitchablePrecision((32, 8)), None, "the method 'precision'"),
        (we.EarlyExits(("block1",)), None, "the method 'early-exits'"),
        ([we.WeightEnabling((1, 2)), we.EarlyExits(("block1",))], None, "the method 'composition'"),
        (SLIMMABLE, we.TrainConfig(distillation=True), "has `distillation`"),
    ],
)
def test_what_cannot_be_trained_incrementally_is_refused(method, config, message: str):
    with pytest.raises(ValueError, match=message):
        we.train_incrementally(converted(method), BATCHES, config)


def test_nothing_to_train_on_is_refused_and_a_stop_leaves_the_network_whole():
    net = converted(SLIMMABLE)
    with pytest.raises(ValueError, match="`loader` is empty"):
        we.train_incrementally(net, [])
    bad = [(X * torch.nan, Y)]
    with pytest.raises(FloatingPointError, match=r"the loss of mode 0\.25 is nan"):
        we.train_incrementally(net, bad, we.TrainConfig(epochs=1))
    assert net.mode == net.space.full
    assert not net.training
    assert all(not parameter._backward_hooks for parameter in net.parameters())
