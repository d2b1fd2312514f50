"""The picture of requests under deadlines: what is drawn, and what is refused."""

from pathlib import Path

import pytest

from benchmarks.deadline_traces import arrivals, square_wave
from tests.runtime.test_controller import WITHOUT_ENERGY
from wenable.report.timeline import plot_timeline
from wenable.runtime.controller import Controller
from wenable.runtime.deadline_run import run_of_controller, run_of_simulation
from wenable.runtime.replay import FakeClock
from wenable.runtime.simulation import Controlled, simulate


def simulated() -> tuple[Controller, dict]:
    clock, trace = FakeClock(), square_wave()
    controller = Controller(WITHOUT_ENERGY, clock=clock)
    requests = arrivals(200, 27.0, period_ms=30.0)
    served = simulate(Controlled(controller, clock), WITHOUT_ENERGY, trace, requests)
    names = [each.name for each in WITHOUT_ENERGY]
    return controller, run_of_simulation(served, names, trace, "square wave")


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_run_is_drawn(tmp_path: Path, ending: str):
    path = plot_timeline(simulated()[1], tmp_path / f"run.{ending}")
    data = path.read_bytes()
    assert data.startswith(b"<?xml" if ending == "svg" else b"\x89PNG")
    assert len(data) > 5000


def test_a_controllers_own_log_is_the_same_run():
    controller, run = simulated()
    own = run_of_controller(controller, "square wave")
    assert own["modes"] == run["modes"]
    assert [row[2:] for row in own["requests"]] == [row[2:] for row in run["requests"]]
    for ours, theirs in zip(own["requests"], run["requests"], strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-5)


def test_names_of_modes_and_titles_are_no_formulas(tmp_path: Path):
    run = simulated()[1]
    run = {**run, "title": "$\\frac$", "modes": [f"${each}_$" for each in run["modes"]]}
    text = plot_timeline(run, tmp_path / "run.svg").read_text()
    assert "$\\frac$: " in text
    assert run["modes"][0] in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "x"}, "no run of requests"), ({"version": 2}, "version 1"),
        ({"requests": []}, "holds no request"),
        ({"requests": [[0.0, 1.0, float("nan"), 0]]}, "finite numbers"),
        ({"requests": [[0.0, 1.0, 2.0, 9]]}, "names none of its 5 modes"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused(tmp_path: Path, change: dict, words: str):
    with pytest.raises(ValueError, match=words):
        plot_timeline({**simulated()[1], **change}, tmp_path / "run.svg")
    assert not list(tmp_path.iterdir())
