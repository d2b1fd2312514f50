"""What goes beyond Algorithm 1, each against numpy, a gradient by hand or a schedule written out."""

import copy
import itertools
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, converted, small_resnet
from wenable.cli.train_words import cost_line
from wenable.training import Sharing, StepReport, TrainConfig, sample_modes, train_step
from wenable.training.config import Sampling
from wenable.training.divergence import alpha_divergence, worse_alpha_loss
from wenable.training.loop import Checkpoint
from wenable.training.projection import add_without_conflict, take_gradients
from wenable.training.recipes import Recipe
from wenable.training.sharing import Losses

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(6, *IMAGES[1:], generator=GENERATOR)
Y = torch.randint(5, (6,), generator=GENERATOR)
CROSS_ENTROPY = nn.CrossEntropyLoss()


def gradients(net: we.DynamicNetwork, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    names = [name for name, _ in net.named_parameters()]
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


def one_step(net: we.DynamicNetwork, modes, **settings) -> dict[str, torch.Tensor]:
    """Return by how much a step of plain descent at rate 1 lowers each weight."""
    weights = settings.pop("weights", None)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    config = TrainConfig(**settings)
    train_step(
        net, (X, Y), modes, CROSS_ENTROPY, torch.optim.SGD(net.parameters(), lr=1.0), config,
        weights=weights,
    )  # fmt: skip
    return {name: before[name] - p.detach() for name, p in net.named_parameters()}


def shares(count: int, sharpness: float, seed: int) -> np.ndarray:
    scores = sharpness * np.random.default_rng(seed).normal(size=(count, 7))
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 1.0, 2.0])
def test_the_alpha_divergence_is_that_of_its_definition(alpha: float):
    p, q = shares(5, 0.5, 0), shares(5, 0.5, 1)
    if alpha == 1.0:
        expected = (p * np.log(p / q)).sum(1)
    else:
        expected = (p**alpha * q ** (1 - alpha) - q).sum(1) / (alpha * (alpha - 1))
    scores = torch.tensor(np.log(q)).requires_grad_()
    found = alpha_divergence(scores, torch.tensor(p), alpha, clipped_at=1e9)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6)
    # Without a clip the gradient is that of the definition, which torch takes apart by itself.
    ours = torch.autograd.grad(found.sum(), scores)[0]
    log_q, teacher = scores.log_softmax(1), torch.tensor(p)
    if alpha == 1.0:
        plain = (teacher * (teacher.log() - log_q)).sum()
    else:
        plain = ((teacher**alpha * log_q.exp() ** (1 - alpha)).sum() - 5) / (alpha * (alpha - 1))
    torch.testing.assert_close(ours, torch.autograd.grad(plain, scores)[0])


def test_the_importance_ratio_is_clipped_in_value_and_gradient():
    p, q = shares(4, 3.0, 2), shares(4, 3.0, 3)
    scores = torch.tensor(np.log(q)).requires_grad_()
    for alpha in (-1.0, 1.0):
        ratio = np.minimum((p / q) ** alpha, 5.0)
        assert (ratio == 5.0).any()
        assert (ratio < 5.0).any()
        found = alpha_divergence(scores, torch.tensor(p), alpha)
        expected = (
            (q * (ratio - 1)).sum(1) / 2 if alpha == -1.0 else (q * ratio * np.log(p / q)).sum(1)
        )
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6)
        # d log q_k / d score_j = [k = j] - q_j, and the gradient is -(1/alpha) sum_k q_k r_k of it
        by_hand = -(q * ratio - q * (q * ratio).sum(1, keepdims=True)) / alpha
        gradient = torch.autograd.grad(found.sum(), scores)[0]
        np.testing.assert_allclose(gradient.numpy(), by_hand, rtol=1e-6, atol=1e-12)


