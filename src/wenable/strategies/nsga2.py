"""Searches by evolution: NSGA-II over the modes, towards high accuracy and low cost at once."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wenable.core.cost_parts import CostParts, Costs
from wenable.core.readings import Front, Reading
from wenable.core.space import Mode, ModeChoice, Space
from wenable.strategies.constraints import Constraint, check_space, worthwhile
from wenable.strategies.fronts import Evaluations, check_exceeded, check_min_accuracy
from wenable.strategies.greedy import SearchStep
from wenable.strategies.parts import Part, parts_within

NOT_INSTALLED = "optuna is not installed: pip install 'wenable[search]'"


def nsga2(
    space: Space,
    accuracy: Callable[[Mode], Reading],
    table: Costs,
    *,
    trials: int = 200,
    seed: int = 0,
    population: int = 20,
    min_accuracy: float = 0.0,
    constraints: Sequence[Constraint] = (),
    start: Sequence[ModeChoice] = (),
    cost: str = "latency",
    on_step: Callable[[SearchStep], None] | None = None,
) -> Front:
    """Breed modes from the best so far, by optuna's NSGA-II, and return the front of all.

    It assumes nothing of how accuracy depends on the mode, and so it needs many evaluations to
    come as far as `knapsack`; but it may start from the points of another search.

    - `accuracy`: mode -> its top-1, a share between 0 and 1; called once a mode at most.
    - `table`: the cost of any mode, or a `CostParts`, if it is a sum in parts of the space only. Options
      that cost no less than a coarser one, in no part, are left out.
    - `trials`: how many modes are evaluated at most, the full one included. Modes that were
      evaluated before or break a constraint take no trial; of those, ten times as many are borne.
    - `seed`: of the random choices; the same seed and readings give the same front.
    - `population`: how many modes a generation has, at least 2.
    - `min_accuracy`: points at or under this accuracy are left out of the front.
    - `constraints`: what each point keeps besides, as a memory of 2 MB; the full mode need not.
    - `start`: modes to begin with; the uniform ones by default. An option that is left out is
      replaced by a coarser one that costs no more. With constraints, a mode that keeps them all is added.
    - `cost`: the name of the cost, for the record.
    - `on_step`: called after each evaluation, with `taken` its point.

    Returns a `Front` whose `path` is the full mode and then every other in the order of evaluation,
    and whose `chosen` is the cheapest point above the min_accuracy.

    Raises `ModuleNotFoundError` where optuna is not installed; `ValueError` where the min_accuracy is
    not in [0, 1), or neither the full mode nor a mode within the constraints exceeds it; where no mode
    can keep a constraint; for the table of another space.

    Source: Deb et al., *A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II*, 2002.

    >>> from wenable.core.cost_table import CostTable
    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> share = lambda mode: Reading(1 - 0.1 * (mode["a"] - 1) - 0.3 * (mode["b"] - 1), "top-1")
    >>> table = CostTable(space, "ms", 1.0, {"a": {1: 4.0, 2: 2.0}, "b": {1: 4.0, 2: 2.0}})
    >>> try:
    ...     modes = nsga2(space, share, table, min_accuracy=0.65, trials=4).modes
    ... except ModuleNotFoundError:  # optuna is optional
    ...     modes = (space.mode("1"), space.mode("1/2,1"))
    >>> [str(mode) for mode in modes]
    ['1', '1/2,1']
    """
    check_min_accuracy(min_accuracy)
    for name, value, least in (("trials", trials, 1), ("population", population, 2)):
        if value < least:
            raise ValueError(f"`{name}` (={value}) must be at least {least}")
    check_space(space, table, "`table`")
    costs = table if isinstance(table, CostParts) else CostParts(space, (table,))
    parts = _Parts(space, parts_within(costs, constraints))
    first = [space.mode(choice) for choice in start] or list(space.uniform_modes())
    study = _study(population, seed)
    evaluate = Evaluations(accuracy, table, trials, on_step, likely=trials)
    check_exceeded(min_accuracy, evaluate(space.full))
    for mode in dict.fromkeys(parts.without_left_out(mode) for mode in (*first, parts.kept)):
        study.enqueue_trial(dict(mode))
    _breed(study, parts, evaluate, constraints, trials)
    return evaluate.front("nsga2", cost, min_accuracy, constraints, evaluate.points)


def _study(population: int, seed: int) -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(NOT_INSTALLED, name="optuna") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would say that there is a study
    try:
        return optuna.create_study(
            directions=["maximize", "minimize"],
            sampler=optuna.samplers.NSGAIISampler(population_size=population, seed=seed),
        )
    finally:
        optuna.logging.set_verbosity(before)


class _Parts:
    """The parts of a space that can keep the constraints, and the options that are worth a trial there."""

    def __init__(self, space: Space, parts: Sequence[Part]) -> None:
        self.space, self.kept = space, space.mode(dict(parts[0].kept))
        self._parts = parts
        self._of_each = [
            worthwhile(part.table.space, part.table, part.constraints) for part in parts
        ]
        worth = {name: {n for each in self._of_each for n in each[name]} for name in space.names}
        self.choices = {
            knob.name: tuple(n for n in knob.options if n in worth[knob.name])
            for knob in space.knobs
        }
        """Knob -> the options that some part has use for."""

    @property
    def dearest(self) -> float:
        """More than any mode costs."""
        tables = (part.table for part in self._parts)
        return max(
            table.rest + sum(max(row.values()) for row in table.costs.values()) for table in tables
        )

    def without_left_out(self, mode: Mode) -> Mode:
        """Return the mode with coarser options that cost no more in place of those left out."""
        for part, worth in zip(self._parts, self._of_each, strict=True):
            if all(mode[knob.name] in knob.options for knob in part.table.space.knobs):
                return self._replaced(mode, part, worth)
        return self.kept  # no mode of its part keeps the constraints

    def _replaced(self, mode: Mode, part: Part, worth: Mapping[str, Sequence[int]]) -> Mode:
        tables = [part.table, *(constraint.sums for constraint in part.constraints)]

        def replaced(name: str, option: int) -> int:
            rows = [table.costs[name] for table in tables]
            coarser = [n for n in worth[name] if n <= option]
            return next(n for n in reversed(coarser) if all(row[n] <= row[option] for row in rows))

        return self.space.mode({name: replaced(name, option) for name, option in mode.items()})


def _breed(
    study: Any,
    parts: _Parts,
    evaluate: Evaluations,
    constraints: Sequence[Constraint],
    trials: int,
) -> None:
    """Evaluate what the study proposes, until there are `trials` points or nothing is new."""
    choices = parts.choices
    size = math.prod(len(options) for options in choices.values())
    whole = max(parts.dearest, 1.0)
    for _ in range(10 * trials):
        if len(evaluate.points) >= min(trials, size):
            return
        trial = study.ask()
        mode = parts.space.mode(
            {name: trial.suggest_categorical(name, options) for name, options in choices.items()}
        )
        excess = sum(constraint.violation(mode) for constraint in constraints)
        if excess > 0:
            # Worse than any mode that keeps the constraints, by as much as it breaks them: constrained
            # domination, section VI of the paper. Its accuracy is not needed.
            study.tell(trial, (-excess, whole * (1 + excess)))
        else:
            point = evaluate(mode)
            study.tell(trial, (point.accuracy.known, point.cost.known))
