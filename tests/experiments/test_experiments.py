"""Every experiment runs at its smallest scale, and its page says what its figures say."""

from pathlib import Path

import pytest

from experiments import cifar10, cost, reproduction, table2
from experiments.budget import SCALES
from experiments.networks import NETWORKS
from experiments.options import start
from results.records import read_records, write_records
from tests.data.test_data import write_images
from wenable.measure.latency import TimingPlan


def test_cifar10(tmp_path: Path, monkeypatch):
    folder = write_images(tmp_path / "images", {"train": 40, "test": 10}, size=32)
    arguments = {
        "data": folder, "weights": None, "scale": "smoke", "work": tmp_path / "work",
        "out": tmp_path, "seed": 0,
    }  # fmt: skip
    results = cifar10.run(**arguments)
    assert read_records(tmp_path / "results" / "cifar10.jsonl") == results
    assert [run["shuffle"] for run in results["runs"]] == ["first", "none"]
    for run in results["runs"]:
        assert list(run["test"]) == ["1", "1/2", "1/4", "1/8", "1/16"]
        assert all(reading["count"] == 20 for reading in run["test"].values())
        assert [row["epoch"] for row in run["curve"]] == [1]
        assert run["training_s"] > 0
    page = (tmp_path / "docs" / "results" / "cifar10.md").read_text()
    value = results["runs"][1]["test"]["1/16"]["value"]
    assert f"| {100 * value:.1f} % (" in page.split("| 1/16 |")[1]
    assert "<svg" in (tmp_path / "docs" / "results" / "cifar10.svg").read_text()
    # What was finished is not computed again.
    monkeypatch.setattr("wenable.training.loop.train_step", None)
    again = cifar10.run(**arguments)
    assert [run["test"] for run in again["runs"]] == [run["test"] for run in results["runs"]]
    assert [run["curve"] for run in again["runs"]] == [run["curve"] for run in results["runs"]]


def test_table2(tmp_path: Path):
    folder = write_images(tmp_path / "images", {"train": 40, "test": 10}, size=32)
    out = tmp_path / "docs" / "reproduction"
    timing = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)
    results = table2.run("smoke", folder, tmp_path / "work", out, timing)
    assert read_records(out / "table2-smoke.jsonl") == results
    modes = ["1", "1/2", "1/4", "1/8", "1/16"]
    assert [row["mode"] for row in results["accuracy"]] == modes * 4
    assert len(results["latency"]) == 10
    page = reproduction.page(out, ["smoke"])
    rows = [row for row in results["accuracy"] if row["mode"] == "1/4"]
    mean = 50 * sum(row["calibrated"]["value"] for row in rows if row["method"] == table2.SHUFFLED)
    assert f"| {mean:.1f} \u00b1 " in page.split("| 1/4 |")[1].split("\n")[0]
    assert "| +2.98 |" in page
    # A result that is not whole is refused, with what it lacks.
    write_records(out / "table2-smoke.jsonl", {"command": "none", "scale": "smoke"})
    with pytest.raises(ValueError, match="half-finished result: it lacks commit, machine"):
        reproduction.page(out, ["smoke"])


# --- what it would cost ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["table1", "table2", "fig5", "fig6", "fig7"])
def test_a_dry_run_prints_what_it_would_cost_and_trains_nothing(name, monkeypatch, capsys):
    monkeypatch.setattr("wenable.training.loop.train_step", None)
    argv = [name, "--scale", "smoke", "--dry-run", "--macs-per-second", "1e9"]
    monkeypatch.setattr("sys.argv", argv)
    start(name, pytest.fail)
    printed = capsys.readouterr().out
    assert "1e+09 MAC/s, assumed" in printed
    assert all(word in printed for word in ("passes", "images", "MACs", "hours"))


def test_the_cost_of_training_alone_is_three_forward_passes_an_image():
    rows = cost.estimate("table2", "smoke", 1e9).splitlines()
    net = cost.network("tiny-bottleneck-resnet", "weight-enabling", 32)
    (alone,) = [row for row in rows if row.startswith("train 1/4 alone")]
    passes, images, macs = alone.split("tiny-bottleneck-resnet")[1].split()[:3]
    # 72 images make 4 whole batches of 16; one epoch, two seeds.
    assert int(passes) == 8
    assert float(images) == 128
    assert float(macs) == pytest.approx(3 * 128 * net.macs("1/4"), rel=0.01)


def test_the_cost_on_imagenet_is_written_out():
    text = cost.estimate("table1", "imagenet", 1e12)
    assert "table1 at scale imagenet: an estimate; nothing is trained" in text
    with pytest.raises(ValueError, match="must be above 0"):
        cost.estimate("fig5", "imagenet", -1.0)
    for network in SCALES["imagenet"].networks:
        assert network in NETWORKS


def test_a_measured_rate_says_so():
    assert "MAC/s, measured here (float32" in cost.estimate("fig7", "smoke")
