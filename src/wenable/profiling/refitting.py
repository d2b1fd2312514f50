"""A cost table that misses, corrected by measured modes, and how far that helps on other modes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.profiling.attribution import REST
from wenable.profiling.cost_tables import fitted_table
from wenable.profiling.verification import Verification
from wenable.runtime.device_profile import DeviceProfile

LEAST_MODES = 16
PER_PARAMETER = 4
"""How many measured modes a form has to have for each figure that it fits."""
CHANCE = 0.05
"""How likely a correction that is worth nothing may seem to help."""
_NOISE = 0.02
"""How far a measured latency is taken to be from the true one, as a share of it."""
_LOOSE = 100.0
"""How many times over scales may change: they are held only where no measured mode says anything."""

Measured = Mapping[str, Reading]


@dataclass(frozen=True)
class Refit:
    """A corrected table, and what it says of modes that it was not fitted to.

    - `table`: the corrected one; its source says to what it was fitted.
    - `form`: which correction, in words.
    - `fitted_to`: the modes, as text, that it was fitted to.
    - `before`, `after`: the other modes, by the table that was given and by the corrected one.
    """

    table: CostTable
    form: str
    fitted_to: tuple[str, ...]
    before: Verification
    after: Verification

    @property
    def chance(self) -> float:
        """How likely it is that as many held-out modes come nearer by chance: a sign test."""
        pairs = list(zip(_errors(self.before), _errors(self.after), strict=True))
        nearer, moved = sum(a < b for b, a in pairs), sum(a != b for b, a in pairs)
        return sum(math.comb(moved, n) for n in range(nearer, moved + 1)) / 2**moved

    @property
    def helps(self) -> bool:
        """Whether the held-out modes are predicted better, and hardly so by chance alone."""
        return self.after.median_error < self.before.median_error and self.chance <= CHANCE

    def corrected(self, profile: DeviceProfile) -> DeviceProfile:
        """Return a profile with the corrected table, whose events say so."""
        return replace(profile, table=self.table, events=(*profile.events, self.table.source))

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the form, the modes it was fitted to, and the held-out errors."""
        return {
            "form": self.form,
            "fitted_to": list(self.fitted_to),
            "helps": self.helps,
            "chance": self.chance,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
        }


def refit(table: CostTable, verification: Verification) -> Refit:
    """Fit a table again to one half of the measured modes, and try it on the other half.

    Of the modes in the order of their predictions every second one is fitted to, so both halves go
    from the cheapest to the dearest. Three forms are tried, as far as there are modes for them: one
    scale for all layers and a new rest; a scale for each option and a new rest; and every entry for
    itself, not far from what it was. The form is chosen by leaving out one mode after the other
    within the first half; the second half has no say in anything, and so its error is honest.

    - `table`: the one that the verification's predictions came from.
    - `verification`: at least 16 modes, each with its latency.

    Raises `ValueError` for fewer modes, or a verification of another table.

    >>> from wenable.core.space import Knob, Space
    >>> space = Space(tuple(Knob(name, (1, 2)) for name in "abcd"))
    >>> table = CostTable(space, "ms", 1.0, {name: {1: 4.0, 2: 2.0} for name in "abcd"})
    >>> modes = [space.mode({x: 1 + (n >> i & 1) for i, x in enumerate("abcd")}) for n in range(16)]
    >>> predicted = {str(mode): table.cost(mode) for mode in modes}
    >>> measured = {mode: Reading(1.5 * ms + 2, "ms") for mode, ms in predicted.items()}
    >>> found = refit(table, Verification(predicted, measured, "an engine", "a board"))
    >>> found.form, round(found.table.cost("full"), 2), found.helps
    ('one scale', 27.5, True)
    """
    held = _check(table, verification)
    order = sorted(verification.measured, key=lambda mode: (verification.predicted[mode], mode))
    fitted_to, others = order[::2], order[1::2]
    seen = {mode: verification.measured[mode] for mode in fitted_to}
    form = min(_allowed(table, len(seen)), key=lambda name: _left_out_error(table, seen, name))
    corrected = FORMS[form](table, seen)
    rest = Verification(
        {mode: verification.predicted[mode] for mode in others},
        {mode: verification.measured[mode] for mode in others},
        verification.engine,
        verification.device,
    )
    after = replace(rest, predicted={mode: corrected.cost(mode) for mode in others})
    source = (
        f"{table.source}; fitted again ({form}) to {len(fitted_to)} of {held} measured modes, median"
        f" error on the other {len(others)}: {rest.median_error:.1%} before, {after.median_error:.1%}"
        " after"
    )
    return Refit(replace(corrected, source=source), form, tuple(fitted_to), rest, after)


