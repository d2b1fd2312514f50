"""A loss of one's own: it trains as a loop by hand does, on outputs and targets of any structure."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import wenable as we
from wenable.training import StepReport, TrainConfig, train_step

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
A, B = torch.linspace(-1, 1, 24).view(6, 4), torch.arange(6) % 2
PLAIN = TrainConfig(
    passes=3, epochs=2, momentum=0, weight_decay=0, warmup=0, schedule="constant", learning_rate=0.1
)


@dataclasses.dataclass
class Answer:
    a: torch.Tensor
    b: torch.Tensor
    loss: torch.Tensor | None = None


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


class Heads(nn.Module):
    """Two heads whose answers a function wraps."""

    def __init__(self, wrap: Callable[..., Any] = Answer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.middle = nn.Linear(8, 16), nn.Linear(16, 16)
        self.a, self.b = nn.Linear(16, 4), nn.Linear(16, 2)
        self.wrap = wrap

    def forward(self, x: torch.Tensor) -> Any:
        h = torch.relu(self.middle(torch.relu(self.trunk(x))))
        return self.wrap(self.a(h), self.b(h))


def network(wrap: Callable[..., Any] = Answer) -> Any:
    return we.convert(Heads(wrap), X, method=we.WeightEnabling((1, 2)))


def squares(a: torch.Tensor, b: torch.Tensor, wanted: torch.Tensor, classes: torch.Tensor) -> Any:
    shares = b.log_softmax(1).gather(1, classes[:, None])
    return ((a - wanted) ** 2).mean() - 0.5 * shares.mean()


def per_image(targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([each["a"] for each in targets]), torch.stack([e["b"] for e in targets])


STRUCTURES: dict[str, tuple[Any, Any, Callable[[Any, Any], torch.Tensor]]] = {
    "dataclass, dict": (
        Answer, {"a": A, "b": B, "note": "text"}, lambda o, t: squares(o.a, o.b, t["a"], t["b"])
    ),
    "named tuples": (Pair, Pair(A, B), lambda o, t: squares(o.a, o.b, t.a, t.b)),
    "dict in a list, nested tuple": (
        lambda a, b: [{"a": a}, None, b], (A, (B, None)),
        lambda o, t: squares(o[0]["a"], o[2], t[0], t[1][0]),
    ),
    "one dict for each image": (
        lambda a, b: (a, b), [{"a": a, "b": b} for a, b in zip(A, B, strict=True)],
        lambda o, t: squares(*o, *per_image(t)),
    ),
}  # fmt: skip


def by_hand(net: Any, modes: list[tuple[we.Mode, ...]]) -> list[torch.Tensor]:
    """Two steps of gradient descent, the loss written out: the sum of all modes' gradients."""
    net = copy.deepcopy(net).train()
    for drawn in modes:
        for parameter in net.parameters():
            parameter.grad = None
        for mode in drawn:
            net.set_mode(mode)
            h = torch.relu(net.middle(torch.relu(net.trunk(X))))
            squares(net.a(h), net.b(h), A, B).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    return list(net.parameters())


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("name", STRUCTURES)
def test_training_is_a_loop_by_hand(name: str, parts: int):
    wrap, targets, loss = STRUCTURES[name]
    net, before, steps = network(wrap), network(wrap), list[StepReport]()
    config = dataclasses.replace(PLAIN, grad_accum_steps=parts)
    assert we.train(net, [(X, targets)], config, loss=loss, on_step=steps.append)
    expected = by_hand(before, [step.modes for step in steps])
    assert len(expected) == len(list(net.parameters()))
    for found, wanted, start in zip(net.parameters(), expected, before.parameters(), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)
        assert not torch.equal(found, start)


def test_widths_are_trained_one_after_the_other_with_a_loss_of_ones_own():
    net = we.convert(Heads(Pair), X, method=we.Slimmable((1.0, 0.5), divisor=2))
    before = copy.deepcopy(net.state_dict())
    config = TrainConfig(epochs=3, learning_rate=0.05)
    we.train_incrementally(net, [(X, (A, B))], config, loss=lambda o, t: squares(*o, *t))
    assert not torch.equal(net.state_dict()["a.weight"], before["a.weight"])


