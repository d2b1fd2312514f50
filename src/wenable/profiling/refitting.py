"""Cost tables that miss, corrected by measured modes, and how far that helps on other modes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wenable.core.cost_parts import CostParts, Costs
from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.profiling.attribution import REST
from wenable.profiling.cost_tables import fitted_table
from wenable.profiling.verification import Verification
from wenable.runtime.device_profile import DeviceProfile

LEAST_MODES = 16
"""Of one table: twice `PER_PARAMETER` for each of two figures, a scale and a rest."""
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
    """A corrected table, or tables of parts, and what they say of modes that they were not fitted to.

    - `tables`: the corrected ones, a single one or those of parts; their source says to what they were
      fitted.
    - `form`: which correction, in words.
    - `fitted_to`: the modes, as text, that it was fitted to.
    - `before`, `after`: the other modes, by the table that was given and by the corrected one.
    """

    tables: tuple[CostTable, ...]
    form: str
    fitted_to: tuple[str, ...]
    before: Verification
    after: Verification

    @property
    def table(self) -> CostTable:
        """The corrected table, where it is of the whole space."""
        (table,) = self.tables
        return table

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
        """Return a profile with the corrected table or tables, whose events say so."""
        events = (*profile.events, self.tables[0].source)
        if profile.table is None:
            return replace(profile, parts=self.tables, events=events)
        return replace(profile, table=self.table, events=events)

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


def least_modes(table: Costs) -> int:
    """Return how many measured modes it takes to fit again: 16, and 8 more for each further part."""
    return LEAST_MODES * (1 + len(_parts(table).tables)) // 2


def refit(table: Costs, verification: Verification) -> Refit:
    """Fit a table again to one half of the measured modes, and try it on the other half.

    Of the modes in the order of their predictions every second one is fitted to, so both halves go
    from the cheapest to the dearest. Three forms are tried, as far as there are modes for them: one
    scale for all layers and a new rest; a scale for each option and a new rest; and every entry for
    itself, not far from what it was. Tables of several parts share the scales, and each has a rest of its
    own. The form is chosen by leaving out one mode after the other within the first half; the second half
    has no say in anything, and so its error is honest.

    - `table`: the one, or the parts, that the verification's predictions came from.
    - `verification`: at least `least_modes(table)` of them, each with its latency.

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
    parts = _parts(table)
    held = _check(parts, verification)
    order = sorted(verification.measured, key=lambda mode: (verification.predicted[mode], mode))
    fitted_to, others = order[::2], order[1::2]
    seen = {mode: verification.measured[mode] for mode in fitted_to}
    form = min(_allowed(parts, len(seen)), key=lambda name: _left_out_error(parts, seen, name))
    corrected = FORMS[form](parts, seen)
    rest = Verification(
        {mode: verification.predicted[mode] for mode in others},
        {mode: verification.measured[mode] for mode in others},
        verification.engine,
        verification.device,
    )
    after = replace(rest, predicted={mode: corrected.cost(mode) for mode in others})
    note = (
        f"fitted again ({form}) to {len(fitted_to)} of {held} measured modes, median error on the other"
        f" {len(others)}: {rest.median_error:.1%} before, {after.median_error:.1%} after"
    )
    pairs = zip(parts.tables, corrected.tables, strict=True)
    told = tuple(replace(new, source=f"{old.source}; {note}") for old, new in pairs)
    return Refit(told, form, tuple(fitted_to), rest, after)


def _parts(table: Costs) -> CostParts:
    return table if isinstance(table, CostParts) else CostParts(table.space, (table,))


def refitted(parts: CostParts, measured: Measured) -> CostParts:
    """Return tables with every entry fitted to measured modes, not far from what it was.

    A part that no measured mode is in stays as it is.
    """
    found = []
    modes = {parts.space.mode(mode): reading for mode, reading in measured.items()}
    for each in parts.tables:
        own = {
            each.space.mode(dict(mode)): reading
            for mode, reading in modes.items()
            if parts.table_of(mode) is each
        }
        prior = {REST: {1: each.rest}, **each.costs}
        fitted = (
            fitted_table(each.space, prior, own, f"{each.source}; fitted again") if own else each
        )
        found.append(replace(fitted, device=each.device))
    return CostParts(parts.space, tuple(found))


