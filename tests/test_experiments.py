"""Every experiment runs at its smallest scale, and its page says what its figures say."""

import json
from pathlib import Path

import pytest
import torch

from experiments import cifar10
from tests.test_data import write_images


@pytest.fixture(autouse=True)
def _denormals_as_before():
    yield
    torch.set_flush_denormal(False)


def test_cifar10(tmp_path: Path, monkeypatch):
    folder = write_images(tmp_path / "images", {"train": 40, "test": 10}, size=32)
    arguments = {
        "data": folder, "weights": None, "scale": "smoke", "work": tmp_path / "work",
        "out": tmp_path / "docs", "seed": 0,
    }  # fmt: skip
    results = cifar10.run(**arguments)
    assert json.loads((tmp_path / "docs" / "cifar10" / "results.json").read_text()) == results
    assert [run["shuffle"] for run in results["runs"]] == ["first", "none"]
    for run in results["runs"]:
        assert list(run["test"]) == ["1", "1/2", "1/4", "1/8", "1/16"]
        assert all(reading["count"] == 20 for reading in run["test"].values())
        assert [row["epoch"] for row in run["curve"]] == [1]
        assert run["training_s"] > 0
    page = (tmp_path / "docs" / "cifar10.md").read_text()
    value = results["runs"][1]["test"]["1/16"]["value"]
    assert f"| {100 * value:.1f} % (" in page.split("| 1/16 |")[1]
    assert "<svg" in (tmp_path / "docs" / "cifar10" / "curves.svg").read_text()
    # What was finished is not computed again.
    monkeypatch.setattr("wenable.training.loop.train_step", None)
    again = cifar10.run(**arguments)
    assert [run["test"] for run in again["runs"]] == [run["test"] for run in results["runs"]]
    assert [run["curve"] for run in again["runs"]] == [run["curve"] for run in results["runs"]]
