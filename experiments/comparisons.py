"""Which two methods stand beside each other in Figure 5, and what both were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.budget import APART, Budget, Scale, scale_named

Part = tuple[str, str, int]
"""A pair of networks: the network's name, the comparison's, and the seed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods that were given the same.

    - `distillation`: whether the modes of both learn from the full one.
    - `path`: whether Algorithm 2's path is searched, beside the front of `exact`.
    - `apart`: whether it stands apart from the paper's claim.
    - `longer`: whether both are trained `Scale.longer` times as long as the budget says.
    """

    name: str
    ours: str
    rival: str
    distillation: bool = False
    path: bool = False
    apart: bool = False
    longer: bool = False

    def budget(self, sizes: Scale, network: str) -> Budget:
        """Return what both methods are given at a scale."""
        budget = sizes.budgets[network]
        return replace(budget, epochs=budget.epochs * (sizes.longer if self.longer else 1))


EQUAL_FOOTING, MORE_PASSES = "equal footing", "more passes"

COMPARISONS = (
    Comparison(EQUAL_FOOTING, "weight-enabling", "us-net", path=True),
    Comparison(MORE_PASSES, "weight-enabling", "us-net", path=True, apart=True, longer=True),
    Comparison(
        f"{MORE_PASSES}, shuffle everywhere", "weight-enabling, shuffle everywhere", "us-net",
        apart=True, longer=True,
    ),
    Comparison(
        f"{MORE_PASSES}, shuffle everywhere, distillation",
        "weight-enabling, shuffle everywhere", "us-net",
        distillation=True, apart=True, longer=True,
    ),
)  # fmt: skip
"""`equal footing` is the paper's claim. The others are apart from it: the same two trained longer, and what
else is known to help one side or the other. In-place distillation is US-Net's own setting (Yu and Huang,
2019)."""


def comparison_named(name: str) -> Comparison:
    """Return a comparison by name; raises `ValueError` for an unknown one."""
    for each in COMPARISONS:
        if each.name == name:
            return each
    allowed = ", ".join(repr(each.name) for each in COMPARISONS)
    raise ValueError(f"`comparison` (={name!r}) is unknown; allowed: {allowed}")


def parts_of(
    scale: str,
    networks: Sequence[str] | None = None,
    comparisons: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Part]:
    """Return the pairs of networks that a scale has, or those of some networks, comparisons and seeds."""
    sizes = scale_named(scale)
    return [
        (network, each.name, seed)
        for network in sizes.networks
        if networks is None or network in networks
        for each in COMPARISONS
        if (comparisons is None or each.name in comparisons) and _has(sizes, network, each)
        for seed in sizes.seeds_of(network, APART if each.apart else "")
        if seeds is None or seed in seeds
    ]


def _has(sizes: Scale, network: str, comparison: Comparison) -> bool:
    """Say whether a scale makes a comparison with a network."""
    if comparison.name == MORE_PASSES and sizes.longer == 1:
        return False
    return not comparison.apart or network in (sizes.networks_apart or sizes.networks)
