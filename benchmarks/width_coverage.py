"""Which networks run narrower: one of every family of torchvision and of every module of timm.

    python -m benchmarks.width_coverage [--only NAME ...] [--out .]

Each is built with random weights, norms of random statistics, and handed to `wenable.convert` with
`UniversallySlimmable(0.25, 0.25)`. What is converted is checked: the full width against the original, the
others against their extracted networks, multiply-accumulates against a count of what runs, and a pass
backward. Results go to `results/width-coverage.jsonl` after each network, the page to
`docs/results/width-coverage.md`. What was found at the present commit is not tried again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.utils._pytree import tree_flatten

import wenable as we
from benchmarks.coverage.check import outputs_of, with_telling_values
from benchmarks.coverage.networks import Candidate, timm_networks, torchvision_networks
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page, write_records
from wenable.graph import run_counted
from wenable.measure.device import describe_device

METHOD = we.UniversallySlimmable(0.25, 0.25)
TOLERANCE = 1e-3
"""Of the largest output, between a width and its extracted network: both round."""
BATCH = 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.width_coverage")
    parser.add_argument("--only", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    results, commit = records_file(arguments.out, "width-coverage"), present_commit()
    before = read_records(results)["networks"] if results.exists() else []
    rows = {(row["library"], row["name"]): row for row in before}
    candidates = [*smallest_of_families(), *timm_networks()]
    for candidate in candidates:
        key = (candidate.library, candidate.name)
        done = key in rows and rows[key]["at"] == commit
        if done or (arguments.only and candidate.name not in arguments.only):
            continue
        rows[key] = tried(candidate) | {"at": commit}
        print(*rows[key].values(), flush=True)
        content = {
            "command": "python -m benchmarks.width_coverage",
            "machine": describe_device(),
            "versions": {m.__name__: m.__version__ for m in (torch, torchvision, timm)},
            "candidates": len(candidates),
            "networks": list(rows.values()),
        }
        write_records(results, content)
        write_page(arguments.out, "width-coverage", page(content))


def smallest_of_families() -> list[Candidate]:
    """Return the network of torchvision with the fewest parameters of each family."""
    found: dict[str, tuple[int, Candidate]] = {}
    for each in torchvision_networks():
        weights: Any = torchvision.models.get_model_weights(each.name)
        size = weights.DEFAULT.meta["num_params"]
        if each.family not in found or size < found[each.family][0]:
            found[each.family] = size, each
    return [candidate for _, candidate in found.values()]


def tried(candidate: Candidate) -> dict[str, Any]:
    """Return what came of a network: its costs, or why it was refused, or what is wrong."""
    started = time.perf_counter()
    row: dict[str, Any] = {
        "library": candidate.library, "family": candidate.family, "name": candidate.name,
        "macs": {}, "refusal": "", "defects": [],
    }  # fmt: skip
    model = with_telling_values(candidate.build())
    x = torch.randn(BATCH, *candidate.input_size, generator=torch.Generator().manual_seed(1))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = we.convert(model, x, method=METHOD).eval()
        row["macs"] = {mode: net.macs(mode) for mode in ("full", *_widths(net))}
        row["defects"] = _defects(model, net, x)
    except Exception as error:  # a defect is a result here, and the next network is to be tried
        if isinstance(error, ValueError) and not row["macs"]:
            row["refusal"] = str(error)
        else:
            row["defects"] = [f"{type(error).__name__}: {error}"]
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def _widths(net: we.DynamicNetwork) -> list[str]:
    """Return the narrower widths that a network has."""
    return [str(mode) for mode in net.space.uniform_modes()[1:]]


def _defects(model: nn.Module, net: we.DynamicNetwork, x: torch.Tensor) -> list[str]:
    """Return what is wrong with a converted network."""
    found = []
    if not all(
        torch.equal(a, b) for a, b in zip(outputs_of(model, x), outputs_of(net, x), strict=True)
    ):
        found.append("the full width does not equal the original bit for bit")
    for mode in _widths(net):
        we.calibrate(net, mode, [x])
        plain = we.extract(net, mode).eval()
        with net.using(mode):
            ours = outputs_of(net, x)
        for a, b in zip(ours, outputs_of(plain, x), strict=True):
            difference = float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
            if not difference < TOLERANCE:
                found.append(f"width {mode}: extract differs by {difference:.1e}")
        if run_counted(plain, (x,))[1] != BATCH * net.macs(mode):
            found.append(f"width {mode}: macs() disagrees with a count of what runs")
        net.train()
        net.set_mode(mode)
        torch.stack([each.square().mean() for each in tree_flatten(net(x))[0]]).sum().backward()
        net.eval()
    return found


# --- the page -------------------------------------------------------------------------------------

_HEAD = """# Which networks run narrower

The smallest network of every family of torchvision and of every module of timm, built with random
weights and converted by `wenable.UniversallySlimmable(0.25, 0.25)` as it is. {counts}

Checked for each: the full width equals the original bit for bit; each narrower one, calibrated, agrees
with its extracted network to {tolerance:g} of the largest output; `macs` agrees with a count of what
runs in it; it runs forward and backward in training. Accuracy was not looked at.{missing}

Made by `{command}` at commit {commits} on {machine} with {versions}. The figures
are in `results/width-coverage.jsonl`.
"""


def page(results: Mapping[str, Any]) -> str:
    """Return the page, in Markdown, for the content of the records."""
    rows = results["networks"]
    text = [
        _HEAD.format(
            counts=" ".join(_counts(rows, library) for library in ("torchvision", "timm")),
            tolerance=TOLERANCE,
            missing=_missing(results["candidates"] - len(rows)),
            command=results["command"],
            commits=", ".join(dict.fromkeys(row["at"] for row in rows)),
            machine=results["machine"],
            versions=", ".join(f"{name} {v}" for name, v in results["versions"].items()),
        )
    ]
    for library in ("torchvision", "timm"):
        own = [row for row in rows if row["library"] == library]
        text += [f"## {library}", "", "| network | GMACs | times fewer at 0.5 | at 0.25 |"]
        text += ["|---|--:|--:|--:|", *(_row(row) for row in own if row["macs"])]
        refused = [row for row in own if row["refusal"]]
        if refused:
            text += ["", "Refused, with the first reason:", ""]
            text += [f"- `{row['name']}`: {row['refusal']}" for row in refused]
        text.append("")
    return "\n".join(text)


def _missing(count: int) -> str:
    return f" {count} networks of the list were not tried yet." if count else ""


def _counts(rows: Sequence[Mapping[str, Any]], library: str) -> str:
    own = [row for row in rows if row["library"] == library]
    verdicts = Counter(
        "wrong" if row["defects"] else "refused" if row["refusal"] else "" for row in own
    )
    rest = "".join(f", {verdicts[word]} {word}" for word in ("refused", "wrong") if verdicts[word])
    return f"Of {len(own)} of {library}, **{verdicts['']} convert**{rest}."


def _row(row: Mapping[str, Any]) -> str:
    macs = row["macs"]
    fewer = [f"{macs['full'] / macs[w]:.1f}x" if w in macs else "-" for w in ("0.5", "0.25")]
    wrong = f" **wrong**: {'; '.join(row['defects'])}" if row["defects"] else ""
    return f"| `{row['name']}`{wrong} | {macs['full'] / 1e9:.2f} | {' | '.join(fewer)} |"


if __name__ == "__main__":
    main()
