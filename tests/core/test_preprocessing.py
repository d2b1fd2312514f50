"""How a network's images are prepared: plain values that are checked and kept with its weights."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import wenable as we
from tests.helpers.networks import converted, small_resnet
from wenable.core.preprocessing import Preprocessing
from wenable.data.transforms import ImageSettings, evaluation_transform
from wenable.runtime import prepare_image

IMAGES = Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), 0.9, "bicubic", ("cat", "dog"))


def test_it_survives_json_and_a_saved_network(tmp_path):
    assert Preprocessing.from_json(IMAGES.to_json()) == IMAGES
    net = converted(small_resnet())
    assert net.preprocessing is None
    net.preprocessing = IMAGES
    path = we.save(net, tmp_path / "net.safetensors")
    assert we.load(path, small_resnet()).preprocessing == IMAGES


def test_settings_of_evaluation_prepare_an_image_the_same_way():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    settings = ImageSettings(32, auto_augment="rand-m9-mstd0.5", crop_pct=0.9, mean=(0.5, 0.4, 0.3))
    again = ImageSettings.of_evaluation(settings.preprocessing(("cat",)))
    assert evaluation_transform(settings)(image).equal(evaluation_transform(again)(image))
    with pytest.raises(ValueError, match="must have 3 channels"):
        ImageSettings.of_evaluation(Preprocessing(8, (0.5,), (0.5,)))


@pytest.mark.parametrize("size", [(40, 50), (32, 32), (90, 33)])
@pytest.mark.parametrize("shown", [1.0, 0.875])
def test_an_image_is_prepared_on_a_device_as_it_was_for_training(tmp_path, size, shown):
    rng = np.random.default_rng(0)
    # Smooth, as pictures are: how a filter treats noise differs between libraries.
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).save(tmp_path / "image.png")
    settings = ImageSettings(32, crop_pct=shown)
    with Image.open(tmp_path / "image.png") as image:
        expected = evaluation_transform(settings)(image.convert("RGB")).numpy()
    found = prepare_image(tmp_path / "image.png", settings.preprocessing())
    assert found.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=0.05)


def test_a_grey_image_has_one_channel_and_others_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8, 3), 128, np.uint8)).save(tmp_path / "image.png")
    found = prepare_image(tmp_path / "image.png", Preprocessing(8, (0.0,), (1.0,)))
    np.testing.assert_allclose(found, np.full((1, 1, 8, 8), 128 / 255), rtol=1e-6)
    with pytest.raises(ValueError, match="wants 2"):
        prepare_image(tmp_path / "image.png", Preprocessing(8, (0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match=r"`interpolation` \(='cubic'\) is unknown"):
        prepare_image(
            tmp_path / "image.png", Preprocessing(4, (0.0,), (1.0,), interpolation="cubic")
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "whole number from 1"),
        ({"size": 32.0}, "whole number from 1"),
        ({"mean": ()}, "one number for each channel"),
        ({"mean": (0.5,)}, "one number for each channel"),
        ({"std": (0.2, 0.0, 0.1)}, "above 0"),
        ({"mean": (0.2, float("nan"), 0.1)}, "must be finite"),
        ({"crop_pct": 0.0}, "above 0, to 1"),
    ],
)
def test_values_that_are_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(IMAGES, **changes)


@pytest.mark.parametrize("values", [{}, {"size": 3}, {**IMAGES.to_json(), "mean": 3}])
def test_other_json_is_refused(values):
    with pytest.raises(ValueError, match="is not the JSON form of a preprocessing"):
        Preprocessing.from_json(values)
