"""`wenable inspect` of a front or a bundle: readings by their names in JSON, with headers in the table."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import wenable as we
from tests.helpers.command_line import run
from tests.helpers.fronts import evaluated, front, space
from tests.helpers.networks import small_resnet
from wenable.core.readings import Reading
from wenable.runtime.bundle import Bundle


def inspected(path: Path, *options: str) -> str:
    return run("inspect", path, *options).stdout


@pytest.mark.parametrize("tested", [False, True])
def test_the_readings_of_a_front_stand_under_their_names(tested: bool, tmp_path: Path):
    given = front(space())
    given = evaluated(given) if tested else given
    path = tmp_path / "front.json"
    path.write_text(json.dumps(given.to_json()), "utf-8")
    found = {each["mode"]: each["readings"] for each in json.loads(inspected(path, "--json"))}
    points = {str(point.mode): point for point in given.found}
    assert set(points) <= set(found)
    for mode, point in points.items():
        assert found[mode]["accuracy"] == asdict(point.accuracy)
        assert found[mode]["latency"] == asdict(point.cost)
        assert set(found[mode]) == {"accuracy", "latency", *(["test"] if tested else [])}
        if tested:
            assert found[mode]["test"]["value"] == (point.test.value if point.test else None)
    words = " ".join(inspected(path).split())
    assert "accuracy %" in words
    assert "latency ms" in words


def test_the_readings_of_a_bundle_stand_under_their_names(tmp_path: Path):
    torch.manual_seed(0)
    net = we.convert(small_resnet(), torch.zeros(1, 3, 8, 8), method=we.WeightEnabling((1, 2)))
    readings = {"full": {"accuracy": Reading(0.9, "top-1")}}
    path = we.export(net, ["full"], tmp_path / "net.wen", readings=readings)
    [found] = json.loads(inspected(path, "--json"))
    assert found["readings"] == {
        name: asdict(each) for name, each in Bundle(path).modes[0].readings.items()
    }
    assert {"macs", "accuracy"} <= set(found["readings"])
    for shown in (inspected(path), inspected(path, "--mode", "m01")):
        assert "macs M" in shown
        assert "accuracy %" in shown
