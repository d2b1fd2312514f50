"""The methods that are compared, by name: each makes the same network dynamic in its own way."""

from __future__ import annotations

from collections.abc import Callable

import wenable as we
from wenable.methods import Method

METHODS: dict[str, Callable[[], Method]] = {
    "weight-enabling": lambda: we.WeightEnabling(shuffle="first"),
    "weight-enabling, no shuffle": lambda: we.WeightEnabling(shuffle="none"),
    "weight-enabling, shuffle everywhere": lambda: we.WeightEnabling(shuffle="all"),
    "precision": lambda: we.SwitchablePrecision(bits=(32, 8, 4)),
}
"""`weight-enabling` shuffles as section IV-B of the paper says: once in each block."""
