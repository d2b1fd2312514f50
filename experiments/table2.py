"""Table II: five uniform modes with and without the shuffle, and each one's network trained alone.

    python -m experiments.table2 --scale cpu --data data/cifar10 [--work out/experiments]

Accuracy is that of the test split with calibrated statistics, and beside it with those that training left
in each option's norm, as switchable batch norm alone has them. Inference time is that of the plain export
(each layer in its groups, the shuffle as transposes) on ONNX Runtime, all modes in one run.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import wenable as we
from experiments.budget import Budget, Scale, scale_named
from experiments.data import ExperimentData, load
from experiments.options import command_of, start
from experiments.results import with_provenance, write_results
from experiments.runs import Run, plain_accuracy, trained, trained_alone, training_seconds
from wenable.core.readings import Reading
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.modules.denormals import flush_denormals
from wenable.network.dynamic_network import DynamicNetwork, UncalibratedWarning
from wenable.runtime import Session
from wenable.runtime.implementations import as_written

SHUFFLED, PLAIN = "weight-enabling", "weight-enabling, no shuffle"
TIMING = TimingPlan(blocks=20, calls=50, warmup=10, gap_ms=5.0)


def main() -> None:
    start("table2", run)


def run(
    scale: str, data: Path, work: Path, out: Path, timing: TimingPlan = TIMING
) -> dict[str, Any]:
    """Train what is missing, evaluate, time, and write `table2-SCALE.jsonl`."""
    flush_denormals()
    sizes = scale_named(scale)
    budget = sizes.budgets[sizes.resnet]
    splits = load(data, budget)
    rows = [
        row for seed in sizes.seeds for row in _of_seed(sizes, budget, seed, splits, work / scale)
    ]
    nets = {
        method: trained(Run(sizes.resnet, method, sizes.seeds[0], budget), splits, work / scale)
        for method in (SHUFFLED, PLAIN)
    }
    results = with_provenance(
        command_of("table2", scale),
        scale,
        {
            "network": sizes.resnet,
            "budget": budget.to_json(),
            "seeds": list(sizes.seeds),
            "macs": {str(m): nets[PLAIN].macs(m) for m in nets[PLAIN].space.uniform_modes()},
            "accuracy": rows,
            "latency": latencies(nets, splits, timing),
        },
    )
    write_results(out, "table2", results)
    return results


def _of_seed(
    sizes: Scale, budget: Budget, seed: int, data: ExperimentData, work: Path
) -> list[dict[str, Any]]:
    rows = []
    for method in (SHUFFLED, PLAIN):
        run = Run(sizes.resnet, method, seed, budget)
        net = trained(run, data, work)
        for mode in net.space.uniform_modes():
            row = {"method": method, "seed": seed, "mode": str(mode)}
            row["training_s"] = training_seconds(run, work)
            row["uncalibrated"] = asdict(_uncalibrated(net, mode, data))
            we.calibrate(net, mode, data.calibration)
            row["calibrated"] = asdict(we.evaluate(net, mode, data.test, split="the test split"))
            if method == SHUFFLED:
                plain = trained_alone(run, mode.options[-1], data, work)
                row["alone"] = asdict(plain_accuracy(plain, data.test))
            rows.append(row)
            print(method, seed, mode, row["calibrated"]["value"], flush=True)
    return rows


def _uncalibrated(net: DynamicNetwork, mode: we.Mode, data: ExperimentData) -> Reading:
    """Return the accuracy with the statistics that training left in the norm of each option."""
    net.forget_calibrations([mode])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        return we.evaluate(net, mode, data.test, split="the test split")


def latencies(
    nets: Mapping[str, DynamicNetwork], data: ExperimentData, timing: TimingPlan
) -> list[dict[str, Any]]:
    """Return the latency of each network's uniform modes, plain exports, one example, one thread."""
    calls: dict[tuple[str, str], Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (method, net) in enumerate(nets.items()):
            modes = net.space.uniform_modes()
            for mode in modes:
                if not net.is_calibrated(mode):
                    we.calibrate(net, mode, data.calibration)
            path = we.export(net, modes, Path(folder) / f"{number}.wen")
            session = Session(path, engine="onnxruntime", threads=1, choose=as_written)
            for mode in session.modes:
                session.prepare(mode)
                calls[method, mode] = partial(session.run, session.example(), mode=mode)
        found = measure_latencies(calls, timing, source="ONNX Runtime, 1 thread, plain export")
    return [
        {"method": method, "mode": mode, "latency": asdict(reading)}
        for (method, mode), reading in found.items()
    ]


if __name__ == "__main__":
    main()
