"""What the commands share in the terminal: consoles, progress bars, parsing of short arguments."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from wenable.cli.strips import shown_mode, strip_key
from wenable.core.readings import Reading
from wenable.core.space import Mode


class PlainConsole(Console):
    """A console that shows text as it is: brackets in the name of a file or an extra are no style.

    What is to have a style is a `rich.text.Text`. Where nobody looks, as in a pipe, lines are not broken.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any, soft_wrap: bool | None = None, **settings: Any) -> None:
        """Print as `rich.console.Console` does."""
        if soft_wrap is None and not self.is_terminal:
            soft_wrap = all(isinstance(each, str | Text) for each in objects)
        super().print(*objects, soft_wrap=soft_wrap, **settings)


def consoles(as_json: bool) -> tuple[PlainConsole, PlainConsole]:
    """Return the console for results and the one for progress; the latter is always stderr."""
    return PlainConsole(quiet=as_json), PlainConsole(stderr=True)


@contextmanager
def busy(console: Console, words: str) -> Iterator[Callable[[str], None]]:
    """Say what is being done while it lasts; call what it yields with other words."""
    with console.status(Text(words)) as status:  # rich would read styles in a plain string
        yield lambda now: status.update(Text(now))


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar with the time left; call what it yields with (done, of, a few words)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, words="")

        def update(done: int, of: int, words: str = "") -> None:
            progress.update(task, completed=done, total=of, words=words)

        yield update


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send what libraries below Python print to standard error: HiGHS prints where it should not."""
    _flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # there is no such thing as a file descriptor here
        yield
        return
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    if sys.stdout is not None:  # as it is for a process that was started with a closed one
        sys.stdout.flush()


def print_json(values: Any) -> None:
    """Print values as JSON to standard output, and nothing else; NaN and infinities are null there."""
    print(json.dumps(_finite(values), indent=2, allow_nan=False))  # noqa: T201


def _finite(values: Any) -> Any:
    """Return plain values with None for the numbers that JSON has not."""
    if isinstance(values, dict):
        return {key: _finite(each) for key, each in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(each) for each in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


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


def mode_table(
    title: str,
    rows: list[tuple[str, Mode, int, int, dict[str, Reading]]],
    ids: Mapping[str, Mode] | None = None,
) -> Table:
    """Return a table of modes: mode, label, MACs with their share, and a column for each reading.

    Each row is `(label, mode, macs, macs of the full mode, readings)`; the keys of the readings are
    the headers, with their unit.

    - `ids`: the modes' short names, for a column of their own.
    """
    table = modes_table(title, [mode for _, mode, *_ in rows], ids)
    labelled = any(label for label, *_ in rows)
    # A long strip takes several lines anyway, and the width that intervals leave to it.
    long = any("," in str(mode) and len(mode) > 20 for _, mode, *_ in rows)
    written = stacked_text if long else interval_text
    if labelled:
        table.add_column("", max_width=14)
    table.add_column("MACs\nM", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for name in rows[0][4]:
        table.add_column(broken_header(name), justify="right", no_wrap=True)
    for label, mode, macs, full, readings in rows:
        cells = [written(reading) for reading in readings.values()]
        share = f"{100 * macs / full:.1f} %"
        labels = [label] if labelled else []
        table.add_row(*mode_cells(mode, ids), *labels, f"{macs / 1e6:.2f}", share, *cells)
    return table


def modes_table(
    title: str, modes: Iterable[Mode | None], ids: Mapping[str, Mode] | None = None
) -> Table:
    """Return a table with the columns that name a mode, and below it what the signs of strips mean.

    - `modes`: those of the rows; `ids`: their short names, for a column of their own.
    """
    table = plain_table(title)
    if ids:
        table.add_column("id", no_wrap=True)
    # A strip may go on in the next line at any sign; a short text is never as wide as this.
    table.add_column("mode", overflow="fold", min_width=8)
    key = strip_key((mode for mode in modes if mode is not None), encoding())
    if key:
        table.caption = key
    return table


def plain_table(title: str = "") -> Table:
    """Return a table whose columns fit a terminal of 80: a line under the headers and no more."""
    return Table(
        title=title or None, title_justify="left", caption_justify="left", header_style="bold",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False,
    )  # fmt: skip


def mode_cells(mode: Mode, ids: Mapping[str, Mode] | None = None) -> list[str]:
    """Return the cells that name a mode in a table of `modes_table`."""
    named = [name for name, each in (ids or {}).items() if each == mode]
    return [*([named[0] if named else ""] if ids else []), shown_mode(mode, encoding())]


def stacked_text(reading: Reading, where: str = "") -> str:
    """Return a figure with its interval below it, which takes half of the width, and a last line."""
    figure, _, interval = interval_text(reading).partition(" ")
    return "\n".join(filter(None, (figure, interval.strip("()"), where)))


def broken_header(name: str) -> str:
    """Return a header with its remark in brackets on a line of its own."""
    return name.replace(" (", "\n(", 1)


def encoding() -> str:
    """Return how standard output writes letters."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"  # there is no output after `>&-`


def interval_text(reading: Reading) -> str:
    """Return a figure with its interval, without the unit: `98.6 (97.1-99.3)`.

    Shares are in percent, MACs in millions; large figures have fewer decimals.
    """
    if reading.value is None:
        return "-"
    scale, digits = {"top-1": (100, 1), "MACs": (1e-6, 2)}.get(reading.unit, (1, 2))
    digits = min(digits, max(0, 4 - len(str(int(abs(scale * reading.value))))))
    text = f"{scale * reading.value:.{digits}f}"
    if reading.low is None or reading.high is None:
        return text
    return f"{text} ({scale * reading.low:.{digits}f}-{scale * reading.high:.{digits}f})"
