"""Kept batches: read once as far as they fit, and always what the source gives."""

import pytest
import torch

from tests.data.test_data import write_images
from wenable.data import ImageBatches, ImageSettings, image_folder
from wenable.data.kept import KeptBatches
from wenable.data.transforms import evaluation_transform


class Counted:
    """Six batches of 4 KiB each; counts how often one was made."""

    def __init__(self, whole: bool = True):
        self.made = 0
        self.whole = whole

    def __len__(self) -> int:
        return 6

    def __iter__(self):
        for i in range(6):
            self.made += 1
            yield torch.full((1024,), float(i)), torch.tensor([i])


def labels(batches) -> list[int]:
    return [int(batch[1]) for batch in batches]


@pytest.mark.parametrize(("kib", "made"), [(100, 6), (9, 6 + 6), (1, 6 + 6)])
def test_what_fits_is_made_once_and_what_does_not_again(kib: int, made: int):
    source = Counted()
    kept = KeptBatches(source, most_mb=kib / 1024)
    assert len(kept) == 6
    assert labels(kept) == labels(kept) == list(range(6))
    assert source.made == made


def test_a_pass_that_was_broken_off_loses_nothing():
    source = Counted()
    kept = KeptBatches(source)
    for batch in kept:
        if int(batch[1]) == 2:
            break
    both = iter(kept), iter(kept)  # two passes at the same time
    pairs = [tuple(int(next(each)[1]) for each in both) for _ in range(6)]
    assert pairs == [(i, i) for i in range(6)]
    before = source.made
    assert labels(kept) == list(range(6))
    assert source.made == before


def test_image_files_are_decoded_once(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "images", {"train": 6, "test": 2}, size=8)
    files = image_folder(folder).train
    batches = ImageBatches(files, evaluation_transform(ImageSettings(size=8)), 4)
    read, plain = [], type(files).read
    monkeypatch.setattr(type(files), "read", lambda self, i: read.append(i) or plain(self, i))
    fits_one = next(iter(batches))[0].nbytes / 2**20 + 0.0001
    expected = [x.clone() for x, _ in batches]
    read.clear()
    kept, some = KeptBatches(batches), KeptBatches(batches, most_mb=fits_one)
    for _ in range(3):
        for each in (kept, some):
            for x, y in zip((x for x, _ in each), expected, strict=True):
                assert torch.equal(x, y)
    # All of them once; and of the others, those behind the first batch twice more.
    assert len(read) == len(files) + len(files) + 2 * (len(files) - 4)


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="`source` is an iterator"):
        KeptBatches(iter([torch.zeros(1)]))
    with pytest.raises(ValueError, match=r"`most_mb` \(=0\) must be above 0"):
        KeptBatches([torch.zeros(1)], most_mb=0)
