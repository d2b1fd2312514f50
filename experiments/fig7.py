"""Figure 7: inference time and energy for an image against the size of the batch, on every device at hand.

    python -m experiments.fig7 --scale cpu --data data/cifar10 [--work out/experiments]

Time depends on the structure of a mode, so the network has random weights. Modes are the uniform ones and,
if `fig5-SCALE.jsonl` is there, up to five along the front of its exact search. Devices are the processor,
through eager PyTorch and the engines of the runtime, and a CUDA GPU through eager PyTorch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import wenable as we
from experiments.budget import scale_named
from experiments.comparisons import EQUAL_FOOTING
from experiments.data import load
from experiments.engine_calls import bundle_of, mode_calls
from experiments.methods import METHODS
from experiments.options import command_of, start
from experiments.results import read_results, with_provenance, write_results
from experiments.runs import start_of
from wenable.core.readings import Reading
from wenable.measure import find_meter, measure_energies
from wenable.measure.energy import EnergyPlan
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.modules.denormals import flush_denormals
from wenable.network.dynamic_network import DynamicNetwork
from wenable.runtime.engines import installed_engines, open_engine

TIMING = TimingPlan(blocks=10, calls=10, warmup=3, gap_ms=5.0)
BATCHES = (1, 2, 4, 8, 16, 32)
MOST_OF_FRONT = 5
Key = tuple[str, int]
"""A mode as text, and a size of batch."""


def main() -> None:
    start("fig7", run)


def run(
    scale: str,
    data: Path,
    work: Path,
    out: Path,
    timing: TimingPlan = TIMING,
    batches: Sequence[int] = BATCHES,
    energy: EnergyPlan | None = None,
) -> dict[str, Any]:
    """Time the modes of the scale's ResNet and write `fig7-SCALE.jsonl`."""
    flush_denormals()
    sizes = scale_named(scale)
    splits = load(data, sizes.budgets[sizes.resnet])
    net = we.convert(
        start_of(sizes.resnet, sizes.seeds[0]), splits.example, method=METHODS["weight-enabling"]()
    )
    modes = _modes(net, out, scale)
    we.calibrate(net, list(modes), [next(iter(splits.calibration))])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle_of(net, list(modes), folder)
        for device in devices():
            words = f"{len(modes)} modes, batches of {', '.join(map(str, batches))}"
            print(device, words, flush=True)
            calls = calls_on(device, net, bundle, list(modes), batches)
            rows += _measured(device, calls, timing, energy)
    results = with_provenance(
        command_of("fig7", scale),
        scale,
        {
            "network": sizes.resnet,
            "trained": False,
            "macs": {mode: net.macs(mode) for mode in modes},
            "along": modes,
            "batches": list(batches),
            "devices_missing": {} if torch.cuda.is_available() else {"CUDA GPU": "none at hand"},
            "rows": rows,
        },
    )
    write_results(out, "fig7", results)
    return results


def _modes(net: DynamicNetwork, out: Path, scale: str) -> dict[str, str]:
    """Return the modes that are timed, each with what it is from."""
    modes = {str(mode): "uniform" for mode in net.space.uniform_modes()}
    fig5 = read_results(out, "fig5", scale)
    for row in fig5["rows"] if fig5 else ():
        if row["network"] == scale_named(scale).resnet and row["comparison"] == EQUAL_FOOTING:
            front = [each["mode"] for each in row["ours"]["fronts"]["knapsack"]["points"]]
            count = min(MOST_OF_FRONT, len(front))
            for i in range(count):
                place = round(i * (len(front) - 1) / max(count - 1, 1))
                modes.setdefault(front[place], "front of the exact search")
            break
    return modes


def devices() -> list[str]:
    """Return what can be measured here: a way to run, and where."""
    engines = [f"{name}, processor, 1 thread" for name in installed_engines()]
    gpu = ["eager PyTorch, GPU"] if torch.cuda.is_available() else []
    return [f"eager PyTorch, processor, {torch.get_num_threads()} threads", *engines, *gpu]


def calls_on(
    device: str, net: DynamicNetwork, bundle: Path, modes: Sequence[str], batches: Sequence[int]
) -> dict[Key, Callable[[], object]]:
    """Return a call of every mode with every size of batch."""
    inputs = {n: net.example_batch[0].repeat(n, 1, 1, 1) for n in batches}
    calls: dict[Key, Callable[[], object]] = {}
    if not device.startswith("eager PyTorch"):
        engine = open_engine(device.split(",")[0], 1)
        for n, x in inputs.items():
            for mode, call in mode_calls(bundle, x, engine).items():
                calls[mode, n] = call
        return calls
    where = torch.device("cuda" if device.endswith("GPU") else "cpu")
    for mode in modes:
        plain = we.extract(net, mode).eval().to(where)
        for n, x in inputs.items():
            calls[mode, n] = partial(_run_to_the_end, plain, x.to(where))
    return calls


def _run_to_the_end(plain: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    outputs = plain(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return outputs


def _measured(
    device: str,
    calls: Mapping[Key, Callable[[], object]],
    timing: TimingPlan,
    energy: EnergyPlan | None,
) -> list[dict[str, Any]]:
    """Return the time and energy of one image: those of a call over the size of its batch."""
    name = torch.cuda.get_device_name() if device.endswith("GPU") else ""
    meter = find_meter("GPU") if device.endswith("GPU") else find_meter()
    with torch.inference_mode():
        latency = measure_latencies(calls, timing, source=device, device=name)
        spent = measure_energies(calls, meter, energy, device=name)
    rows = []
    for mode, n in calls:
        rows.append(
            {
                "device": device,
                "mode": mode,
                "batch": n,
                "latency": asdict(of_one_image(latency[mode, n], n)),
                "energy": asdict(of_one_image(spent[mode, n].energy, n)),
            }
        )
    return rows


def of_one_image(reading: Reading, batch: int) -> Reading:
    """Return the reading of a batch for one image of it.

    >>> of_one_image(Reading(8.0, "ms", low=4.0, high=12.0), 4).value
    2.0
    """

    def part(value: float | None) -> float | None:
        return None if value is None else value / batch

    note = f"a batch of {batch}, over {batch}"
    return replace(
        reading, value=part(reading.value), low=part(reading.low), high=part(reading.high),
        p90=part(reading.p90), p99=part(reading.p99), note=note,
    )  # fmt: skip


if __name__ == "__main__":
    main()
