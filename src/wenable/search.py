"""Explores a trained network: evaluates modes for real and hands their readings to a search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

from wenable.calibration import calibrate
from wenable.dynamic_network import DynamicNetwork
from wenable.evaluation import evaluate
from wenable.exploration.greedy import SearchStep, greedy
from wenable.extraction import extract
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.modules import device_name, device_of
from wenable.space import Mode
from wenable.tables import Front, Reading

Cost = Literal["macs", "latency"]


def explore(
    net: DynamicNetwork,
    search_batches: Iterable[Any],
    calibration_batches: Iterable[Any],
    *,
    threshold: float,
    cost: Cost = "macs",
    strategy: Literal["greedy"] = "greedy",
    timing: TimingPlan | None = None,
    on_step: Callable[[SearchStep], None] | None = None,
) -> Front:
    """Search the modes of a trained network for those worth having (WeNet, Algorithm 2).

    Every mode that is compared is calibrated on `calibration_batches` first, and its accuracy is
    that on `search_batches`. The statistics of the modes on the front, and of those that were
    calibrated before, stay with the network; the others' are dropped.

    - `search_batches`: images and labels that training did not see; gone through once a mode.
      Report the accuracy of the modes that are found on a third split.
    - `calibration_batches`: of the training split.
    - `threshold`: the search ends when the accuracy, between 0 and 1, is at or under it.
    - `cost`: `"macs"`, or `"latency"`: the median time of the mode's extracted network in eager
      PyTorch on this machine, for one example, by `timing`.

    Raises `ValueError` for an unknown cost or strategy, or a threshold that the full mode does not
    exceed.
    """
    if cost == "energy":
        raise ValueError(
            "`cost` (='energy') needs an energy meter, and none can be read yet; allowed:"
            " 'macs', 'latency'"
        )
    if cost not in get_args(Cost):
        raise ValueError(f"`cost` (={cost!r}) is unknown; allowed: 'macs', 'latency'")
    if strategy != "greedy":
        raise ValueError(f"`strategy` (={strategy!r}) is unknown; allowed: 'greedy'")
    for name, batches in (
        ("search_batches", search_batches),
        ("calibration_batches", calibration_batches),
    ):
        if iter(batches) is batches:
            raise ValueError(f"`{name}` is an iterator; pass a list or a DataLoader")
    before = set(net.calibrated_modes)
    evaluated: set[Mode] = set()

    def accuracy(mode: Mode) -> Reading:
        evaluated.add(mode)
        if mode not in before:
            calibrate(net, mode, calibration_batches)
        return evaluate(net, mode, search_batches, split="the search split")

    def costs(modes: Sequence[Mode]) -> Sequence[Reading]:
        if cost == "macs":
            return [Reading(net.macs(mode), "MACs", source="counted") for mode in modes]
        return mode_latencies(net, modes, timing)

    path: set[Mode] = {net.space.full}

    def drop_the_others(keep: set[Mode]) -> None:
        net.forget_calibrations([mode for mode in evaluated if mode not in before | keep])
        evaluated.intersection_update(keep)

    def end_step(step: SearchStep) -> None:
        path.add(step.taken.mode)
        drop_the_others(path)
        if on_step is not None:
            on_step(step)

    found: set[Mode] = set()
    try:
        front = greedy(net.space, accuracy, costs, threshold, cost=cost, on_step=end_step)
        found = {*front.modes, front.chosen.mode}
    finally:
        drop_the_others(found)
    return front


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
    with torch.inference_mode(), _denormals_flushed() as where:
        readings = measure_latencies(
            {mode: _call(plain, example) for mode, plain in plains.items()},
            timing,
            device=device_name(net),
            source=f"wall clock, eager PyTorch {torch.__version__}, batch 1,"
            f" {torch.get_num_threads()} threads, denormals flushed in {where}",
        )
    return [readings[mode] for mode in modes]


@contextmanager
def _denormals_flushed() -> Iterator[str]:
    """Treat numbers below 1e-38 as zero: arithmetic on them is up to a hundred times slower.

    Yields where that holds: a setting of each thread, it cannot be given to workers that run.
    """
    was_on = bool(torch.tensor(1e-39) * 1.0 == 0)
    torch.set_flush_denormal(True)
    try:
        # Large enough to be shared out among the workers; written and read as bits, since a thread
        # that flushes cannot hold a denormal number otherwise.
        products = torch.ones(1_000_000, dtype=torch.int32).view(torch.float32) * 1.0
        everywhere = not bool(products.view(torch.int32).any())
        yield "every thread" if everywhere else "the calling thread only"
    finally:
        torch.set_flush_denormal(was_on)


def _call(plain: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Callable[[], object]:
    on_gpu = device_of(plain).type == "cuda"

    def call() -> object:
        output = plain(*example)
        if on_gpu:
            torch.cuda.synchronize()
        return output

    return call
