"""Writes `docs/results/reproduction.md` and its pictures from the results: the paper's claims beside ours.

    python -m experiments.reproduction [--out .]

Why a claim does not hold, and what was tried, is written by hand in `results/reproduction/why.json`: the
key of the claim, as the page's own warning names it, and the text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments import fig6, page_fig5, page_fig6, page_fig7, page_table1, page_table2, plots
from experiments.budget import SCALES
from experiments.comparisons import parts_of
from experiments.page_parts import Claim, table
from experiments.results import read_results
from results.records import ROOT, page_file
from wenable.core.files import write_whole

EXPERIMENTS: dict[str, tuple[str, ModuleType]] = {
    "table1": ("Table I: what each class needs", page_table1),
    "table2": ("Table II: the shuffle", page_table2),
    "fig5": ("Figure 5: accuracy against multiply-accumulates", page_fig5),
    "fig6": ("Figure 6: accuracy against time and energy", page_fig6),
    "fig7": ("Figure 7: time against the size of the batch", page_fig7),
}
PICTURES = {"fig5": plots.fig5, "fig6": plots.fig6, "fig7": plots.fig7}
SHOWN = [scale for scale in SCALES if scale != "smoke"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.reproduction")
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    records = arguments.out / "results" / "reproduction"
    document = page_file(arguments.out, "reproduction")
    draw(records, document.with_suffix(""))
    write_whole(document, page(records))


def draw(folder: Path, pictures: Path, scales: list[str] = SHOWN) -> list[Path]:
    """Draw the results in a folder as pictures in another, and return their paths."""
    found = _results(folder, scales)
    pictures.mkdir(parents=True, exist_ok=True)
    return [
        PICTURES[name](results, pictures / f"{name}-{scale}.svg")
        for (name, scale), results in found.items()
        if name in PICTURES
    ]


def page(folder: Path, scales: list[str] = SHOWN) -> str:
    """Return the page for the results in a folder.

    Raises `ValueError` for a result that is not whole, or an explanation of no claim.
    """
    found = _results(folder, scales)
    claims = [
        claim
        for name, (_, module) in EXPERIMENTS.items()
        for (experiment, _), results in found.items()
        if experiment == name
        for claim in module.claims(results)
    ]
    parts = [
        "# The paper's claims, measured again",
        *([_verdict(claims)] if claims else []),
        "Every figure comes from a record under `results/reproduction/`, with the command, the commit"
        " and the machine. Modes are chosen on the search split and reported on the test split; nothing"
        " was tuned on it. Scales differ in networks, data and passes (`experiments/budget.py`): `cpu` is"
        " small networks and one or two epochs (six in separate comparisons), far from the paper's setting."
        " It compares the methods with each other at that size.",
        "## Claims",
        *(_claims(claims, _explanations(folder, claims)) if claims else ["Nothing was run yet."]),
    ]
    for name, (title, module) in EXPERIMENTS.items():
        for scale in scales:
            if (name, scale) in found:
                parts += [f"## {title}, scale `{scale}`", module.section(found[name, scale])]
    return "\n\n".join([*parts, _not_run(found, scales), _commands(), ""])


def _results(folder: Path, scales: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for name in EXPERIMENTS:
        for scale in scales:
            results = read_results(folder, name, scale)
            if results is not None:
                found[name, scale] = results
    for scale in scales:
        if ("fig6", scale) in found:
            _check_accuracies(found["fig6", scale], found.get(("fig5", scale), {"rows": []}), scale)
    return found


def _check_accuracies(
    fig6_results: Mapping[str, Any], fig5_results: Mapping[str, Any], scale: str
) -> None:
    """Raise `ValueError` where Figure 6 shows accuracies that are not those of Figure 5 beside it."""
    for panel in fig6_results["panels"]:
        now = [row["made"] for row in fig6.rows_of(fig5_results, panel["network"])]
        if panel["accuracies_made"] != now:
            raise ValueError(
                f"Figure 6 of {panel['network']!r} at scale {scale!r} shows accuracies of other runs than"
                f" Figure 5 holds; run `python -m experiments.fig6 --scale {scale} --networks"
                f" {panel['network']}` again, with its `--data`"
            )


def _verdict(claims: list[Claim]) -> str:
    """Say in a sentence how many claims hold."""
    yes, no = (sum(each.holds.startswith(word) for each in claims) for word in ("yes", "no:"))
    others = len(claims) - yes - no
    return f"Of {len(claims)} claims, {yes} hold here, {no} do not, and {others} are not decided."


def _claims(claims: list[Claim], explanations: Mapping[str, str]) -> list[str]:
    """Return the table of claims, and below it why some do not hold: too much for a cell."""
    header = ["", "where", "claim", "paper", "ours", "scale", "holds"]
    cells = [
        [str(n), each.source, each.claim, each.paper, each.ours, f"`{each.scale}`", each.holds]
        for n, each in enumerate(claims, 1)
    ]
    why = [
        f"{n}. {text}"
        for n, each in enumerate(claims, 1)
        if (text := explanations.get(each.key, _unexplained(each)))
    ]
    shown = ["\n".join(table(header, cells, left=len(header)))]
    return [*shown, "### Why a claim does not hold, and what was tried", *why] if why else shown


def _unexplained(claim: Claim) -> str:
    return "not explained yet" if claim.holds.startswith("no:") else ""


def _explanations(folder: Path, claims: list[Claim]) -> dict[str, str]:
    """Return what was written on claims; raises `ValueError` where it is of no claim on the page."""
    path = folder / "why.json"
    if not path.is_file():
        return {}
    texts = json.loads(path.read_text(encoding="utf-8"))
    unknown = sorted(set(texts) - {claim.key for claim in claims})
    if unknown:
        few = "; ".join(repr(claim.key) for claim in claims[:3])
        raise ValueError(
            f"{path} explains {unknown[0]!r}, which is no claim; claims are {few}, ..."
        )
    return texts


def _not_run(found: Mapping[tuple[str, str], Any], scales: list[str]) -> str:
    missing = [
        f"`{name}` at scale {', '.join(f'`{scale}`' for scale in lacking)}"
        for name in EXPERIMENTS
        if (lacking := [scale for scale in scales if (name, scale) not in found])
    ]
    missing += [
        f"of `fig5` at scale `{scale}` {part}"
        for (name, scale), results in found.items()
        if name == "fig5"
        for part in _parts_missing(scale, results)
    ]
    text = "; ".join(missing)
    return "## Not run\n\n" + (f"{text}." if missing else "Everything was run.")


def _parts_missing(scale: str, results: Mapping[str, Any]) -> list[str]:
    """Return which networks and comparisons of Figure 5 are not among its results, with their seeds."""
    there = {(row["network"], row["comparison"], row["seed"]) for row in results["rows"]}
    seeds: dict[tuple[str, str], list[str]] = {}
    for network, comparison, seed in sorted(set(parts_of(scale)) - there):
        seeds.setdefault((network, comparison), []).append(str(seed))
    return [
        f"{network}, {comparison}, seed{'s' * (len(own) > 1)} {', '.join(own)}"
        for (network, comparison), own in seeds.items()
    ]


def _commands() -> str:
    lines = [
        "## How to run it",
        "",
        "Data are folders `train/CLASS/*` and `test/CLASS/*` of images. Networks that were trained are kept"
        " under `--work` and are not trained again; what was stopped continues. Figure 6 needs"
        " the result of Figure 5. With `--dry-run` an experiment prints what it would cost and runs"
        " nothing.",
        "",
        "```console",
        *(f"python -m experiments.{name} --scale cpu --data data/cifar10" for name in EXPERIMENTS),
        "python -m experiments.fig5 --scale imagenet --dry-run --macs-per-second 2e13",
        "python -m experiments.train --scale cpu --data data/cifar10 --comparison 'more passes'  # ahead",
        "python -m experiments.fig5 --scale cpu --data data/cifar10 --comparisons 'more passes'  # a part",
        "python -m experiments.reproduction  # this page and its pictures",
        "```",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
