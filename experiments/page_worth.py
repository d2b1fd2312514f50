"""The page "are the modes worth running?": the fronts of all sides, at every scale that was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.page_parts import made_in_parts, table
from experiments.worth_records import parts_of
from experiments.worth_sides import COMBINED, SCALES, UNIFORM_ALONE

INTRODUCTION = """\
Weight-enabling beside US-Net, and both with the size of the images as a knob. Each side may spend the
same multiply-accumulates in training, forward and backward: so a side with cheaper passes makes more of
them. *US-Net* and *weight-enabling* learn from labels alone, as the paper's Algorithm 1 says; US-Net's
own authors let the full network teach the others, which is *US-Net, distillation*. *As found*: the full
mode alone for half of the steps, then distillation; for groups also a shuffle before every layer.
*Uniform modes*: the same, and random passes are drawn from the uniform modes between the ends alone.
*Slimmable, as many widths*: the same for as many widths of about these costs, each with its own norms. Of
these two sides the uniform modes are compared, since they trained no others; with image size besides, those
of them at every size that none is better and cheaper than on the search split. Each other side's front is
searched there (knapsack); every figure is of the test split, every mode calibrated. *Above*: the share of
a side's modes, within the range of costs that the other covers, that are more accurate than the other's
front at their cost, with a 95 % interval over the test images, drawn anew, from ten modes on. *Gap*: how
far one front lies above the other in the mean over the range that both cover, in points: along costs, so
that cheap modes weigh little, and half of it lies above half of the full cost. Intervals know neither of
other seeds nor of other timings. *At equal ms*: the same with latencies in the place of
multiply-accumulates, one example at a time, each mode on the engine where it is fastest (our own kernels
among them); a mode that is no faster than a larger one of its front is left out. *Old front*:
searched before a fault was mended that left the uniform modes, the full one among them, out of every front;
of *US-Net*, whose modes are all uniform, every width was taken instead, without a search. Nothing follows
from these lines about modes near the full one."""


FEW_MODES = 10
"""Of fewer a share has no interval: it could be but a few numbers."""


def page(scales: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole page."""
    parts = ["# Are the modes worth running?", _verdict(scales), INTRODUCTION]
    for results in scales:
        parts.append(_section(results))
    return "\n\n".join(parts) + "\n"


def _verdict(scales: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for results in scales:
        for pair in results["pairs"]:
            lines.append(
                f"- {results['scale']}, seed {pair['seed']}: *{pair['ours']}* beside *{pair['theirs']}*:"
                f" {_share(pair)} above, gap {_gap(pair)}{_at_equal_ms(pair)}{_old_front(pair, results)}."
            )
    return "\n".join(lines) if lines else "No two sides were finished yet."


def _old_front(pair: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Say whether a side was searched before fronts held their uniform modes."""
    searched = {pair["ours"], pair["theirs"]} - {*UNIFORM_ALONE, *COMBINED}
    old = {
        run["side"] for run in results["runs"] if "front" not in run and run["seed"] == pair["seed"]
    }
    return " (old front)" if searched & old else ""


def _section(results: Mapping[str, Any]) -> str:
    known = {(run["side"], run["seed"]) for run in results["runs"]}
    missing = [
        f"{name}, seed {seed}"
        for name, seed in parts_of(SCALES[results["scale"]])
        if (name, seed) not in known
    ]
    first = results["runs"][0]
    lines = [
        f"## Scale {results['scale']}",
        f"`{results['network']}`, {first['macs'] / 1e6:.1f} MMAC, images of {results['image_size']} pixels."
        f" Budget: the multiply-accumulates of {results['budget']:g}"
        f" epoch{'' if results['budget'] == 1 else 's'} of the plain network.",
        "**Not run: " + "; ".join(missing) + ".**" if missing else "All sides and seeds were run.",
        "\n".join(
            table(
                [
                    "side",
                    "seed",
                    "epochs",
                    "full passes",
                    "full",
                    "three uniform modes between",
                    "smallest",
                ],
                [_run(each) for each in results["runs"]],
            )
        ),
        _sharing(results),
        made_in_parts(
            results,
            [(f"{run['side']}, seed {run['seed']}", run["made"]) for run in results["runs"]],
        ),
        *map(_timed, results["timed"]),
    ]
    return "\n\n".join(line for line in lines if line)


def _run(run: Mapping[str, Any]) -> list[str]:
    uniform = [f"{100 * mode['accuracy']:.1f}" for mode in run["modes"][: run["uniform"]]]
    alone = run["side"].startswith("alone")
    return [
        run["side"], str(run["seed"]), f"{run['epochs']:.2f}", f"{run['full_passes']:.2f}",
        uniform[0] if not alone or "full" in run["side"] else "-",
        " ".join(_three(uniform[1:-1])) if not alone else "-" if "full" in run["side"] else uniform[0],
        uniform[-1] if not alone else "-",
    ]  # fmt: skip


def _three(figures: Sequence[str]) -> Sequence[str]:
    """Return three of them, evenly spread: US-Net has dozens of widths."""
    last = len(figures) - 1
    return [figures[round(last * (i + 1) / 4)] for i in range(3)] if last > 2 else figures


def _sharing(results: Mapping[str, Any]) -> str:
    """Return the price of sharing: the full mode of each side beside the same network trained alone."""
    alone = next((run for run in results["runs"] if run["side"] == "alone, full"), None)
    if alone is None:
        return ""
    own = alone["modes"][0]["accuracy"]
    words = [
        f"{run['side']} {100 * (run['modes'][0]['accuracy'] - own):+.1f}"
        for run in results["runs"]
        if not run["side"].startswith("alone") and run["seed"] == alone["seed"]
    ]
    return (
        f"The price of sharing: the plain network that spends the whole budget alone has {100 * own:.1f} %;"
        f" the full modes differ from that by, in points: {'; '.join(words)}."
    )


def _at_equal_ms(pair: Mapping[str, Any]) -> str:
    if "at_equal_ms" not in pair:
        return "; not timed"
    if pair["at_equal_ms"]["gap"] is None:
        return "; no common range of ms"
    return f"; at equal ms {_share(pair['at_equal_ms'])} above, gap {_gap(pair['at_equal_ms'])}"


def _timed(made: Mapping[str, Any]) -> str:
    engines = ", ".join(made["engines"])
    return (
        f"Timed by `{made['command']}` at commit {made['commit']} on {made['machine']}: {engines}."
    )


def _share(pair: Mapping[str, Any]) -> str:
    above, interval = pair["above"], pair["interval"]
    if not above["modes"]:
        return "no mode within the range"
    of_all = f"{above['above']} of {above['modes']}"
    if above["modes"] < FEW_MODES:
        return of_all
    low, high = interval
    return f"{of_all} ({100 * above['share']:.0f} %, {100 * low:.0f} to {100 * high:.0f})"


def _gap(pair: Mapping[str, Any]) -> str:
    gap = pair["gap"]
    if gap is None:
        return "none (no common range)"
    value, low, high = (100 * gap[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
