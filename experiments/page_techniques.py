"""The page "what was tried": every technique beside what it was compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.page_parts import made_by, table

PARTS = ("full", "middle", "smallest", "mixtures", "all")


INTRODUCTION = """\
Each technique alone, beside Algorithm 1 as the paper has it, on CIFAR-10 (JPEG, {pixels} pixels) with a
bottleneck ResNet of {macs:.1f} MMAC. **The budget is small**: as many multiply-accumulates as the plain
network spends in {budget:g} epochs, the same for all. What helps at this budget need not help at a larger
one. Accuracies are those of the search split, on which settings are chosen; {images} images. Every mode was
calibrated.

Differences are in points, with a 95 % interval over the images, paired: the same images on both
sides. The interval does not know of other seeds, which move a network by points too; if there are two,
the record holds the difference of each. *Middle*: the uniform modes between the ends. *Mixtures*: modes
drawn by cost. *All*: the mean over all these. A difference whose interval excludes 0 is in bold, whichever
its sign."""

BELOW = """\
US-Net has other modes: its line through its widths is read at the costs of the base's modes, so it has no
middle and no mixtures of its own."""

COLUMNS = """\
*Epochs*: times through the training images. *Full passes*: multiply-accumulates spent, in times that the
plain network goes through the training images. *Mean of all*: over the modes compared, which are others for
US-Net."""


def page(results: Mapping[str, Any]) -> str:
    """Return the whole page."""
    runs, compared = results["runs"], results["compared"]
    words = {
        "macs": runs[0]["macs"] / 1e6, "budget": results["budget"], "images": runs[0]["images"],
        "pixels": runs[0]["image_size"],
    }  # fmt: skip
    beside = ["technique", "source", "beside", "seeds", *PARTS]
    each = [
        "technique",
        "seed",
        "steps",
        "epochs",
        "full passes",
        "full",
        "smallest",
        "mean of all",
    ]
    parts = [
        "# What was tried in training",
        _verdict(compared),
        INTRODUCTION.format(**words),
        "\n".join(table(beside, [_row(row) for row in compared], left=3)),
        BELOW,
        "## Every run",
        "\n".join(table(each, [_run(run) for run in runs])),
        COLUMNS,
        made_by(results) + _commits(runs),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(compared: list[dict[str, Any]]) -> str:
    """Return what helps, what harms and what cannot be told, in a sentence each."""
    own = [row for row in compared if not row["technique"].startswith("US-Net")]
    helps = [row["technique"] for row in own if row["all"]["low"] > 0]
    harms = [row["technique"] for row in own if row["all"]["high"] < 0]
    unclear = [row["technique"] for row in own if row["all"]["low"] <= 0 <= row["all"]["high"]]
    parts = [
        f"{words}: {', '.join(f'*{name}*' for name in names)}." if names else f"{words}: none."
        for words, names in (
            ("**Better than what they stand beside, in the mean of all modes**", helps),
            ("**Worse**", harms),
            ("**Not to be told apart**", unclear),
        )
    ]
    rivals = [
        f"{row['technique']} is {100 * row['all']['value']:+.1f} points from the base at the base's costs"
        for row in compared
        if row["technique"].startswith("US-Net")
    ]
    return " ".join(parts) + (f" {'; '.join(rivals)}." if rivals else "")


def _row(row: Mapping[str, Any]) -> list[str]:
    return [
        row["technique"], row["source"], row["beside"], str(len(row["seeds"])),
        *(_difference(row.get(part)) for part in PARTS),
    ]  # fmt: skip


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    value, low, high = (100 * found[key] for key in ("value", "low", "high"))
    text = f"{value:+.1f}"
    text = f"**{text}**" if low > 0 or high < 0 else text
    return f"{text} ({low:+.1f} to {high:+.1f})"


def _run(run: Mapping[str, Any]) -> list[str]:
    modes = run["modes"]
    mean = sum(mode["value"] for mode in modes) / len(modes)
    full, smallest = modes[0], modes[run["uniform"] - 1]
    return [
        run["technique"], str(run["seed"]), str(run["steps"]), f"{run['epochs']:.2f}",
        f"{run['full_passes']:.2f}", f"{100 * full['value']:.1f} %", f"{100 * smallest['value']:.1f} %",
        f"{100 * mean:.1f} %",
    ]  # fmt: skip


def _commits(runs: list[dict[str, Any]]) -> str:
    commits = list(dict.fromkeys(run["commit"] for run in runs))
    return f" The runs were made at {', '.join(commits)}." if len(commits) > 1 else ""