def test_the_worse_divergence_is_taken_for_each_example_and_position():
    p, q = (shares(12, 0.7, seed).reshape(2, 2, 3, 7).transpose(0, 3, 1, 2) for seed in (4, 5))
    scores, teacher = torch.tensor(np.log(q)), torch.tensor(p)
    ends = [alpha_divergence(scores, teacher, alpha).numpy() for alpha in (-1.0, 1.0)]
    assert ends[0].shape == (2, 2, 3)
    assert (ends[0] > ends[1]).any()
    assert (ends[0] < ends[1]).any()
    expected = np.maximum(*ends).mean()
    assert float(worse_alpha_loss(scores, teacher)) == pytest.approx(expected, rel=1e-5)
    assert float(worse_alpha_loss(teacher.log(), teacher)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("teacher", ["full", "earlier"])
@pytest.mark.parametrize("divergence", ["kl", "alpha"])
def test_modes_learn_what_their_teacher_answers(teacher, divergence):
    net = converted(groups=(1, 2, 4)).train()
    twin = copy.deepcopy(net)
    modes = [net.space.full, net.space.smallest, net.space.uniform(2)]
    config = TrainConfig(distillation=True, sharing=Sharing(teacher=teacher, divergence=divergence))
    losses = train_step(
        net, (X, Y), modes, CROSS_ENTROPY, torch.optim.SGD(net.parameters(), lr=0.1), config
    )
    answers = []
    for mode in modes:
        twin.set_mode(mode)
        answers.append(twin(X).detach().double())
    expected = [float(nn.functional.cross_entropy(answers[0], Y))]
    for number, scores in enumerate(answers[1:], start=1):
        heard = answers[:number] if teacher == "earlier" else answers[:1]
        p, q = (
            torch.stack([each.softmax(1) for each in heard]).mean(0).numpy(),
            scores.softmax(1).numpy(),
        )
        if divergence == "kl":
            expected.append(-(p * np.log(q)).sum(1).mean())
        else:
            ends = [
                (q * (np.minimum(q / p, 5) - 1)).sum(1) / 2,
                (q * np.minimum(p / q, 5) * np.log(p / q)).sum(1),
            ]
            expected.append(np.maximum(*ends).mean())
    assert losses == pytest.approx(expected, rel=1e-4)


def test_losses_count_by_their_weights_and_are_reported_without():
    net = converted(groups=(1, 2)).train()
    twin = copy.deepcopy(net)
    modes, weights = (net.space.full, net.space.smallest), (0.75, 0.25)
    moved = one_step(net, modes, weights=weights)
    expected = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for mode, weight in zip(modes, weights, strict=True):
        twin.set_mode(mode)
        for name, gradient in gradients(twin, nn.functional.cross_entropy(twin(X), Y)).items():
            expected[name] += weight * gradient
    for name, each in moved.items():
        torch.testing.assert_close(each, expected[name], rtol=1e-4, atol=1e-5)


def test_conflicting_gradients_are_projected_parameter_by_parameter():
    net = converted(groups=(1, 2)).train()
    twin = copy.deepcopy(net)
    modes = (net.space.full, net.space.smallest, net.space.smallest)
    moved = one_step(net, modes, sharing=Sharing(project=True))
    full = gradients(twin, nn.functional.cross_entropy(twin(X), Y))
    twin.set_mode("smallest")
    small = gradients(twin, nn.functional.cross_entropy(twin(X), Y))
    met: Counter[str] = Counter()
    for name, each in moved.items():
        f, g = full.get(name), small.get(name)
        if f is None or g is None:
            met["of one mode alone"] += 1
            expected = f if g is None else 2 * g
        else:
            f, g = f.double(), 2 * g.double()
            conflict = float(f.flatten() @ g.flatten()) < 0
            met["conflict" if conflict else "none"] += 1
            g = g - (f.flatten() @ g.flatten()) / (f.flatten() @ f.flatten()) * f if conflict else g
            expected = (f + g).float()
        assert expected is not None
        torch.testing.assert_close(each, expected, rtol=1e-3, atol=1e-5)
    assert set(met) >= {"conflict", "none", "of one mode alone"}, met


def test_a_projection_leaves_no_part_against_the_full_gradient():
    layer = nn.Linear(2, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[2.0, 0.0]]), torch.zeros(1)
    full = take_gradients(layer)
    assert layer.weight.grad is None
    layer.weight.grad, layer.bias.grad = torch.tensor([[-3.0, 5.0]]), torch.tensor([1.0])
    add_without_conflict(full)
    assert layer.weight.grad.tolist() == [[2.0, 5.0]]
    assert layer.bias.grad.tolist() == [1.0]  # a full gradient of 0 takes nothing away


