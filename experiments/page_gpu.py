"""The page of what a GPU measured: times, energies and the training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.page_parts import made_by, table

TIMES = """\
Milliseconds for an image: the time of a batch over its size, the median of all calls. Networks have random
weights: time depends on the structure. A dash is a measurement that was not made."""


def page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    cells = results["cells"]
    of = {
        part: [each for each in cells if each["part"] == part]
        for part in ("times", "energies", "training step")
    }
    parts = ["# Modes on a GPU", made_by(results), "## Time of an image", TIMES]
    parts += _tables(of["times"], "ms", 3)
    parts += ["## Energy of an image", _energy_words(of["energies"])]
    parts += _tables(of["energies"], "mJ", 2)
    parts += ["## A training step", _step_words(of["training step"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(cells: list[Mapping[str, Any]], unit: str, digits: int) -> list[str]:
    """Return a table for each network and way, modes against batches."""
    found = []
    for network, way in dict.fromkeys((cell["network"], cell["way"]) for cell in cells):
        rows = {
            c["batch"]: c["modes"] for c in cells
            if (c["network"], c["way"]) == (network, way) and "modes" in c
        }  # fmt: skip
        if not any(each["value"] is not None for of in rows.values() for each in of.values()):
            continue
        batches = sorted(rows)
        modes = list(next(iter(rows.values())))
        header = ["mode", *(f"batch {n}" for n in batches)]
        body = [[m, *(_number(rows[n].get(m), digits) for n in batches)] for m in modes]
        found.append(f"`{network}`, {way}, {unit}:\n\n" + "\n".join(table(header, body)))
    return found


def _number(reading: Mapping[str, Any] | None, digits: int) -> str:
    if reading is None or reading["value"] is None:
        return "-"
    return f"{reading['value']:.{digits}f}"


def _energy_words(cells: list[Mapping[str, Any]]) -> str:
    """Return what measured the energies, or why nothing did."""
    readings = [each for cell in cells if "modes" in cell for each in cell["modes"].values()]
    measured = next((each for each in readings if each["value"] is not None), None)
    if measured is not None:
        return f"By {measured['source']}. Scope GPU: the card alone, not the processor beside it."
    reason = next((each["reason"] for each in readings), "")
    return f"Not measured: {reason}." if reason else "Not measured yet."


def _step_words(cells: list[Mapping[str, Any]]) -> str:
    if not cells:
        return "Not measured yet."
    rows = [cell["row"] for cell in cells if "row" in cell]
    header = ["network", "batch", "precision", "passes", "r, grouped", "r, timed"]
    body = [
        [r["network"], str(r["batch"]), r["precision"], str(r["passes"]), _r(r, "grouped"), _r(r, "timed")]
        for r in rows
    ]  # fmt: skip
    return (
        "r: the time of a step over what its enabled multiply-accumulates would cost in a plain step, with"
        " quartiles.\n\n" + "\n".join(table(header, body, left=1))
    )


def _r(row: Mapping[str, Any], way: str) -> str:
    middle, low, high = row[way]["r"]
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
