"""How good the fronts are that each search finds, by hypervolume, on images it saw and on others.

    python -m benchmarks.front_quality [--network FILE --data FOLDER] [--search-images 300]
        [--calibration-images 128] [--final-images 1000] [--threshold 0.6] [--out .]

The network of `wenable demo` is trained on the digits and searched, and so is one of half its width,
for which the digits are less easy. With `--network`, a saved network is searched as well, on images
drawn from the splits under `--data`. All searches go by MACs. `nsga2` gets as many trials as `exact`
evaluated modes. Results go to `results/front-quality.jsonl`, the picture to
`docs/results/front-quality.svg` and the table to `docs/results/front-quality.md`.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

import wenable as we
from benchmarks.search_cost import Batches, digits_network, part, saved_network
from results.provenance import present_commit
from results.records import ROOT, page_file, records_file, write_page, write_records
from wenable.core.cost_table import tabulated
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode
from wenable.modules.denormals import flush_denormals
from wenable.modules.passes import call_network, device_name, device_of, in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork
from wenable.search import Work, search_greedily
from wenable.search.exploring import explore
from wenable.strategies.fronts import hypervolume, indistinguishable, union
from wenable.strategies.nsga2 import nsga2
from wenable.strategies.settings import Greedy, GreedyLazy

COLORS = {"greedy": "#1f5fa8", "greedy-lazy": "#6fa8dc", "knapsack": "#c0392b", "nsga2": "#7f8c3a"}
RESAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front_quality")
    parser.add_argument("--network", type=Path)
    parser.add_argument("--data", default="")
    parser.add_argument("--search-images", type=int, default=300)
    parser.add_argument("--calibration-images", type=int, default=128)
    parser.add_argument("--final-images", type=int, default=1000)
    parser.add_argument("--threshold", type=float, default=0.6)
    parser.add_argument("--epochs", type=int, default=4, help="of training on the digits")
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    flush_denormals()
    torch.set_num_threads(1)
    results = []
    for compare in (
        digits_comparison,
        partial(digits_comparison, width=16),
        *((saved_comparison,) if arguments.network else ()),
    ):
        found = {"made": made(arguments), **compare(arguments)}
        results.append(found)
    write_records(records_file(arguments.out, "front-quality"), {"networks": results})
    plot(results, page_file(arguments.out, "front-quality", ".svg"))
    write_page(arguments.out, "front-quality", page(results))
    print(page(results))


def made(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how to get these results again."""
    given = "" if not arguments.network else (
        f" --network {arguments.network.name} --data {Path(arguments.data).name}"
        f" --search-images {arguments.search_images}"
        f" --calibration-images {arguments.calibration_images}"
        f" --final-images {arguments.final_images} --threshold {arguments.threshold}"
    )  # fmt: skip
    return {
        "command": f"python -m benchmarks.front_quality{given}",
        "commit": present_commit(),
        "torch": torch.__version__,
        "threads": 1,
    }


def digits_comparison(arguments: argparse.Namespace, **sizes: int) -> dict[str, Any]:
    net, data = digits_network(arguments.epochs, **sizes)
    splits = list(data.search), list(data.calibration), list(data.test)
    name = "_".join(["digits_resnet", *(f"{what}{size}" for what, size in sizes.items())])
    return compared(name, net, *splits, threshold=0.9)


def saved_comparison(arguments: argparse.Namespace) -> dict[str, Any]:
    net, data, label = saved_network(arguments.network, arguments.data)
    splits = (
        part(data.search, arguments.search_images),
        part(data.calibration, arguments.calibration_images),
        part(data.test, arguments.final_images),
    )
    return compared(label, net, *splits, threshold=arguments.threshold)


