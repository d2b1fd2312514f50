"""Figures 5, 6 and 7 as pictures, drawn from their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from experiments.fig6 import OURS, RIVAL, SHELF
from wenable.files import write_whole

# Colours that stay apart for colour-blind readers, and in grey.
GREEDY, EXACT, US_NET, OTHERS = "#0b62a8", "#56b4e9", "#d9730d", "#444444"
SEARCHES = {"greedy": (GREEDY, "o"), "greedy-lazy": (GREEDY, "v"), "exact": (EXACT, "^")}
"""The colour and the marker of what each search found; the lazy one stands for Algorithm 2 where that
takes too long."""
SEED_STYLES = ("-", "--", ":", "-.", (0, (1, 3)))


def fig5(results: Mapping[str, Any], path: Path) -> Path:
    """Draw accuracy against multiply-accumulates: a row for a network, a column for a comparison."""
    networks = list(dict.fromkeys(row["network"] for row in results["rows"]))
    comparisons = list(dict.fromkeys(row["comparison"] for row in results["rows"]))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(networks), len(comparisons), squeeze=False, sharey="row")
        for row in results["rows"]:
            axis = axes[networks.index(row["network"])][comparisons.index(row["comparison"])]
            style = SEED_STYLES[results["seeds"].index(row["seed"])]
            _against_macs(axis, row["rival"]["points"], US_NET, style, "s")
            for name, front in row["ours"]["fronts"].items():
                color, marker = SEARCHES[name]
                counted = [point for point in front["points"] if point["counted"]]
                _against_macs(axis, counted, color, style, marker)
            axis.set_title(f"{row['network']}, {row['comparison']}", fontsize="medium")
        for axis in axes.flat:
            _finish(axis, "multiply-accumulates of one image, millions")
        for row_of_axes in axes:
            row_of_axes[0].set_ylabel("top-1 on the test split, %")
        taken = {name for row in results["rows"] for name in row["ours"]["fronts"]}
        lazy = (
            {"weight-enabling, greedy-lazy": SEARCHES["greedy-lazy"]}
            if "greedy-lazy" in taken
            else {}
        )
        _legend(figure, {
            "US-Net, all widths": (US_NET, "s"),
            "weight-enabling, Algorithm 2's path": (GREEDY, "o"),
            **lazy,
            "weight-enabling, exact": (EXACT, "^"),
        }, len(results["seeds"]))  # fmt: skip

    return _drawn(draw, (5.4 * len(comparisons), 3.7 * len(networks) + 0.6), path)


def fig6(results: Mapping[str, Any], path: Path) -> Path:
    """Draw accuracy against time: a row for a network, a column for an engine."""
    panels = results["panels"]
    engines = list(dict.fromkeys(cost["engine"] for panel in panels for cost in panel["costs"]))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(panels), len(engines), squeeze=False, sharey="row")
        for row, panel in zip(axes, panels, strict=True):
            for axis, engine in zip(row, engines, strict=True):
                _against_time(axis, panel, engine, results["seeds"])
                axis.set_title(f"{panel['network']}, {engine}", fontsize="medium")
                _finish(axis, "time of one image, ms (quartiles)")
            row[0].set_ylabel("top-1 on the test split, %")
        _legend(figure, {
            "US-Net": (US_NET, "s"),
            "weight-enabling, Algorithm 2's front": (GREEDY, "o"),
            "weight-enabling, exact": (EXACT, "^"),
            "off the shelf, same epochs": (OTHERS, "D"),
            "off the shelf, same passes": (OTHERS, "*"),
        }, len(results["seeds"]))  # fmt: skip

    return _drawn(draw, (5.4 * len(engines), 3.7 * len(panels) + 0.8), path)


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
            axis.set_xticks(results["batches"], [str(n) for n in results["batches"]])
            axis.set_title(device, fontsize="medium")
            _finish(axis, "images in a batch", from_zero=False)
        axes[0].set_ylabel("time of one image, ms (quartiles)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5,
                      frameon=False, fontsize="small")  # fmt: skip

    return _drawn(draw, (4.6 * len(devices), 4.2), path)


def _against_macs(
    axis: Axes, points: Sequence[Mapping[str, Any]], color: str, style: Any, marker: str
) -> None:
    ordered = sorted(points, key=lambda each: each["macs"])
    readings = [each["test"] for each in ordered]
    axis.errorbar(
        [each["macs"] / 1e6 for each in ordered],
        [100 * each["value"] for each in readings],
        yerr=_bars(readings, 100), fmt=marker, linestyle=style, color=color,
        linewidth=1, elinewidth=0.5, markersize=3, alpha=0.75,
    )  # fmt: skip


def _against_time(axis: Axes, panel: Mapping[str, Any], engine: str, seeds: Sequence[int]) -> None:
    times = {
        (cost["who"], cost["mode"]): cost["latency"]
        for cost in panel["costs"]
        if cost["engine"] == engine
    }
    kinds = {
        (RIVAL, ""): (US_NET, "s"),
        **{(OURS, strategy): look for strategy, look in SEARCHES.items()},
    }
    for (who, strategy), (color, marker) in kinds.items():
        for seed, style in zip(seeds, SEED_STYLES, strict=False):
            points = [
                each
                for each in panel["points"]
                if (each["who"], each["strategy"], each["seed"]) == (who, strategy, seed)
            ]
            _points_in_time(axis, points, times, color, marker, style)
    shelf = [each for each in panel["points"] if each["who"] == SHELF]
    for label, marker in (("same epochs", "D"), ("same passes", "*")):
        some = [each for each in shelf if each["passes"] == label]
        _points_in_time(axis, some, times, OTHERS, marker, "none")
    for name in dict.fromkeys(each["mode"] for each in shelf):
        highest = max((e for e in shelf if e["mode"] == name), key=lambda e: e["test"]["value"])
        where = times[SHELF, name]["value"], 100 * highest["test"]["value"]
        axis.annotate(name, where, xytext=(0, 7), textcoords="offset points", fontsize="x-small",
                      ha="right")  # fmt: skip


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


def _legend(figure: Figure, entries: Mapping[str, tuple[str, str]], seeds: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=1, markersize=4, label=label)
        for label, (color, marker) in entries.items()
    ]
    handles += [
        Line2D([], [], color="0.4", linestyle=SEED_STYLES[i], label=f"seed {i + 1}")
        for i in range(seeds if seeds > 1 else 0)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False,
                  fontsize="small")  # fmt: skip


def _drawn(draw: Callable[[Figure], None], size: tuple[float, float], path: Path) -> Path:
    # The same results give the same file: no date in it, and names that are no random ones.
    with rc_context({"svg.hashsalt": "wenable"}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        content = BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return write_whole(path, content.getvalue())
