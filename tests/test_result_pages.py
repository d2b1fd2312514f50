"""What the documentation shows of a benchmark is what its committed results say, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    deadlines,
    deployment,
    export_coverage,
    front_quality,
    idle_cost,
    int8_latency,
    operation_profile,
    real_weights,
    search_cost,
    training_speed,
)
from benchmarks.runs_by_machine import add_run
from experiments import cifar10, reproduction

FRONTS = ("digits_resnet", "digits_resnet_width16", "cifar_resnet20")
DOCS = Path(__file__).parents[1] / "docs"


def results(name: str) -> Any:
    return json.loads((DOCS / name / "results.json").read_text(encoding="utf-8"))


PAGES: dict[str, Callable[[], str]] = {
    "cifar10": lambda: cifar10.page(results("cifar10")),
    "deadlines": lambda: deadlines.page(results("deadlines")),
    "deployment": lambda: deployment.page(results("deployment")),
    "export-coverage": lambda: export_coverage.page(results("export-coverage")),
    "front-quality": lambda: front_quality.page(
        [json.loads((DOCS / "front-quality" / f"{name}.json").read_text()) for name in FRONTS]
    ),
    "idle-cost": lambda: idle_cost.page(results("idle-cost")),
    "int8-latency": lambda: int8_latency.page(results("int8-latency")["runs"]),
    "operation-profile": lambda: operation_profile.page(results("operation-profile")["runs"]),
    "real-weights": lambda: real_weights.page(results("real-weights")),
    "reproduction": lambda: reproduction.page(DOCS / "reproduction"),
    "search-cost": lambda: search_cost.page(results("search-cost")),
    "training-speed": lambda: training_speed.page(DOCS / "training-speed"),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_made_of_its_results(name: str):
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == PAGES[name]()


def test_a_run_takes_the_place_of_its_machines_last(tmp_path: Path):
    path = tmp_path / "a benchmark" / "results.json"
    first, other = {"machine": "b", "ms": 1.0}, {"machine": "a", "ms": 2.0}
    assert add_run(path, first) == [first]
    assert add_run(path, other) == [other, first]
    again = first | {"ms": 3.0}
    assert add_run(path, again) == [other, again]
    assert json.loads(path.read_text()) == {"runs": [other, again]}
