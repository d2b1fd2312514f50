"""Which networks of torchvision and timm export to a bundle, and whether both engines agree on it.

    python -m benchmarks.export_coverage [--only resnet18 ...] [--resume] [--out .]

The smallest network of every family that `benchmarks.coverage` converted, with random weights and norms,
biases and scales of random values, is exported in its full and its smallest mode. The export compares
both with their extracted networks on ONNX Runtime; here OpenVINO's answers are compared with those. Each
network has a process of its own. Results go to `results/export-coverage.jsonl` after each, the table
to `docs/results/export-coverage.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wenable as we
from benchmarks.coverage.check import Outcome, with_telling_values
from benchmarks.coverage.networks import Candidate
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page, write_records
from wenable.measure.device import describe_device
from wenable.runtime import Session

LIMIT_S = 300
TOLERANCE = 1e-4
LIBRARIES = ("torch", "torchvision", "timm", "onnxruntime", "openvino")


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(exported(Candidate(**json.loads(arguments.one)))))
        return
    results = records_file(arguments.out, "export-coverage")
    keep = results.exists() and (arguments.resume or arguments.only)
    rows = read_records(results)["networks"] if keep else []
    found = {(row["library"], row["name"]): row for row in rows}
    for one in representatives():
        key = (one.library, one.name)
        if one.name in arguments.only if arguments.only else key not in found:
            found[key] = _apart(one)
            print(*found[key].values(), flush=True)
            content = _results(list(found.values()))
            write_records(results, content)
            write_page(arguments.out, "export-coverage", page(content))


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_coverage")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _results(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": "python -m benchmarks.export_coverage",
        "commit": present_commit(),
        "machine": describe_device(),
        "versions": {name: version(name) for name in LIBRARIES},
        "families": len(representatives()),
        "networks": rows,
    }


def representatives() -> list[Candidate]:
    """Return the smallest network of each family that converts, by its number of parameters."""
    rows = read_records(records_file(ROOT, "coverage"))["networks"]
    outcomes = [each for each in (Outcome(**row) for row in rows) if each.verdict == "converted"]
    families: dict[tuple[str, str], Outcome] = {}
    for each in sorted(outcomes, key=lambda outcome: outcome.parameters):
        families.setdefault((each.library, each.family), each)
    return [
        Candidate(each.library, each.family, each.name, each.input_size)
        for each in families.values()
    ]


def _apart(one: Candidate) -> dict[str, Any]:
    """Export in a process of its own: memory is given back, and a crash is one row of the table."""
    described = json.dumps(vars(one))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.export_coverage", "--one"]
    row = {"library": one.library, "family": one.family, "name": one.name}
    try:
        run = subprocess.run(
            [*command, described], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return row | {"verdict": "unfinished", "detail": f"not done after {LIMIT_S} s"}
    if run.returncode:
        last = run.stderr.strip().splitlines()[-1:] or [f"exit status {run.returncode}"]
        return row | {"verdict": "wrong", "detail": last[0]}
    return row | json.loads(run.stdout.splitlines()[-1])


def exported(one: Candidate) -> dict[str, Any]:
    """Return what came of one network; nothing is raised for what cannot be exported."""
    started = time.perf_counter()
    model = with_telling_values(one.build())
    batch = torch.randn(2, *one.input_size, generator=torch.Generator().manual_seed(1))
    net = we.convert(model, batch[:1])
    if not net.space.knobs:
        net = we.convert(model, batch[:1], method=we.WeightEnabling(attention=True))
    modes = [net.space.full, net.space.smallest]
    we.calibrate(net, modes, [batch])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            path = we.export(net, modes, Path(folder) / "net.wen")
        except (ValueError, RuntimeError) as error:
            wrong = isinstance(error, RuntimeError)
            return {"verdict": "wrong" if wrong else "refused", "detail": str(error)[:300]}
        row: dict[str, Any] = {"bytes": path.stat().st_size}
        differences = [
            _difference(path, batch.numpy(), mode) for mode in Session(path, threads=1).modes
        ]
    row["difference"] = max(differences)
    row["verdict"] = "exported" if row["difference"] <= TOLERANCE else "wrong"
    return row | {"detail": "", "seconds": round(time.perf_counter() - started, 1)}


def _difference(path: Path, x: np.ndarray, mode: str) -> float:
    """Return how far OpenVINO's answers are from ONNX Runtime's, as a share of the largest."""
    ours, theirs = (
        np.asarray(Session(path, engine=each, threads=1).run(x, mode=mode))
        for each in ("onnxruntime", "openvino")
    )
    return float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-6))


def page(results: Mapping[str, Any]) -> str:
    """Return the page of the documentation, in Markdown."""
    rows: Sequence[Mapping[str, Any]] = results["networks"]
    counts = Counter(row["verdict"] for row in rows)
    others = "".join(f", {n} {name}" for name, n in counts.items() if name != "exported")
    versions = ", ".join(f"{name} {each}" for name, each in results["versions"].items())
    lines = [
        "# Which networks export",
        "",
        f"{counts['exported']} of the {len(rows)} networks that were tried export.",
        "",
        "The smallest network of every family of torchvision and timm that [converts](coverage.md), with"
        " random weights, exported to a bundle in its full and its smallest mode."
        f" Of {len(rows)} that were tried, of {results['families']} families,"
        f" **{counts['exported']} export**{others}.",
        "",
        "*Exported*: both modes agree with their extracted networks on ONNX Runtime to 1e-4 of the largest"
        " output, which every export checks, and OpenVINO agrees with ONNX Runtime as well; *difference* is"
        " how far it is from it, in units of 1e-7. *Refused*: the export said why, in the last column, and"
        " wrote nothing.",
        "",
        f"Made by `{results['command']}` at commit {results['commit']} on {results['machine']} with"
        f" {versions}. The figures are in `results/export-coverage.jsonl`.",
        "",
        "| network | library | family | MB | difference | verdict | |",
        "|---|---|---|--:|--:|---|---|",
        *(_line(row) for row in rows),
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _line(row: Mapping[str, Any]) -> str:
    size = f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else ""
    difference = f"{row['difference'] * 1e7:.0f}" if "difference" in row else ""
    detail = row["detail"].replace("|", "\\|").replace("\n", " ")
    return (
        f"| `{row['name']}` | {row['library']} | {row['family']} | {size} | {difference} |"
        f" {row['verdict']} | {detail} |"
    )


if __name__ == "__main__":
    main()
