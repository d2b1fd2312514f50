"""Time and energy of modes on a GPU, by the size of the batch and the way PyTorch runs them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torchvision
from torch import nn

import wenable as we
from experiments.fig7 import of_one_image
from experiments.networks import SmallBottleneckResNet
from wenable.measure import find_meter, measure_energies
from wenable.measure.energy import EnergyPlan
from wenable.measure.latency import TimingPlan, measure_latencies

EAGER, CHANNELS_LAST, BFLOAT16, GRAPHS = "eager", "channels last", "bfloat16", "CUDA graph"
WAYS = (EAGER, CHANNELS_LAST, BFLOAT16, GRAPHS)
"""How a network is run: in float32 as it is; channels last; besides in bfloat16; besides recorded once as a
CUDA graph and replayed. cuDNN chooses its kernels by its own rules, as it does by default."""
CELL_S = 0.1
"""How long a block of calls should last."""
MOST_CALLS = 20

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet50": (torchvision.models.resnet50, 224),
    "mobilenet-v2": (torchvision.models.mobilenet_v2, 224),
    "efficientnet-b0": (torchvision.models.efficientnet_b0, 224),
    "tiny-bottleneck-resnet": (functools.partial(SmallBottleneckResNet, blocks=2), 32),
}
"""Networks with random weights, and the size of their images: time depends on the structure."""

Call = Callable[[], object]


def modes_of(network: str) -> dict[str, tuple[nn.Module, int]]:
    """Return the plain network of every uniform mode, on the processor, with its MACs."""
    make, size = NETWORKS[network]
    torch.manual_seed(0)
    net = we.convert(make().eval(), torch.zeros(2, 3, size, size))
    modes = net.space.uniform_modes()
    we.calibrate(net, modes, [torch.randn(8, 3, size, size)])
    return {str(mode): (we.extract(net, mode).eval(), net.macs(mode)) for mode in modes}


def why_not(way: str, device: torch.device) -> str:
    """Return why a way cannot be had on a device; "" if it can."""
    return "no CUDA" if way == GRAPHS and device.type != "cuda" else ""


def calls_of(
    modes: Mapping[str, tuple[nn.Module, int]], way: str, batch: int, size: int,
    device: torch.device,
) -> dict[str, Call]:  # fmt: skip
    """Return a call of every mode that is over when its work is done."""
    form = torch.contiguous_format if way == EAGER else torch.channels_last
    kind = torch.bfloat16 if way in (BFLOAT16, GRAPHS) else torch.float32
    x = torch.randn(batch, 3, size, size, device=device).to(kind).contiguous(memory_format=form)
    calls: dict[str, Call] = {}
    for mode, (plain, _) in modes.items():
        net: Any = plain.to(device=device, dtype=kind).to(memory_format=form)
        run = _graphed(net, x) if way == GRAPHS else functools.partial(net, x)
        calls[mode] = functools.partial(_to_the_end, run, device)
    return calls


def _to_the_end(run: Call, device: torch.device) -> object:
    outputs = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return outputs


def _graphed(net: nn.Module, x: torch.Tensor) -> Call:
    """Return a replay of a pass that was recorded once: the processor starts it in one go."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            net(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        net(x)
    return graph.replay


def times_of(calls: Mapping[str, Call], batch: int, device_name: str, way: str) -> dict[str, Any]:
    """Return the time of one image in every mode, all modes timed in turns."""
    first = next(iter(calls.values()))
    first()
    started = time.perf_counter()
    first()
    taken = time.perf_counter() - started
    plan = TimingPlan(
        blocks=3, calls=max(1, min(MOST_CALLS, int(CELL_S / taken))), warmup=2, gap_ms=0.0
    )
    found = measure_latencies(
        calls,
        plan,
        source=f"PyTorch {torch.__version__}, {way}, TF32 {_tf32()}",
        device=device_name,
    )
    return {mode: asdict(of_one_image(each, batch)) for mode, each in found.items()}


def _tf32() -> str:
    return "in convolutions" if torch.backends.cudnn.allow_tf32 else "off"


def energies_of(
    calls: Mapping[str, Call], batch: int, device_name: str, plan: EnergyPlan
) -> dict[str, Any]:
    """Return the energy of one image in every mode by the GPU's own counter; absent with the reason."""
    found = measure_energies(calls, find_meter("GPU"), plan, device=device_name)
    return {mode: asdict(of_one_image(each.energy, batch)) for mode, each in found.items()}


def cells(
    networks: Sequence[str], batches: Sequence[int], ways: Sequence[str]
) -> list[tuple[str, str, int]]:
    """Return network, way and batch of every measurement, the most valuable first.

    The ends and the middle of the batches come first, for every network and way.
    """
    middle = len(batches) // 2
    first = list(dict.fromkeys((0, len(batches) - 1, middle)))
    order = [*first, *(i for i in range(len(batches)) if i not in first)]
    return [(network, way, batches[i]) for i in order for network in networks for way in ways]
