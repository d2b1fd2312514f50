"""Whether an engine gives the answers of the extracted network, as far as float32 can tell."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from wenable.core.space import Mode
from wenable.modules.outputs import tensors_of

TOLERANCE = 1e-4
"""By how much of its largest output an engine may differ from a network that rounding hardly moves."""

NOISE_TIMES = 5
"""How many times the network's own rounding error an engine may be off on top."""

MOST = 1e-2
"""What no rounding error excuses: such answers cannot be checked."""


class DisagreementError(RuntimeError):
    """An engine does not give the answers of the extracted network."""


def check_agreement(
    plain: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    found: Sequence[np.ndarray],
    mode: Mode,
    engine: str,
) -> None:
    """Raise `DisagreementError` where what an engine gives is not what the extracted network gives.

    - `plain`: the extracted network, whose outputs are one tensor or several; `found`: the engine's.

    A network may amplify rounding: norms over channels that hardly vary do, and so do weights that
    were never trained. Its own answers are then as far from those in float64 as the engine's, and as
    much, five times over, is allowed on top.
    """
    with torch.no_grad():
        expected = [each.numpy() for each in tensors_of(plain(*inputs))]
    if len(expected) != len(found):
        raise DisagreementError(f"{engine} gives {len(found)} outputs, the network {len(expected)}")
    noise: list[float] | None = None
    for number, (ours, other) in enumerate(zip(expected, found, strict=True)):
        difference = difference_of(ours, other)
        if difference <= TOLERANCE:
            continue
        if noise is None:
            noise = own_rounding(plain, inputs, expected)
        allowed = allowed_difference(noise[number])
        if not difference <= allowed:
            raise DisagreementError(
                f"mode {mode} differs on {engine} from the extracted network by {difference:.1e} of its"
                f" largest output, more than {allowed:.1e}; nothing was written"
            )


def allowed_difference(noise: float) -> float:
    """Return by how much of its largest output an engine may differ from a network.

    - `noise`: what rounding does to the network's own answers (`own_rounding`).

    >>> allowed_difference(0.0), round(allowed_difference(4e-5), 6), allowed_difference(0.5)
    (0.0001, 0.0003, 0.01)
    """
    return min(TOLERANCE + NOISE_TIMES * noise, MOST)


def difference_of(ours: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference as a share of the largest output; infinite for other shapes.

    Infinities and NaN must be the same in the same places; shares are of the finite numbers besides.
    """
    if ours.shape != other.shape:
        return float("inf")
    finite = np.isfinite(ours)
    if not np.array_equal(ours[~finite], other[~finite], equal_nan=True):
        return float("inf")
    ours, other = ours[finite], other[finite]
    scale = max(float(np.abs(ours).max(initial=0)), 1e-6)
    difference = np.abs(ours.astype(np.float64) - other).max(initial=0)
    return float(difference / scale) if np.isfinite(difference) else float("inf")


def own_rounding(
    plain: nn.Module, inputs: tuple[torch.Tensor, ...], expected: Sequence[np.ndarray]
) -> list[float]:
    """Return how far each output in float32 is from that in float64; 0 where it cannot be told.

    So it is where one of them overflows and the other does not.
    """
    precise = tuple(each.double() if each.is_floating_point() else each for each in inputs)
    try:
        with torch.no_grad():
            outputs = tensors_of(copy.deepcopy(plain).double()(*precise))
    except (RuntimeError, TypeError):  # a network that fixes a type somewhere
        return [0.0] * len(expected)
    found = [
        difference_of(each.double().numpy(), ours)
        for ours, each in zip(expected, outputs, strict=True)
    ]
    return [each if np.isfinite(each) else 0.0 for each in found]
