"""What the demo is made of: goals that fail loudly, the load, and what is said of a deadline."""

import copy
import json
import multiprocessing
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from wenable.cli import demo, demo_load
from wenable.cli.demo_check import front, goals
from wenable.cli.demo_deadline import Served, best_fixed, ladder, summary
from wenable.cli.main import app
from wenable.data import middle_digits
from wenable.training.in_memory import IN_MEMORY


def row(mode: str, macs: float, percent: float, ms: float, half: float = 1.0) -> dict:
    """One row of figures.json."""
    share, wide = percent / 100, half / 100
    accuracy = {"value": share, "low": share - wide, "high": share + wide, "count": 5000}
    return {"mode": mode, "macs": macs, "accuracy": accuracy, "latency": {"value": ms}}


FIGURES = [
    row("1", 20e6, 90, 1.0),
    row("1/2", 10e6, 84, 0.7),  # a searched mode is better and cheaper
    row("1,1/2", 9e6, 87, 0.6),
    row("1/2,1/4", 6e6, 86, 0.5),
    row("1/4,1/8", 4e6, 84, 0.4),
    row("1/16", 1e6, 80, 0.3),
]
DEADLINE = {
    "policies": [
        {"policy": "the deadline chooses", "requests": 200, "modes": {"1": 90, "a": 60, "b": 50}},
        {"policy": "best fixed mode", "requests": 80, "modes": {"a": 80}},
    ]
}


def verdicts(figures: list[dict], deadline: dict = DEADLINE) -> list[bool]:
    return [goal.met for goal in goals(figures, deadline, "1/16")]


def changed(position: int, **changes: dict) -> list[dict]:
    figures = copy.deepcopy(FIGURES)
    for name, values in changes.items():
        figures[position][name] |= values
    return figures


def test_a_run_that_meets_every_goal():
    assert verdicts(FIGURES) == [True] * 5
    words = [goal.words for goal in goals(FIGURES, DEADLINE, "1/16")]
    assert "10.0 points better than 1/16" in words[1]
    assert words[2] == "5 modes on the front (at least 5), first two apart, last two apart"
    assert "3.3 times as long" in words[3]


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        (changed(2, accuracy={"count": 3999}), 0),
        (changed(0, accuracy={"value": 0.849, "low": 0.839}), 1),  # 4.9 points
        (changed(5, accuracy={"high": 0.8901}), 1),  # 10 points, and the intervals touch
        (changed(2, accuracy={"high": 0.8901}), 2),  # the first two are not told apart
        (changed(5, accuracy={"high": 0.8301}), 2),  # nor the last two
        (FIGURES[:1] + FIGURES[2:4] + FIGURES[5:], 2),  # four modes
        (changed(5, latency={"value": 0.51}), 3),
    ],
)
def test_each_goal_is_missed_by_what_it_is_about(figures: list[dict], missed: int):
    assert not verdicts(figures)[missed]
    assert verdicts(figures).count(False) == (2 if missed == 1 else 1)


@pytest.mark.parametrize(
    ("figures", "faulty"),
    [
        (changed(0, accuracy={"value": 0.849, "low": 0.839}), False),  # 4.9 points
        (changed(0, accuracy={"value": 0.819, "low": 0.815}), True),  # 1.9 points
        (changed(5, accuracy={"high": 0.8901}), True),  # the ends of the front are not told apart
        (changed(2, accuracy={"high": 0.8901}), False),  # only its first two
        (changed(2, accuracy={"count": 3999}), True),
        (changed(5, latency={"value": 0.51}), False),  # 1.96 times
        (changed(5, latency={"value": 0.9}), True),
    ],
)
def test_what_falls_short_is_no_fault_until_it_is_far_off(figures: list[dict], faulty: bool):
    found = goals(figures, DEADLINE, "1/16")
    assert any(goal.is_fault for goal in found) == faulty
    assert not all(goal.met for goal in found)
    assert {goal.verdict for goal in found} >= {"MISSED" if faulty else "short", "met"}


def test_neighbours_in_the_middle_of_the_front_may_overlap():
    figures = changed(3, accuracy={"value": 0.865, "low": 0.845, "high": 0.885})
    assert verdicts(figures) == [True] * 5


def test_a_mode_that_hardly_ever_ran_does_not_count():
    rare = {"policies": [{"requests": 200, "modes": {"1": 100, "a": 99, "b": 1}}]}
    assert verdicts(FIGURES, rare) == [True, True, True, True, False]


def test_the_front_is_what_no_other_mode_beats():
    assert [each["mode"] for each in front(FIGURES)] == ["1", "1,1/2", "1/2,1/4", "1/4,1/8", "1/16"]
    same = [row("a", 5, 80, 1), row("b", 5, 80, 1), row("c", 5, 81, 1)]
    assert [each["mode"] for each in front(same)] == ["c"]


def test_the_command_ends_with_a_status(tmp_path: Path):
    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "wenable.cli.demo_check", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    (tmp_path / "figures.json").write_text(json.dumps(FIGURES))
    (tmp_path / "deadline.json").write_text(json.dumps(DEADLINE))
    good = run()
    assert (good.returncode, good.stdout.count("met"), "MISSED" in good.stdout) == (0, 5, False)
    (tmp_path / "figures.json").write_text(json.dumps(changed(5, latency={"value": 0.9})))
    bad = run()
    assert bad.returncode == 1
    assert bad.stdout.count("MISSED") == 1
    assert all(len(line) <= 80 for line in bad.stdout.splitlines())


