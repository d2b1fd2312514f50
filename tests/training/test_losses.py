"""The loss of a pass: what the full mode answers is taught as it is, and float16 loses no gradient."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import converted
from tests.network.test_targets import CLASSES, IMAGES, PIXELS, X, maps, network
from wenable.training import StepReport, TrainConfig, train_step
from wenable.training.state import TrainState


def losses_of_one_step(net: we.DynamicNetwork, **settings: Any) -> tuple[float, ...]:
    config = TrainConfig(passes=3, epochs=1, **settings)
    found: list[StepReport] = []
    we.train(net, [(X, CLASSES)], config, on_step=found.append)
    return found[0].losses


def test_label_smoothing_does_not_smooth_what_the_full_mode_answers():
    plain, smooth = (
        losses_of_one_step(network(), distillation=True, label_smoothing=each) for each in (0, 0.5)
    )
    assert plain[1:] == smooth[1:]  # the taught modes
    assert plain[0] != smooth[0]  # the full one, which learns the labels
    # by the definition, from the answers of the full mode
    net = copy.deepcopy(network()).train()
    answers = net(X).detach().softmax(1)
    net.set_mode("smallest")
    taught = -(answers * net(X).detach().log_softmax(1)).sum(1).mean()
    assert smooth[1] == pytest.approx(float(taught), rel=1e-5)
    # the label of the full one smoothed by hand: half of it spread over five classes
    shares = torch.eye(5)[CLASSES] * 0.5 + 0.1
    full = -(shares * copy.deepcopy(network()).train()(X).detach().log_softmax(1)).sum(1).mean()
    assert smooth[0] == pytest.approx(float(full), rel=1e-5)


def test_only_a_classification_is_distilled():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    config = TrainConfig(distillation=True)
    before = copy.deepcopy(net.state_dict())

    def own(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).abs().mean()

    for loss, name in ((nn.MSELoss(), "MSELoss"), (own, "own"), (nn.BCEWithLogitsLoss(), "BCE")):
        with pytest.raises(
            ValueError, match=f"needs a cross-entropy, and `loss_function` is {name}"
        ):
            train_step(
                net, (X, torch.zeros(16, 5)), net.space.uniform_modes(), loss, optimizer, config
            )
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


# --- float16 --------------------------------------------------------------------------------------


class Faint(nn.Module):
    """A network whose gradients are too small for float16 unless the loss is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)) * 1e-5)


def test_float16_on_a_processor_scales_its_losses():
    def gradient(**settings: Any) -> torch.Tensor:
        torch.manual_seed(0)
        net = we.convert(Faint(), torch.ones(1, 8), method=we.WeightEnabling((1, 2)))
        before = net.get_parameter("first.weight").detach().clone()
        config = TrainConfig(
            passes=2, epochs=1, momentum=0, weight_decay=0, warmup=0, learning_rate=1.0, **settings
        )
        we.train(net, [(X, CLASSES)], config)
        return before - net.get_parameter("first.weight").detach()

    exact, rough = gradient(), gradient(precision="float16")
    # without a scale most of these are below the smallest number of float16, 6e-8, and become 0
    assert float((exact != 0).float().mean()) > 0.5
    similar = nn.functional.cosine_similarity(exact.flatten().double(), rough.flatten().double(), 0)
    assert similar > 0.99
    assert float((rough != 0).float().mean()) > 0.9 * float((exact != 0).float().mean())


def test_the_scale_of_a_run_survives_its_checkpoint(tmp_path):
    net, config = network(), TrainConfig(precision="float16")
    state = TrainState(net, config, 10)
    assert state.scaler is not None
    assert state.scaler.is_enabled()
    state.scaler.scale(torch.ones(1))
    state.scaler.update(1024.0)
    state.save(tmp_path / "run")
    other = TrainState(network(), config, 10)
    other.load(tmp_path / "run")
    assert other.scaler is not None
    assert other.scaler.get_scale() == 1024


def test_a_step_in_float16_without_a_scale_is_refused():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    config = TrainConfig(precision="float16")
    for scaler in (None, torch.amp.GradScaler("cpu", enabled=False)):
        with pytest.raises(ValueError, match=r"needs a `scaler`.*torch.amp.GradScaler\('cpu'\)"):
            train_step(
                net, (X, CLASSES), net.space.uniform_modes(), nn.CrossEntropyLoss(), optimizer,
                config, scaler=scaler,
            )  # fmt: skip


