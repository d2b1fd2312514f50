"""`wenable evaluate`: the accuracy of modes of a saved network on a split, each calibrated first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast, get_args

from wenable.cli.inspect_modes import read_front
from wenable.cli.opening import open_saved
from wenable.cli.terminal import consoles, mode_table, print_json, progress_bar
from wenable.cli.train_words import say_skipped
from wenable.core.files import check_writable, write_whole
from wenable.core.mode_ids import resolve
from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.modules.denormals import flush_denormals
from wenable.modules.processes import join_processes, rank
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training.data_sets import accuracies, load_data_for

Split = Literal["test", "search"]
NamedModes = Mapping[str, Mode]


def run_evaluate(
    network: Path,
    model: str,
    data_name: str,
    modes: str,
    front: Path | None,
    split: str,
    device: str,
    out: Path | None,
    as_json: bool,
    skip_bad: bool = False,
) -> None:
    """Evaluate modes of a saved network on a split and show their accuracies.

    - `model`: the function that builds the network, where that is one of the user's own.
    - `modes`: with semicolons. `front`: a file of `explore`, whose modes are evaluated, or some of them
      by their short names in `modes`. Without either, the uniform modes.
    - `split`: `"test"`, which neither training nor a search saw, or `"search"`.
    - `out`: a CSV file for the figures, None for none.
    - `skip_bad`: whether images that cannot be read are left out and counted.

    Modes whose statistics are not stored with the network are calibrated on training images first.
    """
    if split not in get_args(Split):
        raise ValueError(f"`--split` (={split!r}) must be one of {', '.join(get_args(Split))}")
    if out is not None:
        check_writable(out)
    console, progress = consoles(as_json)
    where = join_processes(device)
    first = rank() == 0  # of several processes each evaluates all, and the first one tells
    console.quiet, progress.quiet = as_json or not first, not first
    flush_denormals()
    net = open_saved(network, model).to(where)
    wanted, ids = _modes(net, modes, front)
    data = load_data_for(net, data_name, skip_bad=skip_bad)
    found: dict[Mode, Reading] = {}
    with progress_bar(progress, f"evaluating on the {split} split") as update:
        for number, mode in enumerate(wanted):
            update(number, len(wanted), str(mode)[:30])
            found |= accuracies(net, [mode], data, cast(Split, split))
    say_skipped(progress, (data.calibration, data.search, data.test))
    if out is not None and first:
        write_whole(out, _csv(net, found, split))
    if as_json and first:
        rows = [
            {"mode": str(mode), "macs": net.macs(mode), "accuracy": asdict(reading)}
            for mode, reading in found.items()
        ]
        print_json({"network": str(network), "split": split, "modes": rows})
        return
    full, header = net.macs("full"), f"accuracy % ({split} split)"
    console.print(
        mode_table(
            f"{network} on {data_name}",
            [("", mode, net.macs(mode), full, {header: each}) for mode, each in found.items()],
            ids,
        )
    )
    if out is not None:
        console.print(f"written: {out}")


def _modes(net: DynamicNetwork, modes: str, front: Path | None) -> tuple[list[Mode], NamedModes]:
    """Return the modes that were named, each once, and the short names of a front."""
    ids: NamedModes = {}
    if front is not None:
        found = read_front(front)
        if found.chosen.mode.space != net.space:
            raise ValueError(f"`--front` (={front}) was found for another network than this one")
        ids = found.ids
    where = "give its file with `--front`" if front is None else str(front)
    wanted = [
        resolve(each.strip(), net.space, ids, where) for each in modes.split(";") if each.strip()
    ]
    return list(dict.fromkeys(wanted or ids.values() or net.space.uniform_modes())), ids


def _csv(net: DynamicNetwork, found: Mapping[Mode, Reading], split: str) -> str:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["mode", "macs", f"{split}_top1", "low", "high", "images"])
    for mode, reading in found.items():
        figures = [f"{each:.4f}" for each in (reading.known, reading.low or 0, reading.high or 0)]
        table.writerow([str(mode), net.macs(mode), *figures, reading.count])
    return text.getvalue()
