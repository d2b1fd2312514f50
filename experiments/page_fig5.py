"""Figure 5 on the page: how many of our modes lie above US-Net, and where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from experiments.comparisons import EQUAL_FOOTING
from experiments.equal_cost import count_above
from experiments.page_parts import Claim, at_least, made_in_parts, of_seeds, table

PAPER_SHARE = 73.2
_LINES = ("all widths", "front of widths")
_RANGES = {"resnet": "above 69 %", "mobilenet": "64 to 71 %"}


def section(results: Mapping[str, Any]) -> str:
    """Return the section of one scale."""
    lines = [
        "What was counted was fixed before the run: "
        + "; ".join(f"*{name}*: {rule}" for name, rule in results["rules"].items())
        + ". *Equal footing* is the paper's claim: both sides had the same passes, epochs, batches and"
        " augmentation, and no distillation. Apart from it: *more passes*: the same, trained over more"
        " epochs; *shuffle everywhere*: weight-enabling shuffles before every layer, not once in a block;"
        " *distillation*: the modes of both sides learn from the full one, which is US-Net's own setting."
        " Within a comparison both sides have the same budget. US-Net has widths"
        " from 0.25 to 1 in steps of 0.025, with channels in multiples of 4, where its paper has 8: the"
        " narrowest layers of the small networks here have 8 or 16.",
        "",
        made_in_parts(results, ((_part(row), row["made"]) for row in results["rows"])),
        "",
        f"![accuracy against multiply-accumulates](reproduction/fig5-{results['scale']}.svg)",
        "",
    ]
    header = ["network", "comparison", "search", "seed", "modes counted", "above all widths",
              "above the front of widths", "cheaper than US-Net"]  # fmt: skip
    rows = []
    for row in results["rows"]:
        for strategy, front in row["ours"]["fronts"].items():
            counts = front["above"]
            rows.append(
                [
                    row["network"], row["comparison"], strategy, str(row["seed"]),
                    str(counts["all widths"]["modes"]),
                    *(_share(counts[line]) for line in _LINES),
                    str(counts["all widths"]["cheaper"]),
                ]
            )  # fmt: skip
    lines += table(header, rows, left=3)
    lines += ["", "Means over the seeds, in percent:", ""]
    header = ["network", "comparison", "search", *(f"above {line}" for line in _LINES)]
    rows = [
        [network, comparison, strategy]
        + [_mean_share(results, network, comparison, strategy, line) for line in _LINES]
        for network, comparison, strategy in _kinds(results)
    ]
    lines += [*table(header, rows, left=3), "", *_most_accurate(results), *_crossed(results)]
    return "\n".join(lines)


def _most_accurate(results: Mapping[str, Any]) -> list[str]:
    """Return a table of the best mode of each side, as the search split has it."""
    header = ["network", "comparison", "seed", "epochs", "passes a step", "our best mode, %", "its MACs",
              "US-Net's best, %", "its MACs"]  # fmt: skip
    rows = []
    for row in results["rows"]:
        budget = row["ours"]["budget"]
        ours = [point for front in row["ours"]["fronts"].values() for point in front["points"]]
        rows.append(
            [row["network"], row["comparison"], str(row["seed"]), str(budget["epochs"]),
             str(budget["passes"]), *_best(ours), *_best(row["rival"]["points"])]
        )  # fmt: skip
    return ["The most accurate mode of each side, chosen on the search split:", "",
            *table(header, rows, left=2)]  # fmt: skip


def _crossed(results: Mapping[str, Any]) -> list[str]:
    """Return a table of each of our settings beside each of US-Net's that had the same budget.

    A setting that helps one side and harms the other makes their own comparison unfair; here all
    pairs stand side by side.
    """
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["rows"]:
        kind = json.dumps([row["network"], row["seed"], row["ours"]["budget"]])
        alike.setdefault(kind, []).append(row)
    lines: list[str] = []
    for rows in alike.values():
        rivals = {_setting(row["rival"]): row["rival"] for row in rows}
        if len(rivals) > 1:
            lines += ["", *_crossed_table(rows, rivals)]
    return lines


def _crossed_table(
    rows: Sequence[Mapping[str, Any]], rivals: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    first = rows[0]
    epochs = first["ours"]["budget"]["epochs"]
    counted = []
    for row in rows:
        points = [each for each in row["ours"]["fronts"]["knapsack"]["points"] if each["counted"]]
        shares = []
        for rival in rivals.values():
            found = count_above(
                *_costs_and_accuracies(points), *_costs_and_accuracies(rival["points"])
            )
            shares.append("none within" if found.share is None else f"{100 * found.share:.0f} %")
        counted.append([_setting(row["ours"]), *shares])
    return [
        f"{first['network']}, seed {first['seed']}, {epochs} epochs: the share of our"
        " modes of the knapsack search that lie above all widths of US-Net, for every setting of both that"
        " was trained with this budget:",
        "",
        *table(["ours", *(f"beside US-Net, {name}" for name in rivals)], counted),
    ]


def _setting(side: Mapping[str, Any]) -> str:
    """Return how a side was trained, in the words of the comparisons."""
    shuffle = "shuffle everywhere, " if side["method"].endswith("shuffle everywhere") else ""
    return shuffle + ("distillation" if side["distillation"] else "no distillation")


def _costs_and_accuracies(points: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [each["macs"] for each in points], [each["test"]["value"] for each in points]


def _best(points: Sequence[Mapping[str, Any]]) -> list[str]:
    best = max(points, key=lambda each: each["search"]["value"])
    test = best["test"]
    interval = f"{100 * test['low']:.1f} to {100 * test['high']:.1f}"
    return [f"{100 * test['value']:.1f} ({interval})", f"{best['macs'] / 1e6:.2f} M"]


def _part(row: Mapping[str, Any]) -> str:
    return f"{row['network']}, {row['comparison']}, seed {row['seed']}"


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """Return what Figure 5 claims, beside our figures of one scale."""
    found = []
    for network in dict.fromkeys(row["network"] for row in results["rows"]):
        search = path_search(results, network)
        shares = _shares(results, network, EQUAL_FOOTING, search, "all widths")
        tried = "; ".join(
            f"{comparison}, {strategy}: "
            + _mean_share(results, network, comparison, strategy, "all widths")
            for name, comparison, strategy in _kinds(results)
            if name == network and (comparison, strategy) != (EQUAL_FOOTING, search)
        )
        found.append(
            Claim(
                "Figure 5",
                f"modes of Algorithm 2{_APPROXIMATELY[search]} that are better than US-Net, `{network}`",
                f"{PAPER_SHARE} %",
                f"{_text(shares)} (apart: {tried})",
                results["scale"],
                at_least(shares, PAPER_SHARE, f"{PAPER_SHARE} %") if shares else _NONE,
            )
        )
        kind = next((kind for kind in _RANGES if kind in network), None)
        if kind is not None:
            found.append(_upper_range(results, network, _RANGES[kind]))
    return found


_APPROXIMATELY = {"greedy": "", "greedy-lazy": " (approximated by greedy-lazy)"}


def path_search(results: Mapping[str, Any], network: str) -> str:
    """Return the search that stands for Algorithm 2 in the results of a network."""
    return next(
        strategy
        for row in results["rows"]
        if row["network"] == network and row["comparison"] == EQUAL_FOOTING
        for strategy in row["ours"]["fronts"]
        if strategy in _APPROXIMATELY
    )


_NONE = "not decided: no mode lies within US-Net's range of MACs"


def _upper_range(results: Mapping[str, Any], network: str, paper: str) -> Claim:
    """Return the claim that we are better where accuracy is high, as accuracies here allow it.

    The upper half: modes whose test accuracy is above the middle between the counted ones' ends.
    """
    halves: tuple[list[float], list[float]] = [], []
    for row in results["rows"]:
        if row["network"] != network or row["comparison"] != EQUAL_FOOTING:
            continue
        points = _counted_with_line(row)
        if not points:
            continue
        middle = (max(p[0] for p in points) + min(p[0] for p in points)) / 2
        for half, inside in zip(halves, (True, False), strict=True):
            part = [above for accuracy, above in points if (accuracy > middle) == inside]
            if part:
                half.append(100 * mean(part))
    upper, lower = (of_seeds(half) if half else "none" for half in halves)
    holds = at_least(halves[0], 50.0, "half of the modes") if halves[0] else _NONE
    return Claim(
        "Figure 5", f"better than US-Net where accuracy is high, `{network}`", paper,
        f"above US-Net: {upper} % of the modes in the upper half of our accuracies, {lower} % in the"
        " lower", results["scale"], holds,
    )  # fmt: skip


def _counted_with_line(row: Mapping[str, Any]) -> list[tuple[float, bool]]:
    """Return accuracy, and whether above US-Net, of each mode of Algorithm 2's path that counts."""
    rival = row["rival"]["points"]
    costs = [each["macs"] for each in rival]
    accuracies = [each["test"]["value"] for each in rival]
    found = []
    (path,) = (front for name, front in row["ours"]["fronts"].items() if name in _APPROXIMATELY)
    for each in path["points"]:
        value = each["test"]["value"]
        counts = count_above([each["macs"]], [value], costs, accuracies)
        if each["counted"] and counts.modes:
            found.append((value, counts.above == 1))
    return found


def _kinds(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield from dict.fromkeys(
        (row["network"], row["comparison"], strategy)
        for row in results["rows"]
        for strategy in row["ours"]["fronts"]
    )


def _shares(
    results: Mapping[str, Any], network: str, comparison: str, strategy: str, line: str
) -> list[float]:
    return [
        100 * row["ours"]["fronts"][strategy]["above"][line]["share"]
        for row in results["rows"]
        if row["network"] == network
        and row["comparison"] == comparison
        and row["ours"]["fronts"][strategy]["above"][line]["share"] is not None
    ]


def _mean_share(results: Mapping[str, Any], *which: str) -> str:
    return _text(_shares(results, *which))


def _text(shares: Sequence[float]) -> str:
    return f"{of_seeds(shares)} %" if shares else "none within the range"


def _share(counts: Mapping[str, Any]) -> str:
    if counts["share"] is None:
        return "none within the range"
    low, high = counts["interval"]
    return f"{100 * counts['share']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
