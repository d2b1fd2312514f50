"""`wenable explore`: searches a saved network; the front as a table, a file and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from rich.table import Table

import wenable as we
from wenable.cli.constraints import parse_constraints
from wenable.cli.opening import open_saved
from wenable.cli.progress import explore_with_bar, with_tests
from wenable.cli.terminal import busy, consoles, mode_table, print_json, stdout_kept_clean
from wenable.cli.train_words import say_skipped
from wenable.core.accuracy_comparison import compare_accuracies
from wenable.core.cost_parts import CostParts
from wenable.core.files import write_whole
from wenable.core.journal import SUPPORTED
from wenable.core.readings import Front
from wenable.core.space import Mode
from wenable.data import ImageBatches
from wenable.modules.denormals import flush_denormals
from wenable.modules.fingerprint import weights_fingerprint
from wenable.report.csv_table import csv_table
from wenable.report.figures import TEST, shown_accuracy
from wenable.report.front_plot import Panel, plot_fronts
from wenable.runtime import DeviceProfile
from wenable.search.known_costs import Cost, known_costs
from wenable.strategies.constraints import Constraint
from wenable.strategies.fronts import indistinguishable
from wenable.strategies.joint import planned_evaluations_of_each
from wenable.strategies.parts import knobs_of_parts, parts_within
from wenable.strategies.racing import most_evaluations
from wenable.strategies.settings import (
    NSGA2,
    Greedy,
    GreedyLazy,
    Knapsack,
    Strategy,
    strategy_named,
)
from wenable.training.data_sets import Data, evaluations, load_data_to_search


def run_explore(
    network: Path,
    model: str,
    data_name: str,
    min_accuracy: float,
    out: Path,
    cost: str,
    strategy: str,
    profile: Path | None,
    constraints: Sequence[str],
    as_json: bool,
    calibration_images: int | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
) -> None:
    """Search a saved network and write what was found under `out`.

    - `model`: the name of the function that builds the network, where it is one of the user's own.
    - `cost`: as `explore` takes it; "" for latency where there is a profile, and MACs elsewhere.
    - `profile`: what `wenable profile` measured on the device that will run the network.
    - `constraints`: as `parse_constraints` reads them.
    - `calibration_images`: how many training images each mode is calibrated on; None for a number
      that fits the search split.
    - `overwrite`: whether what an earlier search left under `out` may be replaced.
    - `skip_bad`: whether images that cannot be read are left out and counted.
    """
    _check_out(out, network, overwrite)
    console, progress = consoles(as_json)
    flush_denormals()
    net = open_saved(network, model)
    data = load_data_to_search(net, data_name, calibration_images, skip_bad=skip_bad)
    for line in data.summary:
        progress.print(line)
    cost = cost or ("macs" if profile is None else "latency")
    device = None if profile is None else DeviceProfile.read(profile)
    kept = parse_constraints(constraints, net, device)
    # A profile may be there for a constraint alone.
    of_cost = device if cost in ("latency", "energy") else None
    _check_has_tables(cost, of_cost, profile)
    known = known_costs(net, cast(Cost, cost), profile=of_cost)
    progress.print(_images_words(data))
    if isinstance(data.test, ImageBatches):
        with busy(progress, "reading the images of the test split once"):
            data.test.check()  # one that cannot be read is better known before a search than behind it
    out.mkdir(parents=True, exist_ok=True)
    journal = out / "search.journal" if known is not None and SUPPORTED else None
    chosen = _strategy(strategy, journal, kept)
    progress.print(evaluations_words(net, chosen, known))
    with stdout_kept_clean():
        front = explore_with_bar(progress, net, data, cost, min_accuracy, chosen, of_cost)
    front = replace(front, weights=weights_fingerprint(net))
    out.mkdir(parents=True, exist_ok=True)
    # What was found stays, whatever becomes of the test: an image may be damaged.
    write_whole(out / "front.json", json.dumps(front.to_json(), indent=1))
    saved = we.save(net, out / "net.safetensors")
    tested = evaluations(net, (point.mode for point in front.found), data, "test")
    say_skipped(progress, (data.calibration.source, data.search.source, data.test))
    front = with_tests(front, tested)
    write_whole(out / "front.json", json.dumps(front.to_json(), indent=1))
    write_whole(out / "front.csv", csv_table({network.stem: front}))
    picture = plot_fronts({cost: Panel(front.found, (), TEST)}, out / "front.png")
    if chosen is not None and chosen.journal is not None:
        Path(chosen.journal).unlink()
    if as_json:
        test = {str(mode): asdict(reading) for mode, (reading, _) in tested.items()}
        print_json({"front": front.to_json(), "test": test, "network": str(saved)})
        return
    console.print(_table(net, front, cost))
    for constraint in kept:
        console.print(f"kept by all of them: {constraint}")
    for line in alike_words(front):
        console.print(line)
    written = (out / "front.json", out / "front.csv", picture, saved)
    console.print(f"written: {', '.join(map(str, written))}")


def _check_out(out: Path, network: Path, overwrite: bool) -> None:
    """Refuse a folder whose front or network nobody asked to replace; a stopped search has none yet."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"`--out` (={out}) is a file; name a folder")
    if (out / "front.json").exists() and not overwrite:
        raise ValueError(
            f"`--out` (={out}) holds a front already (front.json): `--overwrite` replaces it and the"
            " network beside it, or name another folder"
        )
    saved = out / "net.safetensors"
    if saved.exists() and network.exists() and not overwrite and not saved.samefile(network):
        raise ValueError(
            f"`--out` (={out}) holds another network (net.safetensors): `--overwrite` replaces it, or name"
            " another folder"
        )


