"""`wenable explore --profile` where latencies do not add up: what it says, finds and refuses."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import wenable as we
from wenable.cli.main import app
from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.readings import Front
from wenable.runtime import DeviceProfile
from wenable.zoo import build

METHOD = [
    we.WeightEnabling((1, 4), only="blocks.0.*"),
    we.ImageSize((8, 4)),
    we.SwitchablePrecision((32, 8)),
]


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, DeviceProfile, Path]:
    """A saved network, the profile of a made-up board, and the folder they are in."""
    folder = tmp_path_factory.mktemp("joint")
    net = we.convert(
        build("wenable.zoo:digits_resnet", width=16), torch.zeros(1, 1, 8, 8), method=METHOD
    )
    we.calibrate(net, ["8-bit"], [torch.rand(64, 1, 8, 8)])
    tables = []
    for size, bits in itertools.product((1, 2), (1, 4)):
        space = net.space.fixed({"size": size, "precision": bits})
        rows = {knob.name: {n: 1.0 / n / size for n in knob.options} for knob in space.knobs}
        tables.append(CostTable(space, "ms", 8.0 / size / bits**0.5, rows, "made up", "a board"))
    profile = DeviceProfile("b", "a board", "made-up 1", 1, parts=tuple(tables))
    (folder / "board.json").write_text(json.dumps(profile.to_json()))
    return we.save(net, folder / "net.safetensors"), profile, folder


def test_it_says_how_many_modes_and_finds_a_front_of_all_combinations(made, tmp_path):
    network, profile, folder = made
    command = ("explore", network, "--data", "digits", "--min-accuracy", 0.0001)
    board = ("--profile", folder / "board.json", "--cost", "latency", "--calibration-images", 64)
    code, out, err = run(*command, *board, "--out", tmp_path / "o")
    assert code == 0, err
    assert "modes: a knapsack for each of 4 choices of size and precision" in err
    front = Front.from_json(json.loads((tmp_path / "o" / "front.json").read_text()))
    costs = CostParts(front.chosen.mode.space, profile.parts)
    assert {(p.mode["size"], p.mode["precision"]) for p in front.explored} == {
        (1, 1), (1, 4), (2, 1), (2, 4),
    }  # fmt: skip
    for point in front.explored:
        assert point.cost.known == pytest.approx(costs.cost(point.mode))
    assert "latency ms" in out


def test_constraints_on_latency_and_memory_are_kept_in_all_combinations(made, tmp_path):
    network, profile, folder = made
    command = ("explore", network, "--data", "digits", "--min-accuracy", 0.0001, "--cost", "macs")
    board = ("--profile", folder / "board.json", "--calibration-images", 64)
    kept = ("--constraint", "latency_ms=7", "--constraint", "macs_m=0.9")
    code, out, err = run(*command, *board, *kept, "--out", tmp_path / "o")
    assert code == 0, err
    assert "modes: a knapsack for each of 3 choices of size and precision" in err
    assert "kept by all of them: at most 7 ms" in out
    front = Front.from_json(json.loads((tmp_path / "o" / "front.json").read_text()))
    latency = CostParts(front.chosen.mode.space, profile.parts)
    assert all(latency.cost(point.mode) <= 7 for point in front)
    assert all(point.cost.known <= 0.9e6 for point in front)


@pytest.mark.parametrize("strategy", ["nsga2", "greedy-lazy"])
def test_every_strategy_walks_the_knobs_together(made, tmp_path, strategy: str):
    if strategy == "nsga2":
        pytest.importorskip("optuna")
    network, profile, folder = made
    command = ("explore", network, "--data", "digits", "--min-accuracy", 0.0001)
    board = ("--profile", folder / "board.json", "--calibration-images", 64)
    code, _, err = run(*command, *board, "--strategy", strategy, "--out", tmp_path / "o")
    assert code == 0, err
    front = Front.from_json(json.loads((tmp_path / "o" / "front.json").read_text()))
    costs = CostParts(front.chosen.mode.space, profile.parts)
    assert front.strategy == strategy
    assert front.cost == "latency"
    for point in front.explored:
        assert point.cost.known == pytest.approx(costs.cost(point.mode))


def test_what_it_cannot_price_is_refused_before_anything_is_written(made, tmp_path):
    network, profile, folder = made
    few = replace(profile, parts=profile.parts[:2])
    (tmp_path / "few.json").write_text(json.dumps(few.to_json()))
    nothing = replace(profile, parts=(), events=("no cost table: the knob 'network' changes more",))
    (tmp_path / "none.json").write_text(json.dumps(nothing.to_json()))
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
    for more, words in (
        (("--cost", "latency"), "layers of 8 bits are rounded floats"),
        (("--profile", tmp_path / "few.json"), "has no cost of 1,size=4, 8-bit,size=4"),
        (("--profile", tmp_path / "none.json"), "has no table of latency: the knob 'network'"),
        (
            ("--profile", folder / "board.json", "--constraint", "latency_ms=0.1"),
            "(=at most 0.1 ms) cannot be kept: the least that a mode costs is",
        ),
        (
            ("--profile", tmp_path / "few.json", "--cost", "macs", "--constraint", "latency_ms=4"),
            "profile` has no cost of 1,size=4, 8-bit,size=4",
        ),
    ):
        code, _, err = run(*command, *more)
        assert code != 0
        assert words in err, err
        assert not (tmp_path / "o" / "front.json").exists()
