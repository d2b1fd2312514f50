"""Algorithm 1 against a plain loop written from the paper, and what stops a run."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import Tokens, converted, small_resnet
from tests.helpers.training_runs import SETTINGS, batches, same, weights_of, with_dropout
from wenable.training import (
    StepReport,
    TrainConfig,
    sample_modes,
    train_step,
)
from wenable.training.optimizers import make_optimizer, make_schedule


@pytest.mark.parametrize("passes", [2, 3, 6])
@pytest.mark.parametrize("sampling", ["options", "macs"])
def test_a_step_is_full_smallest_and_random_modes(passes: int, sampling):
    net = converted()
    config = TrainConfig(passes=passes, sampling=sampling)
    modes = sample_modes(net, config, step=3, steps=10)
    assert modes[:2] == (net.space.full, net.space.smallest)
    assert len(modes) == passes
    assert modes == sample_modes(net, config, step=3, steps=10)  # whoever asks, and when
    if passes == 6:
        assert modes != sample_modes(net, config, step=4, steps=10)
        assert modes != sample_modes(net, replace(config, seed=1), step=3, steps=10)


def test_modes_are_drawn_uniformly_by_option_or_by_cost():
    net = converted()
    low, full = net.macs("smallest"), net.macs("full")
    shares = {}
    for sampling in ("options", "macs"):
        config = TrainConfig(passes=6, sampling=sampling)
        drawn = [m for step in range(150) for m in sample_modes(net, config, step, 150)[2:]]
        costs = [(net.macs(mode) - low) / (full - low) for mode in drawn]
        shares[sampling] = [sum(a <= c < a + 0.25 for c in costs) / 600 for a in (0, 0.25, 0.5)]
        if sampling == "options":
            first = [mode.options[0] for mode in drawn]
            for option in net.space.knobs[0].options:
                assert first.count(option) / 600 == pytest.approx(0.2, abs=0.07)
    assert shares["macs"] == pytest.approx([0.25] * 3, abs=0.08)
    assert shares["options"] != pytest.approx([0.25] * 3, abs=0.08)


def test_the_number_of_passes_can_grow():
    config = TrainConfig(passes=6, grow_from=2)
    counts = [config.modes_at(step, 10) for step in range(10)]
    assert counts == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    random_ones = TrainConfig(passes=3, grow_from=1, counting="random")
    assert [random_ones.modes_at(step, 3) for step in range(3)] == [3, 4, 5]
    assert {TrainConfig(passes=5).modes_at(step, 7) for step in range(7)} == {5}


def test_a_step_equals_algorithm_1_written_out():
    net = converted(groups=(1, 2, 4)).train()
    twin = copy.deepcopy(net)
    modes = sample_modes(net, TrainConfig(passes=4), step=1, steps=9)
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


def test_a_network_converted_where_nothing_takes_gradients_is_refused():
    with torch.inference_mode():
        net = converted(small_resnet())
    with pytest.raises(ValueError, match=r"inside `torch\.inference_mode\(\)`"):
        we.train(net, batches())


def test_batches_that_do_not_fit_are_refused():
    net, (x, y) = converted(), batches(1)[0]
    for loader, message in (
        ([], "`loader` is empty"),
        ([(x, y[:3])], "must be as many as the inputs"),
        ([(x, y + 9)], "must be classes from 0 to 4"),
        ([(x[:, :2], y)], "does not fit this network"),
    ):
        with pytest.raises(ValueError, match=message):
            we.train(net, loader, we.TrainConfig(epochs=1))
    with pytest.raises(ValueError, match="is an iterator, which can be gone through once"):
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
        ({"grow_from": 9}, "`grow_from` \\(=9\\) must be from 2 to `passes`"),
        ({"sampling": "x"}, "`sampling` \\(='x'\\) must be one of 'options', 'macs'"),
        ({"optimizer": "x"}, "`optimizer`"),
        ({"schedule": "x"}, "`schedule`"),
        ({"precision": "x"}, "`precision`"),
        ({"ema_decay": 1.0}, "`ema_decay`"),
        ({"clip_grad": 0.0}, "`clip_grad`"),
        ({"grad_accum_steps": 0}, "`grad_accum_steps`"),
        ({"mixup": -1}, "`mixup`"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        we.TrainConfig(**settings)


def test_only_weights_are_decayed_and_the_rate_rises_then_falls():
    net = converted()
    config = we.TrainConfig(learning_rate=0.4, warmup=0.25)
    optimizer = make_optimizer(net, config)
    groups = {group["weight_decay"]: group for group in optimizer.param_groups}
    decayed, others = groups.pop(5e-4), groups.pop(0.0)
    assert not groups
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(net.parameters()))
    schedule = make_schedule(optimizer, config, steps=40)
    rates = []
    for step in range(41):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) == 10
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[40] == pytest.approx(0, abs=1e-6)
    schedule.step_update(7)  # of the step alone, whatever was asked before
    assert optimizer.param_groups[0]["lr"] == rates[7]


def test_a_schedule_may_fall_in_steps_or_stay():
    def rates(**settings) -> list[float]:
        config = TrainConfig(epochs=4, warmup=0.0, learning_rate=1.0, **settings)
        optimizer = make_optimizer(converted(), config)
        schedule = make_schedule(optimizer, config, steps=8)
        found = []
        for step in range(8):
            schedule.step_update(step)
            found.append(round(optimizer.param_groups[0]["lr"], 6))
        return found

    assert rates(schedule="constant") == [1.0] * 8
    falling = rates(schedule="step", step_epochs=2, step_factor=0.5)
    assert falling == [1.0] * 4 + [0.5] * 4


def step_of(net: we.DynamicNetwork, batch, **settings) -> dict[str, torch.Tensor]:
    """The gradients of one step in which the weights stay."""
    config = TrainConfig(passes=3, **settings)
    modes = sample_modes(net, config, 0, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    train_step(net.train(), batch, modes, nn.CrossEntropyLoss(), optimizer, config)
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def test_distillation_teaches_the_other_modes_what_the_full_one_answers():
    net, (x, y) = converted(Tokens()), batches(1)[0]
    found = step_of(net, (x, y), distillation=True)
    twin = copy.deepcopy(net)
    twin.zero_grad()
    full, *others = sample_modes(twin, TrainConfig(passes=3), 0, 1)
    twin.set_mode(full)
    answers = twin(x)
    nn.functional.cross_entropy(answers, y).backward()
    shares = answers.detach().softmax(1)
    for mode in others:
        twin.set_mode(mode)
        (-(shares * twin(x).log_softmax(1)).sum(1).mean()).backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, twin.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_add_up_to_the_whole():
    net, batch = converted(Tokens()), batches(1, size=7)[0]  # no batch norm, which sees parts
    whole, parts = step_of(net, batch), step_of(net, batch, grad_accum_steps=3)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_gradients_of_all_passes_together_are_clipped():
    clipped = step_of(converted(Tokens()), batches(1)[0], clip_grad=0.01)
    assert float(nn.utils.get_total_norm(clipped.values())) == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_learns_much_the_same():
    net, batch = converted(Tokens()), batches(1)[0]
    exact, rough = step_of(net, batch), step_of(net, batch, precision="bfloat16")
    for name in ("fc1.weight", "head.weight"):
        assert not torch.equal(rough[name], exact[name])
        assert nn.functional.cosine_similarity(rough[name].view(-1), exact[name].view(-1), 0) > 0.99


def test_labels_can_be_mixed():
    net = converted(Tokens())
    config = TrainConfig(passes=2, epochs=2, mixup=0.2, cutmix=1.0)
    assert we.train(net, batches(2), config)


def test_the_network_ends_with_its_averaged_weights():
    net = converted(Tokens())
    average: list[torch.Tensor] = []

    def follow(_: StepReport) -> None:
        weight = net.fc1.weight.detach().clone()
        average.append(weight if not average else 0.75 * average[-1] + 0.25 * weight)

    orders = [b.clone() for n, b in net.named_buffers() if n.endswith("input_order")]
    we.train(net, batches(2), TrainConfig(passes=2, epochs=2, ema_decay=0.75), on_step=follow)
    torch.testing.assert_close(net.fc1.weight.detach(), average[-1])
    # whole numbers are not averaged: 5 would become 4.9999 and then 4
    after = [b for n, b in net.named_buffers() if n.endswith("input_order")]
    assert len(average) == 4
    assert orders
    assert all(torch.equal(a, b) for a, b in zip(orders, after, strict=True))


def test_training_leaves_the_callers_random_numbers_alone():
    net = with_dropout()
    before = torch.get_rng_state()
    we.train(net, batches(1), replace(SETTINGS, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_called_after_an_epoch_sees_the_averaged_weights():
    net, twin = with_dropout(), with_dropout()
    average: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    name = "block1.conv2.weight"

    def follow(_: StepReport) -> None:
        weight = net.get_parameter(name).detach().clone()
        average.append(weight if not average else 0.75 * average[-1] + 0.25 * weight)

    def look(epoch: int) -> None:
        torch.testing.assert_close(net.get_parameter(name).detach(), average[-1])
        seen.append(average[-1])

    config = replace(SETTINGS, ema_decay=0.75)
    we.train(net, batches(2), config, on_step=follow, on_epoch=look)
    assert len(seen) == 3
    we.train(twin, batches(2), config)  # looking changes nothing
    assert same(weights_of(net), weights_of(twin))


def test_settings_survive_json():
    config = TrainConfig(passes=5, sampling="macs", clip_grad=1.0, grow_from=3)
    assert TrainConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="unknown to this version: 'colour'"):
        TrainConfig.from_json({"colour": 1})


def test_channels_last_is_the_layout_of_images_and_leaves_volumes_and_sounds():
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.volume, self.image = nn.Conv3d(4, 8, 2), nn.Conv2d(8, 8, 2)
            self.sound, self.last = nn.Conv1d(8, 8, 2), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.sound(self.image(self.volume(x).mean(2)).mean(2)).mean(2))

    torch.manual_seed(0)
    x, labels = torch.randn(4, 4, 3, 6, 6), torch.arange(4) % 3
    model, found = Kinds(), []
    for channels_last in (False, True):
        net: Any = we.convert(model, x, method=we.WeightEnabling((1, 2)))
        settings = TrainConfig(passes=2, epochs=2, channels_last=channels_last)
        we.train(net, [(x, labels)], settings)
        found.append(net)
    plain, last = found
    assert last.image.weight.is_contiguous(memory_format=torch.channels_last)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(last.state_dict()[name], tensor, check_stride=False)
