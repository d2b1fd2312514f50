"""Commands never write over what they read."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import wenable as we
from tests.helpers.networks import small_resnet
from wenable.cli.main import app


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = we.convert(small_resnet(), torch.zeros(1, 3, 16, 16), method=we.WeightEnabling((1, 2)))
    return we.save(net, tmp_path_factory.mktemp("outputs") / "net.safetensors")


@pytest.fixture(scope="module")
def bundle(network: Path) -> Path:
    net = we.load(network, small_resnet())
    return we.export(net, ["full"], network.parent / "net.wen")


@pytest.mark.parametrize("way", ["the same", "a link", "another spelling"])
def test_an_export_does_not_replace_the_network_it_is_made_of(network: Path, way: str) -> None:
    out = network
    if way == "a link":
        out = network.parent / "link.wen"
        out.unlink(missing_ok=True)
        out.symlink_to(network)
    elif way == "another spelling":
        out = network.parent / ".." / network.parent.name / network.name
    before = network.read_bytes()
    model = "tests.helpers.networks:small_resnet"
    found = CliRunner().invoke(
        app, ["export", str(network), "--model", model, "--modes", "full", "--out", str(out)]
    )
    assert found.exit_code == 1
    words = f"`--out` (={out}) is a file that this command reads or writes besides"
    assert words in found.stderr.replace("\n", "")
    assert network.read_bytes() == before


@pytest.mark.parametrize("command", ["profile", "join", "bench", "report"])
def test_no_other_command_does_either(bundle: Path, command: str) -> None:
    before = bundle.read_bytes()
    read = [f"a={bundle}", f"b={bundle}"] if command == "join" else [str(bundle)]
    found = CliRunner().invoke(app, [command, *read, "--out", str(bundle)])
    assert found.exit_code == 1
    assert "that this command reads" in found.stderr.replace("\n", " ")
    assert bundle.read_bytes() == before


def test_two_outputs_in_one_file_are_refused(bundle: Path, tmp_path: Path) -> None:
    profile, both = tmp_path / "profile.json", tmp_path / "both.json"
    found = CliRunner().invoke(
        app,
        ["verify", str(bundle), str(profile), "--out", str(both), "--refit-out", str(both)],
    )
    assert found.exit_code == 1
    assert "`--out`" in found.stderr
    assert not both.exists()
