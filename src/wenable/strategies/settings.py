"""The strategies that `wenable.explore` takes, each with its settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from wenable.core.space import ModeChoice
from wenable.strategies.constraints import Constraint, numbers_of

Journal: TypeAlias = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Greedy:
    """WeNet's Algorithm 2: from the full mode, one option of one knob further at a time.

    If costs are sums over knobs, and one process runs, the work that cannot change the answer is left
    out. Otherwise every candidate is evaluated on all images.

    - `journal`: a file that keeps what was found so far. A search that was killed goes on from there
      when it is called again. For costs that are sums, in one process.
    - `cache_mb`: the most memory, in MiB, for outputs of layers that candidates share, and as much
      again for images.

    Source: WeNet, Algorithm 2.

    >>> Greedy(journal="search.journal").name
    'greedy'
    """

    name: ClassVar[str] = "greedy"

    journal: Journal = None
    cache_mb: float = 2048.0


@dataclass(frozen=True)
class GreedyLazy:
    """An approximation of Algorithm 2 that evaluates a few candidates in each step instead of all.

    It needs costs that are sums over knobs, and one process. `journal` and `cache_mb` are those of
    `Greedy`.

    >>> GreedyLazy().cache_mb
    2048.0
    """

    name: ClassVar[str] = "greedy-lazy"

    journal: Journal = None
    cache_mb: float = 2048.0


@dataclass(frozen=True)
class Knapsack:
    """Measures what each option of each knob loses alone, then solves for the best mode in budgets.

    It takes losses as additive (`strategies.knapsack`) and evaluates every solution for real. It needs
    costs that are sums over knobs.

    - `constraints`: on further costs, which every mode on the front keeps.
    - `budgets`: what a mode may cost, in the unit of the cost; None for `count` of them, spread evenly.
    - `rounds`: how often the budgets are gone through, with losses fitted anew.
    - `journal`: as in `Greedy`. What it holds counts for other budgets and constraints too.

    >>> Knapsack(count=6).rounds
    8
    """

    name: ClassVar[str] = "knapsack"

    constraints: Sequence[Constraint] = ()
    budgets: Sequence[float] | None = None
    count: int = 12
    rounds: int = 8
    journal: Journal = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "budgets", numbers_of(self.budgets))


@dataclass(frozen=True)
class NSGA2:
    """An evolutionary search by optuna's NSGA-II. It needs costs that are sums over knobs.

    - `constraints`: on further costs, which every mode on the front keeps.
    - `trials`: the most modes that are evaluated; `population`: how many there are in a generation.
    - `seed`: of its random numbers; `start`: modes that it begins with.
    - `journal`: as in `Greedy`. What it holds counts for another seed too.

    >>> NSGA2(trials=50).name
    'nsga2'
    """

    name: ClassVar[str] = "nsga2"

    constraints: Sequence[Constraint] = ()
    trials: int = 200
    population: int = 20
    seed: int = 0
    start: Sequence[ModeChoice] = ()
    journal: Journal = None


Strategy: TypeAlias = Greedy | GreedyLazy | Knapsack | NSGA2

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    kind.name: kind for kind in (Knapsack, Greedy, GreedyLazy, NSGA2)
}
_RENAMED = {"exact": "knapsack", "evolve": "nsga2", "plain": "greedy"}


def strategy_named(choice: Strategy | str) -> Strategy:
    """Return a strategy, as it is or by its name with the default settings.

    Raises `ValueError` for any other, with the names that are allowed.

    >>> strategy_named("knapsack")
    Knapsack(constraints=(), budgets=None, count=12, rounds=8, journal=None)
    """
    if isinstance(choice, Strategy):
        return choice
    if choice in _RENAMED:
        raise ValueError(f"`strategy` (={choice!r}) is called {_RENAMED[choice]!r} now")
    if not isinstance(choice, str) or choice not in STRATEGIES:
        allowed = ", ".join(map(repr, STRATEGIES))
        raise ValueError(f"`strategy` (={choice!r}) is unknown; allowed: {allowed}")
    return STRATEGIES[choice]()
