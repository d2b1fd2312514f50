"""`wenable join`: several bundles as one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wenable.cli.terminal import consoles, counted, mode_cells, modes_table, print_json
from wenable.runtime.bundle import Bundle
from wenable.runtime.joining import join


def run_join(bundles: Sequence[str], out: Path, as_json: bool) -> None:
    """Join bundles that are given as `NAME=FILE`, and show the modes of the file."""
    console, _ = consoles(as_json)
    named: dict[str, str] = {}
    for each in bundles:
        name, equals, path = each.partition("=")
        if not equals or not name or not path:
            raise ValueError(f"`NAME=FILE` (={each}) must be a name and a bundle, as big=big.wen")
        if name in named:
            raise ValueError(f"`NAME=FILE` names {name!r} twice: {named[name]} and {path}")
        named[name] = path
    path = join(named, out)
    bundle = Bundle(path)
    if as_json:
        modes = {name: str(mode) for name, mode in bundle.ids.items()}
        print_json({"bundle": str(path), "networks": list(bundle.networks), "modes": modes})
        return
    title = f"{path}: {counted(len(bundle.modes), 'mode')} of {counted(len(named), 'network')}"
    table = modes_table(title, bundle.ids.values(), bundle.ids)
    table.add_column("MMACs", justify="right", no_wrap=True)
    for each in bundle.modes:
        macs = each.readings["macs"].known / 1e6
        table.add_row(*mode_cells(each.mode, bundle.ids), f"{macs:.1f}")
    console.print(table)