# --- what is refused ------------------------------------------------------------------------------


def unmoved(net: Any, message: str, **given: Any) -> None:
    """Refused in one line before the first step, and the network is as it was to the bit."""
    before, steps = copy.deepcopy(net.state_dict()), []
    batch, config = given.pop("batch", (X, A)), given.pop("config", PLAIN)
    with pytest.raises(ValueError, match=message) as caught:
        we.train(net, [batch], config, on_step=steps.append, **given)
    assert "\n" not in str(caught.value)
    assert not steps
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


BAD: dict[str, tuple[Any, str]] = {
    "a class": (nn.MSELoss, r"`loss` is the class MSELoss; give one of it: MSELoss\(\)"),
    "a text": ("mse", r"`loss` \(a str\) must be called as loss\(outputs, targets\)"),
    "several numbers": (nn.MSELoss(reduction="none"), r"must return one number.* returned \(6, 4\)"),
    "a float": (lambda o, t: 1.0, r"must return one number for a batch, as a tensor; .* a float"),
    "whole": (lambda o, t: (o > 0).sum(), r"of floating type; it returned int64"),
    "detached": (lambda o, t: o.detach().mean(), r"with a gradient; what it returned has none"),
    "targets alone": (lambda o, t: t.mean(), r"from the targets alone"),
    "a name that is not there": (
        lambda o, t: o["logits"].mean(), r"the loss \(<lambda>\) fails where .* of shape \(6, 4\)"
    ),
    "too few arguments": (lambda o: o.mean(), r"fails where .*TypeError"),
    "two tensors": (nn.CrossEntropyLoss(), r"from -1 to 1\) are read as shares"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_loss_that_is_none_is_refused(name: str):
    loss, message = BAD[name]
    unmoved(network(lambda a, b: a), message, loss=loss)


def test_what_would_be_spread_over_the_other_is_refused():
    one = network(lambda a, b: a[:, :1])
    unmoved(one, r"MSELoss compares element by element.*\(N, 1\).*\(6,\)",
            loss=nn.MSELoss(), batch=(X, A[:, 0]))  # fmt: skip
    unmoved(one, r"binary_cross_entropy_with_logits compares element by element",
            loss=nn.functional.binary_cross_entropy_with_logits, batch=(X, A[:, 0]))  # fmt: skip
    unmoved(network(), r"MSELoss compares one tensor.*an Answer, and the targets are one tensor",
            loss=nn.MSELoss())  # fmt: skip


ONES = torch.ones(6, dtype=torch.long)


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (nn.CrossEntropyLoss(ignore_index=1), ONES, r"all labels .* are `ignore_index` \(=1\)"),
        (nn.NLLLoss(), 0 * ONES, "NLLLoss takes logarithms of class shares, .* log_softmax"),
        (
            nn.BCEWithLogitsLoss(),
            torch.ones(6, 4).long(),
            r"targets are torch.int64: give targets.float\(\)",
        ),
        (nn.MSELoss(), torch.ones(6, 4).bool(), r"targets are torch.bool: give targets.float\(\)"),
        (nn.BCEWithLogitsLoss(), torch.full((6, 4), 5.0), "are from 5 to 5; they must be shares"),
        (nn.functional.binary_cross_entropy_with_logits, torch.full((6, 4), -0.1), "from -0.1 to"),
        (nn.MSELoss(), torch.full((6, 4), float("nan")), "the targets of MSELoss hold NaN"),
    ],
)
def test_targets_that_mean_nothing_to_a_loss_are_refused(loss: Any, targets: Any, message: str):
    unmoved(network(lambda a, b: a), message, loss=loss, batch=(X, targets))


