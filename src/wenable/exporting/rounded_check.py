"""Whether an engine gives the answers of a mode of few bits, where rounding decides some of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from wenable.core.space import Mode
from wenable.exporting.int8_check import largest_difference, simulation_noise
from wenable.modules.outputs import tensors_of

TOLERANCE = 0.01
"""How far an answer may be off, as a share of the largest: a few inputs of a layer are rounded to the next
integer, a 255th of their range."""
NOISE_TIMES = 5
"""How many times what rounding makes of the simulation itself an engine may be off on top."""


def check_rounded(
    plain: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    found: Sequence[np.ndarray],
    mode: Mode,
    engine: str,
) -> None:
    """Raise `RuntimeError` where what an engine gives is not what the simulated mode gives.

    - `plain`: the extracted network, which rounds in floating point; `found`: the engine's answers.

    An engine sums integers where the simulation sums floats, so that a sum which lies between two
    integers of the next layer may be rounded the other way. An answer may be off by 1 % of the largest,
    and by five times what such decisions make of the simulation itself.
    """
    with torch.no_grad():
        expected = tensors_of(plain(*inputs))
        noise = simulation_noise(plain, inputs, expected)
    answers = [torch.from_numpy(np.asarray(each)) for each in found]
    if [each.shape for each in answers] != [each.shape for each in expected]:
        raise RuntimeError(f"{engine} gives outputs of other shapes than mode {mode} has")
    difference, allowed = largest_difference(answers, expected), TOLERANCE + NOISE_TIMES * noise
    if not difference <= allowed:
        raise RuntimeError(
            f"mode {mode} differs on {engine} from the extracted network by {difference:.1%} of its"
            f" largest output, more than {allowed:.1%}; nothing was written"
        )
