"""Algorithm 2 without the work that cannot change its path: candidates race, and share passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from wenable.core.cost_parts import CostParts
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
from wenable.strategies.racing import check_min_accuracy, descend, loss, race
from wenable.strategies.settings import Greedy, GreedyLazy


def search_greedily(
    net: DynamicNetwork,
    search_batches: Iterable[Any],
    calibration_batches: Iterable[Any],
    settings: Greedy | GreedyLazy | None = None,
    *,
    min_accuracy: float,
    cost: Literal["macs"] | CostTable | CostParts = "macs",
    on_step: Callable[[SearchStep], None] | None = None,
    work: Work | None = None,
) -> Front:
    """Search as WeNet's Algorithm 2 does, with the same path and less work.

    With `Greedy` path, front and readings are those of the algorithm as it is written
    (`strategies.greedy`). Each step is a race (`strategies.racing`). A candidate is out when it makes
    so many errors that the images still to come cannot save it; those that the present mode finds
    hardest come first. They are checked in batches of their own, whose sums are rounded otherwise. So
    an error counts there only if another class is ahead by far more than rounding, and every figure
    that is reported comes from a whole evaluation on `search_batches`. The layers before the one that
    changed run once for all candidates of a step (`prefix_reuse`), in calibration as in checks.
    Evaluations and checks start from what the present mode gave there, if that was recorded.

    That holds if the network is a function of one image and its mode: not if it draws random numbers,
    or the library chooses its algorithms anew in each run.

    - `search_batches`, `calibration_batches`, `min_accuracy`, `on_step`: as in `explore`. Both have to
      come in the same order each time.
    - `settings`: `Greedy`, or `GreedyLazy` (`strategies.greedy_lazy`), an approximation.
    - `cost`: `"macs"`, or a table, or those of all parts of the space. Costs that are measured anew in
      each step are not known before.
    - `work`: is told what was computed.

    Returns a `Front` whose `explored` and `evaluations` hold what was evaluated on all images.

    Raises `ValueError` as `explore` does, for batches whose order changes, and where several
    processes run; `JournalError` for a journal of another run or one that is in use.

    Source: WeNet, Algorithm 2.
    """
    settings = settings or Greedy()
    check_min_accuracy(min_accuracy)
    if cost != "macs" and not isinstance(cost, CostTable | CostParts):
        raise ValueError(f"`cost` (={cost!r}) must be known before: 'macs', or a CostTable")
    if not isinstance(cost, str) and cost.space != net.space:
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
        if settings.journal is not None:
            splits = {"search": search_batches, "calibration": calibration_batches}
            header = run_identity(net, splits, cost, settings.name, min_accuracy)
            opened = stack.enter_context(Journal(settings.journal, header))
        candidates = Candidates(
            net, search_batches, calibration_batches, settings.cache_mb, work or Work(), opened
        )
        search = _Search(candidates, cost, min_accuracy, on_step)
        return search.lazily() if isinstance(settings, GreedyLazy) else search.racing()


class _Search:
    """One search: which candidates are asked for what, and which statistics are kept."""

    def __init__(
        self,
        candidates: Candidates,
        cost: Literal["macs"] | CostTable | CostParts,
        min_accuracy: float,
        on_step: Callable[[SearchStep], None] | None,
    ) -> None:
        self.candidates, self.net, self.min_accuracy = candidates, candidates.net, min_accuracy
        self.cost, self.on_step = cost, on_step
        self.path: set[Mode] = {self.net.space.full}
        self.current = self.net.space.full
        self.more_errors: dict[str, int] = {}
        """Knob -> how many more errors its next option made than the mode it was tried in."""
        journal = candidates.journal
        entries = journal.entries if journal else []
        self.steps = iter([entry for entry in entries if entry["kind"] == "step"])

    @property
    def cost_name(self) -> str:
        return "macs" if isinstance(self.cost, str) else self.cost.unit

    def costs(self, modes: Sequence[Mode]) -> list[Reading]:
        if not isinstance(self.cost, str):
            return [self.cost.reading(mode) for mode in modes]
        return [Reading(self.net.macs(mode), "MACs", source="counted") for mode in modes]

    def point(self, mode: Mode, source: Source | None = None) -> Point:
        return Point(mode, self.candidates.evaluate(mode, source), self.costs([mode])[0])

    def racing(self) -> Front:
        def run() -> Front:
            full = self.point(self.net.space.full)
            return descend(
                self.net.space, full, self.min_accuracy, self.step,
                cost=self.cost_name, strategy="greedy", on_step=self.end_step,
            )  # fmt: skip

        return self._keeping_what_is_found(run)

    def lazily(self) -> Front:
        def accuracy(mode: Mode) -> Reading:
            source = None
            if mode != self.current:
                source = Source(self.current, _changed(self.current, mode))
            return self.candidates.evaluate(mode, source)

        def run() -> Front:
            return greedy_lazy(
                self.net.space, accuracy, self.costs, self.min_accuracy,
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
        return front.with_outcomes(self.candidates.noted.outcomes)

    def end_step(self, step: SearchStep) -> None:
        self.path.add(step.taken.mode)
        self.current = step.taken.mode
        self.candidates.recorded.keep({self.current})
        self.candidates.forget_all_but(self.path)
        if self.on_step is not None:
            self.on_step(step)

    def step(self, current: Point, modes: Sequence[Mode]) -> tuple[Point, Sequence[Point]]:
        """Decide one step: as the journal says, or by a race."""
        done = next(self.steps, None)
        if done is not None:
            self.more_errors = dict(done["excess"])
            evaluated = [self.point(self.net.space.mode(text)) for text in done["evaluated"]]
            return self.point(self.net.space.mode(done["mode"])), evaluated
        margins = self.candidates.margins_of(current.mode)
        order, total = self.candidates.hardest_first(margins), len(margins)
        errors = self.candidates.errors_in(current.accuracy)
        costs = [reading.known for reading in self.costs(modes)]
        knobs = [_changed(current.mode, mode) for mode in modes]
        points: dict[int, Point] = {}

        def predicted(i: int) -> float:
            made = min(max(errors + self.more_errors.get(knobs[i], 0), 0), total)
            return loss(costs[i], total - made, total)

        def exact(i: int) -> int:
            points[i] = self.point(modes[i], Source(current.mode, knobs[i]))
            best = min(points, key=lambda j: (_loss(points[j]), j))
            self.candidates.recorded.keep({current.mode, modes[best]})
            return total - self.candidates.errors_in(points[i].accuracy)

        def check(who: Sequence[int], start: int, count: int) -> list[int]:
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
            check=check,
            images=len(order),
            chunk=max(8, total // 64),
        )
        for i, (wrong, seen) in outcome.wrong.items():
            self.more_errors[knobs[i]] = wrong - int((margins[order[:seen]] < 0).sum())
        for i, right in outcome.right.items():
            self.more_errors[knobs[i]] = total - right - errors
        taken, evaluated = points[outcome.winner], list(points.values())
        self.candidates.note_step(taken, evaluated, self.more_errors)
        return taken, evaluated


def _loss(point: Point) -> float:
    share = point.accuracy.known
    return point.cost.known / share if share > 0 else math.inf


def _changed(before: Mode, after: Mode) -> str:
    """Return the one knob in which two modes differ."""
    return next(name for name in before if before[name] != after[name])