def scaled(parts: CostParts, measured: Measured, by_option: bool = False) -> CostParts:
    """Return tables with a new rest each, and all entries times a scale that fits measured modes best.

    - `by_option`: a scale for each option instead of one for all.

    Least squares of the relative errors. Rest and scales are at least 0, and an option that no
    measured mode has keeps its costs.

    >>> from wenable.core.space import Knob, Space
    >>> space = Space((Knob("a", (1, 2, 4)),))
    >>> table = CostTable(space, "ms", 1.0, {"a": {1: 4.0, 2: 2.0, 4: 1.0}})
    >>> twice = {str(mode): Reading(2 * table.cost(mode) + 1, "ms") for mode in space.uniform_modes()}
    >>> (found,) = scaled(CostParts(space, (table,)), twice).tables
    >>> round(found.rest, 2), {n: round(cost, 2) for n, cost in found.costs["a"].items()}
    (3.0, {1: 8.0, 2: 4.0, 4: 2.0})
    """

    def group(option: int) -> int:
        return option if by_option else 0

    rests = {id(each): place for place, each in enumerate(parts.tables)}
    groups = sorted({group(n) for n in _options(parts)})
    column = {each: len(rests) + place for place, each in enumerate(groups)}
    rows, known = np.zeros((len(measured), len(rests) + len(groups))), np.zeros(len(measured))
    for number, (text, reading) in enumerate(measured.items()):
        mode = parts.space.mode(text)
        own = parts.table_of(mode)
        rows[number, rests[id(own)]], known[number] = 1.0, reading.known
        for name, option in mode.items():
            rows[number, column[group(option)]] += own.costs[name][option]
    before = np.array([*(each.rest for each in parts.tables), *(1.0 for _ in groups)])
    spread = _LOOSE * np.array([*(known.mean() for _ in rests), *(1.0 for _ in groups)])
    found = _bounded(
        rows / known[:, None] / _NOISE, np.full(len(known), 1 / _NOISE), before, spread
    )
    fitted = []
    for rest, each in zip(found, parts.tables, strict=False):
        costs = {
            name: {n: float(cost * found[column[group(n)]]) for n, cost in row.items()}
            for name, row in each.costs.items()
        }
        fitted.append(replace(each, rest=float(rest), costs=costs))
    return CostParts(parts.space, tuple(fitted))


def _options(parts: CostParts) -> set[int]:
    return {n for each in parts.tables for row in each.costs.values() for n in row}


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


Form = Callable[[CostParts, Measured], CostParts]
FORMS: dict[str, Form] = {
    "one scale": scaled,
    "a scale for each option": lambda parts, measured: scaled(parts, measured, by_option=True),
    "every entry": refitted,
}


def _allowed(parts: CostParts, modes: int) -> list[str]:
    """Return the forms that so many modes are enough for; the last keeps itself near the table."""
    enough = modes >= PER_PARAMETER * (len(parts.tables) + len(_options(parts)))
    return [name for name in FORMS if name != "a scale for each option" or enough]


def _left_out_error(parts: CostParts, measured: Measured, form: str) -> float:
    """Return the median relative error on each mode of the table fitted to all others."""
    errors = []
    for left_out, reading in measured.items():
        others = {mode: each for mode, each in measured.items() if mode != left_out}
        errors.append(abs(FORMS[form](parts, others).cost(left_out) / reading.known - 1))
    return statistics.median(errors)


def _errors(verification: Verification) -> list[float]:
    return [
        abs(verification.predicted[mode] / reading.known - 1)
        for mode, reading in verification.measured.items()
    ]


def _check(parts: CostParts, verification: Verification) -> int:
    """Return how many modes were measured, if they are enough and of this table."""
    count, least = len(verification.measured), least_modes(parts)
    if count < least:
        tables = len(parts.tables)
        what = "a table" if tables == 1 else f"the tables of {tables} parts"
        raise ValueError(
            f"`verification` holds {count} measured modes; to fit {what} again takes at least"
            f" {least}: one half to fit, the other to tell whether it helped"
        )
    for mode, predicted in verification.predicted.items():
        if not math.isclose(parts.cost(mode), predicted, rel_tol=1e-6):
            raise ValueError(
                f"`verification` is of another table: it predicts {predicted:.4g} {parts.unit} for"
                f" mode {mode}, `table` {parts.cost(mode):.4g}"
            )
    return count
