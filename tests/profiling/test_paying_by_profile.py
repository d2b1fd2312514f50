"""From a bundle measured on this machine to a network that offers what pays here."""

from pathlib import Path

import torch
from typer.testing import CliRunner

import wenable as we
from tests.exporting.test_exporting import calibrated
from wenable.cli.main import app
from wenable.cli.paying_words import left_out_line
from wenable.core.cost_table import CostTable
from wenable.measure.latency import TimingPlan
from wenable.profiling import ProfilePlan, profile
from wenable.runtime import DeviceProfile
from wenable.runtime.device_profile import write_profile
from wenable.zoo import build

SHORT = TimingPlan(blocks=2, calls=2, warmup=1, gap_ms=0.0)


def test_a_real_profile_says_which_options_are_offered(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    net, modes = calibrated()
    path = we.export(net, modes, tmp_path / "net.wen")
    plan = ProfilePlan(2, 3, scheme_timing=SHORT, mode_timing=SHORT)
    found = profile(path, engine="onnxruntime", threads=1, plan=plan)
    assert found.table is not None
    left = we.convert(net.original_class(), net.example_batch[0], profile=found)
    table, offered = found.table, {knob.name: knob.options for knob in left.space.knobs}
    for name, options in table.without_slower_options().items():
        costs = [table.costs[name][n] for n in options]
        assert costs == sorted(costs, reverse=True)
        assert offered.get(name, (1,)) == options
    assert left_out_line(left, found).startswith(f"profile of {found.device}, {found.engine}: ")


def test_inspect_shows_what_a_profile_leaves(tmp_path: Path):
    net = we.convert(build("wenable.zoo:cifar_resnet20"), torch.zeros(1, 3, 32, 32))
    costs = {knob.name: {n: 1 + 8 / n for n in knob.options} for knob in net.space.knobs}
    first, second, *_ = net.space.names
    costs[first] = dict.fromkeys(costs[first], 2.0)
    costs[second][2] = costs[second][1]
    table = CostTable(net.space, "ms", 0.1, costs, "made up", "a board")
    file = tmp_path / "board.json"
    write_profile(file, DeviceProfile("0", "a board", "made-up 1", 1, table=table).to_json())
    arguments = ["inspect", "wenable.zoo:cifar_resnet20", "--profile", str(file)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())
    gone = len(costs[first]) - 1 + 1
    assert f"profile of a board, made-up 1: {gone} of " in words
    assert f"1 of {len(costs)} layers are always whole" in words
    assert "runs no faster in groups than as a whole on a board" in words
    saved = tmp_path / "net.safetensors"
    we.save(net, saved)
    refused = CliRunner().invoke(app, ["inspect", str(saved), "--profile", str(file)])
    assert refused.exit_code != 0
