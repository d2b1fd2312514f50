"""Figure 6: accuracy against inference time and energy, with US-Net and small networks beside us.

    python -m experiments.fig6 --scale cpu --data data/cifar10 [--work out/experiments]
        [--networks NAME ...]

Accuracies of modes are those of `fig5-SCALE.jsonl`, which has to be there; small networks off the shelf are
trained here with the same budget. Time is that of one image on each engine of the runtime, all networks of
an engine in one run: our modes as a bundle's session lowers them by its default rule, the others as plain
exports. Energy is measured where there is a meter.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import wenable as we
from experiments.budget import SAME_EPOCHS, SAME_PASSES, SHELF, Budget, Scale, scale_named
from experiments.comparisons import EQUAL_FOOTING
from experiments.data import ExperimentData, load
from experiments.engine_calls import bundle_of, mode_calls, plain_call
from experiments.equal_cost import count_above, undominated
from experiments.methods import METHODS
from experiments.networks import off_the_shelf
from experiments.options import command_of, start
from experiments.results import (
    check_same_budget,
    made_by_command,
    read_results,
    with_provenance,
    write_results,
)
from experiments.runs import plain_accuracy, start_of, trained_off_the_shelf
from wenable.measure import find_meter, measure_energies
from wenable.measure.energy import EnergyPlan
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.modules.denormals import flush_denormals
from wenable.modules.passes import in_eval_mode
from wenable.runtime.engines import installed_engines, open_engine

TIMING = TimingPlan(blocks=20, calls=20, warmup=5, gap_ms=5.0)
OURS, RIVAL = "weight-enabling", "us-net"
RULE = (
    "US-Net's modes that the search split and the time put on its front, joined by lines; ours that lie"
    " within their range of time, and are strictly more accurate on the test split, are above; those"
    " faster than every mode of US-Net are counted apart"
)
Key = tuple[str, str]
"""Who (ours, the rival, off the shelf) and which mode or network."""


def main() -> None:
    start("fig6", run, _add_options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", help="only these of the scale's networks")


def run(
    scale: str,
    data: Path,
    work: Path,
    out: Path,
    timing: TimingPlan = TIMING,
    energy: EnergyPlan | None = None,
    most_widths: int | None = None,
    networks: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train the small networks, time all of them, and write `fig6-SCALE.jsonl`.

    - `networks`: some of the scale's; all where nothing is said. What the file holds of others stays
      there, as long as it is of the same rule; each network says what made it.
    - `most_widths`: of US-Net's, how many are timed, evenly spread; all where nothing is said.

    Raises `ValueError` where Figure 5 was not run at this scale, or with another budget.
    """
    flush_denormals()
    sizes = scale_named(scale)
    fig5 = read_results(out, "fig5", scale)
    if fig5 is None:
        raise ValueError(
            f"{out} holds no fig5-{scale}.jsonl, whose accuracies this figure shows; run"
            f" `{command_of('fig5', scale)}` first"
        )
    wanted = _of_scale(networks, sizes)
    panels = _others(read_results(out, "fig6", scale), sizes, out)
    for network in wanted:
        rows = rows_of(fig5, network)
        if rows:
            splits = load(data, sizes.budgets[network])
            panel = _panel(scale, network, rows, splits, work, timing, energy, most_widths)
            made = made_by_command(command_of("fig6", scale) + f" --networks {network}")
            panels[network] = {
                "made": made,
                "accuracies_made": [row["made"] for row in rows],
                **panel,
            }
    results = with_provenance(
        command_of("fig6", scale),
        scale,
        {
            "rule": RULE,
            "shelf_passes": list(sizes.shelf_passes),
            "panels": [panels[network] for network in sizes.networks if network in panels],
        },
    )
    write_results(out, "fig6", results)
    return results


def rows_of(fig5: Mapping[str, Any], network: str) -> list[dict[str, Any]]:
    """Return the pairs of networks of Figure 5 whose accuracies this figure shows."""
    return [
        row
        for row in fig5["rows"]
        if row["network"] == network and row["comparison"] == EQUAL_FOOTING
    ]


