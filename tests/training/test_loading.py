"""Loaders as people have them: several inputs, no length, a false one; and what is no loader at all."""

import copy
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import wenable as we
from tests.network.test_targets import CLASSES, X, network
from wenable.modules.batch_parts import inputs_alone, inputs_and_targets
from wenable.training import StepReport, TrainConfig

OTHER = torch.randn(16, 8, generator=torch.Generator().manual_seed(5))
Named = namedtuple("Named", "inputs targets")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 5)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(a - 2 * b))))


def two_inputs() -> we.DynamicNetwork:
    torch.manual_seed(0)
    pair = torch.zeros(1, 8), torch.zeros(1, 8)
    return we.convert(Two(), pair, method=we.WeightEnabling((1, 2)))


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


class Pairs(torch.utils.data.Dataset[Any]):
    """Examples `((a, b), label)`, which a DataLoader makes lists of."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        return (X[index], OTHER[index]), int(CLASSES[index])


def test_several_inputs_come_in_any_of_their_forms():
    tuples = [((X[i : i + 8], OTHER[i : i + 8]), CLASSES[i : i + 8]) for i in (0, 8)]
    forms = {
        "tuples": tuples,
        "lists": [[[a, b], y] for (a, b), y in tuples],
        "flat": [(a, b, y) for (a, b), y in tuples],
        "named": [Named(inputs, y) for inputs, y in tuples],
        "a DataLoader of pairs": DataLoader(Pairs(), 8),
        "a DataLoader of tensors": DataLoader(TensorDataset(X, OTHER, CLASSES), 8),
    }
    ends, accuracies, statistics = {}, {}, {}
    for name, loader in forms.items():
        net = two_inputs()
        assert we.train(net, loader, TrainConfig(passes=2, epochs=2))
        ends[name] = weights(net)
        we.calibrate(net, "1/2", loader)
        kept = net.calibration("1/2")
        assert kept is not None
        assert kept.statistics
        assert kept.images == 16
        statistics[name] = [each.mean for each in kept.statistics.values()]
        accuracies[name] = we.evaluate(net, "1/2", loader)
        front = we.explore(net, list(loader), list(loader), min_accuracy=0.1, strategy="greedy")
        assert front.explored[0].accuracy.count == 16
    for name in forms:
        assert all(torch.equal(t, ends["tuples"][n]) for n, t in ends[name].items()), name
        assert accuracies[name] == accuracies["tuples"]
        assert all(map(torch.equal, statistics[name], statistics["tuples"]))
    net = two_inputs()
    we.calibrate(net, "full", [(X, OTHER)])  # without labels
    found = net.calibration("full")
    assert found is not None
    assert found.images == 16


def test_an_optional_input_may_be_none():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            return self.last(torch.relu(self.first(x if mask is None else x * mask)))

    ends = []
    for batch in (((X, None), CLASSES), ((X, torch.ones(16, 8)), CLASSES)):
        torch.manual_seed(0)
        example = (X[:1], None) if batch[0][1] is None else (X[:1], X[:1])
        net = we.convert(Masked(), example, method=we.WeightEnabling((1, 2)))
        we.train(net, [batch], TrainConfig(epochs=2, grad_accum_steps=2))
        we.calibrate(net, "1/2", [batch])
        assert we.evaluate(net, "1/2", [batch]).count == 16
        ends.append(weights(net))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name])


def test_parts_of_a_batch_of_several_inputs_stay_together():
    def gradients(accumulate: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))

        class Sum(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = model

            def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                return self.body(a - 2 * b)

        net = we.convert(Sum(), (X[:1], X[:1]), method=we.WeightEnabling((1, 2)))
        we.train(net, [[[X, OTHER], CLASSES]], TrainConfig(epochs=1, grad_accum_steps=accumulate))
        return weights(net)

    whole, parts = gradients(1), gradients(3)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"image": X, "label": CLASSES},
            "is a dict with the keys 'image', 'label', and lacks 'input': the network was converted",
        ),
        (X, r"is one tensor of shape \(16, 8\); it must be a pair"),
        ((X,), r"holds 1 part\(s\); it must be a pair"),
        ([], r"holds 0 part\(s\)"),
        (None, "is None; it must be a pair"),
        ("image", "is a str"),
        ((X, CLASSES, CLASSES), r"gives the network 2 input\(s\); its forward takes \(input"),
        (([X, X], CLASSES), r"gives the network 2 input\(s\)"),
        ((X.numpy(), CLASSES), "an input of a batch is a ndarray; inputs must be tensors"),
        (({"a": X}, CLASSES), "is a dict with the keys 'a', and lacks 'input'"),
        (([X, None], CLASSES), r"gives the network 2 input\(s\)"),
        (([X, {"a": X}], CLASSES), "an input of a batch is a dict with the keys 'a'"),
        (((), CLASSES), "holds no inputs"),
        ((None, CLASSES), "an input of a batch is None"),
        ((X, CLASSES.numpy()), "are a ndarray; for classes they must be one tensor"),
        ((X[0], torch.tensor(1)), "pass a DataLoader, not a data set"),
        ((torch.tensor(1.0), CLASSES), "the first dimension must be the batch"),
        ((X[:0], CLASSES[:0]), "a batch is empty"),
    ],
)
def test_batches_of_another_form_are_refused_before_the_first_step(batch: Any, message: str):
    net = network()
    before = weights(net)

    class Unseen:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[Any]:
            yield batch

    for loader in ([batch], Unseen()):
        with pytest.raises(ValueError, match=message) as caught:
            we.train(net, loader, TrainConfig(epochs=1))
        assert "\n" not in str(caught.value)
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    if "empty" not in message:
        with pytest.raises(ValueError, match=message):
            we.evaluate(net, "full", Unseen())


def test_calibration_refuses_what_holds_no_inputs():
    net = network()
    for batch, message in (
        ({"image": X}, "a batch is a dict with the keys 'image', and lacks 'input'"),
        (("x", CLASSES), "an input of a batch is a str"),
        (None, "a batch is None"),
        (([X, X], CLASSES), r"gives the network 2 input\(s\)"),
    ):
        with pytest.raises(ValueError, match=message):
            we.calibrate(net, "1/2", [batch])
        assert not net.is_calibrated("1/2")
    with pytest.raises(ValueError, match=r"gives the network 1 input\(s\); its forward takes \(a"):
        we.calibrate(two_inputs(), "full", [X])


class Masked(Two):
    def forward(self, a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(a, torch.zeros_like(a) if b is None else b)


def test_an_input_that_may_be_left_out_is_what_the_network_was_converted_with():
    torch.manual_seed(0)
    method = we.WeightEnabling((1, 2))
    alone = we.convert(Masked(), torch.zeros(1, 8), method=method)
    for use in (we.evaluate, we.calibrate):
        with pytest.raises(ValueError, match=r"2 input\(s\); .* and it was converted with 1"):
            use(alone, "1", [(X, OTHER, CLASSES)])
    both = we.convert(Masked(), (torch.zeros(1, 8), torch.zeros(1, 8)), method=method)
    assert [len(inputs_alone(batch, both)) for batch in ((X, OTHER), ((X, OTHER), CLASSES))] == [
        2,
        2,
    ]
    with pytest.raises(ValueError, match=r"1 input\(s\)"):
        inputs_and_targets((X, CLASSES), both)
    optional = we.convert(Masked(), (torch.zeros(1, 8), None), method=method)
    assert [
        len(inputs_and_targets(b, optional)[0]) for b in ((X, CLASSES), ((X, None), CLASSES))
    ] == [1, 2]
    with pytest.raises(ValueError, match=r"input 2 of a batch is one tensor .* plain value there"):
        inputs_and_targets((X, OTHER, CLASSES), optional)


def test_parts_are_told_by_what_the_network_takes():
    net = two_inputs()
    assert len(inputs_and_targets((X, OTHER, CLASSES), net)[0]) == 2
    assert [len(inputs_alone(each, net)) for each in ((X, OTHER), (X, OTHER, CLASSES))] == [2, 2]
    assert len(inputs_alone((X, CLASSES), network())) == 1


class Stream(IterableDataset[Any]):
    """Examples of unknown number."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, CLASSES, strict=True))


