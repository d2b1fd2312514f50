"""A picture of requests under deadlines over time: the load, the mode that ran, the latency beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wenable.core.files import write_whole
from wenable.report.front_plot import plain_words

# Blue and orange that stay apart for colour-blind readers, and in grey.
_MET, _LATE, _LINE = "#0b62a8", "#d9730d", "#555555"


@plain_words
def plot_timeline(run: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a picture with the load, the modes and the latencies of a run, one below another.

    - `run`: as `wenable.runtime.deadline_run` makes it.
    - `path`: its ending, `.png` or `.svg`, says the format.

    Raises `ValueError` where it is no such run, or holds no request.
    """
    requests, modes = check_run(run)
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    load, ran, latency = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.3, 2))
    start_s = requests[0][0]
    times = [each[0] - start_s for each in requests]
    _draw_load(load, run["load"], start_s)
    ran.plot(times, [each[3] for each in requests], ".", color=_MET, markersize=3)
    ran.set_yticks(range(len(modes)), modes)
    ran.invert_yaxis()
    ran.set_ylabel("mode")
    _draw_latencies(latency, times, requests)
    for axis in (load, ran, latency):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    late = sum(each[2] > each[1] for each in requests)
    share = 100 * (1 - late / len(requests))
    figure.suptitle(
        f"{run.get('title', '')}: {share:.2f} % of {len(requests)} in time", fontsize="medium"
    )
    data = BytesIO()
    figure.savefig(data, format=Path(path).suffix.removeprefix(".") or "png", dpi=150)
    return write_whole(path, data.getvalue())


def _draw_load(axis: Axes, load: list[Any], start_s: float) -> None:
    axis.step([each[0] - start_s for each in load], [each[1] for each in load], color=_LINE)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("slowdown")


def _draw_latencies(axis: Axes, times: list[float], requests: list[Any]) -> None:
    for label, color, marker, late in (("in time", _MET, ".", False), ("late", _LATE, "x", True)):
        rows = [(t, r[2]) for t, r in zip(times, requests, strict=True) if (r[2] > r[1]) is late]
        axis.plot(
            [each[0] for each in rows], [each[1] for each in rows], marker, color=color,
            markersize=3 if marker == "." else 5, label=f"{label} ({len(rows)})", linestyle="none",
        )  # fmt: skip
    axis.step(
        times,
        [each[1] for each in requests],
        color=_LINE,
        linewidth=1,
        label="deadline",
        where="post",
    )
    axis.set_ylim(bottom=0)
    axis.set_ylabel("from arrival to answer (ms)")
    axis.set_xlabel("seconds")
    axis.legend(loc="upper right", frameon=False, ncols=3)


def check_run(run: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """Return the requests and the names of the modes of a run; raises `ValueError` as `plot_timeline`."""
    if run.get("format") != "wenable-deadline-run" or run.get("version") != 1:
        raise ValueError("this is no run of requests under deadlines, version 1")
    for name in ("modes", "requests", "load"):
        if not isinstance(run.get(name), list | tuple):
            raise ValueError(
                f"the run holds {run.get(name)!r} where a list of its {name} has to stand"
            )
    modes = [str(each) for each in run["modes"]]
    requests = run["requests"]
    if not requests:
        raise ValueError("the run holds no request; there is nothing to draw")
    for rows, length in ((requests, 4), (run["load"], 2)):
        for row in rows:
            if not (
                isinstance(row, list | tuple) and len(row) == length and all(map(_is_finite, row))
            ):
                raise ValueError(
                    f"the run holds {row!r} where {length} finite numbers have to stand"
                )
    if not all(row[3] in range(len(modes)) for row in requests):
        raise ValueError(f"a request of the run names none of its {len(modes)} modes")
    return requests, modes


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
