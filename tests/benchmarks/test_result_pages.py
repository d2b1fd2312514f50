"""What the documentation shows of a benchmark is what its committed results say, and nothing else."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import (
    deadline_replay,
    deployment,
    export_coverage,
    front_quality,
    idle_cost,
    int8_latency,
    native_modes,
    operation_profile,
    real_weights,
    round_trips,
    search_cost,
    serving_burst,
    training_speed,
    unprofiled,
    which_method,
    width_coverage,
)
from benchmarks.chain import table as chain_table
from benchmarks.under_load import page as under_load_page
from experiments import cifar10, page_techniques, page_worth, reproduction
from experiments.worth_records import all_scales
from results.records import ROOT, page_file, read_records, records_file, write_records
from results.runs_by_machine import add_run


def results(name: str) -> Any:
    return read_records(records_file(ROOT, name))


PAGES: dict[str, Callable[[], str]] = {
    "chain": lambda: chain_table.page(results("chain")),
    "cifar10": lambda: cifar10.page(results("cifar10")),
    "deadline-replay": lambda: deadline_replay.page(results("deadline-replay")),
    "deployment": lambda: deployment.page(results("deployment")),
    "export-coverage": lambda: export_coverage.page(results("export-coverage")),
    "front-quality": lambda: front_quality.page(results("front-quality")["networks"]),
    "idle-cost": lambda: idle_cost.page(results("idle-cost")),
    "int8-latency": lambda: int8_latency.page(results("int8-latency")["runs"]),
    "native-modes": lambda: native_modes.page(results("native-modes")["runs"]),
    "operation-profile": lambda: operation_profile.page(results("operation-profile")["runs"]),
    "round-trips": lambda: round_trips.page(results("round-trips")),
    "serving-burst": lambda: serving_burst.page_of(ROOT),
    "techniques": lambda: page_techniques.page(results("techniques")),
    "real-weights": lambda: real_weights.page(results("real-weights")),
    "reproduction": lambda: reproduction.page(ROOT / "results" / "reproduction"),
    "search-cost": lambda: search_cost.page(results("search-cost")),
    "training-speed": lambda: training_speed.page(ROOT / "results"),
    "under-load-b64": lambda: under_load_page.page(results("under-load-b64")),
    "under-load-v3-64": lambda: under_load_page.page(results("under-load-v3-64")),
    "under-load-short": lambda: under_load_page.page(results("under-load-short")),
    "which-method": lambda: which_method.page(results("which-method")["runs"]),
    "width-coverage": lambda: width_coverage.page(results("width-coverage")),
    "worth": lambda: page_worth.page(all_scales(ROOT)),
    "unprofiled": lambda: unprofiled.page(results("unprofiled")["runs"]),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_made_of_its_results(name: str):
    assert page_file(ROOT, name).read_text(encoding="utf-8") == PAGES[name]()


def test_a_run_takes_the_place_of_its_machines_last(tmp_path: Path):
    path = tmp_path / "a benchmark" / "speed.jsonl"
    first, other = {"machine": "b", "ms": 1.0}, {"machine": "a", "ms": 2.0}
    assert add_run(path, first) == [first]
    assert add_run(path, other) == [other, first]
    again = first | {"ms": 3.0}
    assert add_run(path, again) == [other, again]
    assert read_records(path) == {"runs": [other, again]}


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ROWS = st.lists(st.dictionaries(st.text(), LEAVES | st.lists(LEAVES)), max_size=3)


@given(st.dictionaries(st.text(min_size=1) | st.just("commit"), LEAVES | ROWS, max_size=4))
def test_records_come_back_as_they_were_written(results: dict[str, Any]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.jsonl"
        write_records(path, results)
        assert read_records(path) == results
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    if isinstance(results.get("commit"), str):
        assert all(line["made"]["commit"] == results["commit"] for line in lines)


def test_a_line_that_is_no_record_is_named(tmp_path: Path):
    path = tmp_path / "made.jsonl"
    write_records(path, {"rows": [{"ms": 1.0}]})
    path.write_text(path.read_text() + '{"part": "rows"}\n')
    with pytest.raises(ValueError, match=r"made\.jsonl, line 3 is no record"):
        read_records(path)


def test_the_page_of_methods_says_how_much_faster_each_is():
    """Of a run that is made up: nothing is measured here."""
    times = {"static": ("1", 10.0), "groups": ("1/16", 5.0), "widths": ("0.25", 4.0), "size": ("128", 2.5),
             "groups+size": ("1/4,size=128", 2.0), "widths+size": ("0.5,size=128", 2.0),
             "exits": ("stem", 8.0), "precision": ("8-bit", 20.0)}  # fmt: skip
    rows = [
        {"network": name, "mode": mode, "macs": 3e8, "ran_on": "native",
         "latency": {"value": ms, "low": ms, "high": ms, "unit": "ms"}}
        for name, (mode, ms) in times.items()
    ]  # fmt: skip
    run = {"machine": "a machine", "command": "c", "commit": "d", "threads": 2,
           "engines": {"auto": {"version": "openvino 1", "modes": rows}}}  # fmt: skip
    assert "after a switch" not in which_method.page([run])
    switching = {"first_over_steady": 1.04, "quartiles": [1.0, 1.09], "switches": 60}
    run["engines"]["auto"]["switching"] = switching
    text = which_method.page([run])
    assert "`ImageSize` 4.00 times, `Slimmable` 2.50 times" in text
    assert "`SwitchablePrecision` 0.50 times" in text
    assert "goal 1.10): auto 1.04 (1.00 to 1.09)." in text
    assert "| `WeightEnabling` | `1/16` | 300 | 5.0 (5.0 to 5.0) native | 2.00 |" in text


def test_the_page_of_widths_tells_what_was_refused_and_what_is_wrong():
    """Of rows that are made up: nothing is measured here."""
    same: dict[str, Any] = {
        "library": "timm",
        "family": "f",
        "refusal": "",
        "defects": [],
        "at": "a",
    }
    rows = [
        same | {"name": "a", "macs": {"full": 4 * 10**9, "0.5": 10**9, "0.25": 5 * 10**8}},
        same | {"name": "b", "macs": {}, "refusal": "'x' cannot run narrower: it splits"},
        same | {"name": "c", "macs": {"full": 10**9}, "defects": ["extract differs"]},
    ]
    about = {"command": "c", "machine": "m", "versions": {"torch": "2"}}
    text = width_coverage.page(about | {"networks": rows, "candidates": 5})
    assert "2 networks of the list were not tried yet." in text
    assert "Of 3 of timm, **1 convert**, 1 refused, 1 wrong." in text
    assert "| `a` | 4.00 | 4.0x | 8.0x |" in text
    assert "| `c` **wrong**: extract differs | 1.00 | - | - |" in text
    assert "- `b`: 'x' cannot run narrower: it splits" in text


def test_the_page_of_round_trips_names_what_misses_a_tolerance():
    """Of rows that are made up: nothing is measured here."""

    def row(network: str, methods: str, size: int, far: float | None) -> dict[str, Any]:
        return {
            "network": network, "methods": methods, "at": "abc", "modes": 3, "file_bytes": size,
            "plain_bytes": 100, "moved": [2e-6, None],
            "differences": dict.fromkeys(round_trips.ENGINES, far),
            "differences_8_bit": dict.fromkeys(round_trips.ENGINES, 0.2),
        }  # fmt: skip

    rows = [row("a", "groups+size", 104, 1e-5), row("b", "widths", 120, 2e-4)]
    text = round_trips.page(
        {"command": "c", "machine": "m", "versions": {"torch": "2"}, "rows": rows}
    )
    assert "Of 2 bundles of whole networks, 1 give" in text
    assert "(not b, widths: 2.0e-04)" in text
    assert (
        "1 are at most 1.10 times as large as the network's plain weights (not b, widths: 1.20)"
        in text
    )
    assert (
        "| a | groups x size | 3 | 1.040 | 1.0e-05 | 1.0e-05 | 2.0e-06 | 20.0% | 20.0% | - |"
        in text
    )
