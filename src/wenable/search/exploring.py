"""The door to the search: `explore` runs a strategy on a trained network, evaluating modes for real."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import BIT_OPERATIONS, CostTable
from wenable.core.journal import Journal
from wenable.core.readings import Front, Reading
from wenable.core.renamed import refuse_renamed
from wenable.core.space import Mode
from wenable.measure.latency import TimingPlan
from wenable.modules.processes import several_processes
from wenable.network.calibration import calibrate
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.evaluation import evaluate_each
from wenable.network.metrics import Metric, metric_of
from wenable.network.net_checks import check_dynamic
from wenable.search.greedy import search_greedily
from wenable.search.known_costs import Cost, HasTables, known_costs
from wenable.search.measured_costs import meter_for, mode_energies, mode_latencies
from wenable.search.merit import Judged, described_metric, limit_of
from wenable.search.noted import NotedEvaluations
from wenable.search.run_identity import run_identity
from wenable.strategies.greedy import SearchStep, greedy
from wenable.strategies.greedy_lazy import greedy_lazy
from wenable.strategies.joint import knapsack_of_each
from wenable.strategies.nsga2 import nsga2
from wenable.strategies.settings import (
    NSGA2,
    Greedy,
    GreedyLazy,
    Knapsack,
    Strategy,
    strategy_named,
)

_RENAMED = {
    "threshold": "min_accuracy",
    "limits": "strategy=wenable.Knapsack(constraints=...)",
    "journal": "strategy=wenable.Greedy(journal=...)",
}


def explore(
    net: DynamicNetwork,
    search_batches: Iterable[Any],
    calibration_batches: Iterable[Any],
    *,
    min_accuracy: float | None = None,
    metric: Any = None,
    max_error: float | None = None,
    cost: Cost = "macs",
    table: CostTable | Sequence[CostTable] | None = None,
    profile: HasTables | None = None,
    strategy: Strategy | str | None = None,
    timing: TimingPlan | None = None,
    on_step: Callable[[SearchStep], None] | None = None,
    pooled: bool = False,
    **renamed: Any,
) -> Front:
    """Search the modes of a trained network for those worth having: its Pareto front.

    Every mode that is compared is calibrated on `calibration_batches` first, and its accuracy is
    that on `search_batches`. The statistics of the modes on the front, and of those that were
    calibrated before, stay with the network; the others' are dropped.

    - `search_batches`: images and labels that training did not see; gone through once a mode.
      Report the accuracy of the modes that are found on a third split (`Front.with_tests`).
    - `calibration_batches`: of the training split.
    - `min_accuracy`: only modes with an accuracy above it, between 0 and 1, are wanted.
    - `metric`: what modes are judged by instead of top-1, as in `evaluate`. The readings of the front
      are its own. `min_accuracy` is a limit in its figures then, or, if less of it is better,
      `max_error`. Strategies see how good a mode is beside the full one, whose figure has to be above 0;
      `Greedy` evaluates every candidate on all images.
    - `max_error`: only modes with less than it are wanted, of a metric of which less is better.
    - `cost`: `"macs"`, `"bit_operations"` (`DynamicNetwork.bit_operations`), `"latency"` or `"energy"`.
    - `profile`: where latencies and energies come from: a `wenable.runtime.DeviceProfile` of the device
      that will run the network. Where the size of images, a width, an exit or the precision changes what
      all else costs, it has a table for each combination of them, and all combinations have to be measured:
      its bundle holds a mode of each.
      Without one latencies are the median times of the modes' extracted networks in eager PyTorch on this
      machine, for one example, by `timing`. Energy is measured likewise, which takes a minute for
      each mode and a meter. Modes of few bits are refused then: PyTorch rounds floats for them.
    - `table`: instead of a profile: its table, or its tables of parts of the space.
    - `strategy`: `wenable.Knapsack`, `Greedy` (WeNet's Algorithm 2), `GreedyLazy` or `NSGA2`, with
      settings or by name, `"knapsack"`, `"greedy"`, `"greedy-lazy"`, `"nsga2"`. `Greedy` takes any
      cost; the others need costs that are sums over knobs: MACs, bit operations, or a profile's. Where the
      size of images, a width, an exit or the network's precision changes what others cost, `Knapsack`
      runs once for each combination of their options (`strategies.joint`); the others walk all knobs
      together.
      Bit operations are no sums if layers have both groups and a precision of their own. Default:
      `Knapsack()` if costs are sums, `Greedy()` otherwise.
    - `pooled`: under `torchrun`, each process is given its own part of both splits, and accuracies
      and statistics are those of all parts together.

    Raises `ValueError` for an unknown cost or strategy, a profile or table of another network, or one
    that lacks some of its modes, energy without a meter (with what was looked for), a `min_accuracy`
    that the full mode does not exceed, or settings that cannot be used here; `TypeError` for an
    argument by a former name.

    >>> import torch, wenable as we
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> net = we.convert(model, torch.zeros(1, 8))
    >>> data = [(torch.randn(16, 8), torch.arange(16) % 2)]
    >>> front = we.explore(net, data, data, min_accuracy=0.0, strategy=we.Knapsack(count=4))
    >>> front.chosen.cost.unit
    'MACs'
    """
    refuse_renamed("explore", renamed, _RENAMED)
    judge = None if metric is None else metric_of(metric)
    if judge is not None:
        limit = limit_of(judge, min_accuracy, max_error)
    elif min_accuracy is None:
        raise TypeError("explore() needs `min_accuracy`: modes must be more accurate than that")
    elif max_error is not None:
        raise ValueError(
            f"`max_error` (={max_error}) is a limit of a `metric` of which less is better"
        )
    else:
        limit = float(min_accuracy)
    check_dynamic(net)
    if cost not in get_args(Cost):
        allowed = ", ".join(map(repr, get_args(Cost)))
        raise ValueError(f"`cost` (={cost!r}) is unknown; allowed: {allowed}")
    known = known_costs(net, cost, table, profile)
    chosen = _checked_strategy(strategy, known is not None, pooled)
    journaled = known is not None
    counted = "macs" if cost == "macs" and table is None else None
    if chosen.journal is not None and (several_processes() or not journaled):
        raise ValueError("`journal` needs MACs, or costs that are sums over knobs, in one process")
    if judge is not None and pooled:
        raise ValueError(f"`pooled` needs top-1, and `metric` is {judge.name}")
    for name, batches in (
        ("search_batches", search_batches),
        ("calibration_batches", calibration_batches),
    ):
        if iter(batches) is batches:
            raise ValueError(f"`{name}` is an iterator; pass a list or a DataLoader")
    splits = {"search": search_batches, "calibration": calibration_batches}
    if judge is not None:
        with _opened_journal(net, splits, chosen, counted or known, limit, judge) as journal:
            return _explore_with(
                net, Judged(net, search_batches, calibration_batches, judge, limit, journal), chosen,
                known, lambda: _costs(net, cost, known, timing), cost, on_step,
            )  # fmt: skip
    # Images of inputs that hold more than tensors cannot be taken apart and kept.
    tensors = all(isinstance(each, torch.Tensor) for each in net.example_batch)
    alone = tensors and not several_processes()
    if known is not None and alone and isinstance(chosen, Greedy | GreedyLazy):
        front = search_greedily(
            net, search_batches, calibration_batches, chosen, min_accuracy=limit,
            cost=counted or known, on_step=on_step,
        )  # fmt: skip
        return replace(front, cost=cost)
    with _opened_journal(net, splits, chosen, counted or known, limit) as journal:
        evaluated = _Evaluated(net, search_batches, calibration_batches, pooled, journal)
        if known is None or isinstance(chosen, Greedy | GreedyLazy):
            costs = _costs(net, cost, known, timing)

            def run() -> Front:
                ended = evaluated.keeping_the_path(on_step)
                search = greedy_lazy if isinstance(chosen, GreedyLazy) else greedy
                return search(net.space, evaluated.accuracy, costs, limit, cost=cost, on_step=ended)

        else:

            def run() -> Front:
                return _run_on_sums(net, chosen, evaluated.accuracy, known, limit, cost, on_step)

        return evaluated.front(run)


@contextmanager
def _opened_journal(
    net: DynamicNetwork,
    splits: Mapping[str, Iterable[Any]],
    strategy: Strategy,
    cost: Literal["macs"] | CostParts | None,
    limit: float,
    metric: Metric | None = None,
) -> Iterator[Journal | None]:
    """Open the journal that a strategy asks for; None if it asks for none."""
    if strategy.journal is None:
        yield None
        return
    assert cost is not None  # costs that are measured have no journal
    judge = "" if metric is None else described_metric(metric)
    header = run_identity(net, splits, cost, strategy.name, limit, judge)
    with Journal(strategy.journal, header) as journal:
        yield journal


def _explore_with(
    net: DynamicNetwork,
    judged: Judged,
    strategy: Strategy,
    known: CostParts | None,
    costs: Callable[[], Callable[[Sequence[Mode]], Sequence[Reading]]],
    cost: str,
    on_step: Callable[[SearchStep], None] | None,
) -> Front:
    """Run a strategy on what a metric says of modes."""
    told, least = judged.told(on_step), judged.least_share
    if isinstance(strategy, Greedy | GreedyLazy):
        search = greedy_lazy if isinstance(strategy, GreedyLazy) else greedy
        return judged.front(
            lambda: search(net.space, judged.accuracy, costs(), least, cost=cost, on_step=told)
        )
    assert known is not None  # or the strategy had been refused
    return judged.front(
        lambda: _run_on_sums(net, strategy, judged.accuracy, known, least, cost, told)
    )


def _run_on_sums(
    net: DynamicNetwork,
    strategy: Strategy,
    accuracy: Callable[[Mode], Reading],
    known: CostParts,
    min_accuracy: float,
    cost: str,
    on_step: Callable[[SearchStep], None] | None,
) -> Front:
    """Run a strategy that needs costs to be sums over knobs, in the whole space or in its parts."""
    if isinstance(strategy, Knapsack):
        return knapsack_of_each(
            net.space, accuracy, known.tables,
            budgets=strategy.budgets, count=strategy.count,
            min_accuracy=min_accuracy, constraints=strategy.constraints, cost=cost,
            rounds=strategy.rounds, on_step=on_step,
        )  # fmt: skip
    assert isinstance(strategy, NSGA2)
    return nsga2(
        net.space, accuracy, known, trials=strategy.trials, seed=strategy.seed,
        population=strategy.population, min_accuracy=min_accuracy,
        constraints=strategy.constraints, start=strategy.start, cost=cost, on_step=on_step,
    )  # fmt: skip


class _Evaluated:
    """Modes that a search had evaluated: calibrated first, and forgotten unless they are kept.

    - `journal`: is told every evaluation, and asked first.
    """

    def __init__(
        self,
        net: DynamicNetwork,
        search_batches: Iterable[Any],
        calibration_batches: Iterable[Any],
        pooled: bool,
        journal: Journal | None = None,
    ) -> None:
        self.net, self.pooled = net, pooled
        self.noted = NotedEvaluations(net.space, journal)
        self.search_batches, self.calibration_batches = search_batches, calibration_batches
        self.before = set(net.calibrated_modes)
        self.modes: set[Mode] = set()
        """Those that were calibrated here."""

    def accuracy(self, mode: Mode) -> Reading:
        if mode not in self.noted.readings:
            self._calibrate(mode)
            found = evaluate_each(
                self.net, mode, self.search_batches, split="the search split", pooled=self.pooled
            )
            self.noted.note(mode, *found)
        return self.noted.readings[mode]

    def _calibrate(self, mode: Mode) -> None:
        if mode not in self.before | self.modes:
            calibrate(self.net, mode, self.calibration_batches)
            self.modes.add(mode)

    def keeping_the_path(
        self, on_step: Callable[[SearchStep], None] | None
    ) -> Callable[[SearchStep], None]:
        """Return what is to be called after each step: the candidates that lost are forgotten."""
        path = {self.net.space.full}

        def ended(step: SearchStep) -> None:
            path.add(step.taken.mode)
            self._forget_all_but(path)
            if on_step is not None:
                on_step(step)

        return ended

    def front(self, run: Callable[[], Front]) -> Front:
        """Return the front that a search finds, whose modes stay calibrated."""
        found: set[Mode] = set()
        try:
            front = run()
            found = {*front.modes, front.chosen.mode}
            for mode in found:  # those that a journal told were not calibrated yet
                self._calibrate(mode)
        finally:
            self._forget_all_but(found)
        return front.with_outcomes(self.noted.outcomes)

    def _forget_all_but(self, keep: set[Mode]) -> None:
        self.net.forget_calibrations([mode for mode in self.modes if mode not in keep])
        self.modes.intersection_update(keep)


def _checked_strategy(strategy: Strategy | str | None, sums: bool, pooled: bool) -> Strategy:
    """Return the strategy, the default one if none is given, once it is known to fit.

    - `sums`: whether costs are sums over knobs, in the whole space or in parts of it.
    """
    chosen = strategy_named(strategy or ("knapsack" if sums else "greedy"))
    several = several_processes()
    if not isinstance(chosen, Greedy) and not sums:
        raise ValueError(
            f"`strategy` (={chosen.name!r}) needs costs that are sums over knobs: give the `profile` of a"
            " device, or cost='macs'"
        )
    if pooled and not several:
        raise ValueError(
            "`pooled` is for several processes, as under torchrun; this is the only one"
        )
    if isinstance(chosen, GreedyLazy) and several:
        raise ValueError("`strategy` (='greedy-lazy') runs in one process; this is one of several")
    return chosen


def _costs(
    net: DynamicNetwork, cost: Cost, known: CostParts | None, timing: TimingPlan | None
) -> Callable[[Sequence[Mode]], Sequence[Reading]]:
    """Return what tells the costs of several modes, measured side by side if they are measured.

    Raises `ValueError` for energy without a meter.
    """
    if known is not None:
        return lambda modes: [known.reading(mode) for mode in modes]
    if cost == "energy":
        meter = meter_for(net)
        return lambda modes: mode_energies(net, modes, meter)
    if cost == "bit_operations":
        return lambda modes: [
            Reading(net.bit_operations(mode), BIT_OPERATIONS, source="counted") for mode in modes
        ]
    return lambda modes: mode_latencies(net, modes, timing)
