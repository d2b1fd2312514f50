"""Training and searching with a progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from rich.console import Console

import wenable as we
from wenable.cli.durations import SearchClock
from wenable.cli.terminal import progress_bar
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Front, Reading
from wenable.core.space import Mode
from wenable.measure.latency import TimingPlan
from wenable.network.dynamic_network import DynamicNetwork
from wenable.search.known_costs import Cost, HasTables
from wenable.strategies.greedy import SearchStep
from wenable.strategies.settings import Strategy
from wenable.training import StepReport, TrainConfig
from wenable.training.data_sets import Data

# A search measures hundreds of modes: three short blocks each, close together.
SEARCH_TIMING = TimingPlan(blocks=3, calls=8, warmup=2, gap_ms=5.0)


def loss_words(report: StepReport) -> str:
    """Return the losses of the full and the smallest mode, for a progress bar; or of one that is alone."""
    space = report.modes[0].space
    if len(report.modes) == 1:
        (mode,) = report.modes
        name = "full" if mode == space.full else str(mode)
        return f"loss: {name} {report.losses[0]:.3f}, alone"
    named = {"full": report.loss_of(space.full), "smallest": report.loss_of(space.smallest)}
    said = (f"{name} {loss:.3f}" for name, loss in named.items() if loss is not None)
    return f"loss: {', '.join(said)}"


def train_with_bar(
    console: Console, net: DynamicNetwork, data: Data, config: TrainConfig, batch_size: int
) -> None:
    """Run Algorithm 1 and show how far it is."""
    loader = data.training_batches(batch_size, config.seed)
    with progress_bar(console, "training") as update:

        def show(report: StepReport) -> None:
            update(report.step, report.steps, loss_words(report))

        we.train(net, loader, config, on_step=show)


def explore_with_bar(
    console: Console,
    net: DynamicNetwork,
    data: Data,
    cost: str,
    min_accuracy: float,
    strategy: Strategy | None = None,
    profile: HasTables | None = None,
) -> Front:
    """Run a search and show how far it is."""
    journal = None if strategy is None else strategy.journal
    with progress_bar(console, f"searching by {cost}") as update:
        # A search that goes on has its first steps from the journal, which says nothing of the time.
        going_on = journal is not None and Path(journal).exists()
        clock = SearchClock((lambda words: None) if going_on else console.print)

        def show(step: SearchStep) -> None:
            clock(step)
            words = f"{step.evaluations} modes, accuracy {100 * step.taken.accuracy.known:.1f} %"
            update(step.number, max(step.likely or step.most, step.number), words)

        return we.explore(
            net,
            data.search,
            data.calibration,
            min_accuracy=min_accuracy,
            cost=cast(Cost, cost),
            profile=profile,
            strategy=strategy,
            timing=SEARCH_TIMING,
            on_step=show,
        )


def with_tests(front: Front, tested: Mapping[Mode, tuple[Reading, Outcomes]]) -> Front:
    """Return a front with what was evaluated on the test split."""
    readings = {mode: reading for mode, (reading, _) in tested.items()}
    return front.with_tests(readings, {mode: outcomes for mode, (_, outcomes) in tested.items()})
