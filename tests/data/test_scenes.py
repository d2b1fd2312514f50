"""Scenes of digits: drawn as a slow loop draws them, and what is told of them is what is there."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from wenable.data import Scenes, SceneSettings, digits, middle_digits, scenes
from wenable.data.digits import split_originals

QUIET = SceneSettings(noise=0.0)
PARTS = ("train", "search", "test")


def drawn_slowly(
    original: np.ndarray, size: int, middle: tuple[float, float], scale: float, degrees: float
) -> np.ndarray:
    """One digit, pixel by pixel: where in the original does it come from, and what lies around there?"""
    image, angle = np.zeros((size, size)), math.radians(degrees)
    for y in range(size):
        for x in range(size):
            right, down = x + 0.5 - middle[0], y + 0.5 - middle[1]
            u = (math.cos(angle) * right + math.sin(angle) * down) / scale + 3.5
            v = (-math.sin(angle) * right + math.cos(angle) * down) / scale + 3.5
            for row in range(8):
                for column in range(8):
                    near = max(0.0, 1 - abs(u - column)) * max(0.0, 1 - abs(v - row))
                    image[y, x] += near * original[row, column]
    return image


def alone(**settings: float | tuple[float, float]) -> Scenes:
    """Scenes with one digit and nothing else."""
    plain = {"digits": 1, "fragments": 0, "noise": 0.0, "brightness": (1.0, 1.0)}
    return scenes(6, part="test", settings=SceneSettings(**(plain | settings)))


def test_a_digit_is_drawn_as_a_slow_loop_draws_it():
    found = alone(size=24, shift=0.0, turn=0.0, scale=(1.5, 1.5))
    for number in range(len(found)):
        original = load_digits().images[found.originals[number, 0]] / 16
        expected = drawn_slowly(original, 24, (12, 12), 1.5, 0)
        np.testing.assert_allclose(found.images[number, 0], expected, atol=1e-5)


def test_turned_shifted_and_enlarged_it_is_still_that_digit():
    """Where, how large and how far turned is not told: the best of a grid has to come close."""
    found = alone(size=16, shift=2.0, turn=30.0, scale=(1.0, 1.4))
    image = found.images[0, 0].numpy()
    original = load_digits().images[found.originals[0, 0]] / 16
    errors = [
        np.abs(drawn_slowly(original, 16, (x, y), scale, degrees) - image).mean()
        for x in (6.5, 7.5, 8.5, 9.5)
        for y in (6.5, 7.5, 8.5, 9.5)
        for scale in (1.1, 1.3)
        for degrees in (-22, -8, 8, 22)
    ]
    assert min(errors) < 0.035 < np.median(errors)


def test_the_first_digit_stands_in_the_middle_and_the_others_do_not():
    settings = SceneSettings(size=32, shift=2.0, distance=(10.0, 12.0), fragments=0, noise=0.0)
    found = scenes(200, settings=settings)
    middles = (found.boxes[..., :2] + found.boxes[..., 2:]) / 2 - 16
    away = middles.norm(dim=2)
    # The box of what is inked lies up to some pixels beside the middle of the 8x8 original.
    assert float(away[:, 0].max()) < 2.0 * math.sqrt(2) + 4
    assert float(away[:, 1:].median()) > 7
    assert float((away[:, 1:].amin(1) > away[:, 0]).float().mean()) > 0.95


def test_labels_are_those_of_the_originals():
    found, target = scenes(300, part="search"), torch.tensor(load_digits().target)
    assert torch.equal(found.classes, target[found.originals])
    splits = middle_digits(300, 40, 50, seed=5)
    again = scenes(300, part="train", seed=15)
    assert torch.equal(splits.train.tensors[1], again.classes[:, 0])
    torch.testing.assert_close(splits.train.tensors[0] * 0.27 + 0.17, again.images)
    assert abs(float(splits.train.tensors[0].mean())) < 0.15
    assert abs(float(splits.train.tensors[0].std()) - 1) < 0.15


def test_masks_are_the_pixels_where_the_digit_is_seen():
    """With one digit alone: all of its ink. With others: apart, and inked."""
    single = alone(size=32)
    assert torch.equal(single.masks[:, 0], single.images[:, 0] >= 0.25)
    found = scenes(100, settings=QUIET)
    assert int(found.masks.sum(1).max()) == 1
    anywhere = found.masks.any(1)
    assert bool((found.images[:, 0][anywhere] >= 0.25).all())
    without = SceneSettings(noise=0.0, fragments=0)
    whole = scenes(100, settings=without)
    assert torch.equal(whole.masks.any(1), whole.images[:, 0] >= 0.25)


def test_a_fragment_is_in_no_mask():
    settings = SceneSettings(noise=0.0, digits=1, fragments=8, distance=(9.0, 12.0))
    found = scenes(50, settings=settings)
    ink = found.images[:, 0] >= 0.25
    assert bool((found.masks[:, 0] & ~ink).logical_not().all())
    beyond = ink & ~found.masks[:, 0]
    assert bool(beyond.flatten(1).any(1).all())


def test_noise_changes_the_pixels_and_nothing_else():
    quiet, noisy = scenes(20, settings=QUIET), scenes(20, settings=SceneSettings(noise=0.3))
    for name in ("classes", "masks", "boxes", "originals"):
        assert torch.equal(getattr(quiet, name), getattr(noisy, name))
    noise = noisy.images - quiet.images
    assert abs(float(noise.std()) - 0.3) < 0.01
    assert abs(float(noise.mean())) < 0.01


def test_boxes_are_the_tightest_around_the_masks():
    found = scenes(40, settings=SceneSettings(size=32, shift=14.0, distance=(0.0, 16.0), digits=5))
    for masks, boxes in zip(found.masks, found.boxes, strict=True):
        for mask, box in zip(masks, boxes.tolist(), strict=True):
            rows, columns = np.nonzero(mask.numpy())
            seen = len(rows) > 0
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box == (expected if seen else [0, 0, 0, 0])


def test_a_digit_that_is_not_seen_has_an_empty_box():
    """Five digits in one place: the brightest hide others, sooner or later wholly."""
    settings = SceneSettings(digits=5, fragments=0, shift=0, distance=(0, 0), turn=0, noise=0)
    found = scenes(2000, settings=settings)
    hidden = ~found.masks.flatten(2).any(2)
    assert bool(hidden.any())
    assert torch.equal(found.boxes[hidden], torch.zeros_like(found.boxes[hidden]))
    widths = found.boxes[~hidden][:, 2:] - found.boxes[~hidden][:, :2]
    assert int(widths.min()) >= 1


def test_no_original_is_in_two_parts_whatever_the_seeds():
    used = [set(scenes(500, part=part, seed=seed).originals.flatten().tolist())
            for part, seed in zip(PARTS, (0, 7, 0), strict=True)]  # fmt: skip
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not used[one] & used[other]
    for part, images in zip(PARTS, used, strict=True):
        assert images <= set(split_originals()[part].places.tolist())
    assert sorted(p for each in split_originals().values() for p in each.places.tolist()) == list(
        range(1797)
    )


def test_parts_are_those_of_the_plain_digits():
    plain = digits()
    for part, data in zip(PARTS, (plain.train, plain.search, plain.test), strict=True):
        ours = split_originals()[part]
        assert torch.equal(ours.classes, data.tensors[1])
        torch.testing.assert_close((16 * ours.images - 4.9) / 6, data.tensors[0][:, 0])


def test_the_seed_decides_everything():
    one, same, other = (scenes(70, seed=seed) for seed in (3, 3, 4))
    for name in ("images", "classes", "masks", "boxes", "originals"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.classes, other.classes)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    scenes(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_splits_draw_other_scenes_for_each_seed():
    seen = [middle_digits(8, 8, 8, seed=seed) for seed in (0, 1, 2)]
    images = [part.tensors[0] for splits in seen for part in (splits.train, splits.test)]
    assert all(not torch.equal(a, b) for a, b in pairwise(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 7}, "`size` (=7) must be at least 8"),
        ({"digits": 0}, "`digits` (=0) must be at least 1"),
        ({"fragments": -1}, "`fragments` (=-1) must be at least 0"),
        ({"turn": 181.0}, "`turn` (=181.0) must be from 0 to 180"),
        ({"noise": float("nan")}, "`noise` (=nan) must be from 0 to 1000"),
        ({"shift": 13.0}, "`shift` (=13.0) must be from 0 to 12"),
        ({"scale": (2.0, 1.0)}, "`scale` (=(2.0, 1.0)) must be two numbers from 0.25 to 3, the"),
        ({"scale": (1.0, 5.0)}, "`scale` (=(1.0, 5.0)) must be two numbers from 0.25 to 3, the"),
        ({"brightness": (0.3, 1.0)}, "`brightness` (=(0.3, 1.0)) must be two numbers from 0.5 to 1"),
        ({"distance": (-1.0, 3.0)}, "`distance` (=(-1.0, 3.0)) must be two numbers from 0 to 24"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=r"`") as caught:
        SceneSettings(**settings)
    assert message in str(caught.value)


def test_bad_counts_and_parts_are_refused():
    with pytest.raises(ValueError, match=r"`count` \(=0\) must be at least 1"):
        scenes(0)
    with pytest.raises(ValueError, match=r"`part` \(='all'\) must be one of 'train', 'search'"):
        scenes(1, part="all")  # pyright: ignore[reportArgumentType]