def refitted(table: CostTable, measured: Measured) -> CostTable:
    """Return the table with every entry fitted to measured modes, not far from what it was."""
    prior = {REST: {1: table.rest}, **table.costs}
    found = {table.space.mode(mode): reading for mode, reading in measured.items()}
    fitted = fitted_table(table.space, prior, found, f"{table.source}; fitted again")
    return replace(fitted, device=table.device)


def scaled(table: CostTable, measured: Measured, by_option: bool = False) -> CostTable:
    """Return the table with a new rest and its entries times a scale that fits measured modes best.

    - `by_option`: a scale for each option instead of one for all.

    Least squares of the relative errors. Rest and scales are at least 0, and an option that no
    measured mode has keeps its costs.

    >>> from wenable.core.space import Knob, Space
    >>> space = Space((Knob("a", (1, 2, 4)),))
    >>> table = CostTable(space, "ms", 1.0, {"a": {1: 4.0, 2: 2.0, 4: 1.0}})
    >>> twice = {str(mode): Reading(2 * table.cost(mode) + 1, "ms") for mode in space.uniform_modes()}
    >>> found = scaled(table, twice)
    >>> round(found.rest, 2), {n: round(cost, 2) for n, cost in found.costs["a"].items()}
    (3.0, {1: 8.0, 2: 4.0, 4: 2.0})
    """

    def group(option: int) -> int:
        return option if by_option else 0

    groups = sorted({group(n) for row in table.costs.values() for n in row})
    column = {each: 1 + place for place, each in enumerate(groups)}
    rows, known = np.zeros((len(measured), 1 + len(groups))), np.zeros(len(measured))
    for number, (mode, reading) in enumerate(measured.items()):
        rows[number, 0], known[number] = 1.0, reading.known
        for name, option in table.space.mode(mode).items():
            rows[number, column[group(option)]] += table.costs[name][option]
    before = np.array([table.rest, *(1.0 for _ in groups)])
    spread = _LOOSE * np.array([known.mean(), *(1.0 for _ in groups)])
    found = _bounded(
        rows / known[:, None] / _NOISE, np.full(len(known), 1 / _NOISE), before, spread
    )
    costs = {
        name: {n: float(cost * found[column[group(n)]]) for n, cost in row.items()}
        for name, row in table.costs.items()
    }
    return replace(table, rest=float(found[0]), costs=costs)


def _bounded(
    rows: np.ndarray, target: np.ndarray, before: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """Return the least-squares solution of at least 0, drawn a little towards `before`.

    By numpy alone, since a device has no scipy: what falls below 0 is set to 0, the lowest first.
    """
    system = np.vstack([rows, np.diag(1 / spread)])
    wanted = np.concatenate([target, before / spread])
    free = np.ones(len(before), bool)
    found = np.zeros(len(before))
    while free.any():
        solved = np.linalg.lstsq(system[:, free], wanted, rcond=None)[0]
        if solved.min() >= 0:
            found[free] = solved
            break
        free[np.flatnonzero(free)[solved.argmin()]] = False
    return found


Form = Callable[[CostTable, Measured], CostTable]
FORMS: dict[str, Form] = {
    "one scale": scaled,
    "a scale for each option": lambda table, measured: scaled(table, measured, by_option=True),
    "every entry": refitted,
}


def _allowed(table: CostTable, modes: int) -> list[str]:
    """Return the forms that so many modes are enough for; the last keeps itself near the table."""
    options = {n for row in table.costs.values() for n in row}
    enough = modes >= PER_PARAMETER * (1 + len(options))
    return [name for name in FORMS if name != "a scale for each option" or enough]


def _left_out_error(table: CostTable, measured: Measured, form: str) -> float:
    """Return the median relative error on each mode of the table fitted to all others."""
    errors = []
    for left_out, reading in measured.items():
        others = {mode: each for mode, each in measured.items() if mode != left_out}
        errors.append(abs(FORMS[form](table, others).cost(left_out) / reading.known - 1))
    return statistics.median(errors)


def _errors(verification: Verification) -> list[float]:
    return [
        abs(verification.predicted[mode] / reading.known - 1)
        for mode, reading in verification.measured.items()
    ]


def _check(table: CostTable, verification: Verification) -> int:
    """Return how many modes were measured, if they are enough and of this table."""
    count = len(verification.measured)
    if count < LEAST_MODES:
        raise ValueError(
            f"`verification` holds {count} measured modes; to fit a table again takes at least"
            f" {LEAST_MODES}: one half to fit, the other to tell whether it helped"
        )
    for mode, predicted in verification.predicted.items():
        if not math.isclose(table.cost(mode), predicted, rel_tol=1e-6):
            raise ValueError(
                f"`verification` is of another table: it predicts {predicted:.4g} {table.unit} for"
                f" mode {mode}, `table` {table.cost(mode):.4g}"
            )
    return count
