"""Every example runs as it is shown, without a download, and says what it promises."""

import ast
import contextlib
import functools
import io
import re
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = Path(__file__).parents[2] / "docs" / "get-started" / "examples.md"

# Arguments that keep it short, and what has to be in its output.
RUNS = {
    "own_network.py": ([], ("left alone: 0 has 1 input channels", "on the test split 9")),
    "fine_tune_timm.py": (["--epochs", "1"], ("11 layers switch", "1/16", "of the MACs")),
    "deadline.py": (["--epochs", "1"], ("kB for all modes", "in time: ")),
    "segmentation.py": (
        ["--images", "64", "--epochs", "1", "--width", "8"],
        ("MeanIoU", "predicted", "measured: ", "switching: ", "always 1"),
    ),
    "detection.py": (
        ["--images", "192", "--epochs", "6", "--width", "8"],
        ("mAP", "predicted", "measured: ", "switching: ", "always 1"),
    ),
    "keyword_spotting.py": (
        ["--sounds", "200", "--epochs", "1"],
        ("MMAC", "100 chunks of 100 ms", "sounds told right: "),
    ),
    "own_training_loop.py": ([], ("1/16", "of the labels right")),
    "own_method.py": ([], ("5x5", "1x1", "extracted: Conv2d(32, 32, kernel_size=(3, 3)")),
    "share_on_the_hub.py": ([], ("model.safetensors", "test split", "the same answers: True")),
}


@functools.cache
def shown_by(name: str) -> str:
    """Run an example as a script, in this process: importing torch anew takes longer than most of them."""
    shown, path = io.StringIO(), str(EXAMPLES / name)
    with patch.object(sys, "argv", [path, *RUNS[name][0]]), contextlib.redirect_stdout(shown):
        runpy.run_path(path, run_name="__main__")
    return shown.getvalue()


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name: str):
    for words in RUNS[name][1]:
        assert words in shown_by(name)


def test_a_mode_that_would_be_late_gives_way_to_others():
    found = re.findall(r"deadline .* of mode (\S+), .* ms: ({.*})", shown_by("deadline.py"))
    (best, long), (slow, short) = [(mode, ast.literal_eval(ran)) for mode, ran in found]
    assert long[best] > 0
    assert set(short) - {slow}


def test_every_example_is_run_and_shown():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(RUNS)
    assert all(f"`examples/{name}`" in PAGE.read_text(encoding="utf-8") for name in names)
