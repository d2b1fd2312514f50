"""Figure 6 on the page: accuracy at equal time, on the engines of the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from experiments.budget import SAME_PASSES
from experiments.fig6 import OURS, RIVAL, SHELF
from experiments.page_parts import Claim, made_in_parts, of_seeds, table


def section(results: Mapping[str, Any]) -> str:
    """Return the section of one scale."""
    labels = results["shelf_passes"]
    apart = ", and apart over as many forward and backward passes" if SAME_PASSES in labels else ""
    lines = [
        f"Accuracies of modes are those of Figure 5 at equal footing;"
        f" small networks off the shelf had the same budget, over as many epochs{apart}."
        " Time is that of one image on one thread, all networks of an engine"
        " in one run, in blocks in random order; our modes are lowered by the default rule and not by a"
        f" profile. Counted was: {results['rule']}.",
        "",
        made_in_parts(results, ((panel["network"], panel["made"]) for panel in results["panels"])),
        "",
        f"![accuracy against time](reproduction/fig6-{results['scale']}.svg)",
        "",
    ]
    header = ["network", "engine", "search", "seed", "our modes within US-Net's times", "above",
              "faster than every US-Net mode", "slower than every US-Net mode"]  # fmt: skip
    rows = [
        [
            panel["network"], each["engine"], each["strategy"], str(each["seed"]), str(each["modes"]),
            str(each["above"]), str(each["cheaper"]), str(each["dearer"]),
        ]
        for panel in results["panels"]
        for each in panel["above"]
    ]  # fmt: skip
    lines += table(header, rows, left=3)
    lines += ["", "Small networks off the shelf, beside our most accurate mode (knapsack search) that is no"
              " slower, chosen on the search split:", ""]  # fmt: skip
    header = ["beside", "engine", "network", "time, ms", *(f"{each}, %" for each in labels)]
    header.append("our mode, %")
    lines += table(header, _shelf_rows(results), left=3)
    if SAME_PASSES not in labels:
        lines += ["", "They were trained over as many epochs as the dynamic networks, with one pass a step:"
                  " for as many passes as those they were not trained at this scale."]  # fmt: skip
    return "\n".join([*lines, "", _energy(results)])


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """Return what Figure 6 claims, beside our figures of one scale."""
    found = []
    for panel in results["panels"]:
        for engine in dict.fromkeys(each["engine"] for each in panel["above"]):
            for_seeds = [
                each
                for each in panel["above"]
                if each["engine"] == engine and each["strategy"] != "knapsack"
            ]
            # A mode that is faster than every mode of the rival is better at equal time, too.
            shares = [
                100 * (each["above"] + each["cheaper"]) / total
                for each in for_seeds
                if (total := each["modes"] + each["cheaper"] + each["dearer"])
            ]
            always = all(share == 100 for share in shares)
            found.append(
                Claim(
                    "Figure 6",
                    f"time is always lower than US-Net's, `{panel['network']}` on {engine}",
                    "all modes",
                    f"{of_seeds(shares)} % of Algorithm 2's front: more accurate at equal time, or faster"
                    " than every mode of US-Net",
                    results["scale"],
                    "yes" if always else "no: not always",
                )
            )
    energies = [cost["energy"] for panel in results["panels"] for cost in panel["costs"]]
    if all(each["value"] is None for each in energies):
        reason = energies[0]["reason"] if energies else "nothing was run"
        found.append(
            Claim("Figure 6", "energy is lower than US-Net's", "substantially", "not measured",
                  results["scale"], f"not decided: {reason.partition(' (')[0]}")
        )  # fmt: skip
    return found


def _shelf_rows(results: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for panel in results["panels"]:
        times = {
            (cost["engine"], cost["who"], cost["mode"]): cost["latency"]["value"]
            for cost in panel["costs"]
        }
        seeds = sorted({each["seed"] for each in panel["points"]})
        for engine, who, name in times:
            if who != SHELF:
                continue
            limit = times[engine, who, name]
            best = [_best_within(panel, times, engine, seed, limit) for seed in seeds]
            accurate = [value for value in best if value is not None]
            ours = of_seeds(accurate) if len(accurate) == len(seeds) else "none is as fast"
            rows.append(
                [panel["network"], engine, name, f"{limit:.3f}"]
                + [_of_shelf(panel, name, label) for label in results["shelf_passes"]]
                + [ours]
            )
    return rows


def _of_shelf(panel: Mapping[str, Any], name: str, label: str) -> str:
    return of_seeds(
        [
            100 * each["test"]["value"]
            for each in panel["points"]
            if each["who"] == SHELF and each["mode"] == name and each["passes"] == label
        ]
    )


def _best_within(
    panel: Mapping[str, Any], times: Mapping[Any, float], engine: str, seed: int, limit: float
) -> float | None:
    """Return the test accuracy, in percent, of our mode with the best search accuracy in time."""
    fast = [
        each
        for each in panel["points"]
        if each["who"] == OURS
        and each["seed"] == seed
        and each["strategy"] == "knapsack"
        and times[engine, OURS, each["mode"]] <= limit
    ]
    if not fast:
        return None
    return 100 * max(fast, key=lambda each: each["search"]["value"])["test"]["value"]


def _energy(results: Mapping[str, Any]) -> str:
    costs = [cost for panel in results["panels"] for cost in panel["costs"]]
    measured = [cost for cost in costs if cost["energy"]["value"] is not None]
    if not measured:
        return f"Energy was not measured: {costs[0]['energy']['reason']}."
    parts = [
        f"{engine}: {who} {mean(found):.3g} mJ"
        for engine in dict.fromkeys(cost["engine"] for cost in measured)
        for who in (OURS, RIVAL, SHELF)
        if (found := [c["energy"]["value"] for c in measured if c["engine"] == engine and c["who"] == who])
    ]  # fmt: skip
    return f"Energy for one image, mean over the networks: {'; '.join(parts)}."
