"""Which entries of a dimension are kept: its first ones, or those of several ranges."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]
Entries: TypeAlias = int | Ranges
"""How many of the first entries, or ranges `(start, stop)` of them, ascending and apart."""


def entries_of_parts(parts: Iterable[tuple[int, int]]) -> Entries:
    """Return which entries of a concatenation are left where each part keeps its first ones.

    - `parts`: the size of each, and how many of it are kept.

    >>> entries_of_parts([(8, 8), (8, 4)]), entries_of_parts([(8, 4), (8, 4)])
    (12, ((0, 4), (8, 12)))
    """
    found: list[tuple[int, int]] = []
    start = 0
    for size, kept in parts:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], start + kept)
        else:
            found.append((start, start + kept))
        start += size
    return found[0][1] if len(found) == 1 else tuple(found)


def count_of(entries: Entries) -> int:
    """Return how many entries are kept.

    >>> count_of(5), count_of(((0, 4), (8, 12)))
    (5, 8)
    """
    return entries if isinstance(entries, int) else sum(stop - start for start, stop in entries)


def end_of(entries: Entries) -> int:
    """Return how many entries the dimension must have at least."""
    return entries if isinstance(entries, int) else entries[-1][1]


def pieces(array: Any, axis: int, entries: Entries) -> list[Any]:
    """Return what is kept of an array or tensor along a dimension, as views: one for each range.

    >>> pieces([0, 1, 2, 3, 4, 5], 0, ((0, 1), (4, 6)))
    [[0], [4, 5]]
    """
    ranges = ((0, entries),) if isinstance(entries, int) else entries
    before = (slice(None),) * axis
    kept = [(*before, slice(*each)) for each in ranges]
    return [array[each if axis else each[0]] for each in kept]


def checked_entries(value: Any, what: str) -> Entries:
    """Return entries as a file has them: a whole number above 0, or a list of ranges.

    Raises `ValueError` for anything else; `what` is what it is called there.

    >>> checked_entries([[0, 4], [8, 12]], "`rows`")
    ((0, 4), (8, 12))
    """
    if type(value) is int and value > 0:
        return value
    if isinstance(value, list | tuple) and value:
        ranges = [tuple(each) for each in value if isinstance(each, list | tuple)]
        ends = [end for each in ranges for end in each]
        pairs = len(ranges) == len(value) and all(len(each) == 2 for each in ranges)
        whole = pairs and all(type(end) is int for end in ends)
        if whole and ends[0] >= 0 and all(a < b for a, b in pairwise(ends)):
            return tuple((start, stop) for start, stop in ranges)
    raise ValueError(
        f"{what} (={value!r:.100}) must be a whole number above 0, or ranges that ascend and do not touch"
    )
