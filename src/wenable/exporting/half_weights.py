"""A network whose weights are rounded to half the bytes, as a bundle will hold them."""

from __future__ import annotations

import torch

from wenable.modules.copying import copy_network
from wenable.network.dynamic_network import DynamicNetwork

WEIGHTS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


def check_weights(weights: str) -> None:
    """Raise `ValueError` for a type that weights cannot be stored in."""
    if not isinstance(weights, str) or weights not in WEIGHTS:
        raise ValueError(
            f"`weights` (={weights!r}) must be a type to store them in; allowed: {', '.join(WEIGHTS)}"
        )


def with_rounded_weights(net: DynamicNetwork, weights: str) -> DynamicNetwork:
    """Return a copy of a network, in float32, whose weights are rounded to numbers of another type.

    Only weights of two dimensions or more are: biases and norms are few, and matter more. For
    `"float32"` it is the same network.

    Raises `ValueError` for a weight that is larger than any number of the type.
    """
    kind = WEIGHTS[weights]
    if kind is None:
        return net
    rounded = copy_network(net)
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if parameter.ndim < 2:
                continue
            values = parameter.to(kind).to(parameter.dtype)
            if not bool(values.isfinite().all()):
                most = float(parameter.abs().max())
                raise ValueError(
                    f"`weights` (={weights!r}) has no number as large as {most:g} in {name!r}; allowed:"
                    " bfloat16, float32"
                )
            parameter.copy_(values)
    return rounded
