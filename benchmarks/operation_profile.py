"""What full and smallest modes spend their time on, by kind of operation, beside what bounds it.

    python -m benchmarks.operation_profile [--threads 2] [--networks resnet50 ...] [--out .]

Random weights, batch 1, 224x224, float32. Times are the engine's own counters, the least of several
calls, with layers lowered by the default rule. Beside each kind of operation stand its
multiply-accumulates and the bytes that it has to read and write, and the least time that these take at
the rates that the same machine reaches in a matrix product and a copy. Results go to
`results/operation-profile.jsonl`, where those of other machines stay, and the page to
`docs/results/operation-profile.md`.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, records_file, write_page
from results.runs_by_machine import add_run
from wenable.measure.device import describe_device
from wenable.runtime import DeviceProfile, Session
from wenable.runtime.building import BuiltModel, build
from wenable.runtime.bundle import Bundle
from wenable.runtime.engine import OperationTime, describe_engine
from wenable.runtime.engines import installed_engines, open_engine
from wenable.zoo import build as build_network

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0")
CALLS = 30
SWITCHED, FIXED = "layers that switch", "layers that do not"
SHUFFLED, LAYOUT, OTHER = "shuffles", "changes of layout", "everything else"
KINDS = (SWITCHED, FIXED, SHUFFLED, LAYOUT, OTHER)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operation_profile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates = {"gmacs_per_s": product_rate(), "gb_per_s": _copy_rate()}
    rows = []
    for name in arguments.networks:
        rows += profiled(name, arguments.threads, rates)
    run = {
        "command": f"python -m benchmarks.operation_profile --threads {arguments.threads}",
        "commit": present_commit(),
        "machine": describe_device(),
        "threads": arguments.threads,
        "rates": rates,
        "rows": rows,
    }
    runs = add_run(records_file(arguments.out, "operation-profile"), run)
    write_page(arguments.out, "operation-profile", page(runs))


# --- the rates of the machine -----------------------------------------------------------------------


def product_rate() -> float:
    """Return the 10^9 multiply-accumulates a second of a large matrix product in torch."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    return 1536**3 / _least_s(lambda: a @ b) / 1e9


def _copy_rate() -> float:
    """Return the 10^9 bytes a second, read and written, of a copy that no cache holds."""
    source = torch.randn(32 * 2**20)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _least_s(lambda: target.copy_(source)) / 1e9


def _least_s(call: Callable[[], object]) -> float:
    times = []
    for _ in range(15):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


# --- the operations of a mode -----------------------------------------------------------------------