def test_targets_that_mean_something_are_taken():
    logarithms = network(lambda a, b: a.log_softmax(1))
    assert we.train(logarithms, [(X, 0 * ONES)], PLAIN, loss=nn.NLLLoss())
    net, some = network(lambda a, b: a), torch.tensor([0, 1, 1, 0, 2, 2])
    assert we.train(net, [(X, some)], PLAIN, loss=nn.CrossEntropyLoss(ignore_index=1))
    assert we.train(net, [(X, torch.full((6, 4), 5.0))], PLAIN, loss=nn.MSELoss())
    assert we.train(net, [(X, torch.ones(6, 4))], PLAIN, loss=nn.BCEWithLogitsLoss())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distillation": True}, "that needs a cross-entropy, and `loss_function` is MSELoss"),
        ({"label_smoothing": 0.1}, "`label_smoothing` .* is a setting of the default loss"),
        ({"mixup": 0.2}, "`mixup` .* mixes classes, and `loss` is MSELoss: set it to 0"),
        ({"cutmix": 0.2}, "`cutmix` .* mixes classes"),
    ],
)
def test_settings_that_need_classes_are_refused(settings: dict[str, Any], message: str):
    config = dataclasses.replace(PLAIN, **settings)
    unmoved(network(lambda a, b: a), message, loss=nn.MSELoss(), config=config)


def test_targets_that_cannot_be_split_are_refused_only_if_they_have_to_be():
    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """As detectors take boxes: rows of (image, value), as many as there are."""
        return (outputs[rows[:, 0].long(), 0] - rows[:, 1]).square().mean()

    rows = torch.tensor([[0, 1.0], [0, 2.0], [5, 1.0]])
    net = network(lambda a, b: a)
    assert we.train(net, [(X, rows)], PLAIN, loss=loss)
    config = dataclasses.replace(PLAIN, grad_accum_steps=2)
    unmoved(net, r"`grad_accum_steps` \(=2\).*\(3, 2\) has not the 6 examples",
            loss=loss, batch=(X, rows), config=config)  # fmt: skip
    columns = [A[:2], A[2:4]]
    two = (X[:2], columns)
    unmoved(net, r"may hold one for each example or 2 for all; give a dict instead",
            loss=lambda o, t: (o - t[0]).mean(), batch=two, config=config)  # fmt: skip


def test_a_label_that_the_loss_was_told_to_ignore_is_no_class():
    classes = torch.tensor([0, 3, 255, 1, 255, 2])
    loss = nn.CrossEntropyLoss(ignore_index=255)
    net = network(lambda a, b: a)
    steps: list[StepReport] = []
    expected = nn.functional.cross_entropy(net(X)[classes != 255], classes[classes != 255])
    assert we.train(net, [(X, classes)], PLAIN, loss=loss, on_step=steps.append)
    assert steps[0].losses[0] == pytest.approx(float(expected.detach()), rel=1e-5)
    unmoved(net, r"from 0 to 7\) must be classes from 0 to 3", loss=loss,
            batch=(X, torch.where(classes == 0, 7, classes)))  # fmt: skip
    unmoved(net, r"to ignore 255 name it", batch=(X, classes))


def test_outputs_that_change_their_structure_with_the_mode_are_refused():
    net = network()
    net.__class__ = type("Changes", (type(net),), {})
    full = type(net).forward
    type(net).forward = lambda self, *x: (
        full(self, *x).a if self.mode == self.space.smallest else full(self, *x)
    )
    unmoved(net, r"gives back a, b in mode 1, and one tensor in mode 1/2; one loss is of",
            loss=lambda o, t: o.a.mean())  # fmt: skip
    with pytest.raises(ValueError, match="one tensor in mode 1/2, and a, b once extracted: its"):
        we.extract(net, "1/2")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="one loss is of outputs of one structure in all modes"):
        train_step(net, (X, A), net.space.uniform_modes(), lambda o, t: o.a.mean(), optimizer)


class Weighted(nn.Module):
    """A mean of squares, with a weight that would have to be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return (self.weight * (outputs.a - targets) ** 2).mean()


def test_a_loss_with_parameters_to_learn_is_refused_unless_the_network_has_them():
    net, loss = network(), Weighted()
    message = r"`loss` \(Weighted\) has parameters, as 'weight', .* put them into the network"
    with pytest.raises(ValueError, match=message):
        we.train(net, [(X, A)], PLAIN, loss=loss)
    net.register_parameter("weight_of_loss", loss.weight)
    assert we.train(net, [(X, A)], PLAIN, loss=loss)
    assert float(loss.weight.detach()) != 1.0  # it was trained
    frozen = Weighted()
    frozen.requires_grad_(False)
    assert we.train(network(), [(X, A)], PLAIN, loss=frozen)