def _of_scale(networks: Sequence[str] | None, sizes: Scale) -> Sequence[str]:
    """Return the networks that are wanted; raises `ValueError` for one that the scale does not have."""
    for network in networks or ():
        if network not in sizes.networks:
            raise ValueError(
                f"`networks` holds {network!r}, which the scale does not have; allowed:"
                f" {', '.join(sizes.networks)}"
            )
    return sizes.networks if networks is None else networks


def _others(before: Mapping[str, Any] | None, sizes: Scale, out: Path) -> dict[str, dict[str, Any]]:
    """Return the panels of a result that was written before, by network."""
    if before is None:
        return {}
    if before["rule"] != RULE or before["shelf_passes"] != list(sizes.shelf_passes):
        raise ValueError(
            f"{out}/fig6-{before['scale']}.jsonl was made by another rule than that of now, and cannot"
            " take in networks; move it away first"
        )
    panels = {panel["network"]: panel for panel in before["panels"]}
    gone = sorted(set(panels) - set(sizes.networks))
    if gone:
        raise ValueError(
            f"{out}/fig6-{before['scale']}.jsonl holds the network {gone[0]!r}, which the scale does not"
            " have now; move it away first"
        )
    return panels


def _panel(
    scale: str,
    network: str,
    rows: Sequence[Mapping[str, Any]],
    data: ExperimentData,
    work: Path,
    timing: TimingPlan,
    energy: EnergyPlan | None,
    most_widths: int | None,
) -> dict[str, Any]:
    sizes = scale_named(scale)
    points = [point for row in rows for point in modes_of(row, most_widths)]
    _check_budgets(network, rows, sizes.budgets[network])
    shelf = _off_the_shelf(scale, network, data, work / scale)
    costs = _costs(network, points, scale, data.example[:1], timing, energy)
    return {
        "network": network,
        "budget": sizes.budgets[network].to_json(),
        "points": points + shelf,
        "costs": costs,
        "above": [
            {"engine": engine, "seed": row["seed"], "strategy": strategy}
            | _faster(points, costs, engine, row["seed"], strategy)
            for engine in dict.fromkeys(cost["engine"] for cost in costs)
            for row in rows
            for strategy in row["ours"]["fronts"]
        ],
    }


def modes_of(row: Mapping[str, Any], most_widths: int | None) -> list[dict[str, Any]]:
    """Return the points of one pair of networks in Figure 5: our fronts, and the rival's modes.

    Of Algorithm 2's path those count that no other beats on the search split.
    """
    points = []
    for strategy, searched in row["ours"]["fronts"].items():
        found = [each for each in searched["points"] if each["counted"]]
        front = undominated(
            [each["macs"] for each in found], [each["search"]["value"] for each in found]
        )
        points += [found[i] | {"who": OURS, "strategy": strategy} for i in front]
    widths = row["rival"]["points"]
    count = min(most_widths or len(widths), len(widths))
    kept = sorted({round(i * (len(widths) - 1) / max(count - 1, 1)) for i in range(count)})
    points += [widths[i] | {"who": RIVAL, "strategy": ""} for i in kept]
    return [each | {"seed": row["seed"]} for each in points]


def _off_the_shelf(
    scale: str, beside: str, data: ExperimentData, work: Path
) -> list[dict[str, Any]]:
    """Return the accuracies of small networks with the budget of the one they stand beside.

    `passes` says which of the scale's `shelf_passes` each is of.
    """
    sizes = scale_named(scale)
    budget, points = sizes.budgets[beside], []
    budgets = {
        SAME_EPOCHS: budget,
        SAME_PASSES: replace(budget, epochs=budget.epochs * budget.passes),
    }
    for name in off_the_shelf(scale):
        for seed in sizes.seeds_of(beside, SHELF):
            for label in sizes.shelf_passes:
                each = budgets[label]
                plain = trained_off_the_shelf(name, beside, seed, each, data, work)
                points.append(
                    {
                        "who": SHELF,
                        "mode": name,
                        "strategy": "",
                        "seed": seed,
                        "passes": label,
                        "budget": each.to_json(),
                        "search": asdict(plain_accuracy(plain, data.search, "search")),
                        "test": asdict(plain_accuracy(plain, data.test)),
                    }
                )
    return points


