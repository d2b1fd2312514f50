"""The command line as a person meets it: results on standard output, one line for an error."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wenable as we
from tests.data.test_data import write_images
from tests.helpers.command_line import run
from tests.helpers.processes import exit_status
from wenable.cli.main import app
from wenable.core.cost_table import CostTable
from wenable.core.journal import Journal
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Front, Point, Reading
from wenable.data import digits
from wenable.measure.latency import TimingPlan
from wenable.network.mode_costs import macs_table, weights_parts
from wenable.profiling import ProfilePlan, profile
from wenable.profiling.comparison import compare
from wenable.profiling.verification import verify
from wenable.runtime import DeviceProfile
from wenable.strategies.fronts import indistinguishable
from wenable.training.recipes import recipe_named
from wenable.training.state import read_checkpoint
from wenable.zoo import build
from wenable.zoo.reference import DigitsResNet


def test_inspect_shows_modes_layers_and_reasons():
    text = run("inspect", "wenable.zoo:digits_resnet", "--input", "1x8x8").stdout
    assert "6 knobs, 2 layers left alone, 1.56e+04 modes" in text
    assert "1/16" in text
    assert "15.31x" in text
    assert "shuffled, 16 x 8" in text
    assert "is the classifier" in text
    assert "has 1 input channels and 128 output channels, which no option" in text


def test_inspect_as_json_for_scripts():
    values = json.loads(run("inspect", "mobilenet_v2", "--shuffle", "all", "--json").stdout)
    assert values["modes_in_space"] > 10**20
    assert [mode["mode"] for mode in values["uniform_modes"]] == ["1", "1/2", "1/4", "1/8", "1/16"]
    assert values["macs_full"] == 300_774_272  # 300.8 million, as torchvision's page says
    identities = [
        each["name"]
        for each in values["layers"]
        if each["shuffle"] and each["shuffle"]["is_identity"]
    ]
    assert identities == ["features.2.conv.0.0"]
    assert {each["reason"] for each in values["left_alone"]} >= {"is depthwise"}


def narrow(width: int = 32, classes: int = 10) -> DigitsResNet:
    """A quarter of the channels that the network of this name has: all that is done to it is the same."""
    return DigitsResNet(width, classes)


def test_train_then_explore(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("wenable.zoo.digits_resnet", narrow)
    trained = run(
        "train", "wenable.zoo:digits_resnet", "--data", "digits", "--out", tmp_path / "run",
        "--epochs", 1, "--passes", 2, "--groups", "1,4", "--batch-size", 128, "--json",
    )  # fmt: skip
    values = json.loads(trained.stdout)
    assert [mode["mode"] for mode in values["uniform_modes"]] == ["1", "1/4"]
    assert all(mode["accuracy"]["count"] == 300 for mode in values["uniform_modes"])
    network = tmp_path / "run" / "net.safetensors"
    assert we.load(network).is_calibrated("1/4")
    explored = run(
        "explore", network, "--data", "digits", "--min-accuracy", 0.3, "--out", tmp_path / "front"
    )
    assert "front by macs, knapsack: " in explored.stdout
    front = we.Front.from_json(json.loads((tmp_path / "front" / "front.json").read_text()))
    assert (front.cost, front.strategy) == ("macs", "knapsack")
    assert {point.accuracy.count for point in front.path} == {300}
    assert "(test split)" in explored.stdout
    # The front has both splits: the 300 images it was chosen on, and the 500 that nobody saw.
    net, data = we.load(tmp_path / "front" / "net.safetensors"), digits()
    rows = list(csv.DictReader((tmp_path / "front" / "front.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == list(reversed(front.ids))
    for point in front.found:
        for part, reading, outcomes in (
            (data.search, point.accuracy, point.outcomes),
            (data.test, point.test, point.test_outcomes),
        ):
            images, labels = part[:]
            with net.using(point.mode), torch.no_grad():
                right = (net.eval()(images).argmax(1) == labels).tolist()
            assert reading is not None
            assert outcomes is not None
            assert reading.known == pytest.approx(sum(right) / len(labels))
            assert outcomes == Outcomes.of(right, outcomes.examples)
        row = next(row for row in rows if row["mode"] == str(point.mode))
        assert point.test is not None
        assert float(row["accuracy_test_percent"]) == pytest.approx(100 * point.test.known)
        assert float(row["macs"]) == net.macs(point.mode)
    report = tmp_path / "report.html"
    run("report", tmp_path / "front" / "front.json", "--out", report, "--format", "md,csv")
    table = (tmp_path / "front.md").read_text()
    assert "top-1 accuracy, test split (%)" in table
    chosen = next(line for line in table.splitlines() if "| chosen" in line)
    tested = next(point.test for point in front.found if point.mode == front.chosen.mode)
    assert tested is not None
    assert f"| {100 * tested.known:.1f} (" in chosen
    assert (tmp_path / "front.csv").read_text().count("\n") == 1 + len(front.found)
    assert (tmp_path / "front" / "front.png").stat().st_size > 5000
    assert we.load(tmp_path / "front" / "net.safetensors").is_calibrated(front.chosen.mode)


def test_a_search_keeps_all_its_limits(tmp_path: Path):
    torch.manual_seed(0)
    model = build("wenable.zoo:digits_resnet", width=16)
    net = we.convert(model, torch.zeros(1, 1, 8, 8), method=we.WeightEnabling((1, 2, 4)))
    network = we.save(net, tmp_path / "net.safetensors")
    # Energy on a made-up device, as a file: each step of a layer saves 1 mJ.
    energies = CostTable(
        net.space, "mJ", 1.0, {name: {1: 3.0, 2: 2.0, 4: 1.0} for name in net.space.names}
    )
    (tmp_path / "energy.json").write_text(json.dumps(energies.to_json()))
    kib, mj = 0.6 * weights_parts(net).cost("full"), energies.cost("1/2")
    command = (
        "explore",
        network,
        "--data",
        "digits",
        "--min-accuracy",
        0.01,
        "--out",
        tmp_path / "o",
    )
    shown = run(
        *command,
        "--constraint",
        f"memory_kib={kib}",
        "--constraint",
        f"{tmp_path}/energy.json={mj}",
    )
    assert f"at most {mj:g} mJ" in shown.stdout
    front = Front.from_json(json.loads((tmp_path / "o" / "front.json").read_text()))
    assert front.points
    alike = "cannot be told apart by their accuracy" in " ".join(shown.stdout.split())
    assert alike == bool(indistinguishable(front))
    for point in (*front.points, front.chosen):
        assert 4 * net.parameter_count(str(point.mode)) / 1024 <= kib
        assert energies.cost(str(point.mode)) <= mj
    for constraint, message in (
        ("memory_kib=0.5", "at most 0.5 KiB"),
        (
            "memory_kib=nan",
            "`--constraint` (='memory_kib=nan') must be a finite number, at least 0",
        ),
        ("memory_kib", "must be NAME=NUMBER; names: macs_m, memory_kib, latency_ms, energy_mj"),
        ("latency_ms=5", "needs a table of a device: `--profile` was not given"),
        ("energy_mj=5", "needs a table of a device: `--profile` was not given"),
        (
            "joules=5",
            "names neither macs_m, memory_kib, latency_ms, energy_mj nor the file of a cost",
        ),
        (f"{network}=5", "is no cost table"),
    ):
        refused = run(*command, "--overwrite", "--constraint", constraint, fails=True)
        assert message in " ".join(refused.stderr.split()), constraint
    given = ("--overwrite", "--strategy", "greedy", "--constraint", "macs_m=1")
    refused = run(*command, *given, fails=True)
    assert (
        "`--constraint` is for the strategies 'knapsack' and 'nsga2', not 'greedy'"
        in refused.stderr
    )


def run_until_killed(command: list[str]) -> None:
    """End the process when the journal of its search has six entries."""
    written, append = [], Journal.append

    def dying(self: Journal, entry: Any) -> None:
        if len(written) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(entry)
        append(self, entry)

    Journal.append = dying
    app(command)


@pytest.mark.parametrize("strategy", ["", "greedy"])
def test_exploring_goes_on_where_it_was_killed_and_only_once_at_a_time(
    tmp_path: Path, strategy: str
):
    network, out = tmp_path / "net.safetensors", tmp_path / "front"
    torch.manual_seed(0)
    model = build("wenable.zoo:digits_resnet", width=16)
    we.save(we.convert(model, torch.zeros(1, 1, 8, 8), method=we.WeightEnabling((1, 2))), network)
    command = [
        "explore",
        network,
        "--data",
        "digits",
        "--min-accuracy",
        "0.01",
        *(["--strategy", strategy] if strategy else []),
    ]
    assert exit_status(run_until_killed, [*map(str, command), "--out", str(out)]) == -9
    assert [path.name for path in out.iterdir()] == ["search.journal"]
    assert len((out / "search.journal").read_bytes().splitlines()) == 6
    with (out / "search.journal").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused = run(*command, "--out", out, fails=True)
    assert "search.journal is in use by another process" in " ".join(refused.stderr.split())
    resumed = run(*command, "--out", out)
    assert "goes on from" in " ".join(resumed.stderr.split())
    run(*command, "--out", tmp_path / "whole")
    first, second = (
        json.loads((each / "front.json").read_text()) for each in (out, tmp_path / "whole")
    )
    assert first == second
    assert first["strategy"] == (strategy or "knapsack")
    assert not (out / "search.journal").exists()


def test_train_on_image_files_stops_and_goes_on(tmp_path: Path, monkeypatch):
    folder = write_images(tmp_path / "images", {"train": 20, "test": 4}, size=40)
    bad = folder / "train" / "cat" / "000.png"
    bad.write_bytes(bad.read_bytes()[:100])
    arguments = [
        "train", "wenable.zoo:cifar_resnet20", "--data", folder, "--recipe", "cifar", "--passes", 2,
        "--epochs", 2, "--batch-size", 8, "--groups", "1,4", "--workers", 0, "--skip-bad", "--tensorboard",
    ]  # fmt: skip

    class Interrupted:  # as Ctrl-C in the middle of the first epoch
        exit_status = 130

        def __init__(self) -> None:
            self.steps = iter(range(100))

        def __call__(self) -> bool:
            return next(self.steps) == 1

    @contextmanager
    def interrupted():
        yield Interrupted()

    with monkeypatch.context() as patch:
        patch.setattr("wenable.cli.train.stop_requests", interrupted)
        stopped = run(*arguments, "--out", tmp_path / "run", fails=True)
        assert stopped.exit_code == 130
        assert "the same command with --resume goes on" in " ".join(stopped.stdout.split())
        assert not (tmp_path / "run" / "net.safetensors").exists()
    resumed = run(*arguments, "--out", tmp_path / "run", "--resume")
    assert "could not be read and were left out" in " ".join(resumed.stderr.split())
    assert "8 steps of 2 passes" in " ".join(resumed.stderr.split())
    rows = (tmp_path / "run" / "epochs.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
    run(*arguments, "--out", tmp_path / "whole")
    first, second = (we.load(tmp_path / name / "net.safetensors") for name in ("run", "whole"))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    header, _ = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert set(header["implementations"]) == {layer.name for layer in first.switchable_layers}
    _runs_on_a_device(tmp_path, folder / "test" / "dog" / "000.png")
    # Exploring prepares the images as training did: the network says how.
    assert first.preprocessing == recipe_named("cifar").images.preprocessing(("cat", "dog"))
    bad.unlink()
    out = tmp_path / "front"
    network = tmp_path / "run" / "net.safetensors"
    run("explore", network, "--data", folder, "--min-accuracy", 0.01, "--out", out)
    taken = (
        "explore",
        network,
        "--data",
        folder,
        "--min-accuracy",
        0.01,
        "--out",
        tmp_path / "whole",
    )
    words = " ".join(run(*taken, fails=True).stderr.split())
    assert "holds another network (net.safetensors): `--overwrite` replaces it" in words
    (folder / "train" / "cat").rename(folder / "train" / "cow")
    (folder / "test" / "cat").rename(folder / "test" / "cow")
    again = ("explore", network, "--data", folder, "--min-accuracy", 0.01, "--out", out)
    found = (out / "front.json").read_bytes()
    words = " ".join(run(*again, fails=True).stderr.split())
    assert "holds a front already (front.json): `--overwrite` replaces it" in words
    other = run(*again, "--overwrite", fails=True)
    assert (out / "front.json").read_bytes() == found  # a search that fails replaces nothing
    words = " ".join(other.stderr.split())
    assert "has 2 classes (cow, dog, ...), the network was trained for 2 (cat, dog, ...)" in words
    first.preprocessing = None
    we.save(first, network)
    untold = run(*again, "--overwrite", fails=True)
    assert "does not say how its images are prepared" in " ".join(untold.stderr.split())


def _runs_on_a_device(tmp_path: Path, image: Path) -> None:
    """Export what was trained, and run it on an image in a mode and under a deadline."""
    bundle = tmp_path / "net.wen"
    exported = run("export", tmp_path / "run" / "net.safetensors", "--out", bundle)
    assert "2 modes, checked on onnxruntime" in exported.stdout
    common = ("--engine", "onnxruntime", "--threads", 1, "--json")
    rows = json.loads(run("run", bundle, image, "--mode", "1/4", *common).stdout)
    assert rows[0]["mode"] == "1/4"
    assert {name for name, _ in rows[0]["answer"]} <= {"cat", "dog", *map(str, range(2, 10))}
    rows = json.loads(run("run", bundle, image, image, "--deadline-ms", 1e4, *common).stdout)
    assert [row["mode"] for row in rows] == ["1", "1"]
    shown = run("run", bundle, image, "--engine", "onnxruntime").stdout
    assert "000.png: " in " ".join(shown.split())
    absent = run("run", bundle, image, "--mode", "1/2", fails=True).stderr
    assert "an option that nothing in this network has; allowed: 1, 1/4" in " ".join(absent.split())
    unknown = run("run", bundle, image, "--mode", "1,1/4*17", fails=True)
    assert "was not exported" in " ".join(unknown.stderr.split())


def test_profiling_tells_what_happened_and_why_there_is_no_energy(tmp_path: Path, monkeypatch):
    def made_up(bundle, *, engine, threads, precision, meter, on_progress, on_estimate, on_event):
        on_estimate(120.0)
        on_event("whole modes, group 1: measured again, the speed had changed")
        used = {"1": Reading(6.0, "mJ", low=5.0, high=7.0)} if meter is None else {}
        reason = "" if meter is None else meter.reason
        latency = Reading(2.0, "ms", low=1.9, high=2.2, p99=2.5)
        return DeviceProfile(
            "b", "a board", "made-up 1", 1, latencies={"1": latency}, energies=used,
            energy_reason=reason,
        )  # fmt: skip

    monkeypatch.setattr("wenable.profiling.profile", made_up)
    net = we.convert(build("wenable.zoo:digits_resnet", width=16), torch.zeros(1, 1, 8, 8))
    we.calibrate(net, "full", [torch.randn(8, 1, 8, 8)])
    we.export(net, ["full"], tmp_path / "net.wen")
    with_energy = run("profile", tmp_path / "net.wen")
    told = " ".join(with_energy.stderr.split())
    assert "about 2 min" in told
    assert "note: whole modes, group 1: measured again, the speed had changed" in told
    shown = " ".join(with_energy.stdout.split())
    assert "made-up 1, 1 thread, a board" in shown
    assert "energy mJ" in shown
    assert "not measured" not in shown
    without = " ".join(run("profile", tmp_path / "net.wen", "--no-energy").stdout.split())
    assert "energy: not measured (it was not asked for)" in without
    assert "energy mJ" not in without


def test_a_search_by_energy_takes_the_table_of_a_profile(tmp_path: Path):
    net = we.convert(build("wenable.zoo:digits_resnet", width=32), torch.zeros(1, 1, 8, 8))
    network = we.save(net, tmp_path / "net.safetensors")
    macs = macs_table(net)
    costs = {knob: {n: each / 1e6 for n, each in row.items()} for knob, row in macs.costs.items()}
    table = CostTable(net.space, "mJ", macs.rest / 1e6, costs, "a meter")
    known = DeviceProfile("b", "a board", "made-up 1", 1, energy_table=table)
    (tmp_path / "board.json").write_text(json.dumps(known.to_json()))
    (tmp_path / "none.json").write_text(
        json.dumps(replace(known, energy_table=None, energy_reason="it is virtual").to_json())
    )
    most = table.cost("1/2")
    command = (
        "explore",
        network,
        "--data",
        "digits",
        "--min-accuracy",
        0.01,
        "--out",
        tmp_path / "o",
    )
    searched = ("--cost", "energy", "--profile")
    run(*command, *searched, tmp_path / "board.json", "--constraint", f"energy_mj={most}")
    front = Front.from_json(json.loads((tmp_path / "o" / "front.json").read_text()))
    for point in (*front.points, front.chosen):
        assert point.cost.unit == "mJ"
        assert point.cost.known == pytest.approx(table.cost(point.mode))
        assert point.cost.known <= most
    refused = run(*command, "--overwrite", *searched, tmp_path / "none.json", fails=True)
    assert "has no table of energy: it is virtual" in " ".join(refused.stderr.split())


def _modes_by_short_names(network: Path, front: Path, bundle: Path, some: Path) -> None:
    """The second of three modes is m02 in the front, in the bundle, and in a bundle of two."""
    ids = {"m01": "1", "m02": "1/4", "m03": "1/16"}
    listed = json.loads(run("inspect", front, "--json").stdout)
    assert {each["id"]: each["mode"] for each in listed} == ids
    shown = run("inspect", bundle, "--mode", "m3").stdout
    assert shown.startswith("m03 1/16\n")
    chosen = ("--modes", "m3; m02", "--front", front)
    given = json.loads(run("export", network, *chosen, "--out", some, "--json").stdout)
    assert given["ids"] == {"m03": "1/16", "m02": "1/4"}
    array = some.with_name("digit.npy")
    np.save(array, np.zeros((1, 1, 8, 8), np.float32))
    common = ("--engine", "onnxruntime", "--threads", 1, "--json")
    for file in (bundle, some):
        assert (
            json.loads(run("run", file, array, "--mode", "m02", *common).stdout)[0]["mode"] == "1/4"
        )
    for command, message in (
        (("run", some, array, "--mode", "m01"), "no mode of"),
        (("inspect", front, "--mode", "m09"), "it has m01, m02, m03"),
        (("export", network, "--modes", "m02", "--out", some), "give its file with `--front`"),
        (("bench", bundle, "--modes", "1;m4"), "no mode of"),
        (("inspect", "resnet18", "--mode", "m1"), "is for a front.json or a bundle"),
    ):
        assert message in " ".join(run(*command, fails=True).stderr.split()), command


def test_a_front_is_exported_measured_and_compared(tmp_path: Path, monkeypatch):
    short = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)
    monkeypatch.setattr("wenable.profiling.comparison.compare", partial(compare, timing=short))
    monkeypatch.setattr(
        "wenable.profiling.profile",
        partial(profile, plan=ProfilePlan(1, 2, short, short)),
    )
    monkeypatch.setattr("wenable.profiling.verification.verify", partial(verify, timing=short))
    net = we.convert(build("wenable.zoo:digits_resnet", width=32), torch.zeros(1, 1, 8, 8))
    modes = [net.space.full, net.space.uniform(4), net.space.smallest]
    we.calibrate(net, modes, [torch.randn(8, 1, 8, 8)])
    network = we.save(net, tmp_path / "net.safetensors")
    points = tuple(
        Point(mode, Reading(0.9 - 0.1 * i, "top-1"), Reading(net.macs(mode), "MACs"))
        for i, mode in enumerate(modes)
    )
    front = Front(points[:2], points[2], points, 3, 0.5, "macs", "greedy")
    (tmp_path / "front.json").write_text(json.dumps(front.to_json()))
    bundle = tmp_path / "net.wen"
    stale = tmp_path / "stale.json"
    stale.write_text(json.dumps(replace(front, weights=1).to_json()))
    words = run("export", network, "--front", stale, "--out", bundle, fails=True).stderr
    assert "was found with other weights than this network has" in " ".join(words.split())
    given = json.loads(
        run("export", network, "--front", tmp_path / "front.json", "--out", bundle, "--json").stdout
    )
    assert given["modes"] == [str(mode) for mode in modes]
    assert given["bytes"] == bundle.stat().st_size
    _modes_by_short_names(network, tmp_path / "front.json", bundle, tmp_path / "some.wen")
    measured = json.loads(run("profile", bundle, "--threads", 1, "--json").stdout)
    assert list(measured["latencies"]) == given["modes"]
    kept = run("profile", bundle, "--threads", 1, "--out", tmp_path / "here.json").stdout
    assert "kept for sessions" in " ".join(kept.split())
    assert json.loads((tmp_path / "here.json").read_text())["table"]["unit"] == "ms"
    front_file = tmp_path / "front.json"
    checked = ("verify", bundle, tmp_path / "here.json", "--front", front_file)
    verified = json.loads(run(*checked, "--out", tmp_path / "verified.json", "--json").stdout)
    assert json.loads((tmp_path / "verified.json").read_text()) == verified
    assert len(verified["modes"]) >= 24
    page = tmp_path / "report.html"
    written = run(
        "report", f"here={front_file}", "--out", page, "--format", "html,md", "--json"
    )  # fmt: skip
    assert [Path(each).name for each in json.loads(written.stdout)] == ["report.html", "front.md"]
    assert "<script" in page.read_text()
    arguments = ("bench", bundle, "--engines", "onnxruntime", "--modes", "1/4")
    monkeypatch.setattr("wenable.cli.bundles.usable_cores", lambda: 2)
    values = json.loads(run(*arguments, "--out", tmp_path / "b.json", "--json").stdout)
    assert json.loads((tmp_path / "b.json").read_text()) == values
    assert [row["mode"] for row in values["modes"]] == ["1/4", "1/4"]
    assert values["modes"][0]["threads"] == 1  # and then as many as there are cores
    assert {row["ours"]["count"] for row in values["modes"]} == {4}
    shown = " ".join(run(*arguments, "--threads", 1).stdout.split())
    assert "4 calls of each, of one example" in shown
    array = tmp_path / "x.npy"
    np.save(array, np.zeros((1, 1, 8, 8), np.float32))
    assert "mode 1)" in " ".join(run("run", bundle, array, "--threads", 1).stdout.split())
    untold = run("run", bundle, tmp_path / "x.png", fails=True)
    assert "does not say how images are prepared" in " ".join(untold.stderr.split())


def test_the_command_is_installed_and_tells_its_version():
    command = [str(Path(sys.executable).with_name("wenable")), "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == we.__version__