def profiled(name: str, threads: int, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a row for each engine, mode (full and smallest) and kind of operation."""
    torch.manual_seed(0)
    net = we.convert(build_network(f"torchvision:{name}").eval(), torch.zeros(1, 3, 224, 224))
    modes = [net.space.full, net.space.smallest]
    we.calibrate(net, modes, [torch.randn(8, 3, 224, 224)])
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = we.export(net, modes, Path(folder) / "net.wen")
        for engine_name in installed_engines():
            engine, bundle = open_engine(engine_name, threads), Bundle(path)
            known = DeviceProfile(
                bundle.structure, describe_device(), f"{engine.name} {engine.version}", threads
            )
            session = Session(path, engine=engine_name, threads=threads, profile=known)
            for number in range(len(bundle.modes)):
                built = build(
                    bundle.graph_of(number), bundle.layers, bundle.weights_of(number),
                    session.implementations(number),
                )  # fmt: skip
                operations = engine.operation_times(built.content, bundle.example(), CALLS)
                what = {
                    "network": name, "engine": describe_engine(engine),
                    "mode": str(bundle.modes[number].mode),
                }  # fmt: skip
                rows += [what | row for row in _by_kind(built, operations, rates)]
                print(what, round(sum(each.ms for each in operations), 2), "ms", flush=True)
    return rows


def _by_kind(
    built: BuiltModel, operations: Sequence[OperationTime], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    graph = _Work(built.content)
    found = {kind: {"ms": 0.0, "macs": 0, "bytes": 0, "operations": 0} for kind in KINDS}
    for each in operations:
        names = graph.fused(each)
        row = found[_kind(built, names, each.computes)]
        macs, moved = graph.of(names)
        row["ms"] += each.ms
        row["macs"] += macs
        row["bytes"] += moved
        row["operations"] += 1
    for row in found.values():
        row["least_ms"] = 1e3 * max(
            row["macs"] / (rates["gmacs_per_s"] * 1e9), row["bytes"] / (rates["gb_per_s"] * 1e9)
        )
    return [{"kind": kind} | row for kind, row in found.items()]


def _kind(built: BuiltModel, names: Sequence[str], computes: bool) -> str:
    """Return what an operation is for: a fused one is what its computing part is."""
    if not names:
        return LAYOUT
    switched = any(name in built.layer_of for name in names)
    if computes:
        return SWITCHED if switched else FIXED
    return SHUFFLED if switched else OTHER


_COMPUTES = ("Conv", "MatMul", "Gemm")


class _Work:
    """The multiply-accumulates and bytes of the operations of an ONNX model, for one example.

    It is asked for the operations in the order in which they ran.
    """

    def __init__(self, content: bytes) -> None:
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
        graph = model.graph
        self.nodes = {name: node for node in graph.node for name in (node.name, *node.output)}
        self.shapes = {
            each.name: [size.dim_value or 1 for size in each.type.tensor_type.shape.dim]
            for each in (*graph.input, *graph.output, *graph.value_info)
        }
        self.shapes |= {each.name: list(each.dims) for each in graph.initializer}
        self.claimed: set[str] = set()

    def fused(self, operation: OperationTime) -> list[str]:
        """Return the values that an operation makes, those of what was fused into it among them.

        ONNX Runtime gives a layer that was fused with what follows it the name of the last; the layer is
        then the nearest one before it that has not run yet.
        """
        names = [name for name in operation.names if name in self.nodes]
        if operation.computes and not any(self._computes(name) for name in names):
            names += self._back_to_a_layer(names)
        self.claimed.update(name for name in names if self._computes(name))
        return names or list(operation.names)

    def _computes(self, name: str) -> bool:
        return name in self.nodes and self.nodes[name].op_type in _COMPUTES

    def _back_to_a_layer(self, names: Sequence[str]) -> list[str]:
        """Return the values on the way from some back to the nearest layer that has not run."""
        ways = [[name] for name in names]
        for way in ways:  # it grows while it is gone through: the nearest come first
            for value in self.nodes[way[-1]].input:
                if value not in self.nodes or value in self.claimed:
                    continue
                if self._computes(value):
                    return [*way[1:], value]
                ways.append([*way, value])
        return []

    def of(self, names: Iterable[str]) -> tuple[int, int]:
        """Return MACs, and the bytes that go in and out of operations that run as one."""
        nodes = {id(node): node for name in names if (node := self.nodes.get(name)) is not None}
        made = {name for node in nodes.values() for name in node.output}
        read = {name for node in nodes.values() for name in node.input if name} - made
        used = {name for node in nodes.values() for name in node.input}
        written = made - used
        moved = 4 * sum(math.prod(self.shapes.get(name, [0])) for name in read | written)
        return sum(self._macs(node) for node in nodes.values()), moved

    def _macs(self, node: Any) -> int:
        out = math.prod(self.shapes.get(node.output[0], [0]))
        if node.op_type == "Conv":
            return out * math.prod(self.shapes[node.input[1]][1:])
        return out * self._depth(node) if node.op_type in _COMPUTES else 0

    def _depth(self, node: Any) -> int:
        shape = self.shapes.get(node.input[0], [0])
        turned = any(each.name == "transA" and each.i for each in node.attribute)
        return shape[0] if turned else shape[-1]


# --- the page ---------------------------------------------------------------------------------------


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of the documentation, in Markdown, for the runs of some machines."""
    lines = [
        "# What modes spend their time on",
        "",
        _verdict(runs),
        "",
        "The full and the smallest uniform mode, batch 1, 224x224, float32, random weights, kernels"
        " by the default rule. *ms*: the engine's own counters, of each operation the least of"
        f" {CALLS} calls; their sum is less than the latency of a call. *at least*: the longer of the time"
        " that the multiply-accumulates take at the rate of a large matrix product in torch, and the bytes,"
        " each input and output of an operation once, at the rate of a copy that no cache holds. What lies"
        " in a cache can be faster than that copy.",
        "",
    ]
    for run in runs:
        lines += _of_machine(run)
    return "\n".join(lines)


def _of_machine(run: Mapping[str, Any]) -> list[str]:
    """Return the section of one machine."""
    rates, rows = run["rates"], run["rows"]
    return [
        f"## {run['machine']}",
        "",
        f"Made by `{run['command']}` at commit {run['commit']}, {run['threads']} threads. The matrix"
        f" product reached {rates['gmacs_per_s']:.0f} GMAC/s, the copy {rates['gb_per_s']:.1f} GB/s.",
        "",
        "| network | engine | mode | kind | operations | ms | MMAC | MB | at least, ms |",
        "|---|---|---|---|--:|--:|--:|--:|--:|",
        *(_line(row) for row in rows if row["operations"]),
        "",
        "What follows:",
        "",
        *_verdicts(rows),
        "",
    ]


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"| {row['network']} | {row['engine']} | {row['mode']} | {row['kind']} | {row['operations']} |"
        f" {row['ms']:.2f} | {row['macs'] / 1e6:.1f} | {row['bytes'] / 1e6:.1f} | {row['least_ms']:.2f} |"
    )


def _verdict(runs: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence how much of the smallest mode's time switching cannot save."""
    shares = []
    for run in runs:
        of: dict[tuple[str, str], dict[str, float]] = {}
        for row in run["rows"]:
            if row["mode"] != "1":
                of.setdefault((row["network"], row["engine"]), {})[row["kind"]] = row["ms"]
        shares += [1 - (own[SWITCHED] + own[SHUFFLED]) / sum(own.values()) for own in of.values()]
    return (
        f"Of the time of the smallest mode, {100 * min(shares):.0f} to {100 * max(shares):.0f} % goes into"
        " what does not switch: other layers, changes of layout, activations. That bounds what groups save."
    )


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say for each network and engine how far the counters go, and how far switching alone could."""
    said = []
    for network, engine in dict.fromkeys((row["network"], row["engine"]) for row in rows):
        own = [row for row in rows if (row["network"], row["engine"]) == (network, engine)]
        full = sum(row["ms"] for row in own if row["mode"] == "1")
        small = {row["kind"]: row["ms"] for row in own if row["mode"] != "1"}
        total = sum(small.values())
        least = sum(row["least_ms"] for row in own if row["mode"] != "1")
        stays = total - small[SWITCHED] - small[SHUFFLED]
        said.append(
            f"- {network}, {engine}: counters {full:.2f} ms full, {total:.2f} smallest,"
            f" {full / total:.2f} times less. {stays:.2f} ms of the smallest are no switchable layer and no"
            f" shuffle: with switchable layers at no cost at all it would be {full / stays:.1f} times less;"
            f" with every operation at its least time as above ({least:.2f} ms), {full / least:.1f} times."
        )
    return said


if __name__ == "__main__":
    main()
