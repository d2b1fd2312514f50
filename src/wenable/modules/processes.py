"""What the processes of one run tell each other; all of it holds for a single process too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


def rank() -> int:
    """Return which of the processes this is; 0 where there is one."""
    return distributed.get_rank() if several_processes() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return distributed.get_world_size() if several_processes() else 1


def join_processes(wanted: str = "auto") -> torch.device:
    """Under `torchrun`, meet the other processes; return the device that this one is to use.

    - `wanted`: a device of torch's, as `"cpu"` or `"cuda:1"`; `"auto"` is a GPU of its own for each
      process where torch sees one, and the CPU otherwise.

    Raises `ValueError` for a device that is not there.
    """
    device = _device(wanted)
    if "RANK" in os.environ and not several_processes():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def _device(wanted: str) -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if wanted == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(wanted)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"`--device` (={wanted!r}) cannot be used: {reason}") from error
    return device


def several_processes() -> bool:
    """Say whether `torch.distributed` was initialised, as under `torchrun`."""
    return distributed.is_available() and distributed.is_initialized()


def true_in_any_process(value: bool, device: torch.device) -> bool:
    """Say whether something is true in any of the processes."""
    if not several_processes():
        return value
    flag = torch.tensor(float(value), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


@contextmanager
def failing_together(device: torch.device, kind: type[Exception] = RuntimeError) -> Iterator[None]:
    """Where the block raises in one process, raise in all, for its reason: none is left waiting.

    - `kind`: what the others raise.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    if not true_in_any_process(own is not None, device):
        return
    reasons = texts_of_all_processes("" if own is None else str(own) or type(own).__name__, device)
    if own is not None:
        raise own
    process, reason = next((i, each) for i, each in enumerate(reasons) if each)
    raise kind(f"process {process} of this run stopped: {reason}")


def texts_of_all_processes(text: str, device: torch.device) -> list[str]:
    """Return what each process gave, in their order."""
    if not several_processes():
        return [text]
    # As bytes in a tensor: torch would pickle an object.
    own = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
    lengths = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world_size())]
    distributed.all_gather(lengths, torch.tensor([len(own)], device=device))
    longest = max(int(each) for each in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(own)] = own
    found = [torch.zeros_like(padded) for _ in lengths]
    distributed.all_gather(found, padded)
    return [bytes(each[: int(n)].tolist()).decode() for each, n in zip(found, lengths, strict=True)]


def text_of_first_process(text: str, device: torch.device) -> str:
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
