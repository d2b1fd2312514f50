"""Views of weights are what torch's slices are, and refuse what leaves a weight."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wenable.core.views import Rounding, View
from wenable.layers.quantization import weight_grid
from wenable.runtime.rounding import RoundedWeight

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)
SHARES = st.one_of(st.none(), st.integers(1, 6))


@given(SIZES, SHARES, SHARES)
def test_a_view_is_a_slice_of_torch_or_is_refused(shape: list[int], rows: int, columns: int):
    whole = torch.arange(float(np.prod(shape))).view(shape)
    view = View(rows, columns)
    too_many = (rows or 0) > shape[0] or (columns or 0) > ([*shape, 0, 0][1])
    if too_many:
        with pytest.raises(ValueError, match=r"`(rows|columns)` \(=\d\) leaves a tensor of shape"):
            view.cut(whole.numpy())
        return
    expected = whole[: rows or shape[0]]
    if columns:
        expected = expected[:, :columns]
    found = view.cut(whole.numpy())
    np.testing.assert_array_equal(found, expected.numpy())
    assert np.shares_memory(found, whole.numpy())


@given(st.builds(View, SHARES, SHARES, SHARES, st.one_of(
    st.none(), st.builds(Rounding, st.integers(8, 16), st.floats(1e-30, 1e30), st.integers(0, 255)),
)))  # fmt: skip
def test_views_survive_json(view: View):
    assert View.from_json(json.loads(json.dumps(view.to_json()))) == view


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": 0}, r"`rows` \(=0\) must be a whole number above 0"),
        ({"columns": -1}, r"`columns` \(=-1\) must be"),
        ({"groups": True}, r"`groups` \(=True\) must be"),
        ({"rows": 1.5}, r"`rows` \(=1.5\) must be"),
        ({"rows": "2"}, r"`rows` \(='2'\) must be"),
        ({"slices": 2}, "a view has no 'slices'"),
        ({"bits": 8, "scale": 1.0}, "zero"),
        (
            {"bits": 1, "scale": 1.0, "zero": 0},
            r"`bits` \(=1\) must be a whole number from 2 to 16",
        ),
        ({"bits": 32, "scale": 1.0, "zero": 0}, r"`bits` \(=32\)"),
        ({"bits": 8, "scale": 0.0, "zero": 0}, r"`scale` \(=0.0\) must be a number from 1e-30"),
        ({"bits": 8, "scale": float("inf"), "zero": 0}, r"`scale` \(=inf\)"),
        ({"bits": 8, "scale": 1, "zero": 0}, r"`scale` \(=1\)"),
        ({"bits": 8, "scale": 1.0, "zero": 256}, r"`zero` \(=256\) must be from 0 to 255"),
    ],
)
def test_views_that_cannot_be_are_refused(values: dict, message: str):
    with pytest.raises((ValueError, KeyError), match=message):
        View.from_json(values)


@given(st.sampled_from([2, 4, 8, 16]), st.integers(0, 2**31))
def test_weights_are_rounded_as_torch_rounds_them(bits: int, seed: int):
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    weight[1] = 0
    grid = weight_grid(weight, bits)
    found = RoundedWeight.of(weight.numpy(), bits)
    np.testing.assert_array_equal(found.integers, grid.integers(weight).numpy())
    np.testing.assert_array_equal(found.scale, grid.scale.flatten().numpy())
    np.testing.assert_array_equal(found.values(), grid.nearest(weight).numpy())


@given(st.integers(0, 2**31))
def test_a_factor_of_an_output_leaves_its_integers_but_for_the_sign(seed: int):
    rng = np.random.default_rng(seed)
    rounded = RoundedWeight.of(rng.standard_normal((3, 5)).astype(np.float32), 8)
    factor = np.array([2.5, -0.5, 0.0], np.float32)
    found = rounded.times(factor)
    np.testing.assert_array_equal(np.abs(found.integers[:2]), np.abs(rounded.integers[:2]))
    np.testing.assert_allclose(found.values(), rounded.values() * factor[:, None], rtol=1e-6)
    assert (found.scale > 0).all()
