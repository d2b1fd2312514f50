"""Gradients that do not work against the full mode's (NASViT; PCGrad)."""

from __future__ import annotations

import torch
from torch import nn

Gradients = dict[nn.Parameter, torch.Tensor]


def take_gradients(net: nn.Module) -> Gradients:
    """Return the gradients accumulated so far, and leave none behind."""
    taken: Gradients = {}
    for parameter in net.parameters():
        if parameter.grad is not None:
            taken[parameter], parameter.grad = parameter.grad, None
    return taken


@torch.no_grad()
def add_without_conflict(full: Gradients) -> None:
    """Add the full mode's gradients to those that the other modes have accumulated since.

    Where the two of a parameter point apart (their product is below 0), the others' component along
    the full one's is taken away first: g - (g . f / f . f) f. The full one's is kept whole.
    """
    for parameter, gradient in full.items():
        others = parameter.grad
        if others is None:
            parameter.grad = gradient
            continue
        product = (others * gradient).sum()
        # A product below 0 has a gradient that is not 0, so the division is safe where it counts.
        share = torch.where(product < 0, product / gradient.square().sum(), 0.0)
        parameter.grad = gradient + others - share * gradient