def test_weight_decay_belongs_to_the_full_mode_alone():
    net = converted(groups=(1, 2)).train()
    twin = copy.deepcopy(net)
    config = TrainConfig(passes=4, epochs=1, warmup=0.0, learning_rate=0.1, weight_decay=0.3,
                         momentum=0.0, schedule="constant")  # fmt: skip
    found: list[StepReport] = []
    we.train(net, [(X, Y)], config, on_step=found.append)
    other = copy.deepcopy(twin)
    we.train(other, [(X, Y)], TrainConfig(**{**config_values(config), "weight_decay": 0.0}))
    for (name, after), free in zip(net.named_parameters(), other.parameters(), strict=True):
        before = twin.get_parameter(name)
        decayed = 0.1 * 0.3 * before if before.ndim > 1 else 0  # once, whatever the passes
        torch.testing.assert_close(after, free - decayed, rtol=1e-4, atol=1e-6)


def test_a_run_counts_losses_as_its_settings_say():
    moved = []
    start = converted(groups=(1, 2))
    kinds: tuple[Losses, ...] = ("sum", "mean")
    for losses in kinds:
        net = copy.deepcopy(start)
        config = TrainConfig(passes=2, epochs=1, warmup=0.0, learning_rate=0.1, weight_decay=0.0,
                             momentum=0.0, schedule="constant",
                             sharing=Sharing(losses=losses))  # fmt: skip
        we.train(net, [(X, Y)], config)
        pairs = zip(net.parameters(), start.parameters(), strict=True)
        moved.append([(after - before).detach() for after, before in pairs])
    for whole, half in zip(*moved, strict=True):
        torch.testing.assert_close(half, whole / 2, rtol=1e-3, atol=1e-6)
    assert any(bool(each.any()) for each in moved[0])


def config_values(config: TrainConfig) -> dict:
    return {name: getattr(config, name) for name in config.to_json()}


@pytest.mark.parametrize(
    ("first", "expected"),
    [("full", ["1"] * 6), ("outward", ["1/4", "1/4", "1/2", "1/2", "1", "1"])],
)
def test_one_mode_is_trained_alone_first_then_all(first, expected):
    net = converted(groups=(1, 2, 4))
    config = TrainConfig(
        passes=3, epochs=4, learning_rate=0.1, warmup=0.25,
        sharing=Sharing(delay=0.5, first=first, rise=0.25),
    )  # fmt: skip
    found: list[StepReport] = []
    we.train(net, [(X, Y)] * 3, config, on_step=found.append)
    assert [str(each.modes[0]) for each in found[:6]] == expected
    assert [len(each.modes) for each in found] == [1] * 6 + [3] * 6
    assert [config.modes_at(step, 12) for step in range(12)] == [1] * 6 + [3] * 6
    weights = [config.sharing.loss_weights(len(each.modes), each.step - 1, 12) for each in found]
    assert [each[1:] for each in weights[6:]] == [
        pytest.approx((w, w)) for w in (1 / 3, 2 / 3, 1, 1, 1, 1)
    ]
    assert {each[0] for each in weights} == {1.0}
    rates = [each.learning_rate for each in found]
    by_hand = [0.1 / 4 + (0.1 - 0.1 / 4) * s / 3 for s in range(3)]
    by_hand += [0.05 * (1 + np.cos(np.pi * (s - 3) / 9)) for s in range(3, 12)]
    assert rates == pytest.approx(by_hand)


def test_random_modes_can_be_drawn_from_a_pool():
    net = converted(groups=(1, 2, 4))
    pool = ("1/2", "1/4", str(net.space.full.replace({net.space.names[0]: 4})))
    cases: tuple[tuple[Sampling, Any], ...] = (("options", (1 / 3,) * 3), ("macs", None))
    for sampling, shares_of in cases:
        config = TrainConfig(passes=6, sampling=sampling, sharing=Sharing(pool=pool))
        drawn = Counter(m for step in range(100) for m in sample_modes(net, config, step, 100)[2:])
        assert set(drawn) == {net.space.mode(text) for text in pool}
        if shares_of is None:
            # Each is drawn as often as its cost is the nearest to a number drawn between the ends.
            costs = sorted((net.macs(mode), mode) for mode in drawn)
            low, high = costs[0][0], costs[-1][0]
            bounds = [
                low,
                *((a[0] + b[0]) / 2 for a, b in itertools.pairwise(costs)),
                high,
            ]
            shares_of = [(b - a) / (high - low) for a, b in itertools.pairwise(bounds)]
            found = [drawn[mode] / 400 for _, mode in costs]
        else:
            found = [drawn[net.space.mode(text)] / 400 for text in pool]
        assert found == pytest.approx(shares_of, abs=0.08)