# --- the whole way ----------------------------------------------------------------------------------


def test_the_demo_goes_the_whole_way_and_fails_where_goals_are_missed(tmp_path: Path, monkeypatch):
    """A short one, on a narrower network and on few scenes: all is there, and not all goals are met."""
    few = replace(IN_MEMORY["scenes"], make=partial(middle_digits, 320, 40, 60), calibration=64)
    build = demo.build
    monkeypatch.setitem(IN_MEMORY, "scenes", few)
    monkeypatch.setattr(demo, "build", lambda name: build(name, width=32))
    monkeypatch.setattr(demo, "THRESHOLD", 0.01)
    monkeypatch.setattr(demo, "KEPT", 3)
    monkeypatch.setattr(demo, "WAVES", 1)
    # Bits depend on the number of threads: the demo's processes get as many as this one has.
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    command = ["demo", "--out", str(tmp_path), "--epochs", "1"]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "80"})
    assert result.exit_code == 1
    for words in (
        "10 layers switch",
        "search by MACs",
        "give the same answers, to the bit",
        "give the answers of PyTorch",
        "the deadline chooses",
        "best fixed mode",
        "MISSED 60 test images behind each accuracy",
    ):
        assert words in result.stdout, result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if "written" not in line)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        "answers.safetensors", "deadline.json", "device.json", "figures.json", "front.json",
        "front.png", "net.safetensors", "net.wen",
    }  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"1", "1/2", "1/4", "1/8", "1/16"} <= {row["mode"] for row in figures}
    assert {row["accuracy"]["count"] for row in figures} == {60}
    assert all(row["macs"] > 0 and row["latency"]["unit"] == "ms" for row in figures)
    served = json.loads((tmp_path / "deadline.json").read_text())["policies"]
    assert [sum(each["modes"].values()) for each in served] == [row["requests"] for row in served]


# --- the deadline -----------------------------------------------------------------------------------


def test_a_summary_counts_what_came_in_time_and_what_ran():
    accuracy = {"1": 0.9, "1/4": 0.7}
    found = summary([("1", 10.0), ("1", 10.1), ("1/4", 3.0), ("1", 4.0)], 10.0, accuracy)
    assert found == Served(4, 0.75, pytest.approx(0.85), {"1": 3, "1/4": 1})


def test_modes_that_are_beaten_in_latency_are_no_rung():
    accuracy = {"1": 0.9, "1/2": 0.8, "a": 0.85, "b": 0.85, "1/16": 0.6}
    latency = {"1": 4.0, "1/2": 3.0, "a": 2.0, "b": 1.9, "1/16": 1.0}
    assert ladder(accuracy, latency) == ["1", "b", "1/16"]


@pytest.mark.parametrize("keeps_from", range(6))
def test_the_best_fixed_mode_is_the_first_that_keeps_as_many(keeps_from: int):
    """Whatever the rung from which on deadlines are kept: the one a walk from the top would find."""
    modes = list("abcdef")
    asked: list[str] = []

    def serve(mode: str) -> Served:
        asked.append(mode)
        in_time = 1.0 if modes.index(mode) >= keeps_from else 0.5
        return Served(10, in_time, 0.9 - modes.index(mode) / 10, {mode: 10})

    runs = best_fixed(modes, serve, wanted=0.97)
    assert list(runs)[-1] == modes[keeps_from]
    assert runs[modes[keeps_from]].in_time == 1.0
    assert len(asked) == len(set(asked)) <= 4


def test_where_no_fixed_mode_keeps_as_many_the_fastest_stands():
    runs = best_fixed(["a", "b"], lambda mode: Served(10, 0.1, 0.5, {mode: 10}), wanted=0.9)
    assert list(runs)[-1] == "b"
    assert list(best_fixed(["a"], lambda mode: Served(1, 1, 0.5, {mode: 1}), 0.9)) == ["a"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no processor times under /proc")
def test_the_load_comes_and_goes():
    """By its own processor time: hardly any in the first step, much in the two after it."""
    used: list[float] = []
    with demo_load.waves_of_load(1) as elapsed_s:
        assert elapsed_s() < demo_load.STEP_S / 2
        for step in range(3):
            before = _used_by_children()
            while elapsed_s() < (step + 1) * demo_load.STEP_S - 0.02:
                time.sleep(0.01)
            used.append(_used_by_children() - before)
    assert used[0] < 0.2 * (used[1] + used[2])  # whatever else runs on this machine
    assert not multiprocessing.active_children()


def _used_by_children() -> int:
    """Return the clock ticks that the children of this process have computed for."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks


def test_a_process_that_shares_one_core_has_one():
    code = "from wenable.cli.demo_load import *; import os; n = share_one_core();"
    code += "print(n, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else n)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, usable = map(int, done.stdout.split())
    assert loaded == usable


def test_the_modules_for_a_device_import_no_torch():
    code = "import wenable.cli.demo_deadline, wenable.cli.demo_device, wenable.cli.demo_check, sys;"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
