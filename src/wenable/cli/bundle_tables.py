"""What `wenable profile`, `verify` and `bench` print: tables of a bundle's modes for 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table

from wenable.cli.terminal import (
    counted,
    interval_text,
    mode_cells,
    modes_table,
    stacked_text,
)
from wenable.core.space import Mode, Space

if TYPE_CHECKING:
    from wenable.profiling.comparison import ModeComparison
    from wenable.profiling.verification import Verification
    from wenable.runtime import DeviceProfile


def profile_table(found: DeviceProfile, space: Space, ids: Mapping[str, Mode]) -> Table:
    """Return the latencies, and energies where there are some, of a bundle's modes."""
    modes = {text: space.mode(text) for text in found.latencies}
    title = f"{found.engine}, {counted(found.threads, 'thread')}, {found.device}"
    table = modes_table(title, modes.values(), ids)
    _figures(table, ["latency ms", "p99", *(["energy mJ"] if found.energies else [])])
    for text, reading in found.latencies.items():
        used = [interval_text(found.energies[text])] if found.energies else []
        p99 = "-" if reading.p99 is None else f"{reading.p99:.2f}"
        table.add_row(*mode_cells(modes[text], ids), interval_text(reading), p99, *used)
    return table


def predictions_table(
    result: Verification,
    space: Space,
    ids: Mapping[str, Mode],
    again: Verification | None = None,
) -> Table:
    """Return predicted and measured latencies; with those of a table that was fitted again."""
    modes = {text: space.mode(text) for text in result.measured}
    title = f"{result.engine}, {result.device}" if again is None else "held out"
    table = modes_table(title, modes.values(), ids)
    ways = {"predicted": result} if again is None else {"before": result, "after": again}
    errors = ["error\n%"] if again is None else [f"error\n{name} %" for name in ways]
    _figures(table, [*(f"{name}\nms" for name in ways), "measured\nms", *errors])
    for text, reading in result.measured.items():
        said = [way.predicted[text] for way in ways.values()]
        wrong = [f"{100 * (each / reading.known - 1):+.1f}" for each in said]
        cells = (*(f"{each:.2f}" for each in said), interval_text(reading), *wrong)
        table.add_row(*mode_cells(modes[text], ids), *cells)
    return table


def comparison_tables(
    rows: Sequence[ModeComparison], space: Space, ids: Mapping[str, Mode]
) -> list[Table]:
    """Return a table for each engine and number of threads: a mode beside its plain exports."""
    tables = []
    for (engine, version, threads), group in groupby(
        rows, key=lambda each: (each.engine, each.version, each.threads)
    ):
        of_one = {space.mode(each.mode): each for each in group}
        title = f"{engine} {version}, {counted(threads, 'thread')}: latency, ms (quartiles)"
        table = modes_table(title, of_one, ids)
        _figures(
            table,
            ["ours", "plain\nhere", "best\nplain", "full", "best plain\n/ ours", "full\n/ ours"],
        )
        for mode, each in of_one.items():
            best_engine, best = each.best_plain
            table.add_row(
                *mode_cells(mode, ids), stacked_text(each.ours),
                stacked_text(each.plain[engine]) if engine in each.plain else "-",
                stacked_text(best, "" if best_engine == engine else best_engine),
                f"{each.best_full.known:.2f}", f"{each.best_plain_over_ours:.2f}",
                f"{each.full_over_ours:.2f}",
            )  # fmt: skip
        tables.append(table)
    return tables


def _figures(table: Table, headers: Sequence[str]) -> None:
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
