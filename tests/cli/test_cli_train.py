"""`wenable train` and `wenable evaluate` as a person meets them: runs that stop, go on and are kept."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import wenable as we
from tests.data.test_data import write_images
from tests.helpers.command_line import run
from tests.helpers.processes import exit_status
from wenable.cli import errors, options
from wenable.cli.main import main
from wenable.cli.stopping import stop_requests
from wenable.cli.training_logs import TrainingLogs
from wenable.core.files import no_empty_folder_left
from wenable.training import config as settings
from wenable.training.recipes import RECIPES, recipe_named


def tiny() -> nn.Module:
    """A network for the digits that trains in no time."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def few() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))


def many() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1000))


def of_colours() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 32), nn.Linear(32, 1))


TINY = (
    "train", "tests.cli.test_cli_train:tiny", "--data", "digits", "--passes", 2, "--batch-size", 400,
    "--groups", "1,4",
)  # fmt: skip


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def words(text: str) -> str:
    return " ".join(text.split())


# --- the log --------------------------------------------------------------------------------------


def test_a_delay_leaves_the_losses_of_modes_that_no_step_trained_empty(tmp_path: Path):
    out, delay = tmp_path / "run", ("--set", "sharing.delay=0.5")
    done = run(*TINY, "--epochs", 2, "--out", out, *delay, "--tensorboard")
    assert re.search(r"4 steps of 2 passes, the first 2 of one,", words(done.stderr)), done.stderr
    _, alone, together = table(out / "epochs.csv")
    assert alone["loss"] == alone["loss_full"] != ""
    assert alone["loss_smallest"] == ""
    assert float(together["loss"]) == pytest.approx(
        (float(together["loss_full"]) + float(together["loss_smallest"])) / 2, rel=1e-4
    )
    outward = tmp_path / "outward"
    run(*TINY, "--epochs", 2, "--out", outward, *delay, "--set", "sharing.first=outward")
    smallest_first = table(outward / "epochs.csv")[1]
    assert smallest_first["loss_smallest"] != "" != smallest_first["loss_full"]


def test_the_log_has_a_row_for_the_weights_at_the_start_and_one_for_each_epoch(tmp_path: Path):
    out = tmp_path / "run"
    run(*TINY, "--epochs", 3, "--out", out, "--learning-rate", 0.2)
    rows = table(out / "epochs.csv")
    assert list(rows[0]) == [
        "epoch", "steps", "loss", "loss_full", "loss_smallest", "learning_rate", "seconds",
        "search_top1_full", "search_top1_1_4",
    ]  # fmt: skip
    assert all(name.isidentifier() for name in rows[0])  # `table.search_top1_full` in pandas
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [rows[0][name] for name in list(rows[0])[1:7]] == [""] * 6
    assert float(rows[0]["search_top1_full"]) < 0.3  # ten classes, nothing learned yet
    assert float(rows[3]["search_top1_full"]) > 0.6
    for row in rows[1:]:
        assert row["steps"] == "2"  # of 400 of the 997 images
        full, smallest = float(row["loss_full"]), float(row["loss_smallest"])
        assert float(row["loss"]) == pytest.approx((full + smallest) / 2, rel=1e-4)
        assert float(row["seconds"]) >= 0
    assert float(rows[1]["loss"]) > float(rows[3]["loss"])
    # the cosine's last step of each epoch is the lowest of it
    rates = [float(row["learning_rate"]) for row in rows[1:]]
    assert rates == sorted(rates, reverse=True)
    # the last row is what the network that was saved is worth
    data_row = run(*EVALUATE, out / "net.safetensors", "--split", "search", "--json")
    found = json.loads(data_row.stdout)["modes"]
    assert [f"{each['accuracy']['value']:.4f}" for each in found] == [
        rows[3]["search_top1_full"], rows[3]["search_top1_1_4"],
    ]  # fmt: skip


def _load(path: Any) -> we.DynamicNetwork:
    return we.load(path, tiny())


