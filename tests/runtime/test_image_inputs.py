"""Sessions take images in bytes and prepare them as the bundle says."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import wenable as we
from tests.helpers.networks import converted, small_resnet
from wenable.core.preprocessing import Preprocessing
from wenable.runtime import Session, prepare_image
from wenable.runtime.images import prepare_pixels

SETTINGS = Preprocessing(6, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_pct=0.8, interpolation="bicubic")
RNG = np.random.default_rng(0)


def pixels(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle that says how images are prepared, and one that does not."""
    folder = tmp_path_factory.mktemp("images")
    net = converted(small_resnet()).eval()
    we.calibrate(net, ["1", "1/4"], [torch.randn(8, 3, 6, 6)])
    silent = we.export(net, ["1", "1/4"], folder / "silent.wen")
    net.preprocessing = SETTINGS
    return we.export(net, ["1", "1/4"], folder / "net.wen"), silent


@pytest.fixture
def session(paths: tuple[Path, Path]) -> Session:
    return Session(paths[0], engine="onnxruntime", threads=1)


def test_images_are_answered_as_their_files_would_be(session: Session, tmp_path: Path):
    images = [pixels(9, 14), pixels(20, 7), pixels(6, 6)]
    files = []
    for number, each in enumerate(images):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(each).save(files[-1])
    x = np.concatenate([prepare_image(file, SETTINGS) for file in files])
    np.testing.assert_array_equal(session.run(images, mode="1/4"), session.run(x, mode="1/4"))
    np.testing.assert_array_equal(session.run(images[0]), session.run(x[:1]))  # one image
    batch = np.stack([images[0], images[0][::-1]])
    both = session.run(batch, deadline_ms=1000.0)
    assert both.shape == (2, 5)
    np.testing.assert_allclose(both[0], session.run(x[:1])[0], atol=1e-5)


def test_bytes_are_normalised_to_the_bit_as_numbers_are():
    image = pixels(6, 6)
    image.flat[:9] = (0, 255, 1, 254, 127, 128, 0, 255, 3)
    mean, std = (np.array(each, np.float32) for each in (SETTINGS.mean, SETTINGS.std))
    expected = (image.astype(np.float32) / np.float32(255) - mean) / std
    whole = dataclasses.replace(SETTINGS, crop_pct=1.0)
    found = prepare_pixels(image, whole)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1)[None])


@pytest.mark.parametrize(
    "given",
    [
        [],
        [pixels(5, 5)[..., :2]],
        [pixels(5, 5), "a path"],
        pixels(5, 5)[..., 0],
        np.zeros((1, 0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(session: Session, given: object):
    with pytest.raises(ValueError, match=r"^`x` holds (no|an) image.*[\w)]$"):
        session.run(given)  # type: ignore[arg-type]


def test_a_list_of_other_than_bytes_is_refused(session: Session):
    with pytest.raises(
        ValueError, match=r"`x` \(list of float32\) must be one array; .* \(uint8\)"
    ):
        session.run([pixels(5, 5).astype(np.float32)])


def test_a_bundle_that_does_not_say_how_refuses_bytes(paths: tuple[Path, Path]):
    with pytest.raises(ValueError, match="`x` holds images in bytes, and the bundle does not say"):
        Session(paths[1], engine="onnxruntime", threads=1).run(pixels(6, 6))


def test_grey_images_may_leave_their_channel_out(tmp_path: Path):
    net = we.convert(
        nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)).eval(),
        torch.zeros(1, 1, 6, 6),
    )
    net.preprocessing = Preprocessing(6, (0.5,), (0.25,))
    session = Session(we.export(net, ["full"], tmp_path / "grey.wen"), engine="onnxruntime")
    image = pixels(6, 6)[..., 0]
    expected = session.run(((image / np.float32(255) - 0.5) / 0.25).astype(np.float32)[None, None])
    for given in (image, image[..., None], [image], image[None, ..., None]):
        np.testing.assert_allclose(session.run(given), expected, atol=1e-5)


@pytest.mark.parametrize("how", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_session_says_that_it_cannot_be_copied(session: Session, how):
    with pytest.raises(TypeError, match=r"^a Session cannot be pickled or copied: open another"):
        how(session)
