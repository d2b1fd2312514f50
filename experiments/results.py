"""Results as JSON: with what made them, written whole, and refused where they do not fit together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.present_commit import present_commit
from wenable.files import write_whole
from wenable.measure.device import describe_device

DOCS = Path(__file__).parents[1] / "docs" / "reproduction"


def with_provenance(command: str, scale: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return results with the command, the commit, the machine and the version that made them."""
    return {"scale": scale, **made_by_command(command), **values}


def made_by_command(command: str) -> dict[str, Any]:
    """Return what makes a result now: the command, the commit, the machine and the versions."""
    return {
        "command": command,
        "commit": present_commit(),
        "machine": describe_device(),
        "versions": {"torch": torch.__version__},
    }


def write_results(folder: Path, name: str, results: Mapping[str, Any]) -> Path:
    """Write results to `folder/NAME-SCALE.json`, whole or not at all, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{results['scale']}.json"
    write_whole(path, json.dumps(results, indent=1) + "\n")
    return path


def read_results(folder: Path, name: str, scale: str) -> dict[str, Any] | None:
    """Return the results of an experiment, or None where it was not run at this scale.

    Raises `ValueError` for a file that is half, or of another scale.
    """
    path = folder / f"{name}-{scale}.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no whole JSON file: {error}") from error
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
