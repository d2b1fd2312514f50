"""Accuracy with its interval, and a loud word where a mode was never calibrated."""

import math

import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import converted
from wenable.network.evaluation import count_right, wilson_interval


def test_accuracy_is_counted_over_all_batches():
    net = converted()
    images = torch.randn(20, 3, 6, 6)
    with torch.no_grad():
        answers = net(images).argmax(1)
    labels = answers.clone()
    labels[:7] = (labels[:7] + 1) % 5
    loader = [(images[:8], labels[:8]), (images[8:], labels[8:])]
    reading = we.evaluate(net, "full", loader, split="a split")
    assert reading.value == 13 / 20
    assert reading.count == 20
    assert reading.source == "evaluated on a split"
    assert (reading.low, reading.high) == wilson_interval(13, 20)


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (7, 20), (450, 500)])
def test_the_interval_is_wilsons(right: int, total: int):
    # Wilson (1927): the roots of (p - p0)^2 = z^2 p0 (1 - p0) / n
    z = 1.959963984540054
    p, low_high = right / total, wilson_interval(right, total)
    for end in low_high:
        assert math.isclose((p - end) ** 2, z**2 * end * (1 - end) / total, abs_tol=1e-9)
    assert low_high[0] <= p <= low_high[1]


def test_an_uncalibrated_mode_is_evaluated_loudly():
    net = converted()
    loader = [(torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.long))]
    with pytest.warns(we.UncalibratedWarning, match="mode 1/4 is evaluated with norm statistics"):
        reading = we.evaluate(net, "1/4", loader)
    assert reading.note == "norm statistics not calibrated for this mode"
    we.calibrate(net, "1/4", loader)
    assert we.evaluate(net, "1/4", loader).note == ""
    with pytest.warns(we.UncalibratedWarning, match="mode 1/2 is extracted"):
        we.extract(net, "1/2")


def test_the_network_is_left_as_it_was():
    net = converted().train()
    net.set_mode("1/2")
    loader = [(torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.long))]
    we.evaluate(net, "full", loader)
    assert net.training
    assert str(net.mode) == "1/2"
    assert net.is_calibrated("full")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, dtype=torch.long), "`labels` .* must be as many as the inputs"),
        (torch.full((4,), 5), "must be classes from 0 to 4"),
        (torch.full((4,), -1), "must be classes from 0 to 4"),
        (
            torch.full((4,), 255),
            r"from 255 to 255\).*to ignore 255 name it",
        ),
        (torch.full((4,), -100), "-100 is what PyTorch ignores unasked"),
        (torch.full((4,), 255, dtype=torch.uint8), "must be classes from 0 to 4"),
        (torch.zeros(4), r"\(float32 of shape \(4,\)\) must hold one class, a whole number"),
        (torch.full((4,), torch.nan), "must hold one class, a whole number"),
        (torch.zeros(4, dtype=torch.bool), r"\(bool of shape \(4,\)\) must hold one class"),
        (torch.zeros(4, 1, dtype=torch.long), "must hold one class"),
        (torch.eye(5)[:4], "must hold one class, a whole number"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        we.evaluate(converted(), "full", [(torch.randn(4, 3, 6, 6), labels)])


def test_a_network_with_one_output_has_no_accuracy():
    net = we.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), torch.ones(1, 4))
    batch = torch.ones(4, 4), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="over one class every accuracy is 1"):
        we.evaluate(net, "full", [batch])
    with pytest.raises(ValueError, match="over one class every accuracy is 1"):
        we.explore(net, [batch], [batch], min_accuracy=0.5)


@pytest.mark.parametrize("strategy", ["knapsack", "greedy", "nsga2"])
def test_a_search_refuses_what_evaluating_refuses(strategy: str):
    images = torch.randn(4, 3, 6, 6)
    for labels, message in (
        (torch.zeros(4), "must hold one class, a whole number"),
        (torch.full((4,), 255), "must be classes from 0 to 4"),
        (torch.eye(5)[:4], "must hold one class"),
    ):
        with pytest.raises(ValueError, match=message):
            we.explore(
                converted(), [(images, labels)], [images], min_accuracy=0.5, strategy=strategy
            )


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_type_are_counted_alike(kind: torch.dtype):
    net, images = converted(), torch.randn(20, 3, 6, 6)
    labels = torch.arange(20) % 5
    expected = we.evaluate(net, "full", [(images, labels)])
    assert we.evaluate(net, "full", [(images, labels.to(kind))]) == expected


def test_outputs_that_are_no_tensor_are_refused():
    class Dictionary(nn.Module):
        def forward(self, x):
            return {"logits": x}

    with pytest.raises(ValueError, match=r"outputs \(a dict with the keys 'logits'\) must be one"):
        count_right(Dictionary(), [(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))])


def test_nothing_to_count_and_nan_are_refused():
    with pytest.raises(ValueError, match="`loader` is empty"):
        we.evaluate(converted(), "full", [])

    class Broken(nn.Module):
        def forward(self, x):
            return x * float("nan")

    with pytest.raises(ValueError, match="outputs of the network hold NaN"):
        count_right(Broken(), [(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))])
