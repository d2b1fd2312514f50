"""Images made smaller: beside torch, beside a slow loop, and beside figures that are written down."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from wenable.core.resampling import resampled, resampling_weights

VECTORS = json.loads((Path(__file__).parents[1] / "helpers/resampling.json").read_text())

sides = st.integers(1, 96)


def slow_weights(before: int, after: int) -> np.ndarray:
    """Each new pixel by itself, as the rule is written in words."""
    ratio, found = before / after, np.zeros((after, before))
    for new in range(after):
        middle = (new + 0.5) * ratio
        for old in range(before):
            found[new, old] = max(0.0, 1.0 - abs(old + 0.5 - middle) / ratio)
        found[new] /= sum(found[new])
    return found


@given(sides, sides)
def test_the_weights_are_those_of_the_rule(one: int, other: int):
    before, after = max(one, other), min(one, other)
    weights = resampling_weights(before, after)
    assert weights.shape == (after, before)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, slow_weights(before, after), rtol=0, atol=1e-7)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.integers(0, 10**6))
def test_images_are_those_of_torch(heights, widths, seed: int):
    """In float32 torch's own weights are off by some 1e-5: in float64 ours are beside them."""
    x = np.random.default_rng(seed).random((2, 3, max(heights), max(widths)), np.float32)
    size = min(heights), min(widths)
    # Of images that are one pixel wide torch repeats the first row: 3x1 to 2x1 gives the same value twice.
    assume(min(size) > 1)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(x).to(dtype),
            size,
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        np.testing.assert_allclose(resampled(x, *size), expected.numpy(), rtol=0, atol=tolerance)


@given(sides)
def test_the_same_size_is_the_same_image(side: int):
    assert np.array_equal(resampling_weights(side, side), np.eye(side))


@given(sides, sides, sides, st.sampled_from(["float32", "float64"]), st.integers(0, 2))
def test_images_are_the_product_with_the_whole_matrices(
    height: int, width: int, small: int, dtype: str, lead: int
):
    shape = (*(2, 3)[:lead], height, width)
    x = np.random.default_rng(height).standard_normal(shape).astype(dtype)
    size = min(small, height), min(small + 1, width)
    expected = resampling_weights(height, size[0]) @ x @ resampling_weights(width, size[1]).T
    found = resampled(x, *size)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


ALONE = """
import time, numpy
from wenable.core.resampling import resampled
x = numpy.random.default_rng(0).random((1, 3, *SIZE), numpy.float32)
after = [side * 3 // 8 for side in SIZE]
resampled(x, *after)
whole, own = time.process_time(), time.thread_time()
for _ in range(CALLS):
    resampled(x, *after)
time.sleep(0.1)
print((time.process_time() - whole) / (time.thread_time() - own))
"""


@pytest.mark.parametrize(
    ("size", "calls"), [((224, 224), 100), ((1080, 1920), 5), ((64, 20000), 5)]
)
def test_no_other_thread_computes_or_turns_afterwards(size: tuple[int, int], calls: int):
    """The threads of numpy's BLAS took the core of an engine's thread, long after the call as well."""
    code = f"SIZE, CALLS = {size}, {calls}\n{ALONE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.2


def test_fractions_that_can_be_checked_by_hand():
    assert (7 * resampling_weights(4, 2)).round(5).tolist() == [[3, 3, 1, 0], [0, 1, 3, 3]]
    assert (8 * resampling_weights(3, 2)).round(5).tolist() == [[5, 3, 0], [0, 3, 5]]
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    expected = [[25 / 7, 36 / 7], [69 / 7, 80 / 7]]
    np.testing.assert_allclose(resampled(x, 2, 2)[0, 0], expected, rtol=1e-6)


def test_figures_that_are_written_down():
    """Other implementations are compared with the same file: torch's layer, and what runs on devices."""
    for case in VECTORS["weights"]:
        found = resampling_weights(case["before"], case["after"])
        np.testing.assert_allclose(found, case["rows"], rtol=0, atol=1e-7)
    image, smaller = (np.array(VECTORS[name], np.float32) for name in ("image", "smaller"))
    np.testing.assert_allclose(resampled(image, *smaller.shape), smaller, rtol=0, atol=1e-6)


def test_what_is_no_smaller_image_is_refused_and_the_weights_cannot_be_written():
    for before, after in ((4, 5), (4, 0)):
        with pytest.raises(ValueError, match=rf"`after` \(={after}\) must be from 1 to `before`"):
            resampling_weights(before, after)
    with pytest.raises(ValueError, match="read-only"):
        resampling_weights(4, 2)[0, 0] = 1.0