def _strategy(
    name: str, journal: Path | None, constraints: Sequence[Constraint]
) -> Strategy | None:
    """Return the strategy of a name with what the command line says besides; None for the default.

    - `journal`: None where costs are measured and no sums over knobs, or this system cannot keep one.
    """
    if not name and not constraints and journal is None:
        return None
    chosen = strategy_named(name or Knapsack.name)
    if isinstance(chosen, Knapsack | NSGA2):
        return replace(chosen, constraints=constraints, journal=journal)
    if constraints:
        raise ValueError(
            f"`--constraint` is for the strategies {Knapsack.name!r} and {NSGA2.name!r}, not {name!r}"
        )
    return replace(chosen, journal=journal)


def evaluations_words(
    net: we.DynamicNetwork, strategy: Strategy | None, known: CostParts | None
) -> str:
    """Return how many modes a search evaluates at most.

    - `strategy`: None for the default; `known`: the costs of all modes, if they are not measured.
    """
    chosen = strategy or (Greedy() if known is None else Knapsack())
    journal = chosen.journal
    going_on = f"; goes on from {journal}" if journal and Path(journal).exists() else ""
    return f"{_most_words(net, chosen, known)}{going_on}"


def _most_words(net: we.DynamicNetwork, chosen: Strategy, known: CostParts | None) -> str:
    """Return the most modes that a strategy evaluates, in words."""
    if isinstance(chosen, NSGA2):
        return f"at most {chosen.trials} modes"
    if known is None or isinstance(chosen, Greedy | GreedyLazy):
        return f"at most {most_evaluations(net.space)} modes"
    most = planned_evaluations_of_each(
        net.space, known.tables, budgets=chosen.budgets, count=chosen.count,
        constraints=chosen.constraints, rounds=chosen.rounds,
    )  # fmt: skip
    knobs = knobs_of_parts(known, chosen.constraints)
    if not knobs:
        return f"at most {most} modes"
    parts = len(parts_within(known, chosen.constraints))
    names = " and ".join(knob.name for knob in knobs)
    return f"at most {most} modes: a knapsack for each of {parts} choices of {names}"


def _table(net: we.DynamicNetwork, front: Front, cost: str) -> Table:
    full, rows = net.macs("full"), []
    for point in front.found:
        label = "chosen" if point.mode == front.chosen.mode else ""
        readings = {f"accuracy % ({TEST})": shown_accuracy(point, TEST)}
        if cost != "macs":
            unit = "" if point.cost.unit == "bit operations" else f" {point.cost.unit}"
            readings[f"{cost.replace('_', ' ')}{unit}"] = point.cost
        rows.append((label, point.mode, net.macs(point.mode), full, readings))
    title = (
        f"front by {cost}, {front.strategy}: {front.evaluations} modes evaluated, {len(front)} kept"
    )
    return mode_table(title, rows, front.ids)


def alike_words(
    front: Front, named: Mapping[str, Mode] | None = None, what: str = "the front"
) -> list[str]:
    """Return lines that say which neighbours on a front cannot be told apart, by their short names.

    - `named`: the modes by those names; the front's own by default. `what`: what the front is called.
    """
    ids = {mode: name for name, mode in (named or front.ids).items()}
    alike = indistinguishable(front)
    if not alike:
        return []
    told = [(one, other, compare_accuracies(one, other)) for one, other in alike[:3]]
    # The space within a pair is one that no line breaks at.
    pairs = ", ".join(f"{ids[a.mode]}\u00a0and\u00a0{ids[b.mode]} ({c.figure})" for a, b, c in told)
    return [
        f"{len(alike)} of {len(front) - 1} neighbours on {what} cannot be told apart by"
        f" their accuracy by {told[0][2].way}: {pairs}{', ...' if alike[3:] else ''}."
        " More images would tell."
    ]


def _images_words(data: Data) -> str:
    """Return how many images a mode is calibrated and evaluated on, which are read for that."""
    calibration, search = (
        sum(len(batch[0]) for batch in split) for split in (data.calibration, data.search)
    )
    return f"each mode is calibrated on {calibration} images and evaluated on {search}"


def _check_has_tables(cost: str, profile: DeviceProfile | None, path: Path | None) -> None:
    reason = "" if profile is None else profile.why_no_tables(cost)
    if reason:
        raise ValueError(f"{path} has no table of {cost}: {reason}")
