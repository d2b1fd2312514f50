"""Every kernel of ours against loops in numpy, over random shapes, for every instruction set at hand."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.engines import KERNELS_ARE_BUILT, NO_KERNELS
from tests.helpers.native_reference import (
    ACTIVATIONS,
    network_of,
    reference_convolution,
    reference_pool,
)  # fmt: skip
from wenable.runtime.engine import EngineError

if not KERNELS_ARE_BUILT:
    pytest.skip(NO_KERNELS, allow_module_level=True)

import wenable_native

from wenable.runtime.engine_native import Native
from wenable.runtime.native.packing import units_of

VARIANTS = wenable_native.usable_variants()
CASES = int(os.environ.get("WENABLE_NATIVE_CASES", "60"))
"""Random shapes for each test and instruction set."""


@pytest.fixture(params=VARIANTS)
def engine(request: pytest.FixtureRequest) -> Native:
    return Native(2, request.param)


@pytest.fixture(scope="module", params=VARIANTS)
def engines(request: pytest.FixtureRequest) -> list[Native]:
    return [Native(1, request.param), Native(3, request.param)]


def values(draw: st.DrawFn, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.standard_normal(shape).astype(np.float32)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, object]]:
    """An input of two examples, a weight, a bias, and attributes: any that fit together."""
    groups = draw(st.sampled_from([1, 1, 2, 3, 7, 16]))
    inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    if draw(st.booleans()) and groups > 1:  # depthwise
        inputs = outputs = 1
    kernel = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    dilations = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = draw(st.tuples(*[st.integers(0, 4)] * 4))
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    least = [max(extents[i] - pads[i] - pads[i + 2], 1) for i in range(2)]
    sizes = [draw(st.integers(least[i], least[i] + 40)) for i in range(2)]
    x = values(draw, 2, groups * inputs, *sizes)
    weight = values(draw, groups * outputs, inputs, *kernel)
    bias = values(draw, groups * outputs)
    attributes = {
        "group": groups, "kernel_shape": list(kernel), "strides": list(strides),
        "dilations": list(dilations), "pads": list(pads),
    }  # fmt: skip
    return x, weight, bias, attributes


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_convolutions(engines: list[Native], data: st.DataObject):
    x, weight, bias, attributes = data.draw(convolutions())
    expected = reference_convolution(x, weight, bias, attributes)
    nodes = [("Conv", ["x", "w", "b"], "y", attributes)]
    run = network_of(nodes, {"x": x}, {"w": weight, "b": bias}, {"y": expected.shape})
    for engine in engines:
        [found] = run(engine)
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(np.abs(expected).max(), 1))


@given(st.data())
@settings(max_examples=CASES // 4, deadline=None)
def test_groups_of_many_and_of_few_outputs(engines: list[Native], data: st.DataObject):
    """Many outputs are computed over short ranges of positions, few over long ones."""
    groups, inputs = data.draw(st.sampled_from([1, 2, 5])), data.draw(st.integers(30, 70))
    outputs = data.draw(st.sampled_from([1, 4, 60, 64, 65, 71]))
    kernel = data.draw(st.sampled_from([1, 1, 3]))
    sizes = [data.draw(st.integers(3, 60)) for _ in range(2)]
    x = values(data.draw, 1, groups * inputs, *sizes)
    weight = values(data.draw, groups * outputs, inputs, kernel, kernel)
    bias = values(data.draw, groups * outputs)
    attributes = {
        "group": groups, "kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4,
    }  # fmt: skip
    expected = reference_convolution(x, weight, bias, attributes)
    nodes = [("Conv", ["x", "w", "b"], "y", attributes)]
    run = network_of(nodes, {"x": x}, {"w": weight, "b": bias}, {"y": expected.shape})
    for engine in engines:
        [found] = run(engine)
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(np.abs(expected).max(), 1))


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_depthwise_windows_of_three_by_three(engines: list[Native], data: st.DataObject):
    """They have kernels of their own, for planes of some height and below it, by ones and by twos."""
    channels, stride = data.draw(st.integers(1, 6)), data.draw(st.sampled_from([1, 2]))
    pads = data.draw(st.tuples(*[st.integers(0, 2)] * 4))
    sizes = [data.draw(st.integers(3, 60)) for _ in range(2)]
    x = values(data.draw, 2, channels, *sizes)
    weight, bias = values(data.draw, channels, 1, 3, 3), values(data.draw, channels)
    attributes = {
        "group": channels, "kernel_shape": [3, 3], "strides": [stride] * 2, "pads": list(pads),
    }  # fmt: skip
    activation = data.draw(st.sampled_from(["Relu", "HardSwish"]))
    expected = ACTIVATIONS[activation](reference_convolution(x, weight, bias, attributes))
    nodes = [
        ("Conv", ["x", "w", "b"], "made", attributes),
        (activation, ["made"], "y", {"alpha": 1 / 6, "beta": 0.5}),
    ]
    run = network_of(nodes, {"x": x}, {"w": weight, "b": bias}, {"y": expected.shape})
    for engine in engines:
        [found] = run(engine)
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(np.abs(expected).max(), 1))


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_convolutions_with_a_sum_and_an_activation(engines: list[Native], data: st.DataObject):
    x, weight, bias, attributes = data.draw(convolutions())
    activation = data.draw(st.sampled_from(["Relu", "HardSwish", "Sigmoid"]))
    made = reference_convolution(x, weight, bias, attributes)
    other = values(data.draw, *made.shape)
    expected = ACTIVATIONS[activation]((made + other).astype(np.float64))
    nodes = [
        ("Conv", ["x", "w", "b"], "made", attributes),
        ("Add", ["made", "other"], "sum", {}),
        (activation, ["sum"], "y", {"alpha": 1 / 6, "beta": 0.5} if "Hard" in activation else {}),
    ]
    tensors = {"w": weight, "b": bias}
    run = network_of(nodes, {"x": x, "other": other}, tensors, {"y": expected.shape})
    for engine in engines:
        [found] = run(engine)
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(np.abs(expected).max(), 1))


def check_two_convolutions(
    engines: list[Native],
    x: np.ndarray,
    first: tuple[np.ndarray, np.ndarray, dict[str, Any]],
    second: tuple[np.ndarray, dict[str, Any]],
) -> None:
    """Hold a convolution with a bias, a Relu, and a convolution without one against the slow reference."""
    (weight, bias, how), (last, how_last) = first, second
    hidden = ACTIVATIONS["Relu"](reference_convolution(x, weight, bias, how))
    expected = reference_convolution(hidden, last, np.zeros(len(last)), how_last)
    nodes = [
        ("Conv", ["x", "first", "bias"], "made", how),
        ("Relu", ["made"], "hidden", {}),
        ("Conv", ["hidden", "second"], "y", how_last),
    ]
    tensors = {"first": weight, "bias": bias, "second": last}
    run = network_of(nodes, {"x": x}, tensors, {"y": expected.shape})
    for engine in engines:
        [found] = run(engine)
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(np.abs(expected).max(), 1))


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_a_pointwise_layer_before_a_stride(engines: list[Native], data: st.DataObject):
    """It is computed in phases: what stands around its output must be zeros all the same."""
    rows, columns = data.draw(st.integers(2, 30)), data.draw(st.integers(2, 30))
    groups = data.draw(st.sampled_from([1, 2, 4]))
    wide, kernel = 8, data.draw(st.sampled_from([2, 3, 5]))
    x = values(data.draw, 2, 4, rows, columns)
    first = values(data.draw, wide, 4 // groups, 1, 1)
    bias = values(data.draw, wide)
    second = values(data.draw, wide, 1, kernel, kernel)
    narrow = {"group": groups, "kernel_shape": [1, 1]}
    padding = kernel // 2
    strided = {
        "group": wide, "kernel_shape": [kernel] * 2, "strides": [2, 2], "pads": [padding] * 4,
    }  # fmt: skip
    check_two_convolutions(engines, x, (first, bias, narrow), (second, strided))


@pytest.mark.parametrize("sizes", [(1, 16), (16, 1), (2, 16), (16, 3), (2, 1)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 2, 1), (5, 2, 2), (7, 4, 3), (5, 4, 2), (3, 3, 1)],
)
@pytest.mark.parametrize(("wide", "groups"), [(4, 1), (4, 4), (3, 1)])
def test_a_stride_over_fewer_rows_or_columns_than_it_has_phases(
    engines: list[Native], sizes, kernel: int, stride: int, padding: int, wide: int, groups: int
):
    """The phases that have no place are zeros, whether the layer before the stride waits for it or not."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    x, first, bias = drawn(2, 4, *sizes), drawn(wide, 4, 1, 1), drawn(wide)
    second = drawn(wide, wide // groups, kernel, kernel)
    pointwise = {"group": 1, "kernel_shape": [1, 1]}
    strided = {
        "group": groups, "kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4,
    }  # fmt: skip
    check_two_convolutions(engines, x, (first, bias, pointwise), (second, strided))


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_pooling(engines: list[Native], data: st.DataObject):
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    strides = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    # ONNX asks for padding below the window: none stands in the padding alone.
    pads = [data.draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4)]
    sizes = [data.draw(st.integers(kernel[i], kernel[i] + 30)) for i in range(2)]
    x = values(data.draw, 2, 3, *sizes) - 3  # below zero: a maximum with padding's zeros would show
    kind = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    attributes = {"kernel_shape": list(kernel), "strides": list(strides), "pads": pads}
    if kind == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    expected = reference_pool(kind, x, attributes)
    run = network_of([(kind, ["x"], "y", attributes)], {"x": x}, {}, {"y": expected.shape})
    for engine in engines:
        [found] = run(engine)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations(engine: Native, activation: str):
    x = np.concatenate([np.linspace(-20, 20, 4001), [-1e4, -100, -88, 0, 88, 100, 1e4]])
    x = x.astype(np.float32).reshape(1, 1, 1, -1)
    expected = ACTIVATIONS[activation](x.astype(np.float64))
    attributes = {"alpha": 1 / 6, "beta": 0.5} if activation.startswith("Hard") else {}
    run = network_of([(activation, ["x"], "y", attributes)], {"x": x}, {}, {"y": x.shape})
    [found] = run(engine)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_a_mean_a_dense_layer_and_a_gate(engines: list[Native], data: st.DataObject):
    channels, rows, columns = (data.draw(st.integers(1, 40)) for _ in range(3))
    outputs = data.draw(st.integers(1, 40))
    x = values(data.draw, 2, channels, rows, columns)
    gate = values(data.draw, channels, channels, 1, 1) / channels
    project, dense = values(data.draw, 5, channels, 1, 1), values(data.draw, outputs, 5)
    mean = x.mean((2, 3), keepdims=True, dtype=np.float64)
    opened = 1 / (1 + np.exp(-np.einsum("oi,niab->noab", gate[:, :, 0, 0], mean)))
    narrow = np.einsum("oi,nihw->nohw", project[:, :, 0, 0], x * opened)
    expected = narrow.mean((2, 3)) @ dense.T
    nodes = [
        ("GlobalAveragePool", ["x"], "mean", {}),
        ("Conv", ["mean", "gate"], "logits", {"kernel_shape": [1, 1]}),
        ("Sigmoid", ["logits"], "opened", {}),
        ("Mul", ["x", "opened"], "gated", {}),
        ("Conv", ["gated", "project"], "narrow", {"kernel_shape": [1, 1]}),
        ("GlobalAveragePool", ["narrow"], "pooled", {}),
        ("Flatten", ["pooled"], "vector", {}),
        ("Gemm", ["vector", "dense"], "y", {"transB": 1}),
    ]
    tensors = {"gate": gate, "project": project, "dense": dense}
    run = network_of(nodes, {"x": x}, tensors, {"y": expected.shape})
    for engine in engines:
        [found] = run(engine)
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(np.abs(expected).max(), 1))


def test_denormals_are_zero_while_it_runs_and_stay_numbers_for_the_caller(engine: Native):
    tiny = np.float32(1e-42)
    x = np.full((1, 1, 2, 2), tiny, np.float32)
    [found] = network_of([("Relu", ["x"], "y", {})], {"x": x}, {}, {"y": x.shape})(engine)
    assert np.all((found == 0) | (found == tiny))
    assert tiny * np.float32(1) > 0


def test_outputs_of_a_group_are_taken_in_units_that_kernels_make():
    for outputs in range(1, 50):
        units = units_of(outputs)
        assert [first for first, _ in units] == [
            sum(n for _, n in units[:i]) for i in range(len(units))
        ]
        assert sum(count for _, count in units) == outputs
        assert all(1 <= count <= wenable_native.MOST_OUTPUTS for _, count in units)


def test_an_instruction_set_that_is_not_there_is_refused():
    with pytest.raises(EngineError, match=f"'mmx'.*allowed: {VARIANTS[0]}"):
        Native(1, "mmx")
