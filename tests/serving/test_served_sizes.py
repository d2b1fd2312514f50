"""A bundle of several sizes of images: under a deadline each size has a controller of its own."""

from pathlib import Path

import numpy as np
import pytest
import torch

import wenable as we
from wenable.cli.run import run_once
from wenable.runtime import Session
from wenable.serving.batcher import Batcher


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)]
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 5)]
    net = we.convert(torch.nn.Sequential(*layers), torch.zeros(1, 3, 8, 8))
    path = tmp_path_factory.mktemp("sizes") / "net.wen"
    we.export(net, ["1", "1/4"], path, image_sizes=[(12, 10)])
    return path


def test_an_answer_names_the_mode_that_ran_at_its_own_size(bundle: Path):
    session = Session(bundle, engine="onnxruntime", threads=1)
    session.warm_up()
    session.warm_up(image_size="12x10")
    queue = Batcher(session, batches=(1,), start=False)
    future = queue.submit((np.zeros((1, 3, 12, 10), np.float32),), deadline_ms=1e4)
    queue.run_next()
    decisions = session.controller(1, (12, 10)).decisions
    assert future.result(timeout=0).mode == decisions[-1].name
    assert session.controller().decisions == ()
    queue.close()


def test_the_command_runs_images_of_each_size_under_a_deadline(bundle: Path, tmp_path: Path):
    files = []
    for name, shape in (("a", (1, 3, 8, 8)), ("b", (1, 3, 12, 10)), ("c", ())):
        files.append(tmp_path / f"{name}.npy")
        np.save(files[-1], np.zeros(shape, np.float32))
    assert run_once(bundle, files[:2], "", 1e4, "onnxruntime", 1, 3, True, False)
    assert not run_once(bundle, files, "", 1e4, "onnxruntime", 1, 3, True, False)


def test_a_single_value_is_named_and_the_others_run(bundle: Path, tmp_path: Path, capsys):
    single, whole = tmp_path / "single.npy", tmp_path / "whole.npy"
    np.save(single, np.float32(3))
    np.save(whole, np.zeros((1, 3, 8, 8), np.float32))
    assert not run_once(bundle, [single, whole], "1", None, "onnxruntime", 1, 3, False, False)
    shown = "".join(capsys.readouterr()).replace("\n", "")
    assert "single.npy is a single value, without a batch" in shown
    assert "1 of 2 inputs could not be run" in shown
