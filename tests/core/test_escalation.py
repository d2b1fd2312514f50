"""Escalation: each input goes on until a stage is sure of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wenable.core.escalation import by_entropy, by_margin, entropy, margin


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def slow_margin(row: list[float]) -> float:
    first, second = sorted(softmax(row), reverse=True)[:2]
    return first - second


def slow_entropy(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in softmax(row) if p > 0)


def one_by_one(stages, inputs, is_sure, costs):
    """The policies, input by input."""
    outputs, answered_by, total = [], [], 0.0
    for x in inputs:
        for number, stage in enumerate(stages):
            y = stage(x[None])[0]
            total += costs[number]
            if number == len(stages) - 1 or is_sure(y.tolist(), number):
                break
        outputs.append(y)
        answered_by.append(number)
    return np.array(outputs), answered_by, total / len(inputs)


@st.composite
def cascades(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inputs = rng.normal(size=(draw(st.integers(1, 12)), 4))
    count, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    weights = [3 * rng.normal(size=(4, classes)) for _ in range(count)]
    stages = [lambda x, w=w: x @ w for w in weights]
    shares = [draw(st.floats(0, 1)) for _ in range(count - 1)]
    costs = [draw(st.floats(0, 10)) for _ in range(count)]
    return stages, inputs, shares, costs, classes


@given(cascades())
def test_by_margin_is_the_policy_input_by_input(cascade):
    stages, inputs, limits, costs, _ = cascade
    found = by_margin(stages, inputs, limits, costs)
    outputs, answered_by, cost = one_by_one(
        stages, inputs, lambda y, stage: slow_margin(y) >= limits[stage], costs
    )
    assert found.stages.tolist() == answered_by
    np.testing.assert_allclose(found.outputs, outputs)
    assert found.cost == pytest.approx(cost)
    assert found.escalated.tolist() == [stage > 0 for stage in answered_by]


@given(cascades())
def test_by_entropy_is_the_policy_input_by_input(cascade):
    stages, inputs, shares, costs, classes = cascade
    limits = [share * math.log(classes) for share in shares]
    found = by_entropy(stages, inputs, limits, costs)
    outputs, answered_by, cost = one_by_one(
        stages, inputs, lambda y, stage: slow_entropy(y) < limits[stage], costs
    )
    assert found.stages.tolist() == answered_by
    np.testing.assert_allclose(found.outputs, outputs)
    assert found.cost == pytest.approx(cost)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1000))
def test_scores_are_those_of_loops_and_stay_in_range(seed: int, scale: float):
    outputs = scale * np.random.default_rng(seed).normal(size=(6, 5))
    np.testing.assert_allclose(margin(outputs), [slow_margin(y) for y in outputs], atol=1e-12)
    np.testing.assert_allclose(entropy(outputs), [slow_entropy(y) for y in outputs], atol=1e-12)
    assert ((margin(outputs) >= 0) & (margin(outputs) <= 1)).all()
    assert (entropy(outputs) <= math.log(5) + 1e-12).all()


def test_the_ends_of_the_thresholds():
    inputs = np.random.default_rng(0).normal(size=(5, 3))
    stages = [lambda x: x, lambda x: 2 * x]
    assert not by_margin(stages, inputs, 0.0).escalated.any()
    assert by_margin(stages, inputs, 1.0).escalated.all()
    assert by_entropy(stages, inputs, 0.0).escalated.all()
    assert not by_entropy(stages, inputs, math.inf).escalated.any()
    assert by_margin(stages, inputs, np.array(1.0)).escalated.all()  # one number, as a quantile is


def test_later_stages_see_only_what_was_left_and_none_is_called_for_nothing():
    seen = []

    def counting(x):
        seen.append(len(x))
        return x

    sure_of_the_first = np.array([[50.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    by_margin([counting, counting], sure_of_the_first, 0.5)
    assert seen == [3, 2]
    seen.clear()
    by_margin([counting, counting], sure_of_the_first[:1], 0.5)
    assert seen == [1]


def test_torch_networks_are_stages():
    low, high = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    x = torch.randn(6, 4)
    with torch.no_grad():
        found = by_margin([low, high], x, 1.0, costs=(1, 10))
        assert found.cost == 11
        np.testing.assert_allclose(found.outputs, high(x).numpy(), rtol=1e-6)


def test_an_empty_batch_costs_nothing():
    found = by_margin([lambda x: x, lambda x: x], np.zeros((0, 3)), 0.5)
    assert (found.outputs.shape, found.cost) == ((0, 3), 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: by_margin([], np.eye(2), 0.5), "`stages` is empty"),
        (lambda: by_margin([np.copy] * 3, np.eye(2), [0.5]), "holds 1 values; 3 stages need 2"),
        (lambda: by_margin([np.copy] * 2, np.eye(2), 1.5), r"`threshold` \(=1.5\) must be from 0"),
        (lambda: by_entropy([np.copy] * 2, np.eye(2), -1.0), "must be 0 or more"),
        (lambda: by_entropy([np.copy] * 2, np.eye(2), math.nan), "must be 0 or more"),
        (lambda: by_margin([np.copy] * 2, np.eye(2), 0.5, (1,)), "`costs` holds 1 values for 2"),
        (lambda: by_margin([np.copy] * 2, np.eye(2), 0.5, (1, -1)), "must be finite and 0 or more"),
        (lambda: by_margin([lambda x: x[0]] * 2, np.eye(2), 0.5), "stage 0 answered with shape"),
        (lambda: margin(np.ones(3)), r"`outputs` \(of shape \(3,\)\) must be \(N, classes\)"),
        (lambda: margin(np.ones((3, 1))), "at least two classes"),
        (lambda: entropy([[0.0, math.nan]]), "hold NaN or infinity"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
