"""Explores a trained network: evaluates modes for real and hands their readings to a search."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from wenable.core.cost_table import BIT_OPERATIONS, CostTable, tabulated
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Front, Reading
from wenable.core.space import Mode
from wenable.measure.energy import EnergyPlan, measure_energies
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.measure.meters.meter import Meter, NoMeter
from wenable.measure.meters.registry import find_meter
from wenable.modules.passes import device_name, device_of
from wenable.modules.processes import several_processes
from wenable.network.calibration import calibrate
from wenable.network.dynamic_network import DynamicNetwork, check_dynamic
from wenable.network.evaluation import evaluate_each
from wenable.network.extraction import extract
from wenable.network.mode_costs import macs_table
from wenable.search import explore_affordably
from wenable.strategies.greedy import SearchStep, greedy
from wenable.strategies.knapsack import exact
from wenable.strategies.limits import Limit
from wenable.strategies.nsga2 import evolve

Cost = Literal["macs", "bit_operations", "latency", "energy"]
Strategy = Literal["exact", "greedy", "greedy-lazy", "plain", "evolve"]
ALGORITHM_2 = ("greedy", "greedy-lazy", "plain")


def explore(
    net: DynamicNetwork,
    search_batches: Iterable[Any],
    calibration_batches: Iterable[Any],
    *,
    threshold: float,
    cost: Cost = "macs",
    table: CostTable | None = None,
    strategy: Strategy | None = None,
    limits: Sequence[Limit] = (),
    timing: TimingPlan | None = None,
    on_step: Callable[[SearchStep], None] | None = None,
    journal: str | os.PathLike[str] | None = None,
    pooled: bool = False,
) -> Front:
    """Search the modes of a trained network for those worth having.

    Every mode that is compared is calibrated on `calibration_batches` first, and its accuracy is
    that on `search_batches`. The statistics of the modes on the front, and of those that were
    calibrated before, stay with the network; the others' are dropped.

    - `search_batches`: images and labels that training did not see; gone through once a mode.
      Report the accuracy of the modes that are found on a third split (`Front.with_tests`).
    - `calibration_batches`: of the training split.
    - `threshold`: only modes with an accuracy above it, between 0 and 1, are wanted.
    - `cost`: `"macs"`, `"bit_operations"` (`DynamicNetwork.bit_operations`), `"latency"` or `"energy"`.
    - `table`: where latencies come from: that of a profile of the device that will run the network.
      Without one they are the median times of the modes' extracted networks in eager PyTorch on this
      machine, for one example, by `timing`. Energy is measured likewise, which takes a minute for
      each mode and a meter.
    - `strategy`: `"exact"`, which takes accuracy losses as a sum over layers and solves for the best
      mode within each budget; `"greedy"`, WeNet's Algorithm 2, where costs are sums without the work
      that cannot change its answer; `"plain"`, the same as it is written; `"greedy-lazy"`, an
      approximation of it; `"evolve"`, an evolutionary search. `"plain"`, and `"greedy"` where it has
      to be, take any cost; the others need sums: MACs, bit operations where no layer has both a knob of
      groups and one of precision, or a table. Default: `"exact"` where costs are sums, else `"greedy"`.
    - `limits`: on further costs, for `"exact"` and `"evolve"`.
    - `journal`: a file that keeps what `"greedy"` and `"greedy-lazy"` found so far, where costs are
      sums. A search that was killed goes on from there when it is called again.
    - `pooled`: under `torchrun`, each process is given its own part of both splits, and accuracies
      and statistics are those of all parts together.

    Raises `ValueError` for an unknown cost or strategy, a table of another network, energy without
    a meter (with what was looked for), a threshold that the full mode does not exceed, or settings
    that the strategy has no use for.
    """
    check_dynamic(net)
    if cost not in get_args(Cost):
        allowed = ", ".join(map(repr, get_args(Cost)))
        raise ValueError(f"`cost` (={cost!r}) is unknown; allowed: {allowed}")
    additive = _additive_costs(net, cost, table)
    chosen = _checked_strategy(strategy, additive is not None, limits, journal, pooled)
    meter = _meter_for(net) if cost == "energy" and additive is None else None
    for name, batches in (
        ("search_batches", search_batches),
        ("calibration_batches", calibration_batches),
    ):
        if iter(batches) is batches:
            raise ValueError(f"`{name}` is an iterator; pass a list or a DataLoader")
    if additive is not None and chosen in ("greedy", "greedy-lazy") and not several_processes():
        front = explore_affordably(
            net, search_batches, calibration_batches, threshold=threshold,
            cost="macs" if table is None and cost == "macs" else additive, strategy=chosen, on_step=on_step,
            journal=journal,
        )  # fmt: skip
        return replace(front, cost=cost)
    before = set(net.calibrated_modes)
    evaluated: set[Mode] = set()
    outcomes: dict[Mode, Outcomes] = {}

    def accuracy(mode: Mode) -> Reading:
        evaluated.add(mode)
        if mode not in before:
            calibrate(net, mode, calibration_batches)
        reading, outcomes[mode] = evaluate_each(
            net, mode, search_batches, split="the search split", pooled=pooled
        )
        return reading

    def costs(modes: Sequence[Mode]) -> Sequence[Reading]:
        if additive is not None:
            return [additive.reading(mode) for mode in modes]
        if meter is not None:
            return mode_energies(net, modes, meter)
        if cost == "bit_operations":
            return [Reading(net.bit_operations(m), BIT_OPERATIONS, source="counted") for m in modes]
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
        if chosen in ALGORITHM_2 or additive is None:
            front = greedy(net.space, accuracy, costs, threshold, cost=cost, on_step=end_step)
        else:
            search = exact if chosen == "exact" else evolve
            front = search(
                net.space, accuracy, additive, threshold=threshold, limits=limits, cost=cost,
                on_step=on_step,
            )  # fmt: skip
        found = {*front.modes, front.chosen.mode}
    finally:
        drop_the_others(found)
    return front.with_outcomes(outcomes)


def _checked_strategy(
    strategy: Strategy | None,
    sums: bool,
    limits: Sequence[Limit],
    journal: str | os.PathLike[str] | None,
    pooled: bool,
) -> Strategy:
    """Return the strategy, the default one where none is given, if the settings fit it."""
    chosen = strategy or ("exact" if sums else "greedy")
    if chosen not in get_args(Strategy):
        allowed = ", ".join(map(repr, get_args(Strategy)))
        raise ValueError(f"`strategy` (={strategy!r}) is unknown; allowed: {allowed}")
    if chosen not in ("greedy", "plain") and not sums:
        raise ValueError(
            f"`strategy` (={chosen!r}) needs costs that are sums over knobs: give the `table` of a"
            " profile, or cost='macs'"
        )
    if chosen in ALGORITHM_2 and limits:
        raise ValueError("`limits` are for the strategies 'exact' and 'evolve'")
    if pooled and not several_processes():
        raise ValueError(
            "`pooled` is for several processes, as under torchrun; this is the only one"
        )
    if chosen == "greedy-lazy" and several_processes():
        raise ValueError("`strategy` (='greedy-lazy') runs in one process; this is one of several")
    raced = chosen in ("greedy", "greedy-lazy") and sums and not several_processes()
    if journal is not None and not raced:
        raise ValueError(
            "`journal` is for the strategies 'greedy' and 'greedy-lazy', in one process, with costs"
            " that are sums"
        )
    return chosen


def _additive_costs(net: DynamicNetwork, cost: Cost, table: CostTable | None) -> CostTable | None:
    """Return the table that costs are taken from; None where they are no sums over knobs."""
    if table is None and cost == "bit_operations":
        # Bits of one knob times groups of another are a product.
        if any(layer.precision_knob for layer in net.switchable_layers):
            return None
        return tabulated(net.space, net.bit_operations, BIT_OPERATIONS, "counted")
    if table is None:
        return macs_table(net) if cost == "macs" else None
    if table.space != net.space:
        raise ValueError(f"`table` belongs to another network: its space is {table.space}")
    units = {"macs": "MACs", "bit_operations": BIT_OPERATIONS, "latency": "ms", "energy": "mJ"}
    unit = units[cost]
    if table.unit != unit:
        raise ValueError(f"`table` is in {table.unit}; `cost` (={cost!r}) needs {unit}")
    return table


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


def mode_energies(
    net: DynamicNetwork, modes: Sequence[Mode], meter: Meter, plan: EnergyPlan | None = None
) -> list[Reading]:
    """Return the energy of each mode's extracted network in eager PyTorch, for one example, in mJ.

    What the meter could not tell is a reading without a value, with the reason.
    """
    example = net.example_batch
    plains = {mode: extract(net, mode).eval() for mode in modes}
    calls = {mode: _call(plain, example) for mode, plain in plains.items()}
    with torch.inference_mode(), _denormals_flushed():
        found = measure_energies(calls, meter, plan)
    return [found[mode].energy for mode in modes]


def _meter_for(net: DynamicNetwork) -> Meter:
    """Return the meter of what the network runs on; raises `ValueError` where there is none."""
    scopes = ("GPU",) if device_of(net).type == "cuda" else ()
    meter = find_meter(*scopes)
    if isinstance(meter, NoMeter):
        raise ValueError(f"`cost` (='energy') needs an energy meter: {meter.reason}")
    return meter


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
