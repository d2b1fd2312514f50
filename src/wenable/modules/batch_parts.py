"""What a batch holds: the inputs of a network, and the targets that it is trained or judged on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

Inputs = tuple[Any, ...]
"""Tensors whose first dimension is the batch, and plain values, the same for all examples."""

PLAIN = (type(None), bool, int, float, str)


def inputs_and_targets(batch: Any, model: nn.Module) -> tuple[Inputs, torch.Tensor]:
    """Return the inputs of a batch as a tuple, and its targets.

    - `batch`: `(inputs, targets)` with one tensor of inputs or a tuple or list of several, as a
      `DataLoader` makes them of `((a, b), y)`; or `(a, b, targets)`, as it makes them of a
      `TensorDataset` of three. The first dimension of every tensor is the batch. Beside a tensor an
      input may be a plain value, as the None of an optional mask.
    - `model`: the network that will get the inputs; its `forward` says how many it takes.

    Raises `ValueError` for anything else.

    >>> class Sum(nn.Module):
    ...     def forward(self, a, b):
    ...         return a + b
    >>> x, y = torch.ones(2, 3), torch.zeros(2, dtype=torch.long)
    >>> [len(inputs_and_targets(batch, Sum())[0]) for batch in ([[x, x], y], (x, x, y))]
    [2, 2]
    """
    if not isinstance(batch, list | tuple):
        raise ValueError(
            f"a batch of `loader` is {described(batch)}; it must be a pair (inputs, targets), with a"
            " tuple or list in the place of several inputs"
        )
    if len(batch) < 2:
        raise ValueError(
            f"a batch of `loader` holds {len(batch)} part(s); it must be a pair (inputs, targets)"
        )
    *first, targets = batch
    inputs = _tensors(first[0] if len(first) == 1 else first)
    if not isinstance(targets, torch.Tensor):
        raise ValueError(
            f"the targets of a batch (the last of its {len(batch)} parts) are {described(targets)};"
            " they must be one tensor"
        )
    _check_count(inputs, model)
    _check_lengths(inputs, targets)
    return inputs, targets


def inputs_alone(batch: Any, model: nn.Module) -> Inputs:
    """Return the inputs of a batch that may come with targets or without.

    - `batch`: one tensor, or what `inputs_and_targets` takes, or the inputs of a network of several.

    Raises `ValueError` where they are no tensors, or not as many as the network takes.
    """
    if isinstance(batch, torch.Tensor):
        inputs: Inputs = (batch,)
    elif not isinstance(batch, list | tuple) or not batch:
        raise ValueError(
            f"a batch is {described(batch)}; it must be a tensor of inputs, or a pair (inputs, targets)"
        )
    else:
        parts: list[Any] = list(batch)
        inputs = _tensors(parts[0] if len(parts) <= 2 else parts[:-1])
        if not takes(model, len(inputs)) and takes(model, len(parts)):
            inputs = _tensors(parts)  # without targets
    _check_count(inputs, model)
    return inputs


def takes(model: nn.Module, count: int) -> bool:
    """Say whether the `forward` of a network can be called with so many inputs."""
    try:
        _signature(model).bind(*range(count))
    except TypeError:
        return False
    return True


def _signature(model: nn.Module) -> inspect.Signature:
    """Return what a network's own `forward` takes, without what `convert` put around it."""
    own = getattr(model, "original_class", None)
    if own is None:
        return inspect.signature(model.forward)
    signature = inspect.signature(own.forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def described(value: Any) -> str:
    """Return what something is, in a few words for an error.

    >>> described(None), described({"a": 1}), described([1, 2]), described("x")
    ('None', "a dict with the keys 'a'", 'a list of 2', 'a str')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    article = "an" if name[0].lower() in "aeio" else "a"
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in list(value)[:5])
        return f"{article} {name} with the keys {keys}" if keys else f"an empty {name}"
    if isinstance(value, torch.Tensor):
        return f"one tensor of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{article} {name} of {len(value)}"
    return f"{article} {name}"


def _tensors(given: Any) -> Inputs:
    inputs = tuple(given) if isinstance(given, list | tuple) else (given,)
    for each in inputs:
        plain = len(inputs) > 1 and type(each) in PLAIN
        if not isinstance(each, torch.Tensor) and not plain:
            raise ValueError(
                f"an input of a batch is {described(each)}; inputs must be tensors whose first"
                " dimension is the batch"
            )
    if not any(isinstance(each, torch.Tensor) for each in inputs):
        raise ValueError("a batch holds no inputs that are tensors")
    return inputs


def _check_count(inputs: Inputs, model: nn.Module) -> None:
    if not takes(model, len(inputs)):
        names = ", ".join(_signature(model).parameters)
        raise ValueError(
            f"a batch gives the network {len(inputs)} input(s); its forward takes ({names})"
        )


def _check_lengths(inputs: Inputs, targets: torch.Tensor) -> None:
    shapes = [tuple(each.shape) for each in inputs if isinstance(each, torch.Tensor)]
    if targets.ndim == 0 or not all(shapes):
        raise ValueError(
            f"a batch has inputs of shape {shapes[0]} and targets of shape {tuple(targets.shape)};"
            " the first dimension of both must be the batch: pass a DataLoader, not a data set"
        )
    if any(shape[0] != len(targets) for shape in shapes):
        raise ValueError(
            f"`labels` (of shape {tuple(targets.shape)}) must be as many as the inputs"
            f" (of shape {', '.join(map(str, shapes))})"
        )
