"""Reads the CSV file of an external meter: which columns it has, and whether they are sound."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from wenable.measure.meters.power_trace import PowerTrace

# Header names, in lower case with everything but letters and digits as "_", and what one unit is.
_NAMES: dict[str, dict[str, float]] = {
    "time": dict.fromkeys(
        ("time", "time_s", "timestamp", "timestamp_s", "unix_time", "datetime"), 1.0
    ),
    "power": {"power_w": 1.0, "power": 1.0, "watts": 1.0, "power_mw": 1e-3},
    "voltage": {"voltage_v": 1.0, "voltage": 1.0, "volts": 1.0, "voltage_mv": 1e-3},
    "current": {"current_a": 1.0, "current": 1.0, "amps": 1.0, "current_ma": 1e-3},
    "energy": {
        "energy_j": 1.0,
        "energy": 1.0,
        "joules": 1.0,
        "energy_mj": 1e-3,
        "energy_wh": 3600.0,
    },
}


def read_trace(
    path: str | os.PathLike[str], *, wraps_at_j: float | None = None, growing: bool = False
) -> PowerTrace:
    r"""Return the trace in a meter's CSV file.

    - `path`: a file with a header line: a time, and a power, or a voltage and a current, or an
      energy that adds up. `docs/guides/energy.md` lists the names. Fields are apart by commas, semicolons
      or tabs; empty lines and those that begin with `#` are left out.
    - `wraps_at_j`: where the energy's counter starts again at 0, in joules.
    - `growing`: somebody writes it still; a last line without its end is left out.

    A time is seconds since 1970, or ISO 8601 with its offset from UTC. Raises `ValueError` with the
    line for times that do not rise, for what is no number, NaN and negative power among it, and for
    an energy that falls without `wraps_at_j`; `OSError` where the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "meter.csv")
    ...     _ = file.write_text("Time (s),Power (W)\n100,5\n101,5\n102,5\n")
    ...     read_trace(file).joules(100, 101.5, max_gap_share=1)
    7.5
    """
    name = Path(path).name
    rows = list(_rows(Path(path), growing))
    if len(rows) < 3:
        raise ValueError(f"{name} must hold a header and at least two samples")
    columns = _columns(rows[0][1], name)
    times_s = [_time(fields, columns["time"], name, line) for line, fields in rows[1:]]
    for (line, _), (before, after) in zip(rows[2:], pairwise(times_s), strict=True):
        if after <= before:
            raise ValueError(
                f"line {line} of {name}: time (={after}) must be after the last, {before}"
            )
    if "energy" in columns:
        raw = [_number(fields, columns["energy"], name, line) for line, fields in rows[1:]]
        lines = [line for line, _ in rows[2:]]
        return PowerTrace(times_s, _unwrapped(raw, lines, wraps_at_j, name), name=name)
    powers_w = [_power(fields, columns, name, line) for line, fields in rows[1:]]
    return PowerTrace.of_powers(times_s, powers_w, name)


def _rows(path: Path, growing: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that hold fields, with their numbers; the header decides what is between."""
    separator = ""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, text in enumerate(file, start=1):
            if growing and not text.endswith(("\n", "\r")):
                return
            if not text.strip() or text.lstrip().startswith("#"):
                continue
            separator = separator or max(",;\t", key=text.count)
            yield number, [field.strip() for field in next(csv.reader([text], delimiter=separator))]


def _columns(header: Sequence[str], name: str) -> dict[str, tuple[int, float]]:
    """Return where each quantity stands, and what one unit of it is."""
    plain = [re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") for text in header]
    found: dict[str, tuple[int, float]] = {}
    for quantity, names in _NAMES.items():
        places = [(place, names[text]) for place, text in enumerate(plain) if text in names]
        if len(places) > 1:
            raise ValueError(f"{name} has {len(places)} columns of {quantity}: {', '.join(header)}")
        found.update({quantity: places[0]} if places else {})
    if "time" in found and (
        "energy" in found or "power" in found or {"voltage", "current"} <= set(found)
    ):
        return found
    raise ValueError(
        f"the header of {name} (={', '.join(header)}) must name a time, and power_w, or voltage_v and"
        " current_a, or energy_j"
    )


def _number(fields: Sequence[str], column: tuple[int, float], name: str, line: int) -> float:
    place, unit = column
    text = fields[place] if place < len(fields) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"line {line} of {name}: {text!r} must be a finite number")
    return unit * value


def _time(fields: Sequence[str], column: tuple[int, float], name: str, line: int) -> float:
    text = fields[column[0]] if column[0] < len(fields) else ""
    try:
        moment = datetime.fromisoformat(text) if re.match(r"\d{4}-\d\d-\d\d", text) else None
    except ValueError as error:
        raise ValueError(f"line {line} of {name}: {text!r} must be a time of ISO 8601") from error
    if moment is None:
        return _number(fields, column, name, line)
    if moment.tzinfo is None:
        raise ValueError(
            f"line {line} of {name}: {text!r} must have its offset from UTC, as in {text}+00:00"
        )
    return moment.timestamp()


def _power(
    fields: Sequence[str], columns: dict[str, tuple[int, float]], name: str, line: int
) -> float:
    if "power" in columns:
        value = _number(fields, columns["power"], name, line)
    else:
        volts = _number(fields, columns["voltage"], name, line)
        value = volts * _number(fields, columns["current"], name, line)
    if value < 0:
        raise ValueError(
            f"line {line} of {name}: power (={value:g} W) must not be negative; are the meter's leads"
            " swapped?"
        )
    return value


def _unwrapped(
    raw_j: Sequence[float], lines: Sequence[int], wraps_at_j: float | None, name: str
) -> list[float]:
    """Return a counter's energies as if it had never started again at 0."""
    energies, rounds = [0.0], 0
    for line, (before, after) in zip(lines, pairwise(raw_j), strict=True):
        if after < before:
            if wraps_at_j is None:
                raise ValueError(
                    f"line {line} of {name}: energy falls from {before:g} to {after:g} J; where its"
                    " counter starts again at 0, say at what value: `wraps_at_j`"
                )
            rounds += 1
        energies.append(after - raw_j[0] + rounds * (wraps_at_j or 0.0))
        if energies[-1] < energies[-2]:
            raise ValueError(
                f"line {line} of {name}: `wraps_at_j` (={wraps_at_j}) must be above every energy; the"
                f" one before is {before:g} J"
            )
    return energies
