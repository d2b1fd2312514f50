"""Whether 8-bit integers are faster here: modes as float32 and as int8 on both engines.

    python -m benchmarks.int8_latency [--blocks 7] [--calls 10] [--out .]

Random weights, calibrated on a few random images: only times are measured, no accuracy. Every file of a
network is timed against the others, in blocks in random order. Results go to
`results/int8-latency.jsonl`, where those of other machines stay, and the tables to
`docs/results/int8-latency.md`.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torchvision

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, records_file, write_page
from results.runs_by_machine import add_run
from wenable.core.knob import share_text
from wenable.core.readings import Reading
from wenable.exporting.int8 import export_int8
from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime.quiet_onnxruntime import onnxruntime
from wenable.runtime.quiet_openvino import openvino

NETWORKS = ("resnet50", "mobilenet_v2")
GROUPS = (1, 4, 16)
THREADS = 2
EXACT = "session.x64quantprecision"
"""The session option that keeps sums of products from overflowing where there is no VNNI."""
WAYS = {
    "onnxruntime": ("float32", "int8", "int8, exact sums"),
    "openvino": ("float32", "bfloat16", "int8"),
}
"""Engine -> how it is asked to compute a mode; bfloat16 only where the processor multiplies it."""
INTEGERS = (("onnxruntime", "int8, exact sums"), ("openvino", "int8"))
"""Two ways whose answers should be near each other."""
BFLOAT16 = ("amx_bf16", "avx512_bf16")
Run = Callable[[np.ndarray], np.ndarray]
Key = tuple[int, str, str]
"""Groups, engine and way."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8_latency", description=__doc__)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    plan = TimingPlan(blocks=arguments.blocks, calls=arguments.calls)
    run = {
        "command": f"python -m benchmarks.int8_latency --blocks {plan.blocks} --calls {plan.calls}",
        "commit": present_commit(),
        "machine": describe_device(),
        "integer_instructions": integer_instructions(),
        "versions": {
            "onnxruntime": onnxruntime.__version__,
            "openvino": openvino.__version__,
            "torch": torch.__version__,
        },
        "threads": THREADS,
        "batch": 1,
        "networks": [measure(name, plan) for name in arguments.networks],
    }
    runs = add_run(records_file(arguments.out, "int8-latency"), run)
    write_page(arguments.out, "int8-latency", page(runs))
    print(page(runs))


def integer_instructions() -> list[str] | None:
    """Return what the processor has for products of 8-bit integers; None where nothing tells."""
    known = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    flags = _processor_flags()
    return None if flags is None else sorted(flags & set(known))


def _processor_flags() -> set[str] | None:
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return None


def ways_here() -> list[tuple[str, str]]:
    """Return the engines and ways that this processor has."""
    has_bfloat16 = bool((_processor_flags() or set()) & set(BFLOAT16))
    return [
        (engine, way)
        for engine, ways in WAYS.items()
        for way in ways
        if way != "bfloat16" or has_bfloat16
    ]


