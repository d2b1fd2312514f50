"""Figures 5, 6 and 7 as pictures, drawn from their results; the ending of a path says the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter

from experiments.budget import SAME_EPOCHS, SAME_PASSES
from experiments.fig6 import OURS, RIVAL, SHELF
from wenable.core.files import write_whole

# Colours that stay apart for colour-blind readers, and in grey.
GREEDY, EXACT, US_NET, OTHERS = "#0b62a8", "#56b4e9", "#d9730d", "#444444"
SEARCHES = {"greedy": (GREEDY, "o"), "greedy-lazy": (GREEDY, "v"), "knapsack": (EXACT, "^")}
"""The colour and the marker of what each search found; the lazy one stands for Algorithm 2 where that
takes too long."""
_SHELF_MARKERS = {SAME_EPOCHS: "D", SAME_PASSES: "*"}
COLUMNS = 3
_SMALL: dict[str, Any] = {"fontsize": "small"}


def fig5(results: Mapping[str, Any], path: Path) -> Path:
    """Draw accuracy against multiply-accumulates, a panel for each pair of networks."""

    def draw(axis: Axes, row: Mapping[str, Any]) -> None:
        _against_macs(axis, row["rival"]["points"], US_NET, "s")
        for name, front in row["ours"]["fronts"].items():
            counted = [point for point in front["points"] if point["counted"]]
            _against_macs(axis, counted, *SEARCHES[name])
        axis.set_title(f"{row['network']}\n{row['comparison']}, seed {row['seed']}", **_SMALL)
        _finish(axis, "multiply-accumulates of one image, millions")

    used = {name for row in results["rows"] for name in row["ours"]["fronts"]}
    legend = {"US-Net, all widths": (US_NET, "s")} | _entries(used)
    return _panels(results["rows"], draw, legend, path)


def fig6(results: Mapping[str, Any], path: Path) -> Path:
    """Draw accuracy against time, a panel for each pair of networks on each engine."""
    panels = [
        (panel, engine, seed)
        for panel in results["panels"]
        for engine in dict.fromkeys(cost["engine"] for cost in panel["costs"])
        for seed in dict.fromkeys(p["seed"] for p in panel["points"] if p["who"] == RIVAL)
    ]

    def draw(axis: Axes, what: tuple[Mapping[str, Any], str, int]) -> None:
        panel, engine, seed = what
        _against_time(axis, panel, engine, seed)
        axis.margins(x=0.12, y=0.12)  # for the names beside the points
        axis.set_title(f"{panel['network']}, {engine}, seed {seed}", **_SMALL)
        _finish(axis, "time of one image, ms (quartiles)")

    used = {p["strategy"] for panel, _, _ in panels for p in panel["points"] if p["strategy"]}
    legend = {"US-Net": (US_NET, "s")} | _entries(used)
    trained = {p["passes"] for panel, _, _ in panels for p in panel["points"] if p["who"] == SHELF}
    legend |= {
        f"off the shelf, {label}": (OTHERS, marker)
        for label, marker in _SHELF_MARKERS.items()
        if label in trained
    }
    return _panels(panels, draw, legend, path)


def _entries(used: set[str]) -> dict[str, tuple[str, str]]:
    """Return the entries of a legend for the searches that were used."""
    names = {
        "greedy": "weight-enabling, Algorithm 2",
        "greedy-lazy": "weight-enabling, Algorithm 2 approximated",
        "knapsack": "weight-enabling, exact",
    }
    return {text: SEARCHES[name] for name, text in names.items() if name in used}


def _panels(
    what: Sequence[Any],
    draw: Callable[[Axes, Any], None],
    legend: Mapping[str, tuple[str, str]],
    path: Path,
) -> Path:
    """Draw one panel for each of some things, three in a row, with one legend below."""
    columns = min(COLUMNS, len(what))
    rows = -(-len(what) // columns)

    def draw_all(figure: Figure) -> None:
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, each in zip(axes, what, strict=False):
            draw(axis, each)
        for axis in axes[len(what) :]:
            axis.set_visible(False)
        for axis in axes[::columns]:
            axis.set_ylabel("top-1 on the test split, %")
        _legend(figure, legend)

    return _drawn(draw_all, (4.4 * columns, 3.4 * rows + 0.6), path)


def fig7(results: Mapping[str, Any], path: Path) -> Path:
    """Draw the time of one image against the size of the batch, a panel for each device."""
    devices = list(dict.fromkeys(row["device"] for row in results["rows"]))
    modes = list(results["along"])
    front = [mode for mode in modes if results["along"][mode] != "uniform"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(devices), squeeze=False)[0]
        for axis, device in zip(axes, devices, strict=True):
            for number, mode in enumerate(modes):
                rows = [r for r in results["rows"] if r["device"] == device and r["mode"] == mode]
                uniform = mode not in front
                shade = number / max(len(modes) - 1, 1)
                axis.errorbar(
                    [r["batch"] for r in rows],
                    [r["latency"]["value"] for r in rows],
                    yerr=_bars([r["latency"] for r in rows], 1),
                    fmt="o-" if uniform else "^:",
                    color=(0.04 + 0.8 * shade, 0.38, 0.66 - 0.55 * shade),
                    elinewidth=0.7, linewidth=1, markersize=4,
                    label=mode if uniform else f"front, {results['macs'][mode] / 1e6:.3g} M MACs",
                )  # fmt: skip
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axis.yaxis.set_minor_formatter(FormatStrFormatter("%g"))
            axis.tick_params(axis="y", which="both", labelsize="small")
            axis.set_xticks(results["batches"], [str(n) for n in results["batches"]])
            axis.set_title(device, **_SMALL)
            _finish(axis, "images in a batch", from_zero=False)
        axes[0].set_ylabel("time of one image, ms (quartiles)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5,
                      frameon=False, fontsize="small")  # fmt: skip

    return _drawn(draw, (4.6 * len(devices), 4.2), path)


def _against_macs(axis: Axes, points: Sequence[Mapping[str, Any]], color: str, marker: str) -> None:
    ordered = sorted(points, key=lambda each: each["macs"])
    readings = [each["test"] for each in ordered]
    axis.errorbar(
        [each["macs"] / 1e6 for each in ordered],
        [100 * each["value"] for each in readings],
        yerr=_bars(readings, 100), fmt=f"{marker}-", color=color,
        linewidth=1, elinewidth=0.6, markersize=3.5, alpha=0.8,
    )  # fmt: skip


def _against_time(axis: Axes, panel: Mapping[str, Any], engine: str, seed: int) -> None:
    times = {
        (cost["who"], cost["mode"]): cost["latency"]
        for cost in panel["costs"]
        if cost["engine"] == engine
    }
    of_seed = [each for each in panel["points"] if each["seed"] == seed]
    kinds = {
        (RIVAL, ""): (US_NET, "s"),
        **{(OURS, strategy): look for strategy, look in SEARCHES.items()},
    }
    for kind, (color, marker) in kinds.items():
        points = [each for each in of_seed if (each["who"], each["strategy"]) == kind]
        _points_in_time(axis, points, times, color, marker, "-")
    shelf = [each for each in of_seed if each["who"] == SHELF]
    for label, marker in _SHELF_MARKERS.items():
        some = [each for each in shelf if each["passes"] == label]
        _points_in_time(axis, some, times, OTHERS, marker, "none")
    for name in dict.fromkeys(each["mode"] for each in shelf):
        lowest = min(e["test"]["low"] for e in shelf if e["mode"] == name)
        where = times[SHELF, name]["value"], 100 * lowest
        axis.annotate(name, where, xytext=(0, -9), textcoords="offset points", fontsize="x-small",
                      ha="center")  # fmt: skip


def _points_in_time(
    axis: Axes,
    points: Sequence[Mapping[str, Any]],
    times: Mapping[Any, Mapping[str, Any]],
    color: str,
    marker: str,
    style: Any,
) -> None:
    if not points:
        return
    ordered = sorted(points, key=lambda each: times[each["who"], each["mode"]]["value"])
    latencies = [times[each["who"], each["mode"]] for each in ordered]
    readings = [each["test"] for each in ordered]
    axis.errorbar(
        [each["value"] for each in latencies],
        [100 * each["value"] for each in readings],
        xerr=_bars(latencies, 1), yerr=_bars(readings, 100),
        fmt=marker, linestyle=style, color=color, linewidth=0.8, elinewidth=0.5, markersize=4,
        alpha=0.75,
    )  # fmt: skip


def _bars(readings: Sequence[Mapping[str, Any]], scale: float) -> list[list[float]]:
    """Return how far each interval reaches below and above its value."""
    below = [scale * (each["value"] - each["low"]) for each in readings]
    above = [scale * (each["high"] - each["value"]) for each in readings]
    return [below, above]


def _finish(axis: Axes, label: str, from_zero: bool = True) -> None:
    axis.set_xlabel(label)
    if from_zero:
        axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, entries: Mapping[str, tuple[str, str]]) -> None:
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=1, markersize=4, label=label)
        for label, (color, marker) in entries.items()
    ]
    columns = 3 if figure.get_figwidth() > 7 else 1  # three do not fit under one panel
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False,
                  fontsize="small")  # fmt: skip


def _drawn(draw: Callable[[Figure], None], size: tuple[float, float], path: Path) -> Path:
    # The same results give the same file: no date in it, and names that are no random ones.
    with rc_context({"svg.hashsalt": "wenable"}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        content = BytesIO()
        kind = path.suffix.removeprefix(".")
        about = {"Date": None} if kind == "svg" else None
        figure.savefig(content, format=kind, metadata=about, dpi=110)
    return write_whole(path, content.getvalue())
