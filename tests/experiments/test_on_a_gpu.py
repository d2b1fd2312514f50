"""What is to run on a lent GPU runs on a processor first: every part, resumed, and its page."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import gpu_speed, on_a_gpu
from experiments.gpu_speed import CHANNELS_LAST, EAGER, GRAPHS, WAYS, cells
from experiments.on_a_gpu import SCALES, SHARES, Log
from results.records import read_records
from tests.data.test_data import write_images


def made_up_step(name: str, layout: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    assert layout == "channels_last"
    ways = {way: {"r": [1.5, 1.4, 1.6]} for way in ("grouped", "timed")}
    return [{"network": name, "batch": arguments.batch, "precision": arguments.precision,
             "passes": arguments.passes[0], **ways}]  # fmt: skip


def test_all_parts_run_on_a_processor_and_go_on_where_they_were(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("benchmarks.training_speed.measure", made_up_step)
    compared = []
    monkeypatch.setattr("experiments.worth.run", lambda *a, **k: compared.append(k["minutes"]))
    data = write_images(tmp_path / "images" / "cifar10", {"train": 40, "test": 10}, size=32)
    work, out = tmp_path / "work", tmp_path / "out"
    arguments: dict[str, Any] = {"scale": "smoke", "work": work, "out": out}
    with pytest.raises(FileNotFoundError, match="nor does"):
        on_a_gpu.run(**arguments, data=None, minutes=1.0)
    on_a_gpu.run(**arguments, data=data, minutes=1.0, prepare=True)
    assert not (work / "on-a-gpu-smoke.jsonl").exists()
    # Without the folder from here on: one file is all that travels.
    on_a_gpu.run(**arguments, data=None, minutes=0.0)
    assert not list(Log(work / "on-a-gpu-smoke.jsonl"))
    on_a_gpu.run(**arguments, data=None, minutes=60.0)
    lines = list(Log(work / "on-a-gpu-smoke.jsonl"))
    times = [line for line in lines if line["part"] == "times"]
    assert [(line["way"], line["batch"]) for line in times] == [
        (way, batch) for batch in (1, 2) for way in WAYS
    ]
    assert {line.get("absent") for line in times} == {None, "no CUDA"}
    for line in times:
        if "modes" in line:
            assert list(line["modes"]) == ["1", "1/2", "1/4", "1/8", "1/16"]
            assert all(each["value"] > 0 for each in line["modes"].values())
    (energy,) = [line for line in lines if line["part"] == "energies"]
    assert all(each["value"] is None and each["reason"] for each in energy["modes"].values())
    assert 0 < compared[0] <= 60.0
    found = read_records(out / "results" / "on-a-gpu.jsonl")
    assert found["cells"] == lines
    page = (out / "docs" / "results" / "on-a-gpu.md").read_text()
    value = times[0]["modes"]["1/4"]["value"]
    assert f"| 1/4 | {value:.3f} |" in page
    assert "Not measured: no energy meter with scope GPU" in page
    assert "1.50 (1.40 to 1.60)" in page
    # What fails costs neither the other cells nor the other parts, and is tried again.
    path = work / "on-a-gpu-smoke.jsonl"
    path.unlink()

    def fails(*_: Any) -> None:
        raise RuntimeError("made to fail\nsecond line")

    with monkeypatch.context() as changed:
        changed.setattr(gpu_speed, "times_of", fails)
        changed.setattr("benchmarks.training_speed.measure", fails)
        with pytest.raises(ExceptionGroup, match="parts that failed"):
            on_a_gpu.run(**arguments, data=None, minutes=60.0)
    lines = list(Log(path))
    assert [line["error"] for line in lines if "error" in line] == ["made to fail"] * 6
    assert [line["part"] for line in lines if "modes" in line] == ["energies"]
    path.write_text("".join(json.dumps(line) + "\n" for line in found["cells"]))
    # A line that was cut off is measured again, and nothing else.
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*whole[1:], whole[0][:40] + "\n"]))
    measured = []
    monkeypatch.setattr(
        gpu_speed, "times_of", lambda calls, *rest: measured.append(rest) or dict.fromkeys(calls)
    )
    on_a_gpu.run(**arguments, data=None, minutes=60.0)
    assert [(batch, way) for batch, _, way in measured] == [(1, EAGER)]


def test_the_ends_of_the_batches_are_measured_first():
    order = cells(("a", "b"), (1, 2, 4, 8, 16), (EAGER, CHANNELS_LAST))
    assert len(set(order)) == len(order) == 20
    assert [batch for *_, batch in order[::4]] == [1, 16, 4, 2, 8]
    assert sum(SHARES.values()) == pytest.approx(1)
    assert set(SCALES["gpu"].networks) <= set(gpu_speed.NETWORKS)


def test_every_way_computes_the_same():
    modes = gpu_speed.modes_of("tiny-bottleneck-resnet")
    for way in (EAGER, CHANNELS_LAST):
        torch.manual_seed(1)
        found = {
            m: c() for m, c in gpu_speed.calls_of(modes, way, 2, 32, torch.device("cpu")).items()
        }
        torch.manual_seed(1)
        x = torch.randn(2, 3, 32, 32)
        for mode, (plain, macs) in modes.items():
            assert macs > 0
            torch.testing.assert_close(found[mode], plain(x), rtol=1e-3, atol=1e-4)
    assert gpu_speed.why_not(GRAPHS, torch.device("cpu")) == "no CUDA"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_graph_gives_what_a_pass_gives():
    device = torch.device("cuda")
    modes = gpu_speed.modes_of("tiny-bottleneck-resnet")
    with torch.inference_mode():
        calls = gpu_speed.calls_of(modes, GRAPHS, 4, 32, device)
        times = gpu_speed.times_of(calls, 4, torch.cuda.get_device_name(), GRAPHS)
    assert all(each["value"] > 0 for each in times.values())
