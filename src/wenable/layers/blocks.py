"""The diagonal blocks of a weight: which part of it an option enables (WeNet, Fig. 2 and 3)."""

from __future__ import annotations

import torch


def diagonal_blocks(
    weight: torch.Tensor, groups: int, permutation: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the blocks that option `1/groups` enables, as the weight of a grouped layer.

    Group k holds the k-th part of the output rows and, of the input columns, the k-th part of
    their shuffled order. The blocks of a finer option lie inside those of a coarser one, as long
    as the options are a chain of divisors.

    - `weight`: shape `(out, in, *kernel)`; `groups` divides `out` and `in`.
    - `permutation`: the order in which the inputs are read, shape `(in,)`; None keeps theirs.

    Returns shape `(out, in / groups, *kernel)`, differentiable in `weight`.
    """
    # g: groups, o: outputs of a group, i: inputs of a group; * the kernel
    weight_goi = weight.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
    if permutation is None:
        # (g, o, g, i, *) -> (o, i, *, g) -> (g, o, i, *): a view until it is flattened
        return weight_goi.diagonal(dim1=0, dim2=2).movedim(-1, 0).flatten(0, 1)
    columns_gi = permutation.view(groups, -1)
    rows_g = torch.arange(groups, device=weight.device).view(-1, 1)
    # Two index tensors with a slice between them: the indexed dimensions come first, (g, i, o, *).
    weight_gio = weight.unflatten(0, (groups, -1))[rows_g, :, columns_gi]
    return weight_gio.transpose(1, 2).flatten(0, 1)


def transposed_blocks(
    weight: torch.Tensor, groups: int, permutation: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what option `1/groups` enables of a transposed layer, as the weight of a grouped one.

    The same blocks as of `diagonal_blocks`, of a weight whose inputs are its rows: group k holds the
    k-th part of the rows in their shuffled order and the k-th part of the columns.

    - `weight`: shape `(in, out, *kernel)`; `groups` divides `in` and `out`.
    - `permutation`: the order in which the inputs are read, shape `(in,)`; None keeps theirs.

    Returns shape `(in, out / groups, *kernel)`, differentiable in `weight`.
    """
    if permutation is None:
        return diagonal_blocks(weight, groups)
    # g: groups, i, o: inputs and outputs of a group; * the kernel
    rows_gi = permutation.view(groups, -1)
    columns_g = torch.arange(groups, device=weight.device).view(-1, 1)
    # Two index tensors side by side: what they index stays in its place, (g, i, o, *).
    return weight.unflatten(1, (groups, -1))[rows_gi, columns_g].flatten(0, 1)