def _check_budgets(network: str, rows: Sequence[Mapping[str, Any]], budget: Budget) -> None:
    """Refuse accuracies of Figure 5 that are of another budget than the scale has now."""
    now = {"network": network, "method": "the scale as it is now", "budget": budget.to_json()}
    before = [
        {"network": network, "method": row[side]["method"], "budget": row[side]["budget"]}
        for row in rows
        for side in ("ours", "rival")
    ]
    check_same_budget([now, *before])


# --- time and energy ------------------------------------------------------------------------------


def _costs(
    network: str,
    points: Sequence[Mapping[str, Any]],
    scale: str,
    x: torch.Tensor,
    timing: TimingPlan,
    energy: EnergyPlan | None,
) -> list[dict[str, Any]]:
    """Return latency and energy of each mode and small network, on each engine, one image a call.

    They are of the structure: networks with random weights are timed, each mode once for all seeds.
    """
    found = []
    meter = find_meter()
    for name in installed_engines():
        calls = engine_calls(network, points, off_the_shelf(scale), x, name)
        print(network, name, f"timing {len(calls)} networks", flush=True)
        source = f"{name}, {open_engine(name, 1).threads} thread, batch 1"
        latency = measure_latencies(calls, timing, source=source)
        spent = measure_energies(calls, meter, energy)  # without a meter each has the reason
        for who, mode in calls:
            found.append(
                {
                    "engine": name,
                    "who": who,
                    "mode": mode,
                    "latency": asdict(latency[who, mode]),
                    "energy": asdict(spent[who, mode].energy),
                }
            )
    return found


def engine_calls(
    network: str,
    points: Sequence[Mapping[str, Any]],
    shelf: Sequence[str],
    x: torch.Tensor,
    engine_name: str,
) -> dict[Key, Callable[[], object]]:
    """Return a call of each distinct mode and of each small network on an engine, one thread."""
    engine = open_engine(engine_name, 1)
    # Several images: norms that saw one alone, on maps of one position, would have no variance, and
    # enlarge every rounding.
    images = torch.randn(32, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    x = images[:1]
    calls: dict[Key, Callable[[], object]] = {}
    wanted = {
        who: list(dict.fromkeys(str(each["mode"]) for each in points if each["who"] == who))
        for who in (OURS, RIVAL)
    }
    for who in (OURS, RIVAL):
        net = we.convert(start_of(network, 0), images[:2], method=METHODS[who]())
        we.calibrate(net, wanted[who], [images])
        net.eval()
        if who == OURS:
            with tempfile.TemporaryDirectory() as folder:
                ours = mode_calls(bundle_of(net, wanted[who], folder), x, engine)
            calls |= {(who, mode): call for mode, call in ours.items()}
        else:
            for mode in wanted[who]:
                calls[who, mode] = plain_call(we.extract(net, mode).eval(), x, engine)
    for name in shelf:
        plain = start_of(name, 0)
        with in_eval_mode(plain):
            calls[SHELF, name] = plain_call(plain, x, engine)
    return calls


def _faster(
    points: Sequence[Mapping[str, Any]],
    costs: Sequence[Mapping[str, Any]],
    engine: str,
    seed: int,
    strategy: str,
) -> dict[str, Any]:
    """Return how many of our modes are more accurate than US-Net at equal time (`RULE`)."""
    time_of = {
        (cost["who"], cost["mode"]): cost["latency"]["value"]
        for cost in costs
        if cost["engine"] == engine
    }
    ours = [
        each for each in points
        if each["who"] == OURS and each["seed"] == seed and each["strategy"] == strategy
    ]  # fmt: skip
    rival = [each for each in points if each["who"] == RIVAL and each["seed"] == seed]
    times = [time_of[RIVAL, each["mode"]] for each in rival]
    front = undominated(times, [each["search"]["value"] for each in rival])
    counts = count_above(
        [time_of[OURS, each["mode"]] for each in ours],
        [each["test"]["value"] for each in ours],
        [times[i] for i in front],
        [rival[i]["test"]["value"] for i in front],
        (min(times), max(times)),
    )
    return counts.to_json()


if __name__ == "__main__":
    main()
