"""Techniques side by side at the smallest scale: equal budgets, paired differences, a page that says it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import wenable as we
from experiments import techniques
from experiments.paired import paired_difference
from experiments.pixels import TrainingPixels, changed, load_pixels
from experiments.sides import Side, config_of, cost_of_step, steps_for
from experiments.technique_sides import BASE, DISTILLED_LATER, SCALES, TECHNIQUES
from results.records import read_records
from tests.data.test_data import write_images
from wenable.training import sample_modes


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), {"train": 40, "test": 10}, size=32)


def test_images_are_decoded_once_and_changed_as_is_written(images: Path, tmp_path: Path):
    first = load_pixels(images, 32, tmp_path)
    assert (len(first.train), len(first.search), len(first.test), first.classes) == (72, 8, 20, 2)
    again = load_pixels(tmp_path / images.name, 32, tmp_path)  # the folder is not needed any more
    assert torch.equal(again.train.images, first.train.images)
    with pytest.raises(FileNotFoundError, match="does not exist, nor does"):
        load_pixels(tmp_path / "none", 32, tmp_path)

    ramp = torch.arange(3 * 64).view(1, 3, 8, 8).to(torch.uint8).repeat(40, 1, 1, 1)
    found = changed(ramp, torch.Generator().manual_seed(1))
    padded = np.pad(ramp[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    allowed = {
        np.ascontiguousarray(way).tobytes()
        for down in range(3)
        for right in range(3)
        for crop in [padded[:, down : down + 8, right : right + 8]]
        for way in (crop, crop[:, :, ::-1])
    }
    assert len(allowed) == 18
    seen = {each.numpy().copy(order="C").tobytes() for each in found}
    assert seen <= allowed
    assert len(seen) > 10

    loader = TrainingPixels(first.train, 16, 9, 0, torch.device("cpu"))
    whole = list(loader.batches(0))
    assert len(whole) == 9
    for (x, y), (a, b) in zip(whole[5:], loader.batches(0, 5), strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)
    # Four batches of sixteen are one time through; the second is in another order.
    assert not torch.equal(whole[0][1], whole[4][1]) or not torch.equal(whole[1][1], whole[5][1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sharing": {"delay": 0.5}},
        {"sharing": {"delay": 0.5, "first": "outward"}},
        {"passes": 2},
    ],
)
def test_every_side_spends_the_budget(settings: dict):
    spending = SCALES["smoke"].spending
    net = we.convert(SCALES["smoke"].make(), torch.zeros(2, 3, 32, 32))
    config = config_of(Side("x", (), settings), spending, 0)
    steps = steps_for(net, config, 4000, spending)
    spent = sum(
        net.macs(mode) for step in range(steps) for mode in sample_modes(net, config, step, steps)
    )
    assert spent * spending.batch_size == pytest.approx(
        spending.epochs * 4000 * net.macs("full"), rel=0.03
    )
    assert cost_of_step(net, config, steps - 1, steps) >= net.macs("full")


def test_a_paired_difference_is_that_of_a_mean_of_images():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((3, 400)) < 0.7, rng.random((2, 400)) < 0.6
    found = paired_difference(ours, theirs)
    of_image = [
        sum(map(float, ours[:, i])) / 3 - sum(map(float, theirs[:, i])) / 2 for i in range(400)
    ]
    mean = sum(of_image) / 400
    deviation = (sum((d - mean) ** 2 for d in of_image) / 399) ** 0.5
    assert found.value == pytest.approx(mean)
    assert found.high - found.value == pytest.approx(1.96 * deviation / 20, rel=1e-4)
    same = paired_difference(ours, ours)
    assert (same.value, same.low, same.high, same.is_clear) == (0, 0, 0, False)


def test_techniques_are_compared_and_what_is_finished_is_kept(
    images: Path, tmp_path: Path, monkeypatch
):
    names = [BASE, DISTILLED_LATER, "US-Net", "delay, then alpha-divergence"]
    arguments = {"scale": "smoke", "data": images, "work": tmp_path / "work", "out": tmp_path}
    results = techniques.run(**arguments, only=names)
    assert read_records(tmp_path / "results" / "techniques.jsonl") == results
    assert [run["technique"] for run in results["runs"]] == names
    for run in results["runs"]:
        assert run["images"] == 8
        # Two others are drawn; a width drawn at random is one of the uniform ones.
        assert 0 <= len(run["modes"]) - run["uniform"] <= 2
        # As near as whole steps come: half of one, and what is left to chance of its modes.
        step = run["full_passes"] / run["steps"]
        assert abs(run["full_passes"] - 2.0) <= 0.5 * step + 0.3
    rows = {row["technique"]: row for row in results["compared"]}
    assert [rows[name]["beside"] for name in names[1:]] == [BASE, BASE, DISTILLED_LATER]
    runs = {run["technique"]: run["modes"] for run in results["runs"]}
    expected = [
        a["value"] - b["value"] for a, b in zip(runs[DISTILLED_LATER], runs[BASE], strict=True)
    ]
    assert rows[DISTILLED_LATER]["all"]["value"] == pytest.approx(np.mean(expected))
    assert rows[DISTILLED_LATER]["full"]["value"] == pytest.approx(expected[0])
    page = (tmp_path / "docs" / "results" / "techniques.md").read_text()
    assert f"| {100 * rows['US-Net']['all']['value']:+.1f} (" in page.replace("**", "")
    monkeypatch.setattr("wenable.training.loop.train_step", None)  # nothing is trained again
    assert techniques.run(**arguments, only=names)["runs"] == results["runs"]


def test_names_of_techniques_are_files_of_their_own():
    names = [each.side.file_name for each in TECHNIQUES]
    assert len(set(names)) == len(names)
    assert {each.beside for each in TECHNIQUES} <= {each.side.name for each in TECHNIQUES}
