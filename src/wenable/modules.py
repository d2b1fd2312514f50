"""Small helpers for any torch module."""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from wenable.measure.device import describe_device

Module = TypeVar("Module", bound=nn.Module)


def copy_network(model: Module, without: object = None) -> Module:
    """Return a deep copy of a network.

    Results of an earlier pass that it keeps (features, losses) are copied as plain values: torch copies
    no tensor that belongs to a backward pass.

    - `without`: an object that the copy has None in the place of.

    Raises `ValueError` when some module refuses to be copied.
    """
    memo: dict[int, Any] = {} if without is None else {id(without): None}
    memo.update(copies_of_results(model))
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a custom module raises
        raise ValueError(
            f"`model` (={type(model).__name__}) cannot be copied with copy.deepcopy: {error}"
        ) from error


def copies_of_results(model: nn.Module) -> dict[int, torch.Tensor]:
    """Return copies of the results that modules keep, by the identity of what they are copies of."""
    kept = (
        leaf
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules")
        for leaf in tree_leaves(value)
    )
    return {
        id(each): each.detach().clone()
        for each in kept
        if isinstance(each, torch.Tensor) and not each.is_leaf
    }


@contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """Give a block the same random numbers each time, and its surroundings those they would have had.

    For torch, on the CPU and where the network is, Python and numpy.
    """
    device = device_of(model)
    devices = [device] if device.type == "cuda" else []  # asking for others would start CUDA
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a network in eval mode inside a `with` block; each module is put back as it was."""
    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = training.get(name, module.training)


def device_of(model: nn.Module) -> torch.device:
    """Return where the parameters of a network are; the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def device_name(model: nn.Module) -> str:
    """Return the machine that runs a network: the GPU it lies on, or the processor."""
    device = device_of(model)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else describe_device()


def call_network(model: nn.Module, x: Any, device: torch.device) -> tuple[Any, int]:
    """Return the outputs for a batch, one tensor or several inputs as a tuple or list, and its length.

    What is no tensor is passed as it is.
    """
    inputs = x if isinstance(x, tuple | list) else (x,)
    tensors = [each for each in inputs if isinstance(each, torch.Tensor)]
    moved = [each.to(device) if isinstance(each, torch.Tensor) else each for each in inputs]
    return model(*moved), len(tensors[0])


def weights_fingerprint(net: nn.Module, *, with_norms: bool = False) -> int:
    """Return a checksum of the weights, and of the norms' running statistics where asked for."""
    tensors = list(net.parameters())
    if with_norms:
        tensors += [b for name, b in net.named_buffers() if name.endswith(("_mean", "_var"))]
    checksum = 0
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous().flatten()
        checksum = zlib.crc32(values.view(torch.uint8).numpy().data, checksum)
    return checksum


def put_in_place(net: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put each replacement wherever the module it replaces is registered."""
    places: dict[int, list[str]] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    for name, replacement in replacements.items():
        for place in places[id(net.get_submodule(name))]:
            parent, _, leaf = place.rpartition(".")
            setattr(net.get_submodule(parent), leaf, replacement)
