"""A pass of any torch network: where it runs, in which state, with which random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from wenable.measure.device import describe_device


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
