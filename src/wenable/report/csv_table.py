"""Fronts as CSV for other programs: one row a mode, one number a cell, units in the headers."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

from wenable.core.readings import Front, Point, Reading
from wenable.report.page_data import table_points

# unit -> (factor, how the header ends)
_UNITS = {"top-1": (100.0, "percent"), "MACs": (1.0, ""), "ms": (1.0, "ms"), "mJ": (1.0, "mj")}
_ENDS = ("low", "high", "p90", "p99")


def csv_table(series: Mapping[str, Front]) -> str:
    """Return the fronts' points as CSV, from the least costly, with a line of headers.

    A header names the figure and its unit: `accuracy_test_percent`, `latency_ms`, `latency_low_ms`,
    `macs`. Both splits have columns of their own. A figure that is not there is an empty cell, which
    pandas reads as missing, and its `..._reason` says why.

    - `series`: name -> front.

    >>> from wenable.core.space import Knob, Space
    >>> mode = Space((Knob("a", (1, 2)),)).full
    >>> point = Point(mode, Reading(0.9, "top-1", 0.88, 0.92, count=500), Reading(3.0, "ms"))
    >>> front = Front((point,), point, (point,), 1, 0.5, "latency", "greedy")
    >>> heads, row = (line.split(",") for line in csv_table({"laptop": front}).splitlines())
    >>> table = dict(zip(heads, row))
    >>> table["mode"], table["latency_ms"], table["accuracy_search_percent"]
    ('1', '3.0', '90.0')
    >>> table["accuracy_test_percent"], table["accuracy_test_reason"]
    ('', 'not evaluated on the test split')
    """
    rows = [row for name, front in series.items() for row in _rows(name, front)]
    heads = list(dict.fromkeys(head for row in rows for head in row))
    # Percentiles are of distributions: a count and a share have none, and no columns for them.
    unused = ("_p90", "_p99", "_modelled")
    tail = re.compile(rf"({'|'.join(unused)})(_|$)")
    heads = [head for head in heads if not tail.search(head) or any(row.get(head) for row in rows)]
    out = StringIO()
    writer = csv.DictWriter(out, heads, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _rows(name: str, front: Front) -> list[dict[str, Any]]:
    ids = {mode: short for short, mode in front.ids.items()}
    return [
        {"series": _text(name), "id": ids[p.mode], **_row(front, p)} for p in table_points(front)
    ]


def _row(front: Front, point: Point) -> dict[str, Any]:
    untested = Reading(None, point.accuracy.unit, reason="not evaluated on the test split")
    return {
        "mode": str(point.mode),
        "on_front": point.mode in front.modes,
        "chosen": point.mode == front.chosen.mode,
        **_figures("accuracy_test", point.test or untested, "images"),
        **_figures("accuracy_search", point.accuracy, "images"),
        **_figures(re.sub(r"\W+", "_", front.cost), point.cost, "samples"),
    }


def _figures(name: str, reading: Reading, counted: str) -> dict[str, Any]:
    plain = re.sub(r"\W+", "_", reading.unit).strip("_").lower()
    scale, unit = _UNITS.get(reading.unit, (1.0, plain))
    tail = f"_{unit}" if unit and unit != name else ""
    ends = {each: getattr(reading, each) for each in _ENDS}
    return {
        f"{name}{tail}": _scaled(reading.value, scale),
        **{f"{name}_{each}{tail}": _scaled(end, scale) for each, end in ends.items()},
        f"{name}_{counted}": reading.count or "",
        f"{name}_source": _text(
            "; ".join(filter(None, (reading.source, reading.device, reading.note)))
        ),
        f"{name}_modelled": reading.is_modelled,
        f"{name}_reason": _text(reading.reason),
    }


def _text(text: str) -> str:
    """Return a text on one line that no spreadsheet takes for a formula."""
    line = " ".join(text.split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def _scaled(value: float | None, scale: float) -> Any:
    # Ten digits: 0.29 * 100 is 28.999999999999996.
    return "" if value is None else float(f"{value * scale:.10g}")
