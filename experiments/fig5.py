"""Figure 5: accuracy against multiply-accumulates, weight-enabling beside US-Net.

    python -m experiments.fig5 --scale cpu --data data/cifar10 [--work out/experiments]
        [--networks NAME ...] [--comparisons NAME ...] [--seeds 0 ...]

Modes are chosen on the search split; every figure is of the test split. What is counted was fixed before
any run and stands in `RULES`, which goes into the results.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import wenable as we
from experiments.answers import accuracy, right_answers
from experiments.budget import Budget, Scale, scale_named
from experiments.comparisons import (
    COMPARISONS,
    Comparison,
    Part,
    comparison_named,
    parts_of,
)
from experiments.data import ExperimentData, load
from experiments.equal_cost import count_above, share_interval, undominated
from experiments.options import command_of, start
from experiments.parts import kept
from experiments.results import (
    check_same_budget,
    made_by_command,
    read_results,
    with_provenance,
    write_results,
)
from experiments.runs import Run, trained
from wenable.core.space import Mode
from wenable.modules.denormals import flush_denormals
from wenable.modules.fingerprint import weights_fingerprint
from wenable.network.dynamic_network import DynamicNetwork

Strategy = Literal["greedy", "greedy-lazy", "knapsack"]
KINDS = {"greedy": we.Greedy, "greedy-lazy": we.GreedyLazy}
POINTS_BELOW_FULL = 14.0

RULES = {
    "threshold": f"the full mode's accuracy on the search split less {POINTS_BELOW_FULL:.0f} points, as"
    " far as the paper's Figure 6 shows ResNet-50 (76 to 62 %); at least 0",
    "denominator": "greedy: all modes on Algorithm 2's path whose accuracy on the search split is above"
    " the threshold, the full mode among them; exact: all modes of its front; of both only those whose"
    " MACs lie within the range of US-Net's modes, ends included",
    "line": "US-Net's calibrated test accuracy against MACs, linear between neighbouring widths; all"
    " widths, and beside it only those that the search split puts on US-Net's own front, level beyond"
    " its last",
    "above": "strictly more accurate on the test split than the line at equal MACs",
    "interval": "95 %, of the share for one pair of networks: the test images drawn anew 1,000 times",
}


def main() -> None:
    start("fig5", run, _add_options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", help="only these of the scale's networks")
    parser.add_argument("--comparisons", nargs="+", choices=[each.name for each in COMPARISONS])
    parser.add_argument("--seeds", nargs="+", type=int, help="only these of the scale's seeds")


def run(
    scale: str,
    data: Path,
    work: Path,
    out: Path,
    networks: Sequence[str] | None = None,
    comparisons: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Train what is missing, search, evaluate, and write `fig5-SCALE.jsonl`.

    - `networks`, `comparisons`, `seeds`: a part of the scale; all of it where nothing is said. What
      the file holds of other parts stays there; each part says what made it.

    Raises `ValueError` where the scale has no such part, or the file was made by other rules.
    """
    flush_denormals()
    wanted = parts_of(scale, networks, comparisons, seeds)
    if not wanted:
        raise ValueError(
            f"the scale {scale!r} has none of these parts; it has {'; '.join(map(str, parts_of(scale)))}"
        )
    rows = {part: _row(part, scale, data, work / scale) for part in wanted}
    before = read_results(out, "fig5", scale)
    if before is not None:
        rows = _others(before, scale, out) | rows
    ordered = [rows[part] for part in parts_of(scale) if part in rows]
    _check_budgets(ordered)
    values = {"rules": RULES, "seeds": sorted({row["seed"] for row in ordered}), "rows": ordered}
    results = with_provenance(command_of("fig5", scale), scale, values)
    write_results(out, "fig5", results)
    return results


def _others(before: Mapping[str, Any], scale: str, out: Path) -> dict[Part, dict[str, Any]]:
    """Return the parts of a result that was written before."""
    if before["rules"] != RULES:
        raise ValueError(
            f"{out}/fig5-{scale}.jsonl was made by other rules than those of now, and cannot take in"
            " parts; move it away first"
        )
    rows = {(row["network"], row["comparison"], row["seed"]): row for row in before["rows"]}
    gone = sorted(set(rows) - set(parts_of(scale)))
    if gone:
        raise ValueError(
            f"{out}/fig5-{scale}.jsonl holds {gone[0]}, which the scale {scale!r} does not have now;"
            " move it away first"
        )
    return rows


def _check_budgets(rows: Sequence[Mapping[str, Any]]) -> None:
    check_same_budget(
        {
            "network": f"{row['network']}, {row['comparison']}",
            "method": row[side]["method"],
            "budget": row[side]["budget"],
        }
        for row in rows
        for side in ("ours", "rival")
    )


def _row(part: Part, scale: str, data: Path, work: Path) -> dict[str, Any]:
    """Return one part of the figure, with what made it."""
    network, name, seed = part
    command = (
        command_of("fig5", scale) + f" --networks {network} --comparisons {name!r} --seeds {seed}"
    )
    sizes, comparison = scale_named(scale), comparison_named(name)
    budget = comparison.budget(sizes, network)
    return _compare(comparison, network, seed, budget, load(data, budget), work, sizes, command)


