"""Which examples of a split a mode had right, and McNemar's test of two modes on the same examples."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LEVEL = 0.05
"""Two modes are told apart where a difference as large would be rarer than this by chance alone."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Which examples were right, one bit for each, in the order in which they came.

    - `bits`: eight examples in a byte, the first in its highest bit; the last byte ends in zeros.
    - `count`: how many examples there are.
    - `examples`: a fingerprint of them: outcomes on other examples are never compared.

    Raises `ValueError` where the bits do not fit the count.

    >>> Outcomes.of([True, False, True], "an example").right
    2
    """

    bits: bytes
    count: int
    examples: str

    def __post_init__(self) -> None:
        unused = 8 * len(self.bits) - self.count
        if self.count < 1 or not 0 <= unused < 8 or (self.bits[-1] & ((1 << unused) - 1)):
            raise ValueError(
                f"`bits` ({len(self.bits)} bytes) of outcomes must hold one bit for each of the"
                f" {self.count} examples, and zeros behind them"
            )

    @classmethod
    def of(cls, right: Iterable[bool], examples: str) -> Outcomes:
        """Return the outcomes of examples in order; `ValueError` where there is none."""
        each = [bool(one) for one in right]
        padded = each + [False] * (-len(each) % 8)
        number = int("".join("01"[one] for one in padded) or "0", 2)
        return cls(number.to_bytes(len(padded) // 8, "big"), len(each), examples)

    @property
    def right(self) -> int:
        """How many were right."""
        return int.from_bytes(self.bits, "big").bit_count()

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        text = base64.b64encode(self.bits).decode()
        return {"right": text, "count": self.count, "examples": self.examples}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcomes:
        """Return what `to_json` wrote; raises `ValueError` where it is not that."""
        try:
            bits = base64.b64decode(values["right"], validate=True)
            return cls(bits, int(values["count"]), str(values["examples"]))
        except (KeyError, TypeError, binascii.Error) as error:
            raise ValueError(f"`values` is not the JSON form of outcomes: {error!r}") from error


def mcnemar(one: Outcomes, other: Outcomes) -> float:
    """Return the probability of so large a difference if both were equally often right.

    Only examples on which exactly one is right tell anything. If both are as good, each of those is
    equally likely to be the one's or the other's: a binomial. This is twice its one-sided mid-p
    value, which is exact arithmetic and less cautious than the exact test.

    Raises `ValueError` where the outcomes are of different examples.

    Source: Fagerland, Lydersen and Laake, *The McNemar test for binary matched-pairs data: mid-p and
    asymptotic are better than exact conditional*, 2013.

    >>> better = Outcomes.of([True] * 6 + [False] * 2, "an example")
    >>> mcnemar(better, Outcomes.of([False] * 8, "an example"))
    0.015625
    """
    if not same_examples(one, other):
        raise ValueError(
            f"`one` ({one.count} examples, {one.examples}) and `other` ({other.count} examples,"
            f" {other.examples}) must be outcomes of the same examples in the same order"
        )
    mine, theirs = (int.from_bytes(each.bits, "big") for each in (one, other))
    fewer, more = sorted(((mine & ~theirs).bit_count(), (theirs & ~mine).bit_count()))
    if fewer == more:
        return 1.0
    # scipy has no mid-p test, and a device has no scipy. Whole numbers: nothing rounds or overflows
    # before the one division.
    both, ways, term = fewer + more, 0, 1
    for k in range(fewer):
        ways += term
        term = term * (both - k) // (k + 1)
    return (2 * ways + term) / 2**both


def same_examples(one: Outcomes | None, other: Outcomes | None) -> bool:
    """Say whether both are there and of the same examples."""
    if one is None or other is None:
        return False
    return (one.count, one.examples) == (other.count, other.examples)
