"""Algorithm 2 as it is written, with nothing left out: what the search with reuse is held against."""

from collections.abc import Callable, Sequence
from typing import Any

import wenable as we
from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.outcomes import Outcomes
from wenable.network.evaluation import evaluate_each
from wenable.strategies.greedy import SearchStep, greedy


def algorithm_2(
    net: we.DynamicNetwork,
    search: Sequence[Any],
    calibration: Sequence[Any],
    *,
    min_accuracy: float,
    table: CostTable | CostParts | None = None,
    on_step: Callable[[SearchStep], None] | None = None,
) -> we.Front:
    """Calibrate and evaluate every candidate of every step on all images, by MACs or a table."""
    before = set(net.calibrated_modes)
    outcomes: dict[we.Mode, Outcomes] = {}

    def accuracy(mode: we.Mode) -> we.Reading:
        if mode not in before:
            we.calibrate(net, mode, calibration)
        reading, outcomes[mode] = evaluate_each(net, mode, search, split="the search split")
        return reading

    def cost(mode: we.Mode) -> we.Reading:
        if table is not None:
            return table.reading(mode)
        return we.Reading(float(net.macs(mode)), "MACs", source="counted")

    front = greedy(
        net.space, accuracy, lambda modes: [cost(mode) for mode in modes], min_accuracy,
        cost="macs" if table is None else table.unit, on_step=on_step,
    )  # fmt: skip
    kept = {*front.modes, front.chosen.mode}
    net.forget_calibrations([mode for mode in outcomes if mode not in before | kept])
    return front.with_outcomes(outcomes)