def test_a_pool_can_be_the_uniform_modes():
    net = converted(groups=(1, 2, 4, 8))
    config = TrainConfig(passes=4, sharing=Sharing(pool="uniform"))
    drawn = {str(m) for step in range(50) for m in sample_modes(net, config, step, 50)[2:]}
    assert drawn == {"1/2", "1/4"}
    few = converted(groups=(1, 2))  # nothing lies between the ends
    drawn = {str(m) for step in range(50) for m in sample_modes(few, config, step, 50)[2:]}
    assert drawn == {"1", "1/2"}


def test_a_pool_of_uniform_modes_has_them_at_every_image_size():
    method = [we.WeightEnabling((1, 2, 4)), we.ImageSize((6, 4))]
    net = we.convert(small_resnet(), torch.zeros(1, 3, 6, 6), method=method)
    config = TrainConfig(passes=4, sharing=Sharing(pool="uniform"))
    drawn = {str(m) for step in range(50) for m in sample_modes(net, config, step, 50)[2:]}
    assert drawn == {"1/2", "1/4", "1,size=4", "1/2,size=4"}


def test_a_pool_of_what_is_no_mode_is_refused_before_the_delay():
    net, reports = converted(groups=(1, 2, 4)), []
    for pool in (("1/2", "1/3"), "1/3", ("Uniform",)):
        config = TrainConfig(passes=3, sharing=Sharing(delay=0.5, pool=pool))
        refused = r"`sharing\.pool` holds '(1/3|Uniform)', which is no mode"
        with pytest.raises(ValueError, match=refused):
            we.train(net, [(X, Y)] * 4, config, on_step=reports.append)
    assert not reports


def test_settings_are_kept_in_checkpoints_and_those_of_older_files_are_the_defaults(tmp_path):
    config = TrainConfig(
        passes=3, epochs=1, distillation=True,
        sharing=Sharing(delay=0.5, pool=("1/2", "1/4"), losses="mean", divergence="alpha"),
    )  # fmt: skip
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    old = {name: value for name, value in TrainConfig().to_json().items() if name != "sharing"}
    assert TrainConfig.from_json(old) == TrainConfig()
    with pytest.raises(ValueError, match="`sharing` holds settings unknown to this version: 'x'"):
        TrainConfig.from_json({"sharing": {"x": 1}})
    net, path = converted(groups=(1, 2, 4)), tmp_path / "run"
    we.train(net, [(X, Y)] * 2, config, checkpoint=Checkpoint(path))
    we.train(net, [(X, Y)] * 2, config, checkpoint=Checkpoint(path, resume=True))
    other = TrainConfig(passes=3, epochs=1, distillation=True, sharing=Sharing(delay=0.5))
    with pytest.raises(ValueError, match="with `sharing` = "):
        we.train(net, [(X, Y)] * 2, other, checkpoint=Checkpoint(path, resume=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay": 1.0}, r"`delay` \(=1.0\) must be a share of the steps, from 0 to below 1"),
        ({"delay": 0.6, "rise": 0.5}, "must not be more than the whole run"),
        ({"first": "small"}, r"`first` \(='small'\) must be one of 'full', 'outward'"),
        ({"divergence": "l2"}, "must be one of 'kl', 'alpha'"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sharing(**settings)


def test_sharing_is_no_dict():
    with pytest.raises(ValueError, match="`sharing` is a dict; allowed: a Sharing"):
        TrainConfig(**TrainConfig().to_json())


def test_what_a_run_costs_is_said_with_its_delay():
    net, full = converted(groups=(1, 2, 4)), TrainConfig(passes=2, epochs=4)
    delayed = replace(full, sharing=Sharing(delay=0.5))
    both, alone = (
        cost_line(net, Recipe(config, None, batch_size=8), 5) for config in (full, delayed)
    )
    together = 1 + net.macs("smallest") / net.macs("full")
    assert f"20 steps of 2 passes over batches of 8; a step costs about {together:.1f} " in both
    assert (
        f"passes, the first 10 of one, over batches of 8; a step costs about {(1 + together) / 2:.1f} "
        in alone
    )
