"""`wenable inspect FILE`: the modes of a front or a bundle by their short names, and one in full."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from wenable.cli.terminal import (
    broken_header,
    consoles,
    counted,
    interval_text,
    mode_cells,
    modes_table,
    plain_table,
    print_json,
)
from wenable.core.mode_ids import resolve
from wenable.core.networks import NETWORK
from wenable.core.readings import Front, Reading
from wenable.core.space import Mode
from wenable.report.figures import TEST, shown_accuracy, split_of


@dataclass(frozen=True)
class NamedModes:
    """The modes in a file by their short names, and the figures that the file has of each.

    - `readings`: mode -> name -> reading; `heads`: name -> header of its column, with the unit.
    """

    what: str
    ids: Mapping[str, Mode]
    readings: Mapping[Mode, Mapping[str, Reading]]
    heads: Mapping[str, str]


def holds_modes(name: str) -> bool:
    """Say whether a name is that of a file with modes: a front or a bundle."""
    return Path(name).suffix in (".json", ".wen") and Path(name).is_file()


def read_modes(path: Path) -> NamedModes:
    """Return the modes of a front or a bundle; raises `ValueError` for another file."""
    return _of_bundle(path) if path.suffix == ".wen" else _of_front(read_front(path))


def read_front(path: Path) -> Front:
    """Return the front in a file; raises `ValueError`, naming the file, where it holds none."""
    try:
        values = json.loads(path.read_text("utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a JSON {type(values).__name__}; allowed: an object")
        return Front.from_json(values)
    except ValueError as error:
        raise ValueError(f"{path} is no file of a front: {error}") from error


def _of_front(front: Front) -> NamedModes:
    split, unit = split_of(front), front.chosen.cost.unit
    name = front.cost.replace("_", " ")
    cost = name if unit in ("MACs", name) else f"{name} {unit}"
    readings = {
        point.mode: {
            **({"test": shown_accuracy(point, split)} if split == TEST else {}),
            "accuracy": point.accuracy,
            front.cost: point.cost,
        }
        for point in front.found
    }
    heads = {
        "test": _head(TEST),
        "accuracy": _head("search split" if split == TEST else split),
        front.cost: f"{cost} M" if unit == "MACs" else cost,
    }
    words = f"front by {front.cost}, {front.strategy}: {counted(len(front.ids), 'mode')}"
    return NamedModes(words, front.ids, readings, heads)


def _head(split: str) -> str:
    return f"accuracy % ({split})".replace(", ", ",\n")


def _of_bundle(path: Path) -> NamedModes:
    from wenable.runtime.bundle import Bundle

    bundle = Bundle(path)
    readings = {each.mode: each.readings for each in bundle.modes}
    heads = {
        name: f"{name} {_unit(reading)}"
        for each in bundle.modes
        for name, reading in each.readings.items()
    }
    return NamedModes(f"bundle of {counted(len(bundle.ids), 'mode')}", bundle.ids, readings, heads)


def _unit(reading: Reading) -> str:
    return {"top-1": "%", "MACs": "M"}.get(reading.unit, reading.unit)


def inspect_modes(path: Path, mode: str, as_json: bool) -> None:
    """Print the modes of a file, or one of them with every layer; `mode` may be a short name."""
    console, _ = consoles(as_json)
    named = read_modes(path)
    space = next(iter(named.ids.values())).space
    chosen = resolve(mode, space, named.ids, str(path)) if mode else None
    if as_json:
        print_json([_plain(name, each, named) for name, each in _wanted(named, chosen).items()])
    elif chosen is None:
        _print_all(console, path, named)
    else:
        _print_one(console, named, chosen)


def _wanted(named: NamedModes, chosen: Mode | None) -> dict[str, Mode]:
    kept = {n: each for n, each in named.ids.items() if chosen is None or each == chosen}
    return kept or {"": chosen} if chosen is not None else kept


def _plain(name: str, mode: Mode, named: NamedModes) -> dict[str, Any]:
    knobs = dict(_own_options(mode))
    readings = {key: asdict(each) for key, each in named.readings.get(mode, {}).items()}
    return {"id": name or None, "mode": str(mode), "knobs": knobs, "readings": readings}


def _print_all(console: Console, path: Path, named: NamedModes) -> None:
    table = modes_table(f"{path}: {named.what}", named.ids.values(), named.ids)
    names = list(dict.fromkeys(name for row in named.readings.values() for name in row))
    for name in names:
        table.add_column(broken_header(named.heads[name]), justify="right", no_wrap=True)
    for mode in named.ids.values():
        row = named.readings.get(mode, {})
        cells = [interval_text(row[name]) if name in row else "-" for name in names]
        table.add_row(*mode_cells(mode, named.ids), *cells)
    console.print(table)
    console.print(
        "`--mode ID` prints one of them in full. Every command that takes a mode takes an id."
    )


def _print_one(console: Console, named: NamedModes, mode: Mode) -> None:
    short = next((name for name, each in named.ids.items() if each == mode), "")
    # In one piece: this is the text to copy.
    console.print(f"{short} {mode}".strip(), soft_wrap=True)
    for name, reading in named.readings.get(mode, {}).items():
        console.print(f"{' '.join(named.heads[name].split())}: {interval_text(reading)}")
    table = plain_table()
    table.add_column("knob", overflow="fold")
    table.add_column("option", no_wrap=True)
    for name, option in _own_options(mode):
        table.add_row(name, option)
    console.print(table)


def _own_options(mode: Mode) -> Iterator[tuple[str, str]]:
    """Yield each knob and its option; of several networks only those of the one that runs."""
    network, own = mode.space.within(mode)
    if network:
        yield NETWORK, network
    for knob in own.space.knobs:
        yield knob.name, knob.text(own[knob.name])
