"""Fronts as a Markdown table for papers and pages: units, intervals, samples and sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wenable.core.readings import Front, Reading
from wenable.report.figures import SEARCH, shown_accuracy, shown_name, split_of
from wenable.report.page_data import page_data, shown_unit, table_points


def markdown_table(series: Mapping[str, Front], *, search_split: bool = False) -> str:
    """Return one table of the fronts' points, from the least costly, with their sources below.

    The accuracies are those on the test split; of a front that has none there, those on the search
    split, and the head of the column says so.

    - `series`: name -> front. There is a column with the names where there is more than one.
    - `search_split`: show the accuracies on the search split beside those on the test split.

    Raises `ValueError` where there is no front, or where units differ between fronts.

    >>> from wenable.core.space import Knob, Space
    >>> from wenable.core.readings import Point
    >>> mode = Space((Knob("a", (1, 2)),)).full
    >>> point = Point(mode, Reading(0.9, "top-1", 0.88, 0.92), Reading(3.0, "ms"))
    >>> front = Front((point,), point, (point,), 1, 0.5, "latency", "greedy")
    >>> print(markdown_table({"laptop": front}).splitlines()[2])
    | m01 | `1` | 90.0 (88.0 to 92.0) | 3.00 | - | chosen |
    """
    data = page_data(series, "", ())
    accuracy, cost = data["accuracy"], data["cost"]
    beside = search_split and any(front.is_tested for front in series.values())
    heads = [
        "id",
        "mode",
        f"{accuracy['name']} ({accuracy['shown']})",
        *([f"{accuracy['merit']}, {SEARCH} ({accuracy['shown']})"] if beside else []),
        f"{cost['name']} ({cost['shown']})",
        "samples",
        "remark",
    ]
    rules = ["---", "---", *("--:" for _ in heads[2:-1]), "---"]
    if len(series) > 1:
        heads, rules = ["series", *heads], ["---", *rules]
    rows = [
        [*([plain_text(shown_name(name, front, series))] if len(series) > 1 else []), *row]
        for name, front in series.items()
        for row in _rows(front, beside)
    ]
    table = [line(map(plain_text, heads)), line(rules), *map(line, rows)]
    return "\n".join([*table, "", *_sources(series)]).rstrip() + "\n"


def _rows(front: Front, beside: bool) -> list[list[str]]:
    rows = []
    ids = {mode: name for name, mode in front.ids.items()}
    for point in table_points(front):
        remark = "chosen" if point.mode == front.chosen.mode else ""
        if point.mode not in front.modes:
            remark = ", ".join(filter(None, (remark, "not on the front")))
        shown = shown_accuracy(point, split_of(front))
        rows.append(
            [
                ids[point.mode],
                f"`{point.mode}`",
                figure_text(shown),
                *([figure_text(point.accuracy)] if beside else []),
                figure_text(point.cost),
                _samples(shown, point.cost),
                remark,
            ]
        )
    return rows


def figure_text(reading: Reading) -> str:
    """Return a figure with its interval in shown units, without the unit; the reason if missing.

    >>> figure_text(Reading(3.14159, "ms", 3.0, 3.3, source="modelled"))
    '3.14 (3.00 to 3.30) modelled'
    >>> figure_text(Reading(None, "mJ", reason="no meter"))
    'not measured: no meter'
    """
    if reading.value is None:
        return f"not measured: {plain_text(reading.reason)}"
    text = _digits(reading.value, reading.unit)
    if reading.low is not None or reading.high is not None:
        ends = (reading.low, reading.high)
        low, high = ("?" if end is None else _digits(end, reading.unit) for end in ends)
        text += f" ({low} to {high})"
    return f"{text} modelled" if reading.is_modelled else text


def _digits(value: float, unit: str) -> str:
    shown = shown_unit(unit)
    scaled = value * shown["scale"]
    if shown["decimals"] is not None:
        return f"{scaled:.{shown['decimals']}f}"
    return f"{scaled:.0f}" if abs(scaled) >= 100 else f"{scaled:#.3g}".rstrip(".")


def _samples(*readings: Reading) -> str:
    return " / ".join(str(reading.count) for reading in readings if reading.count) or "-"


def _sources(series: Mapping[str, Front]) -> list[str]:
    """Return a line for each way in which a figure was got."""
    lines: dict[str, None] = {}
    for name, front in series.items():
        for point in table_points(front):
            shown = shown_accuracy(point, split_of(front))
            for label, reading in (("accuracy", shown), ("cost", point.cost)):
                parts = (reading.interval, reading.source, reading.device, reading.note)
                words = "; ".join(plain_text(part) for part in parts if part)
                if words:
                    lines[f"- {plain_text(name)}, {label}: {words}"] = None
    return list(lines)


def line(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def plain_text(text: str) -> str:
    """Return text that Markdown takes for text: one line, no pipes, no tags, no emphasis."""
    line = " ".join(str(text).split())
    for sign in "\\`*_[]|":
        line = line.replace(sign, "\\" + sign)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
