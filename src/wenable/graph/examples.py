"""How many examples an input holds: whether its first dimension is a batch, which is tried out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from wenable.modules.passes import same_random_numbers


def examples_in(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """Return how many examples `inputs` hold: the size of the first dimension, or 1.

    The first dimension of the first tensor is a batch where each row of an output stays as it is,
    bit for bit, when all other rows of the input change. Where they mix, it is something else (steps
    of a sequence, the channels of one image), and the whole input is one example. Nothing is tried
    where the dimension is 1, and a network that cannot be tried is taken at its convention, a batch.

    >>> recurrent = nn.LSTM(4, 4, batch_first=True)
    >>> examples_in(recurrent, (torch.ones(2, 5, 4),)), examples_in(recurrent, (torch.ones(5, 4),))
    (2, 1)
    """
    rows = next(len(each) for each in inputs if isinstance(each, torch.Tensor))
    if rows == 1:
        return 1
    before = _outputs(model, inputs)
    for kept in (0, rows - 1):  # both ends: what looks only ahead, or only back, shows at one
        try:
            after = _outputs(model, tuple(_all_but(kept, rows, each) for each in inputs))
        except Exception:  # values that the network's own code refuses
            continue
        verdicts = [_row_stays(a, b, kept, rows) for a, b in zip(before, after, strict=False)]
        told = [verdict for verdict in verdicts if verdict is not None]
        if not told or not all(told):
            return 1
    return rows


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    # Some networks draw random numbers even in eval mode; all passes get the same ones.
    with torch.no_grad(), same_random_numbers(model):
        leaves = tree_leaves(model(*inputs))
    return [each for each in leaves if isinstance(each, torch.Tensor)]


def _all_but(kept: int, rows: int, value: Any) -> Any:
    """Return a tensor of so many rows with other values in all of them but one."""
    if not isinstance(value, torch.Tensor) or not value.ndim or len(value) != rows:
        return value
    if value.is_floating_point() or value.is_complex():
        generator = torch.Generator().manual_seed(1)
        added = torch.rand(value.shape, generator=generator)
        changed = value + added.to(value.device, value.dtype)
    elif bool((value == value[:1]).all()):
        changed = torch.where(value == 0, 1, 0).to(value.dtype)
    else:
        changed = value.roll(1, 0)
    return torch.cat([changed[:kept], value[kept : kept + 1], changed[kept + 1 :]])


def _row_stays(before: torch.Tensor, after: torch.Tensor, row: int, rows: int) -> bool | None:
    """Say whether one row is the same in both; None for an output without rows."""
    if before.shape != after.shape:
        return False
    pairs = [
        (before.select(dim, row), after.select(dim, row))
        for dim, size in enumerate(before.shape)
        if size == rows
    ]
    if before.numel() and before.ndim and len(before) % rows == 0:  # windows of each, say
        pairs.append((before.reshape(rows, -1)[row], after.reshape(rows, -1)[row]))
    if not pairs:
        return None
    return any(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
