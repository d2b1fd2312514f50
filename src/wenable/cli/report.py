"""`wenable report`: fronts from files as a page to look at, and as pictures and tables for papers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wenable.core.files import write_whole
from wenable.core.readings import Front, Point
from wenable.report.csv_table import csv_table
from wenable.report.figures import shown_accuracy, split_of
from wenable.report.markdown_table import markdown_table
from wenable.report.page import write_report
from wenable.report.page_data import table_points
from wenable.report.side_by_side import side_by_side

FORMATS = ("html", "svg", "png", "md", "csv")
Writer = tuple[Path, Callable[[Path], Path]]
_PICTURED = {"macs": "MACs", "latency": "ms"}


def run_report(
    fronts: list[Path],
    predictions: Path | None,
    out: Path,
    formats: Sequence[str] = ("html",),
    title: str = "",
    search_split: bool = False,
    deadline_run: Path | None = None,
) -> list[Path]:
    """Write what `formats` asks for, and return the paths of the files.

    - `fronts`: files that `explore` wrote, `front.json` or `NAME=front.json`. Without a name the
      file's is taken, with its folder where two files have the same. Accuracies are those on the test
      split; of a front that has none, those on the search split, and it says so.
    - `predictions`: a verification of predicted costs, for the page; None for none.
    - `out`: the page, such as `report.html`. `front.md`, `front.csv`, `front.svg` and `front.png` go
      beside it; of several fronts each has its own picture, `front-NAME.svg`, and `fronts.svg` shows
      all in the same axes.
    - `formats`: some of html, svg, png, md, csv.
    - `deadline_run`: requests under deadlines over time, as `wenable.runtime.deadline_run` writes them;
      their picture goes beside the page, as `deadlines.svg`.
    - `search_split`: show the accuracies on the search split beside those on the test split.

    Raises `ValueError` for an unknown format, a name used twice, a file that is no front, fronts
    of different units, a picture of a cost other than MACs and ms, a malformed run, and for a file that
    would be written over another or one that is read. What can be refused is refused before anything
    is written.

    Example:
        `run_report([Path("laptop=front.json")], None, Path("report.html"), ("html", "md"))`
    """
    _check_formats(formats)
    series = _read_fronts(fronts)
    run = None if deadline_run is None else _read_json(deadline_run)
    verifications = [] if predictions is None else [_read_json(predictions)]
    table = markdown_table(
        series, search_split=search_split
    )  # refuses mixed units before anything is written
    costs = [point.cost.value or 0.0 for front in series.values() for point in front.points]
    compared = f"{side_by_side(series)}\n" if len(series) > 1 and max(costs, default=0) > 0 else ""
    page = {"title": title, "predictions": verifications, "search_split": search_split}
    writers: list[Writer] = []
    if "html" in formats:
        writers.append((out, lambda path: write_report(path, series, **page)))
    if "md" in formats:
        writers.append((out.parent / "front.md", lambda path: write_whole(path, compared + table)))
    if "csv" in formats:
        words = csv_table(series)
        writers.append((out.parent / "front.csv", lambda path: write_whole(path, words)))
    if run is not None:
        writers.append(_timeline(run, out))
    for kind in ("svg", "png"):
        if kind in formats:
            writers += _pictures(series, out, kind, title)
    read = [*(_name_and_path(each)[1] for each in fronts), predictions, deadline_run]
    _check_paths([path for path, _ in writers], [each for each in read if each is not None])
    out.parent.mkdir(parents=True, exist_ok=True)
    return [write(path) for path, write in writers]


def _timeline(run: dict[str, Any], out: Path) -> Writer:
    # As for the fronts' pictures: matplotlib comes with wenable[train] only.
    from wenable.report.timeline import check_run, plot_timeline

    check_run(run)
    return out.parent / "deadlines.svg", lambda path: plot_timeline(run, path)


def _pictures(series: dict[str, Front], out: Path, kind: str, title: str) -> list[Writer]:
    """Return what writes the pictures, once they can be drawn; the page and the table do without."""
    from wenable.report.compared_plot import plot_compared

    _check_pictures(series)
    writers = [_picture(name, front, series, out, kind) for name, front in series.items()]
    if len(series) > 1:
        path = out.parent / f"fronts.{kind}"
        writers.append((path, lambda path: plot_compared(series, path, title=title)))
    return writers


def _check_paths(written: list[Path], read: list[Path]) -> None:
    """Raise `ValueError` where a file would be written over another, or over one that was read."""
    places, inputs = [each.resolve() for each in written], {each.resolve() for each in read}
    for path, place in zip(written, places, strict=True):
        if place in inputs or places.count(place) > 1:
            other = "a file that is read" if place in inputs else "another file of the report"
            raise ValueError(
                f"{path} would be written over {other}; give `out` another name or folder"
            )


def _check_formats(formats: Sequence[str]) -> None:
    unknown = [each for each in formats if each not in FORMATS]
    if unknown or not formats:
        raise ValueError(
            f"`formats` (={','.join(formats)!r}) names {', '.join(unknown) or 'nothing'};"
            f" allowed: {', '.join(FORMATS)}"
        )


def _read_fronts(paths: list[Path]) -> dict[str, Front]:
    if not paths:
        raise ValueError("`fronts` is empty; a report needs the file of at least one front")
    named = [_name_and_path(path) for path in paths]
    names = [name for name, _ in named]
    series: dict[str, Front] = {}
    for name, path in named:
        if names.count(name) > 1:
            name = f"{path.resolve().parent.name}/{name}"
        if name in series:
            raise ValueError(
                f"`fronts` has two series of the name {name!r}; name them, as in laptop={path}"
            )
        series[name] = _read_front(path)
    return series


def _name_and_path(path: Path) -> tuple[str, Path]:
    name, sign, rest = str(path).partition("=")
    if sign and name and rest and not path.exists():
        return name, Path(rest)
    return path.stem, path


def _read_front(path: Path) -> Front:
    try:
        return Front.from_json(_read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} is no file of a front: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a JSON {type(values).__name__}; allowed: an object")
    return values


def _check_pictures(series: dict[str, Front]) -> None:
    for name, front in series.items():
        units = {point.cost.unit for point in table_points(front)}
        if units != {_PICTURED.get(front.cost)}:
            raise ValueError(
                f"`formats` asks for a picture of {name!r}, whose cost is {front.cost!r} in"
                f" {', '.join(sorted(units))}; allowed: macs in MACs, latency in ms"
            )
        if not _drawable(front):
            raise ValueError(f"{name!r} has no point with both figures; there is nothing to draw")
    costs = {front.cost for front in series.values()}
    if len(costs) > 1:
        raise ValueError(
            f"`formats` asks for a picture of fronts by {' and '.join(sorted(costs))}; one has one cost"
        )
    stems = {_stem(name, series): name for name in series}
    if len(stems) < len(series):
        listed = ", ".join(map(repr, series))
        raise ValueError(f"two of the names {listed} give their pictures the same file name")


def _drawable(front: Front) -> tuple[Point, ...]:
    return tuple(
        point
        for point in front.points
        if point.cost.value is not None and shown_accuracy(point, split_of(front)).value is not None
    )


def _stem(name: str, series: dict[str, Front]) -> str:
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", name)
    return "front" if len(series) == 1 else f"front-{slug}"


def _picture(name: str, front: Front, series: dict[str, Front], out: Path, kind: str) -> Writer:
    # matplotlib comes with wenable[train] only; the page and the table do without.
    from wenable.report.front_plot import Panel, plot_fronts

    points = _drawable(front)
    modelled = any(point.cost.is_modelled for point in points)
    words = f"{name} (cost modelled)" if modelled else name
    panels = {front.cost: Panel(points, (), split_of(front))}
    path = out.parent / f"{_stem(name, series)}.{kind}"
    return path, lambda path: plot_fronts(panels, path, title=words)