def test_a_loader_without_a_length_is_counted():
    with pytest.raises(TypeError):
        len(DataLoader(Stream(), 8))
    reports: list[StepReport] = []
    config = TrainConfig(passes=2, epochs=3)
    net, twin = network(), network()
    state = torch.get_rng_state()
    assert we.train(net, DataLoader(Stream(), 8), config, on_step=reports.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert [(r.step, r.steps, r.epoch) for r in reports] == [(i + 1, 6, i // 2) for i in range(6)]
    we.train(twin, [(X[:8], CLASSES[:8]), (X[8:], CLASSES[8:])], config)
    assert all(torch.equal(t, twin.state_dict()[n]) for n, t in net.state_dict().items())
    net = network(method=we.Slimmable((1.0, 0.5), divisor=2))
    we.train_incrementally(net, DataLoader(Stream(), 8), TrainConfig(epochs=1))


def test_a_last_batch_of_one_example_is_told_to_be_too_small():
    for loader, settings, message in (
        (DataLoader(TensorDataset(X, CLASSES), 5), {}, r"a batch of 1 example\(s\) leaves"),
        (
            [(X[:2], CLASSES[:2])],
            {"grad_accum_steps": 2},
            r"of 1 example\(s\), a part of a batch by `grad_acc",
        ),
    ):
        with pytest.raises(ValueError, match=message + ".*`drop_last=True`"):
            we.train(network(), loader, TrainConfig(epochs=1, **settings))


def test_a_loader_that_may_never_end_is_told_to_need_a_length(monkeypatch):
    monkeypatch.setattr("wenable.training.loading.PATIENCE_S", -1.0)
    with pytest.warns(
        UserWarning, match=r"counted before the first step: 1 so far.*needs a length"
    ):
        assert we.train(network(), DataLoader(Stream(), 8), TrainConfig(epochs=1))


class Saying:
    """A loader that says one length and gives another."""

    def __init__(self, length: int, given: list[int]) -> None:
        self.length, self.given = length, iter(given)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        for _ in range(next(self.given)):
            yield X, CLASSES


def test_a_length_that_is_false_is_said_for_what_it_is():
    reports: list[StepReport] = []
    config = TrainConfig(passes=2, epochs=3)
    message = r"gave 2 batches in epoch 2 where it said, or gave before, 3; the schedule"
    with pytest.raises(ValueError, match=message):
        we.train(network(), Saying(3, [3, 2]), config, on_step=reports.append)
    assert len(reports) == 5
    reports.clear()
    with pytest.warns(UserWarning, match="gives more than the 3 batches that it said"):
        assert we.train(network(), Saying(3, [5, 3, 9]), config, on_step=reports.append)
    assert [r.epoch for r in reports] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_what_is_no_loader_is_refused():
    net = network()
    before = copy.deepcopy(net.state_dict())
    for loader, message in (
        (
            ((X, CLASSES) for _ in range(3)),
            r"\(a generator\) is an iterator, which can be gone through",
        ),
        (zip([X], [CLASSES], strict=True), r"\(a zip\) is an iterator"),
        ([], "is empty"),
        (DataLoader(TensorDataset(X, CLASSES), 32, drop_last=True), "is empty"),
        (DataLoader(Empty(), 4), "is empty"),
        (5, r"\(a int\) cannot be iterated"),
        (None, r"\(a NoneType\) cannot be iterated"),
        (TensorDataset(X, CLASSES), "pass a DataLoader, not a data set"),
        ({"x": X, "y": CLASSES}, "a batch of `loader` is a str"),
    ):
        with pytest.raises(ValueError, match=message):
            we.train(net, loader, TrainConfig(epochs=1))  # type: ignore[arg-type]
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


class Empty(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())
