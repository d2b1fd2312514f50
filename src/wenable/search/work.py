"""What a search computes: counted while it runs, and at most before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wenable.core.readings import Point
from wenable.network.dynamic_network import DynamicNetwork
from wenable.search.prefix_reuse import EXAMPLES
from wenable.strategies.racing import most_evaluations


@dataclass
class Work:
    """What a search has computed so far: MACs by purpose, counted by the layers that really ran.

    - `macs`: purpose -> multiply-accumulates over all its forward passes and images.
    """

    macs: dict[str, int] = field(default_factory=dict)

    def add(self, purpose: str, macs: int, images: int) -> None:
        """Count `images` that each took `macs`."""
        self.macs[purpose] = self.macs.get(purpose, 0) + macs * images

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.macs.values())


def plain_macs(
    net: DynamicNetwork, path: Sequence[Point], search_images: int, calibration_images: int
) -> int:
    """Return the MACs that the plain algorithm takes for a path, calibration included.

    It calibrates and evaluates every candidate of every step in whole passes. Nothing is counted
    for calibration where the network has no batch norm.
    """
    images = search_images + (calibration_images if net.switchable_norms() else 0)
    stands = [point.mode for point in path[:-1]]
    candidates = [mode for stand in stands for mode in net.space.cheaper(stand)]
    own = net.calibration(net.space.full)
    first = search_images if own is not None and own.statistics is None else images
    return net.macs("full") * first + sum(net.macs(mode) for mode in candidates) * images


@dataclass(frozen=True, slots=True)
class SearchEstimate:
    """What a search takes at most, before it starts.

    - `evaluations`: modes that are calibrated and evaluated.
    - `macs`: multiply-accumulates of all forward passes.
    - `full_passes`: the same in images through the full network.
    """

    evaluations: int
    macs: int
    full_passes: int


def estimate_search(
    net: DynamicNetwork, search_images: int, calibration_images: int, *, plain: bool = False
) -> SearchEstimate:
    """Return what a search takes at most, if it goes down to the smallest mode.

    - `search_images`, `calibration_images`: the sizes of the two splits.
    - `plain`: of the plain algorithm. Otherwise of `search_greedily`, whose worst case is above
      the plain one's: a candidate may be looked at on all images and evaluated on them then.

    Raises `ValueError` where a size is below 1.

    >>> import torch
    >>> import wenable as we
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> net = we.convert(model, torch.ones(1, 4), method=we.WeightEnabling((1, 2), classifier=True))
    >>> estimate_search(net, 100, 50, plain=True)
    SearchEstimate(evaluations=4, macs=19200, full_passes=400)
    """
    for name, size in (
        ("search_images", search_images),
        ("calibration_images", calibration_images),
    ):
        if size < 1:
            raise ValueError(f"`{name}` (={size}) must be at least 1")
    evaluations = most_evaluations(net.space)
    images = search_images if plain else 2 * search_images
    images += calibration_images if net.switchable_norms() else 0
    trial = 0 if plain else EXAMPLES * (1 + 4 * len(net.space.knobs))
    passes = evaluations * images + trial
    return SearchEstimate(evaluations, passes * net.macs("full"), passes)