def test_a_kill_between_checkpoint_and_evaluation_leaves_no_hole(tmp_path: Path, monkeypatch):
    out = tmp_path / "run"
    command = (*TINY, "--epochs", 3, "--out", out)
    from wenable.cli import training_logs

    real, calls = training_logs.accuracies, []

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # row 0, epoch 1, and now that of epoch 2, whose checkpoint stands
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training_logs, "accuracies", killed)
        assert run(*command, fails=True).exit_code == 130
    assert [row["epoch"] for row in table(out / "epochs.csv")] == ["0", "1"]
    run(*command, "--resume")
    rows = table(out / "epochs.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[2]["loss"] == ""  # nobody knows any more
    run(*TINY, "--epochs", 3, "--out", tmp_path / "whole")
    whole = table(tmp_path / "whole" / "epochs.csv")
    for name in ("search_top1_full", "search_top1_1_4"):
        assert [row[name] for row in rows] == [row[name] for row in whole]


def test_the_best_network_is_kept_beside_the_last(tmp_path: Path, monkeypatch):
    from wenable.cli import training_logs
    from wenable.core.readings import Reading

    out, seen = tmp_path / "run", []
    figures = iter([0.99, 0.5, 0.7, 0.6])  # of row 0, which is no epoch, and of three epochs

    def said(net: we.DynamicNetwork, modes: Any, data: Any, split: str) -> Any:
        seen.append([p.detach().clone() for p in net.parameters()])
        value = next(figures)
        return {mode: Reading(value, "top-1", count=300) for mode in modes}

    monkeypatch.setattr(training_logs, "accuracies", said)
    shown = run(*TINY, "--epochs", 3, "--out", out, "--keep-best", "--learning-rate", 0.2)
    assert "after the best epoch: " in words(shown.stdout)
    best = _load(out / "best.safetensors")
    assert all(map(torch.equal, best.parameters(), seen[2]))
    assert not all(map(torch.equal, best.parameters(), seen[3]))


# --- runs that stop and go on ---------------------------------------------------------------------


def test_a_run_that_stands_there_is_kept_unless_it_is_to_be_overwritten(tmp_path: Path):
    out = tmp_path / "run"
    run(*TINY, "--epochs", 1, "--out", out)
    before = {each.name: each.read_bytes() for each in out.iterdir()}
    assert set(before) == {"checkpoint.safetensors", "epochs.csv", "net.safetensors"}
    message = (
        "holds a run already (checkpoint.safetensors, epochs.csv, net.safetensors): `--resume`"
    )
    refused = run(*TINY, "--epochs", 2, "--out", out, fails=True)
    assert message in words(refused.stderr)
    both = run(*TINY, "--epochs", 2, "--out", out, "--resume", "--overwrite", fails=True)
    assert "`--resume` and `--overwrite` exclude each other" in words(both.stderr)
    wrong = run(*TINY, "--epochs", 2, "--out", out, "--overwrite", "--passes", 1, fails=True)
    assert "`--passes` (=1) must be at least 2" in words(wrong.stderr)
    assert {each.name: each.read_bytes() for each in out.iterdir()} == before
    run(*TINY, "--epochs", 2, "--out", out, "--overwrite")
    assert [row["epoch"] for row in table(out / "epochs.csv")] == ["0", "1", "2"]
    (out / "checkpoint.safetensors").unlink()
    lost = run(*TINY, "--epochs", 2, "--out", out, "--resume", fails=True)
    assert "without the checkpoint to go on from: `--overwrite`" in words(lost.stderr)
    file = run(*TINY, "--out", out / "net.safetensors", fails=True)
    assert "is a file; name a folder" in words(file.stderr)
    run(*TINY, "--epochs", 1, "--out", tmp_path / "new", "--resume")  # there is nothing to lose


def test_a_run_is_extended_and_says_what_that_changes(tmp_path: Path):
    out = tmp_path / "run"
    run(*TINY, "--epochs", 1, "--out", out, "--learning-rate", 0.1)
    shown = run(*TINY, "--epochs", 3, "--out", out, "--learning-rate", 0.1, "--resume")
    said = words(shown.stderr)
    assert "goes on to 3 epochs, begun as one of 1: the learning rate is" in said
    assert "and follows the schedule of 3 epochs from here" in said
    rows = table(out / "epochs.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert all(row["loss"] for row in rows[1:])
    other = run(*TINY, "--epochs", 3, "--out", out, "--learning-rate", 0.2, "--resume", fails=True)
    assert "belongs to a run with `--learning-rate` = 0.1" in words(other.stderr)


def train_until_signalled(number: int, command: list[str], shown: Path) -> None:
    """Run the command as its console script does, and send its process a signal in step 3."""
    step = TrainingLogs.step

    def signalled(self: TrainingLogs, report: Any) -> None:
        step(self, report)
        if report.step == 3:
            os.kill(os.getpid(), number)

    TrainingLogs.step = signalled
    sys.argv = ["wenable", *command]
    with shown.open("w") as sys.stdout:
        main()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_so_in_its_status_and_in_json(tmp_path: Path, number: int, status: int):
    out = tmp_path / "run"
    command, shown = [*map(str, TINY), "--epochs", "3", "--out", str(out), "--json"], tmp_path / "o"
    assert exit_status(train_until_signalled, int(number), command, shown) == status
    assert json.loads(shown.read_text()) == {
        "complete": False, "checkpoint": str(out / "checkpoint.safetensors"),
    }  # fmt: skip
    assert not (out / "net.safetensors").exists()
    done = run(*TINY, "--epochs", 3, "--out", out, "--resume", "--json")
    assert json.loads(done.stdout)["complete"] is True
    assert [row["epoch"] for row in table(out / "epochs.csv")] == ["0", "1", "2", "3"]


def test_a_second_interrupt_ends_at_once_and_a_second_terminate_does_not():
    with stop_requests() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop()
        assert stop.exit_status == 143
    statuses: list[int] = []
    # A process that was started in the background ignores interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted_twice() -> None:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            statuses.append(stop.exit_status)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
            statuses.append(0)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    signal.signal(signal.SIGINT, before)
    assert statuses == [130]


def test_an_interrupt_outside_of_training_is_130_too(tmp_path: Path, monkeypatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wenable.cli.explore.run_explore", interrupted)
    ended = run(
        "explore",
        "x",
        "--data",
        "digits",
        "--min-accuracy",
        0.5,
        "--out",
        tmp_path / "a/b",
        fails=True,
    )
    assert (ended.exit_code, ended.stderr.strip()) == (130, "interrupted")
    monkeypatch.setattr("wenable.cli.train.accuracies", interrupted)
    ended = run(*TINY, "--epochs", 1, "--out", tmp_path / "run", "--json", fails=True)
    assert ended.exit_code == 130
    assert json.loads(ended.stdout)["complete"] is False


# --- where it starts --------------------------------------------------------------------------------


def test_training_starts_from_weights(tmp_path: Path):
    torch.manual_seed(1)
    weights = tiny().state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    arguments = [
        *TINY, "--epochs", 1, "--learning-rate", 1e-9, "--out", tmp_path / "run", "--weights",
    ]  # fmt: skip
    run(*arguments, tmp_path / "weights.safetensors", "--overwrite")
    found = _load(tmp_path / "run" / "net.safetensors").state_dict()
    torch.testing.assert_close(found["1.weight"], weights["1.weight"], rtol=0, atol=1e-6)
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    refused = run(*arguments, tmp_path / "other.safetensors", "--overwrite", fails=True)
    assert "does not fit the network" in words(refused.stderr)


# --- several processes ----------------------------------------------------------------------------


def test_processes_that_fail_alike_print_one_error(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(errors, "OTHERS_WAIT_S", 0.01)
    monkeypatch.setenv("RANK", "1")
    alone = run("inspect", "no_such_net", fails=True)  # the first one went on: it has to be said
    assert alone.exit_code == 1
    assert words(alone.stderr).startswith("process 1: error: `MODEL` (='no_such_net')")
    monkeypatch.delenv("RANK")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
        "wenable.cli.main", "train", "wenable.zoo:digits_resnet", "--data", "nothing",
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if "error: `--data`" in line]
    assert said == [
        "error: `--data` (='nothing') is unknown; allowed: digits, scenes, or a folder of images"
    ]
    assert "wenable/cli/" not in ended.stderr  # the only traceback is torchrun's own


# --- classes --------------------------------------------------------------------------------------


def test_classes_are_compared_with_the_outputs_before_anything_is_made(tmp_path: Path):
    folder = write_images(tmp_path / "images", {"train": 8, "test": 2}, size=8)
    rest = ("--batch-size", 4, "--workers", 0, "--out", tmp_path / "run")
    refused = run(
        "train",
        "tests.cli.test_cli_train:few",
        "--data",
        "digits",
        "--out",
        tmp_path / "run",
        fails=True,
    )
    assert "has 10 classes, the network 3 output(s): it needs an output" in words(refused.stderr)
    refused = run(
        "train", "tests.cli.test_cli_train:of_colours", "--data", folder, *rest, fails=True
    )
    assert "has 2 classes (cat, dog), the network 1 output(s)" in words(refused.stderr)
    assert not (tmp_path / "run").exists()
    shown = run(
        "train", "tests.cli.test_cli_train:many", "--data", "digits", "--epochs", 1, "--passes", 2,
        "--batch-size", 997, "--groups", "1,4", "--out", tmp_path / "run",
    )  # fmt: skip
    assert "has 10 classes, the network 1000 outputs: 990 of them stand for no" in words(
        shown.stderr
    )


# --- nothing empty is left ------------------------------------------------------------------------


def test_a_command_that_fails_leaves_no_empty_folder(tmp_path: Path):
    folder = write_images(tmp_path / "images", {"train": 8, "test": 2}, size=8)
    for each in (folder / "train").rglob("*.png"):
        each.write_bytes(b"no image")
    out = tmp_path / "a" / "b"
    failed = run(
        "train", "wenable.zoo:cifar_resnet20", "--data", folder, "--batch-size", 4, "--workers", 0,
        "--out", out, fails=True,
    )  # fmt: skip
    assert "cannot be read" in words(failed.stderr)
    assert not out.parent.exists()
    (tmp_path / "front.json").write_text("{}")
    (tmp_path / "net").write_text("no network")
    for command in (
        ("explore", tmp_path / "net", "--data", "digits", "--min-accuracy", 0.5, "--out", out),
        ("report", tmp_path / "front.json", "--out", out / "page.html"),
        ("report", tmp_path / "front.json", "--out", out / "page.html", "--format", "svg"),
        ("export", tmp_path / "net", "--out", out / "net.wen"),
        ("profile", tmp_path / "net", "--out", out / "profile.json"),
        ("evaluate", tmp_path / "net", "--data", "digits", "--out", out / "figures.csv"),
        ("demo", "--epochs", 0, "--out", out),
    ):
        run(*command, fails=True)
        assert not out.parent.exists(), command


def test_folders_that_hold_something_or_stood_before_stay(tmp_path: Path):
    (tmp_path / "before").mkdir()

    def fail(folder: Path, *files: Path) -> None:
        with no_empty_folder_left(folder):
            folder.mkdir(parents=True)
            for each in files:
                each.touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail(tmp_path / "before" / "a" / "b")
    assert list(tmp_path.iterdir()) == [tmp_path / "before"]
    assert not list((tmp_path / "before").iterdir())
    with pytest.raises(OSError, match="full"):
        fail(tmp_path / "a" / "b", tmp_path / "a" / "file")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "file"]
    with no_empty_folder_left(tmp_path / "c"):
        (tmp_path / "c").mkdir()
    assert (tmp_path / "c").exists()


# --- settings -------------------------------------------------------------------------------------


def test_the_help_tells_every_choice_and_default_as_they_are():
    text = words(run("train", "--help").stdout.replace("│", " "))
    assert tuple(RECIPES) == options.RECIPES
    for name in RECIPES:
        assert name in text
    choices = {
        "counting": settings.Counting, "sampling": settings.Sampling, "schedule": settings.Schedule,
        "optimizer": settings.Optimizer, "precision": settings.Precision,
        "implementations": settings.Implementations,
    }  # fmt: skip
    for name, kind in choices.items():
        assert f"--{name} {'|'.join(get_args(kind))}" in text, name
    digits, cifar, paper = (recipe_named(n) for n in ("digits", "cifar", "paper-resnet50"))
    training, images, theirs = digits.training, cifar.training, paper.training
    for said in (
        f"{training.passes}, {theirs.passes} for paper-*",
        f"{training.epochs} for digits, {images.epochs} for cifar",
        f"{digits.batch_size} for digits, {cifar.batch_size} for cifar",
        f"{training.learning_rate} for digits, {images.learning_rate} for cifar",
        f"{images.implementations}, {training.implementations} for digits",
        f"{images.schedule}, {theirs.schedule} for paper-*",
        f"default: ({images.weight_decay})",
    ):
        assert said in text, said
    assert replace(training, weight_decay=images.weight_decay) == training


def test_settings_reach_the_run_and_errors_name_the_option(tmp_path: Path):
    done = run(
        *TINY, "--epochs", 1, "--out", tmp_path / "run", "--json", "--optimizer", "adamw",
        "--weight-decay", 0.01, "--label-smoothing", 0.1, "--ema-decay", 0.9, "--device", "cpu",
        "--schedule", "constant", "--precision", "bfloat16",
    )  # fmt: skip
    config = json.loads(done.stdout)["config"]
    assert [config[name] for name in (
        "optimizer", "weight_decay", "label_smoothing", "ema_decay", "schedule", "precision",
    )] == ["adamw", 0.01, 0.1, 0.9, "constant", "bfloat16"]  # fmt: skip
    for arguments, message in (
        (("--label-smoothing", 2), "`--label-smoothing` (=2.0) must be from 0 to below 1"),
        (("--optimizer", "adam"), "`--optimizer` (='adam') must be one of 'sgd', 'adamw'"),
        (("--recipe", "best"), "`--recipe` (='best') is unknown; allowed: digits, scenes, cifar"),
        (("--batch-size", 0), "`--batch-size` (=0) of a batch must be from 1 to the 997"),
        (("--device", "gpu"), "`--device` (='gpu') cannot be used"),
        (("--device", "meta"), "`--device` (='meta') cannot be used"),
    ):
        refused = run(*TINY, "--out", tmp_path / "no", *arguments, fails=True)
        assert message in words(refused.stderr), arguments
        assert not (tmp_path / "no").exists()


# --- evaluate -------------------------------------------------------------------------------------

EVALUATE = ("evaluate", "--data", "digits", "--model", "tests.cli.test_cli_train:tiny")


def test_modes_are_evaluated_on_a_split(tmp_path: Path):
    out = tmp_path / "run"
    run(*TINY, "--epochs", 2, "--out", out, "--learning-rate", 0.2)
    network, file = out / "net.safetensors", tmp_path / "figures.csv"
    shown = run(*EVALUATE, network, "--out", file)
    assert "accuracy %" in words(shown.stdout)
    assert "(test split)" in words(shown.stdout)
    rows = table(file)
    assert list(rows[0]) == ["mode", "macs", "test_top1", "low", "high", "images"]
    assert [(row["mode"], row["images"]) for row in rows] == [("1", "500"), ("1/4", "500")]
    # by hand, with the statistics that are stored: none are needed here
    from wenable.data import digits

    net, test = _load(network), digits().test
    for row in rows:
        with torch.no_grad(), net.using(row["mode"]):
            right = (net(test.tensors[0]).argmax(1) == test.tensors[1]).float().mean()
        assert float(row["test_top1"]) == pytest.approx(float(right), abs=1e-4)
        assert float(row["low"]) < float(right) < float(row["high"])
        assert int(row["macs"]) == net.macs(row["mode"])
    one = json.loads(run(*EVALUATE, network, "--modes", "1/4; full ;1/4", "--json").stdout)
    assert [each["mode"] for each in one["modes"]] == ["1/4", "1"]
    assert one["split"] == "test"
    for arguments, message in (
        (("--split", "train"), "`--split` (='train') must be one of test, search"),
        (("--out", tmp_path / "no" / "figures.csv"), "there is no folder"),
    ):
        refused = run(*EVALUATE, network, *arguments, fails=True)
        assert message in words(refused.stderr)