def _compare(
    comparison: Comparison,
    network: str,
    seed: int,
    budget: Budget,
    data: ExperimentData,
    work: Path,
    sizes: Scale,
    command: str,
) -> dict[str, Any]:
    """Return one pair of networks: their modes, and how many of ours lie above the rival's line."""
    path: tuple[Strategy, ...] = (sizes.path_search_of(network),) if comparison.path else ()
    strategies: tuple[Strategy, ...] = (*path, "knapsack")
    ours, rival = (
        Run(network, method, seed, budget, comparison.distillation)
        for method in (comparison.ours, comparison.rival)
    )
    nets = trained(ours, data, work), trained(rival, data, work)
    identity = {
        "rules": RULES,
        "comparison": comparison.name,
        "strategies": strategies,
        "runs": [ours.to_json(), rival.to_json()],
        "weights": [weights_fingerprint(net, with_norms=True) for net in nets],
        "images": [sum(len(labels) for _, labels in part) for part in (data.search, data.test)],
    }
    return kept(
        work / f"fig5-{ours.name}.json",
        identity,
        lambda: {
            "made": made_by_command(command),
            "comparison": comparison.name,
            "network": network,
            "seed": seed,
            **_compared(nets, (ours, rival), strategies, data, work),
        },
    )


def _compared(
    nets: tuple[DynamicNetwork, DynamicNetwork],
    runs: tuple[Run, Run],
    strategies: Sequence[Strategy],
    data: ExperimentData,
    work: Path,
) -> dict[str, Any]:
    widths = nets[1].space.uniform_modes()
    rival, rival_right = points_of(nets[1], widths, data)
    values: dict[str, Any] = {
        "ours": runs[0].to_json() | {"fronts": {}},
        "rival": runs[1].to_json() | {"points": rival},
    }
    for strategy in strategies:
        print(runs[0].name, strategy, flush=True)
        front, threshold = searched(nets[0], strategy, data, work / f"fig5-{runs[0].name}.journal")
        modes = [point.mode for point in (front.points if strategy == "knapsack" else front.path)]
        points, right = points_of(nets[0], modes, data)
        counted = [i for i, each in enumerate(points) if each["search"]["value"] > threshold]
        for i, each in enumerate(points):
            each["counted"] = i in counted
        values["ours"]["fronts"][strategy] = {
            "threshold": threshold,
            "evaluations": front.evaluations,
            "points": points,
            "above": _above([points[i] for i in counted], right[counted], rival, rival_right),
        }
    return values


def searched(
    net: DynamicNetwork, strategy: Strategy, data: ExperimentData, journal: Path
) -> tuple[we.Front, float]:
    """Return the front of a search by MACs, and the accuracy that it went down to."""
    if not net.is_calibrated("full"):
        we.calibrate(net, "full", data.calibration)
    full = we.evaluate(net, "full", data.search).known
    threshold = max(full - POINTS_BELOW_FULL / 100, 0.0)
    front = we.explore(
        net,
        data.search,
        data.calibration,
        min_accuracy=threshold,
        strategy=KINDS[strategy](journal) if strategy in KINDS else strategy,
    )
    return front, threshold


def points_of(
    net: DynamicNetwork, modes: Sequence[Mode], data: ExperimentData
) -> tuple[list[dict[str, Any]], NDArray[np.bool_]]:
    """Return each mode's MACs and accuracies, and which test images it has right: `(modes, images)`."""
    points, rows = [], []
    for mode in modes:
        if not net.is_calibrated(mode):
            we.calibrate(net, mode, data.calibration)
        with net.using(mode):
            right = right_answers(net, data.test)
        rows.append(right)
        points.append(
            {
                "mode": str(mode),
                "macs": net.macs(mode),
                "search": asdict(we.evaluate(net, mode, data.search, split="the search split")),
                "test": asdict(accuracy(right, net, "test")),
            }
        )
    return points, np.stack(rows)


def _above(
    points: Sequence[dict[str, Any]],
    right: NDArray[np.bool_],
    rival: Sequence[dict[str, Any]],
    rival_right: NDArray[np.bool_],
) -> dict[str, Any]:
    """Return the share above the line through all of the rival's modes, and through its own front."""
    chosen = undominated(
        [each["macs"] for each in rival], [each["search"]["value"] for each in rival]
    )
    found = {}
    for name, rows in (("all widths", list(range(len(rival)))), ("front of widths", chosen)):
        costs = [each["macs"] for each in points]
        rival_costs = [rival[i]["macs"] for i in rows]
        within = min(each["macs"] for each in rival), max(each["macs"] for each in rival)
        counts = count_above(
            costs, [each["test"]["value"] for each in points],
            rival_costs, [rival[i]["test"]["value"] for i in rows], within,
        )  # fmt: skip
        interval = share_interval(costs, right, rival_costs, rival_right[rows], within)
        found[name] = counts.to_json() | {"interval": interval}
    return found


if __name__ == "__main__":
    main()
