"""Whether 8-bit integers are faster here: modes as float32 and as int8 on ONNX Runtime.

    python -m benchmarks.int8_latency [--blocks 7] [--calls 10] [--out docs]

Random weights, calibrated on a few random images: only times are measured, no accuracy. Every file of a
network is timed against the others, in blocks in random order. Results go to
`docs/int8-latency/results.json`, where those of other machines stay, and the tables to
`docs/int8-latency.md`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision

import wenable as we
from benchmarks.present_commit import present_commit
from wenable.exporting.int8 import export_int8
from wenable.files import write_whole
from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.space import pattern_text
from wenable.tables import Reading

DOCS = Path(__file__).parents[1] / "docs"
NETWORKS = ("resnet50", "mobilenet_v2")
GROUPS = (1, 4, 16)
THREADS = 2
EXACT = "session.x64quantprecision"
"""The session option that keeps sums of products from overflowing where there is no VNNI."""
WAYS = ("float32", "int8", "int8, exact sums")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8_latency", description=__doc__)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=DOCS)
    arguments = parser.parse_args()
    plan = TimingPlan(blocks=arguments.blocks, calls=arguments.calls)
    run = {
        "command": f"python -m benchmarks.int8_latency --blocks {plan.blocks} --calls {plan.calls}",
        "commit": present_commit(),
        "machine": describe_device(),
        "integer_instructions": integer_instructions(),
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
        "threads": THREADS,
        "batch": 1,
        "networks": [measure(name, plan) for name in arguments.networks],
    }
    folder = arguments.out / "int8-latency"
    folder.mkdir(parents=True, exist_ok=True)
    runs = [*of_other_machines(folder / "results.json", run["machine"]), run]
    write_whole(folder / "results.json", json.dumps({"runs": runs}, indent=1) + "\n")
    write_whole(arguments.out / "int8-latency.md", page(runs))
    print(page(runs))


def of_other_machines(path: Path, machine: str) -> list[dict[str, Any]]:
    """Return the runs that a file holds of other machines; none where there is no file."""
    if not path.is_file():
        return []
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return [run for run in runs if run["machine"] != machine]


def integer_instructions() -> list[str] | None:
    """Return what the processor has for products of 8-bit integers; None where nothing tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    known = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    return sorted(set(text.split()) & set(known))


def measure(name: str, plan: TimingPlan) -> dict[str, Any]:
    """Return the latencies of one network, by mode and way, with what ONNX Runtime made of each."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 224, 224)
    model = torchvision.models.get_model(name, weights=None).eval()
    net = we.convert(model, image, method=we.WeightEnablingWithPrecision())
    batch = torch.randn(4, 3, 224, 224)
    sessions, operators, rows = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for n in GROUPS:
            pattern = pattern_text(n)
            floating, integers = pattern, f"{pattern},precision=8-bit"
            we.calibrate(net, [floating, integers], [batch])
            paths = {
                "float32": _float_file(net, floating, image, Path(folder) / f"{n}.onnx"),
                "int8": export_int8(net, integers, Path(folder) / f"{n}.int8.onnx"),
            }
            paths["int8, exact sums"] = paths["int8"]
            for way, path in paths.items():
                sessions[n, way], operators[n, way] = _session(path, way, Path(folder))
            bit_operations = [net.bit_operations(mode) for mode in (floating, integers)]
            rows.append({"groups": n, "macs": net.macs(integers), "bit_operations": bit_operations})
        readings = measure_latencies(
            {key: _call(session, image.numpy()) for key, session in sessions.items()},
            plan,
            source=f"ONNX Runtime {onnxruntime.__version__}, batch 1, {THREADS} threads",
        )
    for row in rows:
        n = row["groups"]
        row["latency"] = {way: asdict(readings[n, way]) for way in WAYS}
        row["operators"] = {way: operators[n, way] for way in WAYS}
    return {"name": name, "modes": rows}


def _float_file(net: Any, mode: str, image: torch.Tensor, path: Path) -> Path:
    """Write the extracted network of a mode as torch writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own parts
        torch.onnx.export(
            we.extract(net, mode), (image,), path, dynamo=True, verbose=False,
            input_names=["input"], output_names=["output"], external_data=False,
        )  # fmt: skip
    return path


def _session(path: Path, way: str, folder: Path) -> tuple[Any, dict[str, int]]:
    """Return a session, and how many convolutions it runs in floating point and as integers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    # Idle threads that spin would slow down the session that is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if way == "int8, exact sums":
        options.add_session_config_entry(EXACT, "1")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx", load_external_data=False).graph.node
    names = [node.op_type for node in nodes]
    integer = sum(name in ("QLinearConv", "ConvInteger") for name in names)
    floating = sum(name in ("Conv", "FusedConv") for name in names)
    return session, {"integer convolutions": integer, "floating convolutions": floating}


def _call(session: Any, x: np.ndarray) -> Callable[[], object]:
    return lambda: session.run(None, {"input": x})


def page(runs: list[dict[str, Any]]) -> str:
    """Return the page of the documentation for the runs of some machines."""
    lines = [
        "# Are 8-bit integers faster?",
        "",
        "Modes of a network converted by `WeightEnablingWithPrecision`, as float32 (the extracted network"
        " as torch exports it) and as int8 (`export_int8`), on ONNX Runtime. *Exact sums* is int8 with the"
        " session option `session.x64quantprecision` set, which keeps sums of products from overflowing"
        " where the processor lacks VNNI; without it, answers may be wrong there. Weights are random,"
        " so there are times here and no accuracies. The first layer and the classifier stay in floating"
        " point. Medians with quartiles in ms; *faster* is float32 over int8 of the same mode, below 1"
        " where int8 is slower. *As integers* says how many convolutions of the int8 model ONNX Runtime"
        " computes in integers; the others it computes in floating point on the same numbers.",
        "",
    ]
    for run in runs:
        lines += _of_machine(run)
    return "\n".join(lines)


def _of_machine(results: dict[str, Any]) -> list[str]:
    """Return the section of one machine."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    found = results["integer_instructions"]
    has = "unknown" if found is None else ", ".join(found) or "none"
    lines = [
        f"## {results['machine']}",
        "",
        f"Instructions for products of 8-bit integers: {has}. Made by `{results['command']}` at commit"
        f" {results['commit']} with {versions}, {results['threads']} threads, batch {results['batch']},"
        " 224x224; all of a network timed against each other, in blocks in random order.",
        "",
        "| network | mode | float32 | int8 | faster | int8, exact sums | faster | as integers |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for net in results["networks"]:
        for row in net["modes"]:
            floating, integers, exact = (Reading(**row["latency"][way]) for way in WAYS)
            counts = row["operators"]["int8"]
            whole = counts["integer convolutions"] + counts["floating convolutions"]
            lines.append(
                f"| {net['name']} | {pattern_text(row['groups'])} | {_shown(floating)} |"
                f" {_shown(integers)} | {floating.known / integers.known:.2f} | {_shown(exact)} |"
                f" {floating.known / exact.known:.2f} | {counts['integer convolutions']} of {whole} |"
            )
    return [*lines, ""]


def _shown(reading: Reading) -> str:
    return f"{reading.known:.1f} ({reading.low:.1f} to {reading.high:.1f})"


if __name__ == "__main__":
    main()
