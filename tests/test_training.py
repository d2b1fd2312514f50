"""Algorithm 1 against a plain loop written from the paper, and what stops a run."""

import copy
import random

import pytest
import torch
from torch import nn

import wenable as we
from tests.networks import IMAGES, converted, small_resnet
from wenable.training import (
    StepReport,
    make_optimizer,
    make_schedule,
    sample_modes,
    train_step,
)


def batches(count: int = 3, size: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(size, *IMAGES[1:], generator=generator),
            torch.randint(5, (size,), generator=generator),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("passes", [2, 3, 6])
def test_a_step_is_full_smallest_and_random_modes(passes: int):
    space = converted().space
    modes = sample_modes(space, passes, random.Random(0))
    assert modes[:2] == (space.full, space.smallest)
    assert len(modes) == passes
    rng = random.Random(0)
    assert modes[2:] == tuple(space.sample(rng) for _ in range(passes - 2))


def test_a_step_equals_algorithm_1_written_out():
    net = converted(groups=(1, 2, 4)).train()
    twin = copy.deepcopy(net)
    modes = sample_modes(net.space, 4, random.Random(1))
    x, y = batches(1)[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = train_step(net, (x, y), modes, nn.CrossEntropyLoss(), optimizer)

    # Each loss apart, from the same weights; then the sum of the gradients, by hand.
    gradients = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for mode, loss in zip(modes, losses, strict=True):
        twin.set_mode(mode)
        expected = nn.functional.cross_entropy(twin(x), y)
        assert float(expected.detach()) == pytest.approx(loss, rel=1e-5)
        found = torch.autograd.grad(expected, list(twin.parameters()), allow_unused=True)
        for name, gradient in zip(gradients, found, strict=True):
            if gradient is not None:
                gradients[name] += gradient
    for (name, after), before in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * gradients[name], rtol=1e-4, atol=1e-6)
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, twin.get_buffer(name))


@pytest.mark.parametrize(("counting", "passes", "each"), [("all", 5, 5), ("random", 5, 7)])
def test_what_passes_counts(counting, passes: int, each: int):
    config = we.TrainConfig(passes=passes, counting=counting, epochs=1)
    assert config.modes_per_step == each
    reports: list[StepReport] = []
    net = converted()
    we.train(net, batches(2), config, on_step=reports.append)
    assert [len(report.modes) for report in reports] == [each, each]
    assert [(r.step, r.steps, r.epoch) for r in reports] == [(1, 2, 0), (2, 2, 0)]
    assert all(len(r.losses) == each and min(r.losses) > 0 for r in reports)


def test_training_learns_in_every_uniform_mode_and_is_repeatable():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(64, 3, 6, 6, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long() + 2 * (x[:, 0, :3].mean((1, 2)) > 0).long()
    loader = [(x[:32], y[:32]), (x[32:], y[32:])]
    config = we.TrainConfig(passes=4, epochs=30, learning_rate=0.03)
    nets = [converted(small_resnet(), groups=(1, 2, 4)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        we.train(net, loader, config)
    assert all(
        torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    )
    net = nets[0]
    assert not net.training
    assert net.mode == net.space.full
    modes = net.space.uniform_modes()
    assert not any(net.is_calibrated(mode) for mode in modes)
    we.calibrate(net, modes, [x])
    for mode in modes:
        assert we.evaluate(net, mode, loader).known > 0.8  # four classes: 0.25 by chance


def test_nan_in_the_loss_stops_before_the_weights_change():
    net = converted().train()
    before = [p.clone() for p in net.parameters()]
    x, y = batches(1)[0]
    x[0, 0, 0, 0] = float("nan")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(FloatingPointError, match="the loss of mode 1 is nan; the weights are as"):
        train_step(net, (x, y), net.space.uniform_modes(), nn.CrossEntropyLoss(), optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change():
    class Root(nn.Module):
        def forward(self, x):
            return x + (x * 0).sqrt()  # the value is finite, the gradient of the root is not

    net = we.convert(nn.Sequential(nn.Linear(4, 8), Root(), nn.Linear(8, 2)), torch.ones(1, 4))
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(FloatingPointError, match=r"the gradient of '0.weight' is not finite"):
        we.train(net, [(torch.randn(4, 4), torch.zeros(4, dtype=torch.long))])
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_label_smoothing_and_seed_change_what_is_trained():
    results = []
    for settings in ({}, {"label_smoothing": 0.3}, {"seed": 5}):
        torch.manual_seed(0)
        net = converted(small_resnet())
        we.train(net, batches(), we.TrainConfig(passes=3, epochs=1, **settings))
        results.append(net.fc.weight.clone())
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_frozen_networks_are_refused():
    net = converted(small_resnet().requires_grad_(False))
    with pytest.raises(ValueError, match="no parameter that asks for a gradient"):
        we.train(net, batches())


def test_batches_that_do_not_fit_are_refused():
    net, (x, y) = converted(), batches(1)[0]
    for loader, message in (
        ([], "`loader` must have a length above 0"),
        ([(x, y[:3])], "must hold one class for each"),
        ([(x, y + 9)], "must be classes from 0 to 4"),
        ([(x[:, :2], y)], "does not fit this network"),
    ):
        with pytest.raises(ValueError, match=message):
            we.train(net, loader, we.TrainConfig(epochs=1))
    with pytest.raises(ValueError, match="`loader` must have a length"):
        we.train(net, iter([(x, y)]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passes": 1}, "`passes` \\(=1\\) must be at least 2: the full and the smallest mode"),
        ({"counting": "some"}, "`counting` \\(='some'\\)"),
        ({"passes": 2.5}, "`passes` \\(=2.5\\) must be a whole number"),
        ({"epochs": "4"}, "`epochs` \\(='4'\\) must be a whole number"),
        ({"seed": -1}, "`seed` \\(=-1\\) must be at least 0"),
        ({"learning_rate": float("inf")}, "`learning_rate` \\(=inf\\)"),
        ({"epochs": 0}, "`epochs` \\(=0\\)"),
        ({"learning_rate": 0}, "`learning_rate`"),
        ({"momentum": 1.0}, "`momentum`"),
        ({"weight_decay": -1}, "`weight_decay`"),
        ({"warmup": 1.0}, "`warmup`"),
        ({"label_smoothing": 1.0}, "`label_smoothing`"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        we.TrainConfig(**settings)


def test_only_weights_are_decayed_and_the_rate_rises_then_falls():
    net = converted()
    config = we.TrainConfig(learning_rate=0.4, warmup=0.25)
    optimizer = make_optimizer(net, config)
    decayed, others = optimizer.param_groups
    assert decayed["weight_decay"] == 5e-4
    assert others["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(net.parameters()))
    schedule = make_schedule(optimizer, config, steps=40)
    rates = []
    for _ in range(40):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) == 10
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-6)
