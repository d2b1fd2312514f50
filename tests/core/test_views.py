"""Views of weights are what torch's slices are, and refuse what leaves a weight."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wenable.core.entries import count_of, entries_of_parts, pieces
from wenable.core.views import Rounding, View
from wenable.layers.quantization import weight_grid
from wenable.runtime.rounding import RoundedWeight

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)
SHARES = st.one_of(st.none(), st.integers(1, 6))


@st.composite
def ranges(draw: st.DrawFn, most: int = 6) -> tuple[tuple[int, int], ...]:
    """Ranges that ascend and do not touch, below `most`."""
    ends = draw(st.sets(st.integers(0, most), min_size=2, max_size=most))
    ordered = sorted(ends)[: len(ends) // 2 * 2]
    return tuple(zip(ordered[::2], ordered[1::2], strict=True))


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


@given(SIZES, st.one_of(SHARES, ranges()), ranges())
def test_ranges_are_the_entries_that_numpy_chooses(shape: list[int], rows, columns):
    whole = np.arange(np.prod(shape)).reshape(shape)
    view = View(rows, columns if len(shape) > 1 else None)
    axes: list[list[int]] = []
    for kept, size in zip((view.rows, view.columns), shape, strict=False):
        parts = [(0, size)] if kept is None else [(0, kept)] if isinstance(kept, int) else kept
        axes.append([n for start, stop in parts for n in range(start, stop)])
    if any(chosen[-1] >= size for chosen, size in zip(axes, shape, strict=False)):
        for refused in (view.cut, view.sized):
            with pytest.raises(
                ValueError, match=r"`(rows|columns)` \(=.*\) leaves a tensor of shape"
            ):
                refused(whole)
        return
    expected = whole
    for axis, chosen in enumerate(axes):
        expected = np.take(expected, chosen, axis)
    np.testing.assert_array_equal(view.cut(whole), expected)
    assert view.sized(whole).shape == expected.shape
    assert np.shares_memory(view.sized(whole), whole)


PARTS = st.one_of(SHARES, ranges())


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5))
def test_the_entries_of_parts_are_the_first_of_each(pairs: list[tuple[int, int]]):
    parts = [(max(pair), min(pair)) for pair in pairs]
    starts = [sum(size for size, _ in parts[:place]) for place in range(len(parts))]
    expected = [
        start + n for start, (_, kept) in zip(starts, parts, strict=True) for n in range(kept)
    ]
    entries = entries_of_parts(parts)
    whole = np.arange(sum(size for size, _ in parts))
    assert np.concatenate(pieces(whole, 0, entries)).tolist() == expected
    assert count_of(entries) == len(expected)
    assert isinstance(entries, int) == (expected == list(range(len(expected))))


@given(st.builds(View, PARTS, PARTS, SHARES, st.one_of(
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
        ({"rows": []}, r"`rows` \(=\[\]\) must be a whole number above 0, or ranges that ascend"),
        ({"rows": [3]}, r"`rows` \(=\[3\]\) must be"),
        ({"rows": [[0, 2, 3]]}, r"`rows` \(=\[\[0, 2, 3\]\]\) must be"),
        ({"rows": [[0, 2], "34"]}, r"`rows` .* must be"),
        ({"rows": [[0, 2.0]]}, r"`rows` .* must be"),
        ({"columns": [[-1, 2]]}, r"`columns` .* must be"),
        ({"columns": [[2, 2]]}, r"`columns` .* must be"),
        ({"columns": [[0, 2], [2, 4]]}, r"`columns` .* do not touch"),
        ({"columns": [[4, 6], [0, 2]]}, r"`columns` .* ascend"),
        ({"groups": [[0, 2]]}, r"`groups` .* must be a whole number above 0"),
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
