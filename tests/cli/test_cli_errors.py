"""Errors of commands are one line that names what was typed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

import wenable as we
from tests.helpers.command_line import run
from tests.helpers.networks import small_resnet
from wenable.cli.errors import one_line_errors
from wenable.runtime.bundle import Bundle


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "no_such_net"], "is known to neither torchvision nor timm"),
        (["inspect", "resnet18", "--groups", "1,3,4"], "does not nest: 3 does not divide 4"),
        (["inspect", "resnet18", "--groups", "x"], "`--groups` (='x') must be whole numbers"),
        (["inspect", "resnet18", "--groups", ""], "`--groups` (=()) is empty"),
        (["inspect", "resnet18", "--shuffle", "odd"], "`--shuffle` (='odd') is unknown"),
        (["inspect", "resnet18", "--input", "3xx4"], "`--input` (='3xx4') must be sizes"),
        (["inspect", "resnet18", "--input", "99999x99999x3"], "allowed: 100,000,000"),
        (["train", "resnet18", "--data", "mnist", "--out", "o"], "`--data` (='mnist') is unknown"),
        (
            ["train", "resnet18", "--data", "digits", "--out", "o", "--passes", "1"],
            "`--passes` (=1) must be at least 2",
        ),
        (
            ["train", "wenable.zoo:digits_resnet", "--data", "digits", "--out", "o",
             "--batch-size", "5000"],
            "`--batch-size` (=5000) of a batch must be from 1 to the 997 training images",
        ),
        (["inspect", "absent.wen"], "`MODEL` (=absent.wen) does not exist"),
        (["inspect", "absent.safetensors"], "`MODEL` (=absent.safetensors) does not exist"),
        (["run", os.devnull, "x.npy"], f"(={os.devnull}) is no regular file"),
        (["inspect", "os:getcwdb"], "returned a bytes, not a torch.nn.Module"),
        (["inspect", "os:system"], "`MODEL` (='os:system') cannot be called"),
        (["inspect", "a:b:c"], "(='a:b:c') cannot be imported"),
        (["demo", "--epochs", "0", "--out", "o/x"], "`--epochs` (=0) must be at least 1"),
        (["explore", "absent", "--data", "digits", "--min-accuracy", "0.5", "--out", "o"],
         "`NETWORK` (=absent) does not exist"),
        (["bench", "absent.wen", "--threads", "1,x"],
         "`--threads` (='1,x') must be whole numbers with commas, each at least 1"),
        (["bench", "absent.wen", "--threads", "0"], "`--threads` (='0') must be whole numbers"),
        (["bench", "absent.wen", "--threads", "1,"], "`--threads` (='1,') must be whole numbers"),
        (["report", "absent.json", "--out", "r.html"], "error: absent.json: No such file or directory"),
    ],
)  # fmt: skip
def test_errors_are_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, fails=True)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback():
    result = run("--debug", "inspect", "no_such_net", fails=True)
    assert isinstance(result.exception, ValueError)
    assert run("inspect", "no_such_net", fails=True).exit_code == 1


@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize("shell", ["{} >&-", "{} | true"])
def test_an_output_that_nobody_reads_is_no_error_in_words(shell: str, options: str, tmp_path: Path):
    torch.manual_seed(0)
    net = we.convert(small_resnet(), torch.zeros(1, 3, 8, 8), method=we.WeightEnabling((1, 2)))
    path = we.export(net, ["full"], tmp_path / "net.wen")
    words = [sys.executable, "-m", "wenable.cli.main", "inspect", str(path), *options.split()]
    done = subprocess.run(
        ["bash", "-c", shell.format(shlex.join(words))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""


def test_a_pipe_is_no_bundle(tmp_path: Path):
    os.mkfifo(tmp_path / "net.wen")
    with pytest.raises(FileNotFoundError, match="is no regular file"):
        Bundle(tmp_path / "net.wen")


def test_a_pipe_that_broke_elsewhere_is_told(capfd: pytest.CaptureFixture[str]):
    @one_line_errors
    def command() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(typer.Exit):
        command()
    assert "Broken pipe" in capfd.readouterr().err
