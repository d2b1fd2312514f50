"""Targets that fit no cross-entropy are refused before anything moves; those that fit are trained."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import converted
from wenable.modules.targets import check_targets
from wenable.training import TrainConfig, train_step

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(16) % 5


def network(outputs: int = 5, method: Any = None) -> we.DynamicNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, outputs))
    return we.convert(model, torch.ones(1, 8), method=method or we.WeightEnabling((1, 2, 4)))


class Maps(nn.Module):
    """Class scores for each pixel, as a network for segmentation gives them."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, classes, 1)
        self.middle = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


def maps(classes: int = 5) -> we.DynamicNetwork:
    torch.manual_seed(0)
    return we.convert(Maps(classes), torch.ones(1, 3, 6, 6), method=we.WeightEnabling((1, 2)))


class Unseen:
    """A loader of one batch that cannot be looked through beforehand."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        yield self.batch


def everywhere(net: we.DynamicNetwork, batch: Any, message: str) -> None:
    """All that trains refuses a batch, and leaves the network to the bit as it was."""
    before = copy.deepcopy(net.eval().state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    loss = nn.CrossEntropyLoss()
    tries: list[Callable[[], object]] = [
        lambda: we.train(net, [batch], TrainConfig(epochs=1)),
        lambda: we.train(net, Unseen(batch), TrainConfig(epochs=1, implementations="timed")),
        lambda: train_step(net, batch, net.space.uniform_modes(), loss, optimizer),
    ]
    for each in tries:
        with pytest.raises(ValueError, match=message) as caught:
            each()
        assert "\n" not in str(caught.value)
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, before[name]), name


REFUSED = {
    "a regression of five numbers": (torch.randn(16, 5), "are read as shares of classes"),
    "one number each": (torch.randn(16, 1), r"\(float32 of shape \(16, 1\)\) must be classes, whole"),
    "whole numbers as floats": (CLASSES.float(), r"\(float32 of shape \(16,\)\) must be classes"),
    "several classes at once": (
        (torch.arange(80).view(16, 5) % 3 == 0).float(), r"multi-label\) take loss="
    ),
    "no class at all": (torch.zeros(16, 5), "sum up to 0 for an example"),
    "shares of 0.9": (torch.full((16, 5), 0.18), "sum up to 0.9"),
    "shares below 0": (torch.tensor([[1.5, -0.5, 0, 0, 0]] * 16), "from 0 to 1"),
    "half of the shares NaN": (torch.full((16, 5), torch.nan), "NaN or infinity"),
    "infinity": (torch.full((16, 5), torch.inf), "NaN or infinity"),
    "NaN": (torch.full((16,), torch.nan), r"\(float32 of shape \(16,\)\)"),
    "too many classes": (CLASSES + 1, r"\(from 1 to 5\) must be classes from 0 to 4"),
    "255": (torch.where(CLASSES == 1, 255, CLASSES), r"255 .*loss=.*ignore_index=255\)"),
    "-100": (torch.where(CLASSES == 1, -100, CLASSES), "-100 is what PyTorch ignores"),
    "negative": (CLASSES - 1, r"\(from -1 to 3\) must be classes"),
    "bytes": (torch.full((16,), 200, dtype=torch.uint8), r"\(from 200 to 200\)"),
    "truth": (CLASSES > 2, r"bool of shape \(16,\).*`labels.long\(\)`"),
    "many truths": (torch.ones(16, 5, dtype=torch.bool), "bool of shape"),
    "a column": (CLASSES[:, None], r"\(int64 of shape \(16, 1\)\) must be classes"),
    "one-hot as whole numbers": (
        nn.functional.one_hot(CLASSES, 5), r"\(int64 of shape \(16, 5\)\) must be classes"
    ),
    "shares of six": (torch.eye(6)[CLASSES], r"or shares of classes, of shape \(16, 5\)"),
    "images": (torch.rand(16, 3, 6, 6), "must be classes, whole numbers of shape"),
    "complex": (torch.ones(16, 5, dtype=torch.complex64), "complex64"),
    "fewer": (CLASSES[:9], "must be as many as the inputs"),
    "one": (torch.tensor(3), "the first dimension of both must be the batch"),
    "a list": (CLASSES.tolist(), "are a list of 16; for classes they must be one tensor"),
    "nothing": (None, "are None; for classes they must be one tensor"),
    "boxes": ({"boxes": torch.ones(16, 4)}, "are a dict with the keys 'boxes'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_classification_is_refused_before_the_first_step(name: str):
    targets, message = REFUSED[name]
    everywhere(network(), (X, targets), message)


@pytest.mark.parametrize("name", ["several classes at once", "255", "one number each", "truth"])
def test_incremental_training_refuses_the_same(name: str):
    targets, message = REFUSED[name]
    net = network(method=we.Slimmable((1.0, 0.5), divisor=2))
    before = copy.deepcopy(net.state_dict())
    for loader in ([(X, targets)], Unseen((X, targets))):
        with pytest.raises(ValueError, match=message):
            we.train_incrementally(net, loader, TrainConfig(epochs=1))
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_a_network_with_one_output_learns_nothing_by_a_cross_entropy():
    for targets in (torch.randn(16, 1), torch.zeros(16, dtype=torch.long), torch.ones(16, 1)):
        everywhere(network(1), (X, targets), "one output.*every cross-entropy 0")


def test_a_bad_label_in_the_last_batch_of_what_is_in_memory_is_found_before_the_first_step():
    late = CLASSES.clone()
    late[-1] = 7
    halves = [(X[:8], late[:8]), (X[8:], late[8:])]
    data = torch.utils.data.TensorDataset(X, late)
    net, steps = network(), []
    for loader in (halves, torch.utils.data.DataLoader(data, 4), we_batches(data)):
        with pytest.raises(ValueError, match=r"from 0 to 7\) must be classes from 0 to 4"):
            we.train(net, loader, TrainConfig(epochs=1), on_step=steps.append)
    assert not steps


def we_batches(data: torch.utils.data.TensorDataset) -> Any:
    from wenable.data import TensorBatches

    return TensorBatches(data, 4)


def test_what_a_sampler_leaves_out_may_have_any_label():
    labels = torch.where(CLASSES == 1, 255, CLASSES)
    kept = torch.utils.data.SubsetRandomSampler((CLASSES != 1).nonzero().flatten().tolist())
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(X, labels), 13, sampler=kept
    )
    assert we.train(network(), loader, TrainConfig(epochs=1))


PIXELS = torch.arange(4 * 36).view(4, 6, 6) % 5
IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.rand(4, 5, 6, 6), "sum up to"),
        (torch.randn(4, 5, 6, 6), "are read as shares of classes"),
        (torch.rand(4, 3, 6, 6), "must be classes, whole numbers of shape"),
        (torch.where(PIXELS == 0, 255, PIXELS), "must be classes from 0 to 4"),
        (PIXELS[:, :3], r"must be classes, whole numbers of shape \(4, 6, 6\)"),
        (PIXELS.float(), "must be classes, whole numbers of shape"),
        (PIXELS[:, None], "must be classes, whole numbers of shape"),
        (torch.arange(4), r"whole numbers of shape \(4, 6, 6\)"),
    ],
)
def test_maps_are_refused_by_the_same_rule(targets: torch.Tensor, message: str):
    everywhere(maps(), (IMAGES, targets), message)


def one_step(net: we.DynamicNetwork, batch: Any, **settings: Any) -> tuple[float, ...]:
    config = TrainConfig(passes=2, epochs=1, **settings)
    found: list[Any] = []
    we.train(net, [batch], config, on_step=found.append)
    return found[0].losses


def by_hand(net: we.DynamicNetwork, x: torch.Tensor, shares: torch.Tensor) -> float:
    """The cross-entropy of the full mode as its definition says, from shares over dimension 1."""
    twin = copy.deepcopy(net).train()
    scores = twin(x).detach().double()
    logarithms = scores - scores.exp().sum(1, keepdim=True).log()
    return float(-(shares.double() * logarithms).sum(1).mean())


@pytest.mark.parametrize(
    "kind", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.float16,
             torch.bfloat16, torch.float32, torch.float64]
)  # fmt: skip
def test_classes_and_shares_of_any_type_have_the_loss_of_the_definition(kind: torch.dtype):
    shares = torch.eye(5)[CLASSES] * 0.75 + 0.05
    net = network()
    if kind.is_floating_point:
        expected, targets = by_hand(net, X, shares.to(kind)), shares.to(kind)
    else:
        expected, targets = by_hand(net, X, torch.eye(5)[CLASSES]), CLASSES.to(kind)
    assert one_step(net, (X, targets))[0] == pytest.approx(expected, rel=1e-5)


def test_maps_have_the_loss_of_the_definition():
    shares = torch.eye(5)[PIXELS].permute(0, 3, 1, 2)
    for targets in (PIXELS, PIXELS.to(torch.uint8), shares):
        net = maps()
        expected = by_hand(net, IMAGES, shares)
        assert one_step(net, (IMAGES, targets))[0] == pytest.approx(expected, rel=1e-5)


def test_networks_in_other_types_take_shares():
    for kind in (torch.float64, torch.bfloat16):
        net = network().to(kind)
        losses = one_step(net, (X.to(kind), torch.eye(5)[CLASSES]))
        assert losses[0] == pytest.approx(by_hand(net, X.to(kind), torch.eye(5)[CLASSES]), rel=0.05)


def test_ones_own_loss_says_what_its_targets_are():
    net = network(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    modes = net.space.uniform_modes()
    losses = train_step(net, (X, torch.zeros(16, 1)), modes, nn.MSELoss(), optimizer)
    assert all(loss > 0 for loss in losses)
    kept = nn.CrossEntropyLoss(ignore_index=255)  # said so, and so meant
    targets = torch.where(CLASSES == 1, 255, CLASSES)
    net = network()
    expected = nn.functional.cross_entropy(
        copy.deepcopy(net).train()(X)[CLASSES != 1], CLASSES[CLASSES != 1]
    )
    found = train_step(net, (X, targets), [net.space.full], kept, torch.optim.SGD(net.parameters()))
    assert found[0] == pytest.approx(float(expected.detach()), rel=1e-5)
    with pytest.raises(ValueError, match="must return one number for a batch"):
        train_step(net, (X, CLASSES), modes, nn.CrossEntropyLoss(reduction="none"), optimizer)
    config = TrainConfig(grad_accum_steps=2)
    with pytest.raises(ValueError, match=r"the reduction of .* must be 'mean'"):
        train_step(net, (X, CLASSES), modes, nn.MSELoss(reduction="sum"), optimizer, config)


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor


OUTPUTS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "dict": (lambda y: {"out": y, "aux": y}, "a dict with the keys 'out', 'aux'"),
    "dataclass": (lambda y: Answer(y, y), "an Answer with the fields logits, hidden"),
    "tuple": (lambda y: (y, y), "a tuple of 2"),
    "list": (lambda y: [y], "a list of 1"),
    "nothing": (lambda y: None, r"\(None\)"),
    "one number": (lambda y: y.mean(1), "must be class scores of shape"),
    "classes": (lambda y: y.argmax(1), "must be class scores of shape"),
    "whole numbers": (lambda y: y.long(), "must be class scores of shape"),
}


class Wrapped(nn.Module):
    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
        self.answer: Callable[[torch.Tensor], Any] | None = None
        self.wanted = answer

    def forward(self, x: torch.Tensor) -> Any:
        y = self.body(x)
        return y if self.answer is None else self.answer(y)


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_are_no_class_scores_are_refused_at_once(name: str):
    answer, message = OUTPUTS[name]
    model = Wrapped(answer)
    net = we.convert(model, torch.ones(1, 8), method=we.WeightEnabling((1, 2)))
    setattr(net, "answer", answer)  # noqa: B010
    everywhere(net, (X, CLASSES), message)
    with pytest.raises(ValueError, match=message):
        we.evaluate(net, "full", [(X, CLASSES)])


def test_outputs_that_differ_while_training_are_refused_and_leave_the_norms_alone():
    """As torchvision's Inception, which gives an auxiliary output in training only."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5)
            )

        def forward(self, x: torch.Tensor) -> Any:
            y = self.body(x)
            return (y, y) if self.training else y

    net = we.convert(Auxiliary().eval(), torch.ones(1, 8), method=we.WeightEnabling((1, 2)))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="a tuple of 2"):
        we.train(net, [(X, CLASSES)], TrainConfig(epochs=1))
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_wrapped_and_plain_networks_are_told_apart():
    net = converted()
    batch = torch.randn(4, 3, 6, 6), torch.arange(4)
    for use in (
        lambda each: we.train(each, [batch]),
        lambda each: we.train_incrementally(each, [batch]),
        lambda each: we.evaluate(each, "full", [batch]),
        lambda each: we.calibrate(each, "full", [batch]),
        lambda each: we.explore(each, [batch], [batch], min_accuracy=0.1),
        lambda each: train_step(each, batch, [net.space.full], nn.CrossEntropyLoss(), None),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"a DataParallel around a dynamic.*`net.module`"):
            use(nn.DataParallel(net))
        with pytest.raises(ValueError, match=r"`net._orig_mod`"):
            use(torch.compile(net))
        with pytest.raises(ValueError, match=r"a Linear\) is no dynamic network; wenable.convert"):
            use(nn.Linear(2, 2))


def test_shares_may_round():
    shares = torch.softmax(torch.randn(64, 1000), 1)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        check_targets(shares.to(kind), (64, 1000))
