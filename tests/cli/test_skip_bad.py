"""Images that cannot be read, in a folder that a search and an evaluation go through after training."""

import json
from pathlib import Path

import pytest
from torch import nn, zeros

import wenable as we
from tests.data.test_data import write_images
from tests.helpers.command_line import run
from wenable.data import ImageSettings


def small() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    net = we.convert(small(), zeros(1, 3, 8, 8), method=we.WeightEnabling((1, 2)))
    net.preprocessing = ImageSettings(size=8).preprocessing(("cat", "dog"))
    return we.save(net, tmp_path / "net.safetensors")


def commands(network: Path, folder: Path, out: Path) -> list[tuple[object, ...]]:
    common = ("--model", "tests.cli.test_skip_bad:small", "--data", folder)
    return [
        ("explore", network, *common, "--min-accuracy", 0.0, "--out", out),
        ("evaluate", network, *common),
    ]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_they_are_named_before_the_search_or_left_out_and_counted(network, tmp_path, part: str):
    folder = write_images(tmp_path / "images", {"train": 6, "val": 4, "test": 4}, size=8)
    bad = folder / part / "cat" / "001.png"
    bad.write_bytes(bad.read_bytes()[:60])
    out = tmp_path / "out"
    explored, evaluated = commands(network, folder, out)
    refused = run(*explored, fails=True)
    assert f"{part}/cat/001.png cannot be read" in "".join(refused.stderr.split("\n"))
    assert not out.exists()  # nothing was searched
    taken = run(*explored, "--skip-bad", "--json")
    assert "1 image(s) could not be read and were left out" in " ".join(taken.stderr.split())
    front = json.loads((out / "front.json").read_text())
    counts = {"val": front["chosen"]["accuracy"], "test": front["chosen"]["test"]}
    for name, reading in counts.items():
        assert reading["count"] == (7 if name == part else 8)
    if part == "test":
        assert "cannot be read" in run(*evaluated, fails=True).stderr
    shown = json.loads(run(*evaluated, "--skip-bad", "--json").stdout)
    assert {mode["accuracy"]["count"] for mode in shown["modes"]} == {7 if part == "test" else 8}
