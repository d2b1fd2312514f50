"""Table II on the page: what the shuffle gains, what it costs, and what sharing weights costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from experiments.page_parts import Claim, at_least, made_by, of_seeds, table
from experiments.table2 import PLAIN, SHUFFLED

PAPER_POINTS, PAPER_TIME_PERCENT = 2.98, 2.8


def section(results: Mapping[str, Any]) -> str:
    """Return the section of one scale."""
    seeds, rows, budget = results["seeds"], results["accuracy"], results["budget"]
    times = _times(results)
    lines = [
        f"`{results['network']}`: {budget['epochs']} epochs with {budget['passes']} passes a step,"
        f" batches of {budget['batch_size']}, {len(seeds)} seeds. Top-1 on the test split is the mean of"
        " the seeds; \u00b1 is half a 95 % interval of Student's t over the seeds. \u201cUncalibrated\u201d"
        " uses the statistics that training left in each option's norm. \u201cAlone\u201d is the same"
        " network (with the shuffle) trained by itself, as often over the data, with one pass a step. Time"
        " is ONNX Runtime's for one example on one thread, with the layers as written, of the first"
        " seed; medians, of which differences of a tenth are noise on a shared machine.",
        "",
        made_by(results),
        "",
    ]
    header = ["mode", "MACs", "shuffle, %", "no shuffle, %", "shuffle, uncalibrated, %", "alone, %",
              "time with the shuffle, ms", "without, ms"]  # fmt: skip
    kinds = ((SHUFFLED, "calibrated"), (PLAIN, "calibrated"), (SHUFFLED, "uncalibrated"),
             (SHUFFLED, "alone"))  # fmt: skip
    body = [
        [
            mode,
            f"{results['macs'][mode] / 1e6:.2f} M",
            *(of_seeds(_points(rows, method, kind, [mode], seeds)) for method, kind in kinds),
            *(f"{times[method, mode]:.3f}" for method in (SHUFFLED, PLAIN)),
        ]
        for mode in results["macs"]
    ]
    calibrated, raw, alone = (
        _points(rows, SHUFFLED, kind, list(results["macs"]), seeds)
        for kind in ("calibrated", "uncalibrated", "alone")
    )
    gained = [a - b for a, b in zip(calibrated, raw, strict=True)]
    lost = [a - b for a, b in zip(alone, calibrated, strict=True)]
    return "\n".join(
        [
            *lines,
            *table(header, body),
            "",
            f"Averaged over the modes, with the shuffle, calibration gains {of_seeds(gained, '+')} points,"
            f" and a network trained alone is better by {of_seeds(lost, '+')}.",
        ]
    )


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """Return what Table II claims, beside our figures of one scale."""
    seeds, rows, modes = results["seeds"], results["accuracy"], list(results["macs"])
    with_it, without = (_points(rows, m, "calibrated", modes, seeds) for m in (SHUFFLED, PLAIN))
    gained = [a - b for a, b in zip(with_it, without, strict=True)]
    times = _times(results)
    slower = 100 * mean(times[SHUFFLED, m] / times[PLAIN, m] - 1 for m in modes)
    scale = results["scale"]
    return [
        Claim("Table II", "the shuffle gains accuracy, points on average", f"+{PAPER_POINTS}",
              of_seeds(gained, "+"), scale, at_least(gained, 0.0, "zero")),
        Claim("Table II", "the shuffle costs little time, on average", f"+{PAPER_TIME_PERCENT} %",
              f"{slower:+.1f} %", scale,
              "not decided: another engine and device, and one seed's networks, so without an interval"),
    ]  # fmt: skip


def _times(results: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    return {(each["method"], each["mode"]): each["latency"]["value"] for each in results["latency"]}


def _points(
    rows: Sequence[Mapping[str, Any]],
    method: str,
    kind: str,
    modes: Sequence[str],
    seeds: Sequence[int],
) -> list[float]:
    """Return for each seed the mean top-1 over some modes, in percent."""
    return [
        100
        * mean(
            row[kind]["value"]
            for row in rows
            if row["method"] == method and row["seed"] == seed and row["mode"] in modes
        )
        for seed in seeds
    ]