def test_networks_in_float16_are_refused():
    for train in (we.train, we.train_incrementally):
        with pytest.raises(ValueError, match=r"has parameters in float16.*`net.float\(\)`"):
            train(network(method=we.Slimmable((1.0, 0.5), divisor=2)).half(), [(X, CLASSES)])


def test_a_gradient_that_no_scale_makes_finite_ends_the_run():
    """A scaler leaves such a step out and halves its scale, for ever."""

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + (x * 0).sqrt()

    net = we.convert(nn.Sequential(nn.Linear(8, 16), Root(), nn.Linear(16, 5)), torch.ones(1, 8))
    before = copy.deepcopy(net.state_dict())
    steps: list[StepReport] = []
    with pytest.raises(FloatingPointError, match=r"the gradient of '0.weight' is not finite"):
        we.train(
            net, [(X, CLASSES)] * 100, TrainConfig(precision="float16", epochs=1, passes=2),
            on_step=steps.append,
        )  # fmt: skip
    assert len(steps) < 20  # 2^16 is halved to 1 in sixteen
    assert all(torch.equal(t, before[n]) for n, t in net.named_parameters())


# --- MixUp and CutMix -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_only_images_with_one_label_each_are_mixed(name: str):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            self.last = nn.Linear(8, 5)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.middle(self.first(a + b))).mean((2, 3)))

    pair = torch.zeros(1, 3, 6, 6), torch.zeros(1, 3, 6, 6)
    two = we.convert(Two(), pair, method=we.WeightEnabling((1, 2)))
    for net, batch, message in (
        (maps(), (IMAGES, PIXELS), r"one for each position, as a mask has: set it to 0"),
        (network(), (X, CLASSES), r"mixes images .*the network takes \(1, 8\): set it to 0"),
        (two, ((IMAGES, IMAGES), CLASSES[:4]), r"takes \(1, 3, 6, 6\) and \(1, 3, 6, 6\)"),
    ):
        before = copy.deepcopy(net.state_dict())
        with pytest.raises(ValueError, match=rf"`{name}` \(=0.4\) .*{message}"):
            we.train(net, [batch], TrainConfig(epochs=1, **{name: 0.4}))
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_labels_of_any_type_and_shares_are_mixed():
    labels = torch.arange(4)
    results = []
    for targets in (labels, labels.to(torch.uint8), torch.eye(5)[labels]):
        torch.manual_seed(0)
        net = converted()
        found: list[StepReport] = []
        we.train(
            net,
            [(IMAGES, targets)],
            TrainConfig(epochs=1, passes=2, mixup=0.4),
            on_step=found.append,
        )
        results.append(json.dumps(found[0].losses))
    assert len(set(results)) == 1


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_labels_to_be_ignored_are_not_mixed(name: str):
    loss = nn.CrossEntropyLoss(ignore_index=255)
    message = rf"`{name}` \(=0.4\) makes shares .*\(`ignore_index`=255\)"
    labels = torch.tensor([0, 1, 2, 255])
    settings: dict[str, Any] = {"epochs": 1, name: 0.4}
    with pytest.raises(ValueError, match=message):
        we.train(converted(), [(IMAGES, labels)], TrainConfig(**settings), loss=loss)


@pytest.mark.parametrize("ignored", [0, 1, 30, 80])  # pixels of 4 images of 36
@pytest.mark.parametrize("weight", [None, torch.arange(1.0, 6.0)])
@pytest.mark.parametrize("distillation", [False, True])
def test_a_batch_in_parts_has_the_loss_of_the_whole(
    ignored: int, weight: torch.Tensor | None, distillation: bool
):
    net, labels = maps().train(), PIXELS.clone()
    labels.view(-1)[:ignored] = 255
    loss = nn.CrossEntropyLoss(weight, ignore_index=255, label_smoothing=0.1)
    found: list[Any] = []
    for parts in (1, 2):
        still = torch.optim.SGD(net.parameters(), lr=0.0)
        config = TrainConfig(grad_accum_steps=parts, distillation=distillation)
        modes = (net.space.full, net.space.smallest)
        losses = train_step(net, (IMAGES, labels), modes, loss, still, config)
        found.append(
            (
                torch.tensor(losses),
                *(p.grad.clone() for p in net.parameters() if p.grad is not None),
            )
        )
    for whole, in_parts in zip(*found, strict=True):
        torch.testing.assert_close(in_parts, whole)
