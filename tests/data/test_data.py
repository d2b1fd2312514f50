"""The splits of a data set never share an example."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wenable.data import ImageBatches, ImageSettings, batches, digits, image_folder
from wenable.data.summary import common_size, summary
from wenable.data.transforms import evaluation_transform, training_transform
from wenable.images import UnreadableImageError, read_image
from wenable.images.reading import image_size


def test_the_splits_are_apart_and_complete():
    splits = digits()
    parts = [part.tensors for part in (splits.train, splits.search, splits.test)]
    assert [len(labels) for _, labels in parts] == [997, 300, 500]
    # 1,797 images, of which a few may be equal by chance; as many distinct as in the whole set
    images = torch.cat([images for images, _ in parts]).flatten(1)
    from sklearn.datasets import load_digits

    assert len({tuple(row) for row in images.tolist()}) == len(
        {tuple(row) for row in load_digits().data.tolist()}
    )
    for _, labels in parts:
        shares = torch.bincount(labels, minlength=10) / len(labels)
        assert float((shares - 0.1).abs().max()) < 0.02
    assert abs(float(images.mean())) < 0.1
    assert abs(float(images.std()) - 1) < 0.1


def test_the_order_follows_the_seed_and_changes_each_epoch():
    data = digits().search
    first, second = (batches(data, 64, shuffle_seed=3) for _ in range(2))
    epochs = [torch.cat([labels for _, labels in first]) for _ in range(2)]
    again = torch.cat([labels for _, labels in second])
    assert torch.equal(epochs[0], again)
    assert not torch.equal(epochs[0], epochs[1])
    assert len(epochs[0]) == 256  # the last, smaller batch is left out
    plain = torch.cat([labels for _, labels in batches(data, 64)])
    assert torch.equal(plain, data.tensors[1])


# --- image files ------------------------------------------------------------------------------------


def write_images(root: Path, parts: dict[str, int], size: int = 12) -> Path:
    """Noise images, so many of each of two classes in each part."""
    rng = np.random.default_rng(0)
    for part, count in parts.items():
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:03}.png")
    return root


def loader(files, **settings) -> ImageBatches:
    transform = training_transform(ImageSettings(size=8, crops="padded", color_jitter=0.2))
    return ImageBatches(files, transform, 4, **settings)


def all_of(epoch) -> torch.Tensor:
    return torch.cat([images.flatten(1) for images, _ in epoch])


def test_a_part_of_the_training_images_is_set_aside_for_the_search(tmp_path):
    splits = image_folder(write_images(tmp_path, {"train": 10, "test": 3}), search_share=0.3)
    assert [len(part) for part in (splits.train, splits.search, splits.test)] == [14, 6, 6]
    assert splits.train.classes == ("cat", "dog")
    assert not set(splits.train.samples) & set(splits.search.samples)
    assert sorted(label for _, label in splits.search.samples) == [0] * 3 + [1] * 3
    again = image_folder(tmp_path, search_share=0.3)
    assert again == splits
    assert image_folder(tmp_path, search_share=0.3, seed=1) != splits


def test_a_folder_with_three_parts_keeps_them(tmp_path):
    splits = image_folder(write_images(tmp_path, {"train": 5, "val": 2, "test": 3}))
    assert [len(part) for part in (splits.train, splits.search, splits.test)] == [10, 4, 6]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_augmentation_follow_seed_epoch_and_index(tmp_path, workers: int):
    files = image_folder(write_images(tmp_path, {"train": 10, "test": 1})).train
    first = loader(files, shuffle=True, seed=1, workers=workers)
    assert len(first) == 18 // 4
    whole = all_of(first.batches(2))
    torch.manual_seed(5)  # whatever else draws random numbers
    second = loader(files, shuffle=True, seed=1)
    assert torch.equal(all_of(second.batches(2)), whole)
    assert torch.equal(all_of(second.batches(2, start=1)), whole[4:])  # gone on inside an epoch
    assert not torch.equal(all_of(second.batches(3)), whole)
    assert not torch.equal(all_of(loader(files, shuffle=True, seed=2).batches(2)), whole)


def test_reading_leaves_the_callers_random_numbers_alone(tmp_path):
    files = image_folder(write_images(tmp_path, {"train": 5, "test": 1})).train
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    all_of(loader(files).batches(0))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_processes_share_an_epoch_without_overlap(tmp_path):
    files = image_folder(write_images(tmp_path, {"train": 20, "test": 1})).train

    def labels_of(**settings) -> list[int]:
        batches_ = ImageBatches(
            files, evaluation_transform(ImageSettings(size=8)), 2, shuffle=True, **settings
        )
        return [hash(tuple(row)) for row in all_of(batches_.batches(1)).tolist()]

    own = [labels_of(process=p, processes=2) for p in (0, 1)]
    assert [len(each) for each in own] == [18, 18]
    assert not set(own[0]) & set(own[1])
    assert set(own[0]) | set(own[1]) == set(labels_of())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_or_skipped_and_counted(tmp_path, workers: int):
    files = image_folder(write_images(tmp_path, {"train": 5, "test": 1}), search_share=0.2).train
    bad = Path(files.samples[2][0])
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UnreadableImageError, match=f"the image {bad} cannot be read: "):
        all_of(loader(files, workers=workers).batches(0))
    skipping = loader(files, skip_bad=True, workers=workers)
    assert len(all_of(skipping.batches(0))) == len(files) - 1
    assert list(skipping.skipped) == [str(bad)]


def test_a_batch_without_a_readable_image_stops_though_others_are_skipped(tmp_path):
    files = image_folder(write_images(tmp_path, {"train": 5, "test": 1}), search_share=0.2).train
    for path, _ in files.samples[:4]:
        Path(path).write_bytes(b"no image")
    with pytest.raises(UnreadableImageError):
        all_of(loader(files, skip_bad=True).batches(0))


def test_small_images_are_shifted_and_flipped_and_no_more():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, 2)
    settings = ImageSettings(size=8, crops="padded", mean=(0, 0, 0), std=(1, 1, 1))
    for _ in range(20):
        drawn = (training_transform(settings)(Image.fromarray(pixels))[0] * 255).round().numpy()
        padded = np.pad(pixels[..., 0], 1)
        shifts = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        assert any(np.array_equal(drawn, s) or np.array_equal(drawn, s[:, ::-1]) for s in shifts)


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*train"):
        image_folder(tmp_path)
    write_images(tmp_path, {"train": 2})
    with pytest.raises(FileNotFoundError, match="to test on"):
        image_folder(tmp_path)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no images"):
        image_folder(tmp_path)
    (tmp_path / "test" / "cow").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "test" / "cow" / "a.png")
    with pytest.raises(ValueError, match=r"has images of cow, of which .*train has none"):
        image_folder(tmp_path)
    with pytest.raises(ValueError, match=r"`search_share` \(=1\) must be between 0 and 1"):
        image_folder(tmp_path, search_share=1)


def put(folder: Path, names: list[str], size: tuple[int, int] = (6, 4)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", size).save(folder / name)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_every_class_keeps_a_training_image(tmp_path, share: float):
    put(tmp_path / "train" / "one", ["a.png"])
    put(tmp_path / "train" / "two", ["a.png", "b.png"])
    put(tmp_path / "train" / "many", [f"{number}.png" for number in range(9)])
    put(tmp_path / "test" / "one", ["a.png"])
    splits = image_folder(tmp_path, search_share=share)
    assert splits.train.classes == ("many", "one", "two")
    assert {label for _, label in splits.train.samples} == {0, 1, 2}
    assert {label for _, label in splits.search.samples} == {0, 2}
    assert len(splits.train) + len(splits.search) == 12
    lines = summary(splits)
    assert "none of one (1 of 3)" in lines[1]
    assert "none of many, two (2 of 3)" in lines[2]


def test_one_image_of_each_class_leaves_none_to_choose_modes_on(tmp_path):
    for part in ("train", "test"):
        put(tmp_path / part / "one", ["a.png"])
    with pytest.raises(ValueError, match="one image of each class, so none can be set aside"):
        image_folder(tmp_path)
    put(tmp_path / "val" / "one", ["a.png"])
    assert [len(part) for part in parts_of(image_folder(tmp_path))] == [1, 1, 1]


def parts_of(splits) -> list:
    return [splits.train, splits.search, splits.test]


def test_what_is_no_class_is_none_and_what_is_left_out_is_counted(tmp_path):
    put(tmp_path / "train" / "cat", ["a.png", "b.gif", "c.avif", "d.jp2", "e.JPG"])
    put(tmp_path / "train" / "dog", ["a.png", "b.png"], size=(20, 10))
    put(tmp_path / "train" / ".ipynb_checkpoints", ["a.png"])
    put(tmp_path / "train" / "cat" / ".ipynb_checkpoints", ["a-checkpoint.png"])
    put(tmp_path / "test" / "cat", ["a.png"])
    (tmp_path / "train" / "cow").mkdir()
    (tmp_path / "train" / "cow" / "list.txt").touch()
    (tmp_path / "test" / "dog").mkdir()
    put(tmp_path / "train", ["stray.png"])
    splits = image_folder(tmp_path)
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert len(splits.train) + len(splits.search) == 7
    assert splits.left_out == {
        "hidden": 2,
        "in no folder of a class": 1,
        "not an image by its name (.txt)": 1,
        "the folder train/cow: no images": 1,
        "the folder test/dog: no images": 1,
    }
    training, search, test, left_out = summary(splits)
    assert training.startswith("training (train): 5 images of 2 classes, 1 to 4 of each; ")
    assert training.endswith("6 to 20 x 4 to 10 pixels")
    assert search.startswith("search (set aside from train): 2 images of 2 classes, 1 of each; ")
    assert test == "test (test): 1 image of 1 class, 1 of each, none of dog (1 of 2); 6 x 4 pixels"
    assert left_out == (
        "left out: 2 hidden, 1 in no folder of a class, 1 not an image by its name (.txt), 1 the folder"
        " test/dog: no images, 1 the folder train/cow: no images"
    )


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("search", ["val", "validation", "valid", "VALID", "dev", "eval"])
@pytest.mark.parametrize("test", ["test", "Testing"])
def test_the_splits_are_found_by_any_usual_name(tmp_path, train: str, search: str, test: str):
    write_images(tmp_path, {train: 3, search: 2, test: 1})
    splits = image_folder(tmp_path)
    assert [len(part) for part in parts_of(splits)] == [6, 4, 2]
    assert splits.sources == (train, search, test)
    (tmp_path / search).rename(tmp_path / "elsewhere")
    assert image_folder(tmp_path).sources == (train, f"set aside from {train}", test)
    (tmp_path / test).rename(tmp_path / search)
    assert image_folder(tmp_path).sources == (train, f"set aside from {train}", search)


def test_two_folders_for_one_split_are_refused(tmp_path):
    write_images(tmp_path, {"train": 3, "val": 2, "valid": 1})
    with pytest.raises(ValueError, match="has the folders val, valid for one and the same split"):
        image_folder(tmp_path)


def test_links_are_followed_and_splits_that_share_files_are_refused(tmp_path):
    store, folder = tmp_path / "store", tmp_path / "folder"
    write_images(store, {"train": 3, "test": 2})
    folder.mkdir()
    (folder / "train").symlink_to(store / "train")
    (folder / "test").mkdir()
    for name in ("cat", "dog"):
        (folder / "test" / name).symlink_to(store / "test" / name)
    (store / "train" / "cat" / "up").symlink_to(store / "train")
    splits = image_folder(folder)
    assert len(splits.train) + len(splits.search) == 6 + 3  # the dogs of `up` are cats too
    assert splits.left_out == {"a link back to a folder that it lies in": 1}
    (store / "train" / "cat" / "up").unlink()
    (folder / "val").symlink_to(store / "test")
    with pytest.raises(ValueError, match=r"are one file, as are 4 of val and test in all; the spl"):
        image_folder(folder)
    (folder / "val").unlink()
    (folder / "val" / "cat").mkdir(parents=True)
    (folder / "val" / "cat" / "x.png").symlink_to(store / "train" / "cat" / "000.png")
    with pytest.raises(
        ValueError, match=r"000\.png and .*x\.png are one file, as are 1 of train and"
    ):
        image_folder(folder)


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_links_to_one_file_stay_in_one_split(tmp_path, link):
    write_images(tmp_path, {"train": 6, "test": 1})
    train = tmp_path / "train"
    for number in range(6):
        link(train / "cat" / f"again{number}.png", train / "cat" / f"{number:03}.png")
    link(train / "dog" / "cat.png", train / "cat" / "000.png")
    for seed in range(20):
        splits = image_folder(tmp_path, search_share=0.4, seed=seed)
        learnt, aside = (
            {Path(path).read_bytes() for path, _ in part.samples}
            for part in (splits.train, splits.search)
        )
        assert not learnt & aside
        assert (train / "cat" / "000.png").read_bytes() in learnt  # of both classes
        assert sorted(label for _, label in splits.search.samples) == [0] * 4 + [1] * 3
        assert len(splits.train) + len(splits.search) == 19


def test_a_class_that_shares_all_its_files_keeps_them_for_training(tmp_path):
    write_images(tmp_path, {"train": 3, "test": 1})
    (tmp_path / "train" / "animal").symlink_to(tmp_path / "train" / "cat")
    for seed in range(20):
        splits = image_folder(tmp_path, seed=seed)
        assert {label for _, label in splits.search.samples} == {2}
        assert {label for _, label in splits.train.samples} == {0, 1, 2}


def test_splits_that_share_a_file_through_a_hard_link_are_refused(tmp_path):
    write_images(tmp_path, {"train": 3, "test": 1})
    shared = tmp_path / "test" / "dog" / "hard.png"
    shared.hardlink_to(tmp_path / "train" / "cat" / "001.png")
    with pytest.raises(ValueError, match=r"cat.001\.png and .*hard\.png are one file, as are 1 of"):
        image_folder(tmp_path)


def test_the_summary_names_images_that_cannot_be_opened(tmp_path):
    write_images(tmp_path, {"train": 3, "val": 1, "test": 1})
    bad = tmp_path / "train" / "cat" / "000.png"
    bad.write_bytes(b"no image")
    assert f"1 of 6 cannot be opened: the image {bad} cannot be read" in summary(
        image_folder(tmp_path)
    )[0]  # fmt: skip


def test_sizes_are_those_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a.jpg", "a.png", "a.tiff", "a.webp"):
        Image.new("RGB", (6, 4)).save(tmp_path / name, exif=exif)
        assert image_size(tmp_path / name) == read_image(tmp_path / name).size == (4, 6), name


def test_evaluation_scales_and_crops_as_timm_does(tmp_path):
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    tensor = evaluation_transform(ImageSettings(size=10, crop_pct=1.0))(image)
    assert tensor.shape == (3, 10, 10)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(tensor.mean((1, 2)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("crops", ["resized", "padded", "none"])
def test_training_images_vary_unless_they_are_to_stay(crops):
    settings = ImageSettings(size=8, crops=crops, auto_augment="rand-m9-mstd0.5", erasing=0.5)
    noise = np.random.default_rng(1).integers(0, 255, (10, 10, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    drawn = [training_transform(settings)(image) for _ in range(4)]
    assert all(each.shape == (3, 8, 8) for each in drawn)
    assert all(torch.equal(each, drawn[0]) for each in drawn) == (crops == "none")


@pytest.mark.parametrize(
    "setting",
    [{"size": 0}, {"crops": "x"}, {"erasing": 2}, {"color_jitter": -1}, {"crop_pct": 0}],
)
def test_image_settings_outside_their_range_are_refused(setting: dict):
    with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
        ImageSettings(**setting)


def test_images_of_one_square_size_tell_it(tmp_path):
    assert common_size(image_folder(write_images(tmp_path, {"train": 3, "test": 1})).train) == 12
    put(tmp_path / "train" / "cat", [f"wide{number}.png" for number in range(9)])
    assert common_size(image_folder(tmp_path).train) is None
