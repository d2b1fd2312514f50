"""The sizes of ExecuTorch files with a method for each mode, beside the weights they hold.

    python -m benchmarks.executorch_files [--networks wenable.zoo:cifar_resnet20 ...] [--out .]

Random weights, the modes 1, 1/4 and 1/16, calibrated on random images. Results go to
`results/executorch.jsonl`; the table of `docs/guides/executorch.md` is held against it by a test.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, records_file, write_records
from wenable.measure.device import describe_device
from wenable.zoo import build

NETWORKS = {"wenable.zoo:cifar_resnet20": 32, "mobilenet_v2": 224, "resnet50": 224}
MODES = ("1", "1/4", "1/16")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executorch_files")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    results = {
        "command": "python -m benchmarks.executorch_files",
        "commit": present_commit(),
        "machine": describe_device(),
        "versions": {name: version(name) for name in ("executorch", "torch")},
        "modes": list(MODES),
        "rows": [_measure(name) for name in arguments.networks],
    }
    write_records(records_file(arguments.out, "executorch"), results)


def _measure(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    size = NETWORKS[name]
    shuffle = "all" if name == "mobilenet_v2" else "first"
    method = we.WeightEnabling(shuffle=shuffle)
    net = we.convert(build(name).eval(), torch.zeros(1, 3, size, size), method=method)
    we.calibrate(net, MODES, [torch.randn(8, 3, size, size)])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        written = we.export_executorch(net, MODES, Path(folder) / "net.pte")
        seconds = time.perf_counter() - started
        held = _in_a_fresh_process(written.path, list(written.methods.values()), size)
    row = {
        "network": name,
        "shuffle": shuffle,
        "bytes": written.bytes,
        "weight_bytes": written.weight_bytes,
        "undelegated": {mode: list(names) for mode, names in written.undelegated.items()},
        "export_s": seconds,
        "resident_mib_added": held,
    }
    print(row, flush=True)
    return row


def _in_a_fresh_process(path: Path, methods: list[str], size: int) -> dict[str, float]:
    """Return what `_resident_mib` finds where nothing was allocated and freed before."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        added = pool.apply(_resident_mib, (path, methods, size))
    return dict(zip(MODES, added, strict=True))


def _resident_mib(path: Path, methods: list[str], size: int) -> list[float]:
    """Return by how much the process grows as each mode is loaded and run once, in order."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    x = torch.zeros(1, 3, size, size)
    loaded, added = [], []
    for method in methods:
        before = _resident()
        loaded.append(program.load_method(method))
        loaded[-1].execute([x])
        added.append((_resident() - before) / 2**20)
    return added


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
