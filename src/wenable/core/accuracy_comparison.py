"""Whether the accuracies of two modes can be told apart: by a paired test, or else by intervals."""

from __future__ import annotations

from dataclasses import dataclass

from wenable.core.outcomes import LEVEL, mcnemar, same_examples
from wenable.core.readings import Point


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the accuracies of two modes can be told apart, and how that was found.

    - `told_apart`: None where nothing is known that could tell.
    - `split`: where they were compared: the test split, or the search split.
    - `p`: McNemar's mid-p value, on the same examples; None where their intervals were compared.
    """

    told_apart: bool | None
    split: str
    p: float | None = None

    def __str__(self) -> str:
        """How it was found: `McNemar on the test split, p = 0.031`."""
        return self.way if self.p is None else f"{self.way}, {self.figure}"

    @property
    def way(self) -> str:
        """What decided: `McNemar on the test split`, or intervals there."""
        return f"{'intervals' if self.p is None else 'McNemar'} on the {self.split} split"

    @property
    def figure(self) -> str:
        """The p value, to three digits; where there is none, that intervals overlap or do not."""
        if self.p is not None:
            return f"p = {self.p:.3f}" if self.p >= 0.001 else "p < 0.001"
        return "unknown" if self.told_apart is None else "apart" if self.told_apart else "overlap"


def compare_accuracies(one: Point, other: Point) -> Comparison:
    """Say whether the accuracies of two modes can be told apart.

    Both were evaluated on the same examples, so McNemar's test on those on which only one of them
    is right decides, at 5 %. It is sharper than intervals: two modes that are right on mostly the
    same examples differ on few, and their intervals hold the luck of all the others as well. Where
    it is not known which examples were right, they are told apart if their intervals do not overlap.

    The test split decides where both have a reading there: on the search split a mode of a front
    was chosen for being better than its neighbours.

    >>> from wenable.core.outcomes import Outcomes
    >>> from wenable.core.space import Knob, Space
    >>> from wenable.core.readings import Reading
    >>> space = Space((Knob("a", (1, 2)),))
    >>> def point(mode, right):
    ...     share = Reading(right / 100, "top-1", right / 100 - 0.1, right / 100 + 0.1)
    ...     each = Outcomes.of([i < right for i in range(100)], "an example")
    ...     return Point(mode, share, Reading(1.0, "ms"), outcomes=each)
    >>> print(compare_accuracies(point(space.full, 80), point(space.smallest, 73)))
    McNemar on the search split, p = 0.008
    """
    test = one.test is not None and other.test is not None
    split = "test" if test else "search"
    mine, theirs = (each.test_outcomes if test else each.outcomes for each in (one, other))
    if mine is not None and theirs is not None and same_examples(mine, theirs):
        p = mcnemar(mine, theirs)
        return Comparison(p < LEVEL, split, p)
    a, b = (each.test if test and each.test else each.accuracy for each in (one, other))
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Comparison(None, split)
    return Comparison(a.low > b.high or b.low > a.high, split)