def measure(name: str, plan: TimingPlan) -> dict[str, Any]:
    """Return the latencies of one network, by mode, engine and way."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 224, 224)
    model = torchvision.models.get_model(name, weights=None).eval()
    net = we.convert(model, image, method=we.WeightEnablingWithPrecision())
    batch = torch.randn(4, 3, 224, 224)
    calls: dict[Key, Run] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in GROUPS:
            floating, integers = share_text(n), f"{share_text(n)},precision=8-bit"
            we.calibrate(net, [floating, integers], [batch])
            paths = {
                "float": _float_file(net, floating, image, Path(folder) / f"{n}.onnx"),
                "int8": export_int8(net, integers, Path(folder) / f"{n}.int8.onnx"),
            }
            row = {"groups": n, "macs": net.macs(integers)}
            row["bit_operations"] = [net.bit_operations(mode) for mode in (floating, integers)]
            for engine, way in ways_here():
                path = paths["int8" if way.startswith("int8") else "float"]
                if engine == "onnxruntime":
                    calls[n, engine, way], counts = _onnxruntime(path, way, Path(folder))
                    row.setdefault("operators", {})[way] = counts
                else:
                    calls[n, engine, way] = _openvino(path, way)
            rows.append(row)
    x = image.numpy()
    readings = measure_latencies(
        {key: partial(run, x) for key, run in calls.items()},
        plan,
        source=f"batch 1, {THREADS} threads",
    )
    for row in rows:
        n, row["latency"] = row["groups"], {engine: {} for engine in WAYS}
        for engine, way in ways_here():
            row["latency"][engine][way] = asdict(readings[n, engine, way])
        exact, other = (calls[n, *which](x) for which in INTEGERS)
        row["openvino_int8_differs"] = float(np.abs(other - exact).max() / np.abs(exact).max())
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


def _onnxruntime(path: Path, way: str, folder: Path) -> tuple[Run, dict[str, int]]:
    """Return a call, and how many convolutions it runs in floating point and as integers."""
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
    counts = {"integer convolutions": integer, "floating convolutions": floating}
    return lambda x: np.asarray(session.run(None, {"input": x})[0]), counts


def _openvino(path: Path, way: str) -> Run:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "bf16" if way == "bfloat16" else "f32",
    }
    request = openvino.compile_model(path, "CPU", settings).create_infer_request()
    return lambda x: np.array(request.infer({0: x})[0])


def page(runs: list[dict[str, Any]]) -> str:
    """Return the page of the documentation for the runs of some machines."""
    lines = [
        "# Are 8-bit integers faster?",
        "",
        _verdict(runs),
        "",
        "Modes of a network converted by `WeightEnablingWithPrecision`, as float32 (the extracted network"
        " as torch exports it) and as int8 (`export_int8`). *Exact sums* is int8 with ONNX Runtime's"
        " session option `session.x64quantprecision` set, which keeps sums of products from overflowing"
        " if the processor lacks VNNI; without it, answers may be wrong there. *bfloat16* is OpenVINO"
        " on the file of float32, on processors that multiply bfloat16, as a session with"
        ' `precision="bfloat16"` computes; modes are checked in float32. Weights are random, so there are'
        " times here and no accuracies. The first layer and the classifier stay in floating point. Medians"
        " with quartiles in ms; *faster* is float32 over int8 of the same mode and engine, below 1 if int8"
        " is slower. *As integers* says how many convolutions of the int8 model ONNX Runtime computes in"
        " integers; the others it computes in floating point on the same numbers.",
        "",
    ]
    for run in runs:
        lines += _of_machine(run)
    return "\n".join(lines)


def _verdict(runs: list[dict[str, Any]]) -> str:
    """Say in a sentence how often integers were faster, and on what."""
    faster: dict[str, list[float]] = {}
    for run in runs:
        has = "with" if run["integer_instructions"] else "without"
        for net in run["networks"]:
            for row in net["modes"]:
                for engine, latency in row["latency"].items():
                    ratio = latency["float32"]["value"] / latency["int8"]["value"]
                    faster.setdefault(f"{engine} {has} integer instructions", []).append(ratio)
    said = [
        f"{place}, {sum(each > 1.05 for each in ratios)} of {len(ratios)} modes are more than 5 % faster"
        f" (at best {max(ratios):.2f} times)"
        for place, ratios in faster.items()
    ]
    return f"On {'; on '.join(said)}."


def _of_machine(run: dict[str, Any]) -> list[str]:
    """Return the section of one machine."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    found = run["integer_instructions"]
    has = "unknown" if found is None else ", ".join(found) or "none"
    lines = [
        f"## {run['machine']}",
        "",
        f"Instructions for products of 8-bit integers: {has}. Made by `{run['command']}` at commit"
        f" {run['commit']} with {versions}, {run['threads']} threads, batch {run['batch']}, 224x224; all"
        " of a network timed against each other, in blocks in random order.",
        "",
        "| network | mode | engine | float32 | bfloat16 | int8 | faster | int8, exact sums | as integers |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    modes = [(net["name"], row) for net in run["networks"] for row in net["modes"]]
    lines += [_line(name, row, engine) for name, row in modes for engine in row["latency"]]
    differ = [row["openvino_int8_differs"] for _, row in modes if "openvino_int8_differs" in row]
    if differ:
        span = f"{100 * min(differ):.0f} to {100 * max(differ):.0f} %"
        lines += ["", "OpenVINO's answers in int8 differ from ONNX Runtime's with exact sums by at most"
                  f" {span} of the largest, by the mode: random networks enlarge what rounding decides, and"
                  " this says nothing of trained ones."]  # fmt: skip
    return [*lines, ""]


def _line(name: str, row: dict[str, Any], engine: str) -> str:
    readings = {way: Reading(**reading) for way, reading in row["latency"][engine].items()}
    faster = readings["float32"].known / readings["int8"].known
    shown = {way: _shown(reading) for way, reading in readings.items()}
    counted = ""
    if engine == "onnxruntime":
        counts = row["operators"]["int8"]
        counted = f"{counts['integer convolutions']} of {sum(counts.values())}"
    cells = [name, share_text(row["groups"]), engine, shown["float32"], shown.get("bfloat16", ""),
             shown["int8"], f"{faster:.2f}", shown.get("int8, exact sums", ""), counted]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _shown(reading: Reading) -> str:
    return f"{reading.known:.1f} ({reading.low:.1f} to {reading.high:.1f})"


if __name__ == "__main__":
    main()
