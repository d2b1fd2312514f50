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
    "us-net": lambda: we.UniversallySlimmable(lowest=0.25, step=0.025, divisor=4),
    "slimmable": lambda: we.Slimmable(widths=(1.0, 0.75, 0.5, 0.25), divisor=4),
}
"""`weight-enabling` shuffles as section IV-B of the paper says: once in each block.

`us-net` and `slimmable` round channels to multiples of 4, where the papers have 8: the narrowest layers
of the small networks here have 16 and 8 channels, which would leave no width between half and all.
"""