def compared(
    name: str,
    net: DynamicNetwork,
    search: Batches,
    calibration: Batches,
    final: Batches,
    *,
    threshold: float,
) -> dict[str, Any]:
    """Search one network in each way, and evaluate all fronts on images that no search saw."""
    net.forget_calibrations([mode for mode in net.calibrated_modes if mode != net.space.full])
    fronts: dict[str, Front] = {}
    spent: dict[str, dict[str, float]] = {}
    for way in COLORS:
        copied, work, started = copy.deepcopy(net), Work(), time.perf_counter()
        fronts[way] = searched(
            way, copied, search, calibration, threshold, work, fronts.get("knapsack")
        )
        seconds = time.perf_counter() - started
        macs = work.total or macs_of_all(net, fronts[way], images(search), images(calibration))
        spent[way] = {
            "evaluations": fronts[way].evaluations,
            "full_passes": macs / net.macs("full"),
            "seconds": seconds,
        }
        print(f"{name}, {way}: {seconds:.0f} s, {fronts[way].evaluations} evaluations", flush=True)
    together = union(*fronts.values())
    modes = {point.mode for front in fronts.values() for point in front}
    right = {mode: answers(net, mode, calibration, final) for mode in modes}
    rng = np.random.default_rng(0)
    rows = rng.integers(0, images(final), size=(RESAMPLES, images(final)))
    full = net.macs("full")
    volumes = {
        way: volumes_of(front, right, rows, full, threshold)
        for way, front in {**fronts, "union": together}.items()
    }
    return {
        "network": name,
        "knobs": len(net.space.names),
        "threshold": threshold,
        "images": {
            "search": images(search), "calibration": images(calibration), "final": images(final),
        },
        "machine": device_name(net),
        "full_macs": full,
        "full_accuracy": {
            "search": together.path[0].accuracy.known,
            "final": float(answers(net, net.space.full, calibration, final).mean()),
        },
        "ways": {
            way: {
                **spent.get(way, {}),
                "points": len(front),
                "cannot_be_told_apart": len(indistinguishable(front)),
                "of_the_union": sum(mode in together.modes for mode in front.modes),
                **summary(volumes[way], volumes["union"]),
                "front": [
                    [str(p.mode), p.cost.known, p.accuracy.known, float(right[p.mode].mean())]
                    for p in front
                ],
            }
            for way, front in {**fronts, "union": together}.items()
        },
    }  # fmt: skip


def searched(
    way: str,
    net: DynamicNetwork,
    search: Batches,
    calibration: Batches,
    threshold: float,
    work: Work,
    exact: Front | None,
) -> Front:
    """Return the front of one search.

    - `work`: is told what was computed, by those that count it themselves.
    - `exact`: that of `exact`, which says how many trials `nsga2` gets.
    """
    if way in ("greedy", "greedy-lazy"):
        settings = Greedy() if way == "greedy" else GreedyLazy()
        return search_greedily(
            net, search, calibration, settings, min_accuracy=threshold, work=work
        )
    if way == "knapsack":
        return explore(net, search, calibration, min_accuracy=threshold, strategy="knapsack")
    assert exact is not None
    return nsga2(
        net.space,
        partial(accuracy, net, search, calibration),
        tabulated(net.space, net.macs, "MACs", "counted"),
        trials=exact.evaluations,
        min_accuracy=threshold,
        cost="macs",
    )


def accuracy(net: DynamicNetwork, search: Batches, calibration: Batches, mode: Mode) -> Reading:
    """Return the accuracy of a mode as `explore` has it."""
    if not net.is_calibrated(mode):
        we.calibrate(net, mode, calibration)
    return we.evaluate(net, mode, search, split="the search split")


def macs_of_all(net: DynamicNetwork, front: Front, search: int, calibration: int) -> int:
    """Return the work of a search that calibrates and evaluates each mode by itself.

    The full mode has its statistics from training, or from before.
    """
    return sum(
        net.macs(point.mode) * (search + calibration * (point.mode != net.space.full))
        for point in front.explored
    )


def images(batches: Batches) -> int:
    return sum(len(labels) for _, labels in batches)


def answers(net: DynamicNetwork, mode: Mode, calibration: Batches, final: Batches) -> np.ndarray:
    """Return for each image of the final split whether a mode has it right."""
    if not net.is_calibrated(mode):
        we.calibrate(net, mode, calibration)
    found = []
    with net.using(mode), in_eval_mode(net), torch.inference_mode():
        for x, labels in final:
            outputs, _ = call_network(net, x, device_of(net))
            found.append(outputs.argmax(1).cpu() == labels)
    return torch.cat(found).numpy()


def volumes_of(
    front: Front, right: dict[Mode, np.ndarray], rows: np.ndarray, full: int, threshold: float
) -> dict[str, Any]:
    """Return the hypervolumes of a front: on the search split, on the final one, and resampled."""

    def volume(points: Iterable[Point]) -> float:
        # MACs as a share of the full mode's: so the whole box is 1 - threshold.
        shares = [
            replace(point, cost=replace(point.cost, value=point.cost.known / full))
            for point in points
        ]
        return hypervolume(shares, 1.0, threshold) / (1 - threshold)

    def with_accuracy(of: Callable[[np.ndarray], float]) -> list[Point]:
        return [replace(point, accuracy=Reading(of(right[point.mode]), "top-1")) for point in front]

    return {
        "search": volume(front),
        "final": volume(with_accuracy(lambda each: float(each.mean()))),
        "resampled": [
            volume(with_accuracy(lambda each, row=row: float(each[row].mean()))) for row in rows
        ],
    }


