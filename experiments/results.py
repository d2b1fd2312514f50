"""Records of the paper's experiments: one file for each and scale, refused if they do not fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from results.provenance import made_by_command
from results.records import ROOT, read_records, write_records

RECORDS = ROOT / "results" / "reproduction"
PICTURES = ROOT / "docs" / "results" / "reproduction"


def with_provenance(command: str, scale: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return results with the command, the commit, the machine and the version that made them."""
    return {"scale": scale, **made_by_command(command), **values}


def write_results(folder: Path, name: str, results: Mapping[str, Any]) -> Path:
    """Write results to `folder/NAME-SCALE.jsonl`, whole or not at all, and return the path."""
    path = folder / f"{name}-{results['scale']}.jsonl"
    write_records(path, results)
    return path


def read_results(folder: Path, name: str, scale: str) -> dict[str, Any] | None:
    """Return the results of an experiment, or None where it was not run at this scale.

    Raises `ValueError` for a file that is half, or of another scale.
    """
    path = folder / f"{name}-{scale}.jsonl"
    if not path.is_file():
        return None
    found = read_records(path)
    missing = [key for key in ("command", "commit", "machine", "scale") if key not in found]
    if missing:
        raise ValueError(f"{path} is a half-finished result: it lacks {', '.join(missing)}")
    if found["scale"] != scale:
        raise ValueError(f"{path} holds the scale {found['scale']!r}, not {scale!r}")
    return found


def check_same_budget(runs: Iterable[Mapping[str, Any]]) -> None:
    """Raise `ValueError` unless all runs of one network had the same budget."""
    first: dict[str, tuple[str, Any]] = {}
    for run in runs:
        network, budget = str(run["network"]), run["budget"]
        name, expected = first.setdefault(network, (str(run["method"]), budget))
        if budget != expected:
            other = sorted(
                key for key in {*budget, *expected} if budget.get(key) != expected.get(key)
            )
            raise ValueError(
                f"the runs of {network!r} by {name!r} and {run['method']!r} had other budgets"
                f" ({', '.join(other)} differ) and must not stand in one figure"
            )
