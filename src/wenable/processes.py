"""What the processes of one run tell each other; all of it holds for a single process too."""

from __future__ import annotations

import os

import torch
from torch import distributed


def rank() -> int:
    """Return which of the processes this is; 0 where there is one."""
    return distributed.get_rank() if several_processes() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return distributed.get_world_size() if several_processes() else 1


def join_processes() -> torch.device:
    """Under `torchrun`, meet the other processes; return the device that this one is to use.

    That is a GPU of its own where torch sees one, and the CPU otherwise.
    """
    gpu = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if "RANK" in os.environ and not several_processes():
        distributed.init_process_group("nccl" if gpu else "gloo")
    return torch.device("cuda", local) if gpu else torch.device("cpu")


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


def text_of_the_first(text: str, device: torch.device) -> str:
    """Return the text that the first process gave; what the others gave does not matter."""
    if not several_processes():
        return text
    # As bytes in a tensor: torch would pickle an object.
    length = torch.tensor(len(text.encode()), device=device)
    distributed.broadcast(length, 0)
    content = torch.zeros(int(length), dtype=torch.uint8, device=device)
    if rank() == 0:
        content.copy_(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8))
    distributed.broadcast(content, 0)
    return bytes(content.tolist()).decode()


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes; each of them gets it."""
    if not several_processes():
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


def gathered_from_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the lists of numbers `(N,)` of all processes, one behind the other, in their order.

    They may be of different lengths; each process gets all of them.
    """
    if not several_processes():
        return tensor
    lengths = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(world_size())]
    distributed.all_gather(lengths, torch.tensor([len(tensor)], device=tensor.device))
    # As one type of one length, which is what every backend gathers.
    padded = tensor.new_zeros(int(max(lengths)), dtype=torch.int64)
    padded[: len(tensor)] = tensor.to(torch.int64)
    parts = [torch.zeros_like(padded) for _ in lengths]
    distributed.all_gather(parts, padded)
    kept = [part[: int(length)] for part, length in zip(parts, lengths, strict=True)]
    return torch.cat(kept).to(tensor.dtype)
