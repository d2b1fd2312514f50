"""Latency and energy of modes in eager PyTorch on this machine, measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.measure.energy import EnergyPlan, measure_energies
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.measure.meters.meter import Meter, NoMeter
from wenable.measure.meters.registry import find_meter
from wenable.modules.denormals import denormals_flushed
from wenable.modules.passes import device_name, device_of
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.extraction import extract


def mode_latencies(
    net: DynamicNetwork, modes: Sequence[Mode], timing: TimingPlan | None = None
) -> list[Reading]:
    """Return the latency of each mode's extracted network in eager PyTorch, for one example.

    All modes are timed against each other, in blocks in random order. Denormal numbers are flushed
    to zero in this thread while it times; PyTorch's worker threads take that setting over only when
    they start, so call `torch.set_flush_denormal(True)` before any other work to have it in all of
    them. The reading's source says which it was.
    """
    example = net.example_batch
    plains = {mode: extract(net, mode).eval() for mode in modes}
    with torch.inference_mode(), denormals_flushed() as where:
        readings = measure_latencies(
            {mode: _call(plain, example) for mode, plain in plains.items()},
            timing,
            device=device_name(net),
            source=f"wall clock, eager PyTorch {torch.__version__}, batch 1,"
            f" {torch.get_num_threads()} threads, denormals flushed in {where}",
        )
    return [readings[mode] for mode in modes]


def mode_energies(
    net: DynamicNetwork, modes: Sequence[Mode], meter: Meter, plan: EnergyPlan | None = None
) -> list[Reading]:
    """Return the energy of each mode's extracted network in eager PyTorch, for one example, in mJ.

    What the meter could not tell is a reading without a value, with the reason.
    """
    example = net.example_batch
    plains = {mode: extract(net, mode).eval() for mode in modes}
    calls = {mode: _call(plain, example) for mode, plain in plains.items()}
    with torch.inference_mode(), denormals_flushed():
        found = measure_energies(calls, meter, plan)
    return [found[mode].energy for mode in modes]


def meter_for(net: DynamicNetwork) -> Meter:
    """Return the meter of what the network runs on; raises `ValueError` where there is none."""
    scopes = ("GPU",) if device_of(net).type == "cuda" else ()
    meter = find_meter(*scopes)
    if isinstance(meter, NoMeter):
        raise ValueError(f"`cost` (='energy') needs an energy meter: {meter.reason}")
    return meter


def _call(plain: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Callable[[], object]:
    on_gpu = device_of(plain).type == "cuda"

    def call() -> object:
        output = plain(*example)
        if on_gpu:
            torch.cuda.synchronize()
        return output

    return call
