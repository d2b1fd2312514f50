"""`wenable explore`: searches a saved network; the front as a table, a file and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import wenable as we
from wenable.affordable_search import estimate_search
from wenable.cli.limits import parse_limits
from wenable.cli.terminal import consoles, mode_table, print_json, stdout_kept_clean
from wenable.cli.work import Data, accuracies, explore_with_bar, flush_denormals, load_data_for
from wenable.cost_table import CostTable
from wenable.exploration.fronts import indistinguishable
from wenable.files import write_whole
from wenable.report.front_plot import Panel, plot_fronts
from wenable.runtime import DeviceProfile
from wenable.tables import Point


def run_explore(
    network: Path,
    data_name: str,
    threshold: float,
    out: Path,
    cost: str,
    strategy: str,
    profile: Path | None,
    limits: Sequence[str],
    as_json: bool,
) -> None:
    """Search a saved network and write what was found under `out`.

    - `cost`: as `explore` takes it; "" for latency where there is a profile, and MACs elsewhere.
    - `profile`: what `wenable profile` measured on the device that will run the network.
    - `limits`: as `parse_limits` reads them.
    """
    console, progress = consoles(as_json)
    flush_denormals()
    net = we.load(network)
    data = load_data_for(net, data_name)
    for line in data.summary:
        progress.print(line, markup=False, emoji=False, soft_wrap=True)
    cost = cost or ("macs" if profile is None else "latency")
    tables = {} if profile is None else _tables(profile)
    table = _table_for(cost, tables, profile)
    kept = parse_limits(limits, net, tables)
    out.mkdir(parents=True, exist_ok=True)
    journal = None
    if strategy in ("greedy", "greedy-lazy") and (cost == "macs" or table is not None):
        journal = out / "search.journal"
        progress.print(_estimate(net, data, journal))
    with stdout_kept_clean():
        front = explore_with_bar(
            progress, net, data, cost, threshold, strategy, table, journal, kept
        )
    found = (*front.points, *(() if front.chosen in front.points else (front.chosen,)))
    tested = accuracies(net, (point.mode for point in found), data, "test")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "front.json", json.dumps(front.to_json(), indent=1))
    points = tuple(Point(point.mode, tested[point.mode], point.cost) for point in found)
    picture = plot_fronts({cost: Panel(points, ())}, out / "front.png")
    saved = we.save(net, out / "net.safetensors")
    if journal is not None:
        journal.unlink()
    if as_json:
        test = {str(mode): asdict(reading) for mode, reading in tested.items()}
        print_json({"front": front.to_json(), "test": test, "network": str(saved)})
        return
    full = net.macs("full")
    rows = []
    for point in found:
        label = "chosen" if point.mode == front.chosen.mode else ""
        readings = {"accuracy % (test split)": tested[point.mode]}
        if cost != "macs":
            unit = "" if point.cost.unit == "bit operations" else f" {point.cost.unit}"
            readings[f"{cost.replace('_', ' ')}{unit}"] = point.cost
        rows.append((label, point.mode, net.macs(point.mode), full, readings))
    console.print(
        mode_table(
            f"front by {cost}, {front.strategy}: {front.evaluations} modes evaluated,"
            f" {len(front)} kept",
            rows,
        )
    )
    for limit in kept:
        console.print(f"kept by all of them: {limit}")
    alike = indistinguishable(front)
    if alike:
        pairs = ", ".join(f"{one.mode} and {other.mode}" for one, other in alike[:3])
        console.print(
            f"[yellow]{len(alike)} of {len(front) - 1} neighbours on the front cannot be told apart"
            f" by their accuracy on the search split[/] ({pairs}{', ...' if alike[3:] else ''}):"
            " more images would tell."
        )
    console.print(f"written: {out / 'front.json'}, {picture}, {saved}")


def _estimate(net: we.DynamicNetwork, data: Data, journal: Path) -> str:
    sizes = [sum(len(batch[0]) for batch in split) for split in (data.search, data.calibration)]
    most = estimate_search(net, *sizes)
    going_on = f"; goes on from {journal}" if journal.exists() else ""
    return (
        f"at most {most.evaluations} modes, {most.full_passes:,} passes of one image through the"
        f" full network{going_on}"
    )


def _tables(path: Path) -> dict[str, CostTable | str]:
    """Return a profile's tables, by the cost they are of; instead of one it lacks, the reason."""
    profile = DeviceProfile.read(path)
    no_energy = profile.energy_reason or "it was not measured"
    return {
        "latency": profile.table or "it was not measured; do so again with `wenable profile`",
        "energy": profile.energy_table or no_energy,
    }


def _table_for(
    cost: str, tables: Mapping[str, CostTable | str], profile: Path | None
) -> CostTable | None:
    """Return the profile's table of a cost; None where the cost is no matter of a profile."""
    table = tables.get(cost)
    if isinstance(table, str):
        raise ValueError(f"{profile} has no table of {cost}: {table}")
    return table
