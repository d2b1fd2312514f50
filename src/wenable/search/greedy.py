"""The search itself: which candidates of a step are asked for what, and what stays calibrated."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, get_args

from wenable.core.cost_table import CostTable
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode
from wenable.modules.processes import several_processes
from wenable.network.dynamic_network import DynamicNetwork
from wenable.search.candidates import Candidates
from wenable.search.recorded import Source
from wenable.search.run_identity import run_identity
from wenable.search.work import Work
from wenable.strategies.greedy import SearchStep
from wenable.strategies.greedy_lazy import greedy_lazy
from wenable.strategies.journal import Journal
from wenable.strategies.racing import check_threshold, descend, loss, race

Strategy = Literal["greedy", "greedy-lazy"]


def explore_affordably(
    net: DynamicNetwork,
    search_batches: Iterable[Any],
    calibration_batches: Iterable[Any],
    *,
    threshold: float,
    cost: Literal["macs"] | CostTable = "macs",
    strategy: Strategy = "greedy",
    on_step: Callable[[SearchStep], None] | None = None,
    journal: str | os.PathLike[str] | None = None,
    cache_mb: float = 2048.0,
    work: Work | None = None,
) -> Front:
    """Search as `explore` does (WeNet, Algorithm 2), with the same path and less work.

    With `"greedy"` path, front and readings are those of the plain algorithm. Each step is a race
    (`strategies.racing`). A candidate is out when it makes so many errors that the images still to
    come cannot save it; those that the present mode finds hardest come first. They are looked
    at in batches of their own, whose sums are rounded otherwise. So an error counts there only
    where another class is ahead by far more than rounding, and every figure that is reported comes
    from a whole evaluation on `search_batches`. Of the layers before the one that changed, the
    candidates of a step share one pass (`prefix_reuse`), for calibration as for the look.
    Evaluations and looks start from what the mode where the search stands gave there, where that was
    recorded.

    That holds where the network is a function of one image and its mode: not where it draws random
    numbers, or the library chooses its algorithms anew in each run.

    - `search_batches`, `calibration_batches`, `threshold`, `on_step`: as in `explore`. Both have to
      come in the same order each time.
    - `cost`: `"macs"`, or a table. Costs that are measured anew in each step are not known before.
    - `strategy`: `"greedy"`, or `"greedy-lazy"` (`strategies.greedy_lazy`), an approximation.
    - `journal`: a file that holds every finished evaluation and step. A search that was killed goes
      on from there when it is called again with the same arguments.
    - `cache_mb`: the most memory, in MiB, for the outputs of layers, and as much again for images.
    - `work`: is told what was computed.

    Returns a `Front` whose `explored` and `evaluations` hold what was evaluated on all images.

    Raises `ValueError` as `explore` does, for batches whose order changes, and where several
    processes run; `JournalError` for a journal of another run or one that is in use.

    Source: WeNet, Algorithm 2.
    """
    check_threshold(threshold)
    if strategy not in get_args(Strategy):
        allowed = ", ".join(map(repr, get_args(Strategy)))
        raise ValueError(f"`strategy` (={strategy!r}) is unknown; allowed: {allowed}")
    if cost != "macs" and not isinstance(cost, CostTable):
        raise ValueError(f"`cost` (={cost!r}) must be known before: 'macs', or a CostTable")
    if isinstance(cost, CostTable) and cost.space != net.space:
        raise ValueError("`cost` is a table for the space of another network")
    for name, batches in (
        ("search_batches", search_batches),
        ("calibration_batches", calibration_batches),
    ):
        if iter(batches) is batches:
            raise ValueError(f"`{name}` is an iterator; pass a list or a DataLoader")
    if several_processes():
        raise ValueError("a search with a race runs in one process; this is one of several")
    with ExitStack() as stack:
        opened = None
        if journal is not None:
            splits = {"search": search_batches, "calibration": calibration_batches}
            header = run_identity(net, splits, cost, strategy, threshold)
            opened = stack.enter_context(Journal(journal, header))
        candidates = Candidates(
            net, search_batches, calibration_batches, cache_mb, work or Work(), opened
        )
        search = _Search(candidates, cost, threshold, on_step)
        return search.lazily() if strategy == "greedy-lazy" else search.racing()


class _Search:
    """One search: which candidates are asked for what, and which statistics are kept."""

    def __init__(
        self,
        candidates: Candidates,
        cost: Literal["macs"] | CostTable,
        threshold: float,
        on_step: Callable[[SearchStep], None] | None,
    ) -> None:
        self.candidates, self.net, self.threshold = candidates, candidates.net, threshold
        self.cost, self.on_step = cost, on_step
        self.path: set[Mode] = {self.net.space.full}
        self.stand = self.net.space.full
        self.excess: dict[str, int] = {}
        """Knob -> how many more errors its next pattern made than the mode it was tried in."""
        journal = candidates.journal
        entries = journal.entries if journal else []
        self.steps = iter([entry for entry in entries if entry["kind"] == "step"])

    @property
    def cost_name(self) -> str:
        return "macs" if isinstance(self.cost, str) else self.cost.unit

    def costs(self, modes: Sequence[Mode]) -> list[Reading]:
        if isinstance(self.cost, CostTable):
            return [self.cost.reading(mode) for mode in modes]
        return [Reading(self.net.macs(mode), "MACs", source="counted") for mode in modes]

    def point(self, mode: Mode, source: Source | None = None) -> Point:
        return Point(mode, self.candidates.evaluate(mode, source), self.costs([mode])[0])

    def racing(self) -> Front:
        def run() -> Front:
            full = self.point(self.net.space.full)
            return descend(
                self.net.space, full, self.threshold, self.step,
                cost=self.cost_name, strategy="greedy", on_step=self.end_step,
            )  # fmt: skip

        return self._keeping_what_is_found(run)

    def lazily(self) -> Front:
        def accuracy(mode: Mode) -> Reading:
            source = None
            if mode != self.stand:
                source = Source(self.stand, _changed(self.stand, mode))
            return self.candidates.evaluate(mode, source)

        def run() -> Front:
            return greedy_lazy(
                self.net.space, accuracy, self.costs, self.threshold,
                cost=self.cost_name, on_step=self.end_step,
            )  # fmt: skip

        return self._keeping_what_is_found(run)

    def _keeping_what_is_found(self, run: Callable[[], Front]) -> Front:
        found: set[Mode] = set()
        try:
            front = run()
            found = {*front.modes, front.chosen.mode}
            for mode in found:  # those that a journal told were not calibrated yet
                self.candidates.calibrate([mode])
        finally:
            self.candidates.forget_all_but(found)
        return front.with_outcomes(self.candidates.outcomes)

    def end_step(self, step: SearchStep) -> None:
        self.path.add(step.taken.mode)
        self.stand = step.taken.mode
        self.candidates.recorded.keep({self.stand})
        self.candidates.forget_all_but(self.path)
        if self.on_step is not None:
            self.on_step(step)

    def step(self, current: Point, modes: Sequence[Mode]) -> tuple[Point, Sequence[Point]]:
        """Decide one step: as the journal says, or by a race."""
        done = next(self.steps, None)
        if done is not None:
            self.excess = dict(done["excess"])
            evaluated = [self.point(self.net.space.mode(text)) for text in done["evaluated"]]
            return self.point(self.net.space.mode(done["mode"])), evaluated
        margins = self.candidates.margins_of(current.mode)
        order, total = self.candidates.hardest_first(margins), len(margins)
        errors = self.candidates.errors_in(current.accuracy)
        costs = [reading.known for reading in self.costs(modes)]
        knobs = [_changed(current.mode, mode) for mode in modes]
        points: dict[int, Point] = {}

        def predicted(i: int) -> float:
            made = min(max(errors + self.excess.get(knobs[i], 0), 0), total)
            return loss(costs[i], total - made, total)

        def exact(i: int) -> int:
            points[i] = self.point(modes[i], Source(current.mode, knobs[i]))
            best = min(points, key=lambda j: (_loss(points[j]), j))
            self.candidates.recorded.keep({current.mode, modes[best]})
            return total - self.candidates.errors_in(points[i].accuracy)

        def look(who: Sequence[int], start: int, count: int) -> list[int]:
            nonlocal order
            if not start:  # what the first candidate finds hard as well is hard for most
                order = self.candidates.hardest_first(
                    margins + self.candidates.margins_of(modes[first])
                )
            asked = {modes[i]: knobs[i] for i in who}
            return self.candidates.certain_errors(asked, order[start : start + count], current.mode)

        first = min(range(len(modes)), key=predicted)
        outcome = race(
            costs,
            total,
            first=first,
            exact=exact,
            look=look,
            images=len(order),
            chunk=max(8, total // 64),
        )
        for i, (wrong, seen) in outcome.wrong.items():
            self.excess[knobs[i]] = wrong - int((margins[order[:seen]] < 0).sum())
        for i, right in outcome.right.items():
            self.excess[knobs[i]] = total - right - errors
        taken, evaluated = points[outcome.winner], list(points.values())
        self.candidates.note_step(taken, evaluated, self.excess)
        return taken, evaluated


def _loss(point: Point) -> float:
    share = point.accuracy.known
    return point.cost.known / share if share > 0 else math.inf


def _changed(before: Mode, after: Mode) -> str:
    """Return the one knob in which two modes differ."""
    return next(name for name in before if before[name] != after[name])
