"""The parties of the deadline benchmark: trained with equal budgets, each in one bundle."""

from pathlib import Path

import pytest

from experiments import deadline_networks
from experiments.pixels import load_pixels
from experiments.sides import config_of, converted, cost_of_step
from experiments.worth_sides import SCALES
from tests.data.test_data import write_images
from wenable.runtime import Session


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), {"train": 24, "test": 8}, size=16)


def test_every_party_is_a_bundle_with_the_accuracy_of_each_mode(images: Path, tmp_path: Path):
    made = deadline_networks.make_bundles(
        images, "smoke", 2, tmp_path / "work", tmp_path / "out", list(deadline_networks.PARTIES)
    )
    assert list(made) == ["ladder", "exits", "static", "elastic", "widths", "exits-size"]
    modes = {}
    for party, path in made.items():
        with Session(path, engine="onnxruntime") as session:
            modes[party] = session.modes
            assert all(0 <= m.readings["accuracy"].known <= 1 for m in session.bundle.modes)
            searched = [m.readings["accuracy"] for m in session.bundle.modes]
            assert {(each.count, each.source) for each in searched} == {(4, "the search split")}
            assert session.run(session.example(3)).shape == (3, 2)
    assert len(modes["ladder"]) == 6  # three networks at two sizes
    assert modes["exits"] == ("end", "layer1")
    written = {path: path.stat().st_mtime_ns for path in made.values()}
    deadline_networks.make_bundles(
        images, "smoke", 2, tmp_path / "work", tmp_path / "out", list(made)
    )
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())


def test_the_ladders_networks_share_one_budget(images: Path, tmp_path: Path):
    sizes, pixels = SCALES["smoke"], load_pixels(images, 16, tmp_path)
    sides = deadline_networks.ladder("smoke")
    nets = [converted(side, make(2), deadline_networks.example(pixels)) for side, make in sides]
    steps = deadline_networks.equal_steps(nets, sizes, pixels)
    of_steps = [
        cost_of_step(net, config_of(side, sizes.spending, 0), step, steps)
        for (side, _), net in zip(sides, nets, strict=True)
        for step in range(steps)
    ]
    spent = sizes.spending.batch_size * sum(of_steps)
    budget = sizes.spending.epochs * len(pixels.train) * nets[0].macs("full")
    assert abs(spent - budget) <= spent / steps
