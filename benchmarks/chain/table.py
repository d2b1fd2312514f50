"""The table of the chain, made of its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.chain.rounding import INPUTS, WAYS
from benchmarks.chain.steps import STEPS
from results.provenance import present_commit
from wenable.exporting.agreement import allowed_difference
from wenable.measure.device import describe_device

_LIBRARIES = (
    "torch", "torchvision", "segmentation-models-pytorch", "transformers", "onnxruntime", "openvino",
)  # fmt: skip


def results_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows with what made them."""
    return {
        "command": "python -m benchmarks.chain",
        "commit": present_commit(),
        "machine": describe_device(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "networks": rows,
    }


def page(results: Mapping[str, Any]) -> str:
    """Return the page of the documentation, in Markdown."""
    rows: Sequence[Mapping[str, Any]] = results["networks"]
    whole = sum(len(row["passed"]) == len(STEPS) for row in rows)
    # Those that made a row, the last one at the end.
    made = dict.fromkeys(row.get("at", results["commit"]) for row in rows)
    commits = [*(each for each in made if each != results["commit"]), results["commit"]]
    at = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"
    versions = ", ".join(f"{name} {each}" for name, each in results["versions"].items())
    lines = [
        "# Tasks beyond classification, the whole way",
        "",
        f"{whole} of the {len(rows)} networks that were tried go the whole way.",
        "",
        "Each network, with random weights and small inputs, is **converted** by `WeightEnabling`"
        " (attention too, for transformers); **trained** for one step in three modes, the full one, 1/4"
        " and the smallest, whose gradients have to be finite; **calibrated**; **extracted**, where each"
        " mode's outputs"
        " and its counted multiply-accumulates are held against the network's; **saved** and loaded;"
        " **exported**, where every mode is held against the extracted network to 1e-4 of the largest"
        " output, beside what rounding does to that network itself; and run on **ONNX Runtime** and"
        " **OpenVINO** in every mode with a batch of three. If it"
        " takes images of any size, the bundle has a second size, which all of this holds for as well.",
        "",
        "*Switch* is the share of the multiply-accumulates in layers that switch, *smallest* what the"
        " smallest mode costs beside the full one. The quick ones among them are part of the tests.",
        "",
        f"Made by `{results['command']}` at {at} on {results['machine']} with"
        f" {versions}. The figures are in `results/chain.jsonl`.",
        "",
        "| network | of | task | MMAC | knobs | switch | smallest | came to |",
        "|---|---|---|--:|--:|--:|--:|---|",
        *(_line(row) for row in rows),
        *_rounding([row for row in rows if "rounding" in row]),
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _rounding(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section on networks that rounding moves by more than the tolerance."""
    if not rows:
        return []
    return [
        "",
        "## Where rounding is in the way",
        "",
        "Two computations in float32 differ by what rounding does to each of them, and a network may"
        " amplify that. Where an engine's answers differ from the extracted network's in torch by more"
        " than 1e-4 of the largest, the extracted network runs in float64 too: how far its own answers in"
        " float32 are from those is allowed five times over on top, as `export` does. The table has these"
        " networks: the largest difference that an engine had, what was allowed, and how far"
        f" answers in float32 are from those in float64 over {INPUTS} other inputs, as shares of the"
        " largest output, median (largest): of a session of the bundle, of the same sub-network exported"
        " by torch and run on the same engine, and of torch itself. Where the three are alike, it is"
        " rounding, and nothing that a bundle's graph adds.",
        "",
        "| network | engine | mode | difference | allowed | session | plain export | torch |",
        "|---|---|---|--:|--:|--:|--:|--:|",
        *(_rounding_line(row["network"], row["rounding"]) for row in rows),
    ]


def _rounding_line(network: str, found: Mapping[str, Any]) -> str:
    share = (f"{found[name][0]:.1e} ({found[name][1]:.1e})" for name in WAYS)
    allowed = allowed_difference(found["network"])
    cells = [network, found["engine"], f"`{found['mode']}`", f"{found['difference']:.1e}"]
    return f"| {' | '.join([*cells, f'{allowed:.1e}', *share])} |"


def _line(row: Mapping[str, Any]) -> str:
    came = "the end" if len(row["passed"]) == len(STEPS) else row["detail"].replace("|", "\\|")
    figures = ["", "", "", ""]
    if "macs" in row:
        figures = [
            f"{row['macs'] / 1e6:.3g}", str(row["knobs"]), f"{row['switched']:.0%}",
            f"{row['smallest']:.2f}",
        ]  # fmt: skip
    cells = [row["network"], row["source"], row["task"], *figures, came]
    return f"| {' | '.join(cells)} |"
