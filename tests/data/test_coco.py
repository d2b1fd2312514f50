"""Folders in COCO's format, against pycocotools' reading of the same file and boxes found in the pixels."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from wenable.data import coco_folder, with_boxes

RED = 17  # a category's number, which has gaps
BOXES = {1: [(4, 6, 10, 8), (20, 10, 12, 16)], 2: [(0, 0, 16, 12)], 5: []}
SIZES = {1: (64, 32), 2: (32, 48), 5: (40, 40)}


def annotations() -> dict[str, Any]:
    told: list[dict[str, Any]] = []
    for image, boxes in BOXES.items():
        for number, box in enumerate(boxes):
            category = (RED, 3)[number % 2]
            told.append(
                {"image_id": image, "category_id": category, "bbox": list(box), "iscrowd": 0}
            )
    told.append({"image_id": 1, "category_id": 3, "bbox": [0, 0, 64, 32], "iscrowd": 1})
    told.append({"image_id": 2, "category_id": 3, "bbox": [3, 3, 0, 5], "iscrowd": 0})
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": w, "height": h}
            for i, (w, h) in SIZES.items()
        ],
        "categories": [{"id": RED, "name": "red"}, {"id": 3, "name": "white"}],
        "annotations": [dict(each, id=number) for number, each in enumerate(told, 1)],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for image, (width, height) in SIZES.items():
        pixels = np.zeros((height, width, 3), np.uint8)
        for left, top, wide, high in BOXES[image]:
            pixels[top : top + high, left : left + wide] = 255
        Image.fromarray(pixels).save(tmp_path / f"{image}.png")
    (tmp_path / "boxes.json").write_text(json.dumps(annotations()))
    return tmp_path


def test_boxes_and_classes_are_those_that_pycocotools_reads(folder: Path):
    found = coco_folder(folder, folder / "boxes.json", side=64)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(folder / "boxes.json"))
    assert found.classes == tuple(known.cats[number]["name"] for number in sorted(known.cats))
    assert found.left_out == {"a group of objects": 1, "a box without an area": 1}
    for (image, size), (pixels, target) in zip(SIZES.items(), found, strict=True):
        wanted = known.loadAnns(known.getAnnIds([image], iscrowd=False))
        wanted = [each for each in wanted if each["bbox"][2] and each["bbox"][3]]
        scale = 64 / max(size)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in wanted)]
        assert target["boxes"].shape == (len(corners), 4)
        assert np.allclose(target["boxes"], np.array(corners).reshape(-1, 4) * scale)
        names = [known.cats[each["category_id"]]["name"] for each in wanted]
        assert [found.classes[label] for label in target["labels"]] == names
        assert pixels.shape == (3, 64, 64)
        assert pixels.dtype == torch.float32


def test_boxes_lie_around_what_is_bright_in_the_scaled_image(folder: Path):
    pixels, target = coco_folder(folder, folder / "boxes.json", side=96)[1]  # one box, scaled by 2
    rows, columns = np.nonzero((pixels > 0).all(0).numpy())
    bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(target["boxes"][0].numpy() - bright).max() <= 1
    assert (pixels[:, :, 64:] == 0).all()  # beside the image
    assert (pixels[:, :, :64] != 0).all()


def test_a_loader_makes_batches_of_them(folder: Path):
    loader = DataLoader(
        coco_folder(folder, folder / "boxes.json", side=32), 2, collate_fn=with_boxes
    )
    (first, targets), (rest, last) = loader
    assert (first.shape, len(targets), len(rest)) == ((2, 3, 32, 32), 2, 1)
    assert last[0]["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.pop("categories"), ValueError, "not in COCO's format: it has no list 'categories'"),
        (lambda a: a["images"].clear(), ValueError, "has no images"),
        (lambda a: a["images"].append(dict(a["images"][0])), ValueError, "the `id` of the image '1.png'"),
        (lambda a: a["images"].append({"id": 9}), ValueError, "no 'file_name' in the image"),
        (lambda a: a["images"][1].update(file_name="9.png"), FileNotFoundError, "1 of 3 images .*9.png"),
        (lambda a: a["annotations"][0].update(bbox=[1, 2]), ValueError, "no `bbox` of four numbers"),
        (lambda a: a["annotations"][0].update(bbox=[1, 2, 3, True]), ValueError, "no `bbox` of four"),
        (lambda a: a["annotations"][0].pop("bbox"), ValueError, "no `bbox` of four numbers"),
        (lambda a: a["annotations"].append(7), ValueError, "no `bbox` of four numbers"),
        (lambda a: a["annotations"][0].update(image_id=99), ValueError, "of image 99, which it has not"),
        (lambda a: a["annotations"][0].update(category_id=[1]), ValueError, r"of category \[1\]"),
    ],
)  # fmt: skip
def test_files_in_another_format_are_refused(folder: Path, change, error, message):
    values = annotations()
    change(values)
    (folder / "boxes.json").write_text(json.dumps(values))
    with pytest.raises(error, match=message) as refused:
        coco_folder(folder, folder / "boxes.json", side=32)
    assert "\n" not in str(refused.value)


def test_what_is_no_file_folder_or_side_is_refused(folder: Path):
    file = folder / "boxes.json"
    for images, told, side, message in (
        (folder / "none", file, 32, "`images` .* is no folder"),
        (folder, folder / "none.json", 32, "`annotations` .* is no file"),
        (folder, folder / "1.png", 32, "`annotations` .* is no JSON"),
        (folder, file, 0, "`side` .*must be a whole number of pixels"),
        (folder, file, 32.0, "`side` .*must be a whole number of pixels"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            coco_folder(images, told, side=side)
    file.write_text("[1]")
    with pytest.raises(ValueError, match="it has no list 'images'"):
        coco_folder(folder, file, side=32)


def test_images_that_were_made_smaller_have_their_boxes_made_smaller_too(folder: Path):
    whole = coco_folder(folder, folder / "boxes.json", side=32)[0]
    with Image.open(folder / "1.png") as image:
        image.resize((32, 16)).save(folder / "1.png")
    half = coco_folder(folder, folder / "boxes.json", side=32)[0]
    torch.testing.assert_close(half[1]["boxes"], whole[1]["boxes"])


def test_images_that_are_turned_when_they_are_read_are_refused(folder: Path):
    """A photograph of a phone: its boxes were drawn on the pixels as they are stored."""
    with Image.open(folder / "1.png") as image:
        exif = image.getexif()
        exif[0x0112] = 6  # a quarter turn
        image.save(folder / "1.png", exif=exif)
    images = coco_folder(folder, folder / "boxes.json", side=32)
    with pytest.raises(ValueError, match=r"1.png has 32 x 64 pixels.* are of 64 x 32.*EXIF"):
        images[0]


def turned(folder: Path, name: str, orientation: int) -> None:
    """Store an image with an orientation; its pixels stay."""
    with Image.open(folder / name) as image:
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(folder / name, exif=exif)


@pytest.mark.parametrize("orientation", [2, 3, 4])
@pytest.mark.parametrize("told", [True, False])
def test_a_turn_that_leaves_the_sides_as_they_are_is_refused(folder: Path, orientation, told):
    values = annotations()
    if not told:
        values["images"][0].pop("width")
        (folder / "boxes.json").write_text(json.dumps(values))
    turned(folder, "1.png", orientation)
    images = coco_folder(folder, folder / "boxes.json", side=32)
    with pytest.raises(ValueError, match=rf"1\.png is turned .*\(EXIF orientation {orientation}\)"):
        images[0]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_any_turn_of_a_square_image_with_boxes_is_refused(folder: Path, orientation):
    turned(folder, "5.png", orientation)
    assert len(coco_folder(folder, folder / "boxes.json", side=32)[2][1]["boxes"]) == 0
    values = annotations()
    values["annotations"].append({"id": 99, "image_id": 5, "category_id": 3, "bbox": [0, 0, 4, 4]})
    (folder / "boxes.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"5\.png is turned .*\(EXIF orientation {orientation}\)"):
        coco_folder(folder, folder / "boxes.json", side=32)[2]


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_turns_nothing_is_taken(folder: Path, orientation):
    before = coco_folder(folder, folder / "boxes.json", side=32)[0]
    turned(folder, "1.png", orientation)
    after = coco_folder(folder, folder / "boxes.json", side=32)[0]
    assert torch.equal(before[0], after[0])


def test_boxes_that_were_drawn_on_the_upright_image_are_taken(folder: Path):
    """The file says that the image is as high as it is wide when stored: it was seen upright."""
    plain = coco_folder(folder, folder / "boxes.json", side=64)[1]
    with Image.open(folder / "2.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(folder / "2.png")
    turned(folder, "2.png", 6)
    upright = coco_folder(folder, folder / "boxes.json", side=64)[1]
    assert torch.equal(upright[0], plain[0])
    assert torch.equal(upright[1]["boxes"], plain[1]["boxes"])