def summary(found: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Return the hypervolumes, and the one on the final split against the union's, with intervals."""
    ratios = np.array(found["resampled"]) / np.array(best["resampled"])
    return {
        "hypervolume_search": found["search"],
        "hypervolume_final": found["final"],
        "hypervolume_final_interval": interval(found["resampled"]),
        "final_over_union": found["final"] / best["final"],
        "final_over_union_interval": interval(ratios),
    }


def interval(values: Sequence[float] | np.ndarray) -> list[float]:
    return [float(each) for each in np.percentile(values, (2.5, 97.5))]


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw each network's fronts, on the search split and on the final one."""
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "wenable"
    figure, axes = plt.subplots(
        len(results), 2, figsize=(9, 3.6 * len(results)), squeeze=False, layout="constrained"
    )
    for row, found in zip(axes, results, strict=True):
        for axis, split, column in zip(row, ("search", "final"), (2, 3), strict=True):
            draw(axis, found, split, column)
        row[1].sharey(row[0])
    axes[0][0].legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def draw(axis: Any, found: dict[str, Any], split: str, column: int) -> None:
    for number, (way, color) in enumerate(COLORS.items()):
        points = found["ways"][way]["front"]
        axis.plot(
            [point[1] / 1e6 for point in points],
            [100 * point[column] for point in points],
            "os^D"[number],
            linestyle="-",
            linewidth=1,
            markersize=4.5,
            color=color,
            label=way,
            alpha=0.85,
        )
    images = found["images"][split]
    axis.set_title(f"{found['network']}, {split} split ({images} images)", fontsize="medium")
    axis.set_xlabel("multiply-accumulates, millions")
    axis.set_ylabel("accuracy, %")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def page(results: list[dict[str, Any]]) -> str:
    """Return the page that shows the results."""
    first = results[0]["made"]
    lines = [
        "# How good the fronts are",
        "",
        _verdict(results),
        "",
        "The fronts that the strategies of `explore` find, by multiply-accumulates, compared"
        " by hypervolume: the area between a front and the corner of the full mode's MACs and the"
        " minimum accuracy, as a share of the box from that corner to no MACs and 100 %. The searches saw"
        " the search split; the final split was used for nothing else. On it all points of a front"
        " count with their accuracy there. Intervals: 95 %, from drawing the final images anew"
        f" {RESAMPLES:,} times, the same for all fronts. The union is that of all four searches, made by"
        " the search split, so another front may be better than it on the final one.",
        "",
        f"Made by `{first['command']}` at commit {first['commit']} with torch {first['torch']},"
        f" {first['threads']} thread. Work: multiply-accumulates of calibration and evaluation, in"
        " forward passes of one image through the full network. `nsga2` gets as many trials as"
        " `knapsack` evaluated modes, one seed.",
        "",
        "![Fronts on the search split and on the final one](front-quality.svg)",
    ]
    for found in results:
        lines += section(found)
    return "\n".join(lines) + "\n"


def section(found: dict[str, Any]) -> list[str]:
    count, full = found["images"], found["full_accuracy"]
    lines = [
        "",
        f"## {found['network']}",
        "",
        f"{found['knobs']} knobs; {count['search']} search, {count['calibration']} calibration and"
        f" {count['final']} final images, each drawn from its split with a fixed seed if the split"
        f" has more; minimum accuracy {100 * found['threshold']:.0f} %. The full mode:"
        f" {100 * full['search']:.1f} % on the search split, {100 * full['final']:.1f} % on the final"
        f" one. {found['machine']}.",
        "",
        "| search | evaluations | full passes | points | of the union's | neighbours that"
        " do not differ | hypervolume, search % | hypervolume, final % | of the union's,"
        " final % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for way, row in found["ways"].items():
        spent = (
            f"{row['evaluations']} | {row['full_passes']:,.0f}" if "full_passes" in row else "- | -"
        )
        lines.append(
            f"| {way} | {spent} | {row['points']} | {row['of_the_union']} |"
            f" {row['cannot_be_told_apart']} | {100 * row['hypervolume_search']:.1f} |"
            f" {between(row, 'hypervolume_final')} | {between(row, 'final_over_union')} |"
        )
    return lines


def _verdict(results: list[dict[str, Any]]) -> str:
    """Say in a sentence which strategies found the largest hypervolume on the final split."""
    best: dict[str, list[str]] = {}
    for found in results:
        ways = {way: row for way, row in found["ways"].items() if way != "union"}
        most = max(row["hypervolume_final"] for row in ways.values())
        winners = [way for way, row in ways.items() if row["hypervolume_final"] >= most - 1e-9]
        names = ", ".join(f"`{way}`" for way in winners)
        said = "all alike" if len(winners) == len(ways) else names
        best.setdefault(said, []).append(found["network"])
    said = [f"{names} on {', '.join(networks)}" for names, networks in best.items()]
    return f"The largest hypervolume on images that no search saw: {'; '.join(said)}."


def between(row: dict[str, Any], what: str) -> str:
    low, high = row[f"{what}_interval"]
    return f"{100 * row[what]:.1f} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
