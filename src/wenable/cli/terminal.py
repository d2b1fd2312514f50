"""What the commands share in the terminal: consoles, progress bars, parsing of short arguments."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from wenable.space import Mode
from wenable.tables import Reading


def consoles(as_json: bool) -> tuple[Console, Console]:
    """Return the console for results and the one for progress; the latter is always stderr."""
    return Console(highlight=False, quiet=as_json), Console(stderr=True, highlight=False)


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar with the time left; call what it yields with (done, of, a few words)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, words="")

        def update(done: int, of: int, words: str = "") -> None:
            progress.update(task, completed=done, total=of, words=words)

        yield update


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send what libraries below Python print to standard error: HiGHS prints where it should not."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # there is no such thing as a file descriptor here
        yield
        return
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def print_json(values: Any) -> None:
    """Print values as JSON to standard output, and nothing else."""
    print(json.dumps(values, indent=2))  # noqa: T201


def parse_groups(text: str) -> tuple[int, ...]:
    """Return `"1,2,4"` as numbers; raises `ValueError` for anything else."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"`--groups` (={text!r}) must be whole numbers with commas, as 1,2,4"
        ) from None


def parse_size(text: str) -> tuple[int, ...]:
    """Return `"3x224x224"` as numbers; raises `ValueError` for anything else."""
    parts = text.lower().split("x")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"`--input` (={text!r}) must be sizes as 3x224x224, or one number")
    size = tuple(int(part) for part in parts)
    if math.prod(size) > 10**8:
        raise ValueError(
            f"`--input` (={text!r}) is {math.prod(size):,} values; allowed: 100,000,000"
        )
    return size


def counted(count: int, what: str) -> str:
    """Return a number of things: `1 mode`, `2 modes`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def short_mode(mode: Mode) -> str:
    """Return a mode's text form, with a word to the full one."""
    return str(mode) if mode != mode.space.full else "1 (full)"


def mode_table(title: str, rows: list[tuple[str, Mode, int, int, dict[str, Reading]]]) -> Table:
    """Return a table of modes: mode, label, MACs with their share, and a column for each reading.

    Each row is `(label, mode, macs, macs of the full mode, readings)`; the keys of the readings are
    the headers, with their unit.
    """
    table = Table(title=title, title_justify="left", header_style="bold", padding=(0, 0))
    table.add_column("mode", overflow="fold")
    table.add_column("", max_width=14)
    table.add_column("MACs M", justify="right")
    table.add_column("share", justify="right")
    for name in rows[0][4]:
        table.add_column(name, justify="right", no_wrap=True)
    for label, mode, macs, full, readings in rows:
        cells = [interval_text(reading) for reading in readings.values()]
        share = f"{100 * macs / full:.1f} %"
        table.add_row(short_mode(mode), label, f"{macs / 1e6:.2f}", share, *cells)
    return table


def interval_text(reading: Reading) -> str:
    """Return a figure with its interval, without the unit: `98.6 (97.1-99.3)`, shares in percent."""
    if reading.value is None:
        return "-"
    scale, digits = (100, 1) if reading.unit == "top-1" else (1, 2)
    text = f"{scale * reading.value:.{digits}f}"
    if reading.low is None or reading.high is None:
        return text
    return f"{text} ({scale * reading.low:.{digits}f}-{scale * reading.high:.{digits}f})"
