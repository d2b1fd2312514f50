"""What the processes of one run tell each other; all of it holds for a single process too."""

from __future__ import annotations

import torch
from torch import distributed


def rank() -> int:
    """Return which of the processes this is; 0 where there is one."""
    return distributed.get_rank() if several_processes() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return distributed.get_world_size() if several_processes() else 1


def several_processes() -> bool:
    """Say whether `torch.distributed` was initialised, as under `torchrun`."""
    return distributed.is_available() and distributed.is_initialized()


def true_anywhere(value: bool, device: torch.device) -> bool:
    """Say whether something is true in any of the processes."""
    if not several_processes():
        return value
    flag = torch.tensor(float(value), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes; each of them gets it."""
    if not several_processes():
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total
