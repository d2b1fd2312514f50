"""What a batch holds: the inputs of a network, and the targets that it is trained or judged on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wenable.modules.example_inputs import PLAIN, ExampleInput

Inputs = tuple[Any, ...]
"""Tensors whose first dimension is the batch, and plain values, the same for all examples."""


def inputs_and_targets(batch: Any, model: nn.Module) -> tuple[Inputs, Any]:
    """Return the inputs of a batch as a tuple in the order of the network's forward, and its targets.

    - `batch`: `(inputs, targets)` with one tensor of inputs, a tuple or list of several, or a dict of
      them by the names that the forward has; or `(a, b, targets)`, as a `DataLoader` makes them of a
      `TensorDataset` of three; or one dict, as Hugging Face's data sets give: what is named like an
      input is one, and the rest are the targets, the value itself if there is one. The first dimension
      of every tensor of inputs is the batch. Beside a tensor an input may be a plain value, as the
      None of an optional mask.
    - `model`: the network that will get the inputs; its `forward` says how many it takes, or for a dynamic
      network the example that it was converted with. Dicts need a dynamic one, which knows their names.

    What the targets are is for the loss or the metric to say: anything.

    Raises `ValueError` for anything else.

    >>> class Sum(nn.Module):
    ...     def forward(self, a, b):
    ...         return a + b
    >>> x, y = torch.ones(2, 3), torch.zeros(2, dtype=torch.long)
    >>> [len(inputs_and_targets(batch, Sum())[0]) for batch in ([[x, x], y], (x, x, y))]
    [2, 2]
    """
    if isinstance(batch, Mapping):
        inputs, targets = by_name(batch, model)
        if not targets:
            raise ValueError(
                f"a batch of `loader` is {described(batch)}, all of them inputs of the network; it must"
                " hold targets besides"
            )
        given = _tensors(inputs)
        _check_batch(given)
        return given, next(iter(targets.values())) if len(targets) == 1 else targets
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
    inputs = _positional(first[0] if len(first) == 1 else first, model)
    _check_count(inputs, model)
    _check_batch(inputs)
    return inputs, targets


def labelled(batch: Any, model: nn.Module) -> tuple[Inputs, torch.Tensor]:
    """Return what `inputs_and_targets` does if the targets are one tensor, one label for each example.

    Raises `ValueError` for other targets.
    """
    inputs, targets = inputs_and_targets(batch, model)
    check_labels(inputs, targets)
    return inputs, targets


def check_labels(inputs: Inputs, targets: Any) -> None:
    """Raise `ValueError` unless targets are one tensor with as many examples as the inputs."""
    if not isinstance(targets, torch.Tensor):
        raise ValueError(
            f"the targets of a batch are {described(targets)}; for classes they must be one tensor, and"
            " for others give a `loss` (or a `metric`) that takes them"
        )
    shapes = [tuple(each.shape) for each in inputs if isinstance(each, torch.Tensor)]
    if targets.ndim == 0:
        raise ValueError(
            f"a batch has inputs of shape {shapes[0]} and targets of shape ();"
            " the first dimension of both must be the batch: pass a DataLoader, not a data set"
        )
    if any(shape[0] != len(targets) for shape in shapes):
        raise ValueError(
            f"`labels` (of shape {tuple(targets.shape)}) must be as many as the inputs"
            f" (of shape {', '.join(map(str, shapes))})"
        )


def examples_of(inputs: Inputs) -> int:
    """Return how many examples a batch holds."""
    return len(next(each for each in inputs if isinstance(each, torch.Tensor)))


def inputs_alone(batch: Any, model: nn.Module) -> Inputs:
    """Return the inputs of a batch that may come with targets or without.

    - `batch`: one tensor, or what `inputs_and_targets` takes, or the inputs of a network of several.

    Raises `ValueError` where they are no tensors, or not as many as the network takes.
    """
    if isinstance(batch, torch.Tensor):
        inputs: Inputs = (batch,)
    elif isinstance(batch, Mapping):
        inputs = _tensors(by_name(batch, model)[0])
    elif not isinstance(batch, list | tuple) or not batch:
        raise ValueError(
            f"a batch is {described(batch)}; it must be a tensor of inputs, or a pair (inputs, targets)"
        )
    else:
        parts: list[Any] = list(batch)
        inputs = _positional(parts[0] if len(parts) <= 2 else parts[:-1], model)
        if not takes(model, len(inputs)) and takes(model, len(parts)):
            inputs = _tensors(parts)  # without targets
    _check_count(inputs, model)
    return inputs


def by_name(given: Mapping[str, Any], model: nn.Module) -> tuple[Inputs, dict[str, Any]]:
    """Return the inputs among what is given by name, in the order of the forward, and the rest.

    What the network was converted with as a plain value may be left out, and is that value.

    Raises `ValueError` when an input is missing, and for a network that was not converted.
    """
    names: Mapping[str, ExampleInput] | None = getattr(model, "named_inputs", None)
    if names is None:
        raise ValueError(
            f"a batch of `loader` is {described(given)}; which of them the network takes is known only of"
            " one that was converted: give a pair (inputs, targets)"
        )
    inputs: list[Any] = []
    for name, example in names.items():
        if name not in given and example.is_tensor:
            raise ValueError(
                f"a batch is {described(given)}, and lacks {name!r}: the network was converted with the"
                f" inputs {', '.join(map(repr, names))}; name them so, or set `collate_fn` of the loader"
            )
        inputs.append(given.get(name, example.value))
    return tuple(inputs), {name: each for name, each in given.items() if name not in names}


def takes(model: nn.Module, count: int) -> bool:
    """Say whether a network takes so many inputs.

    A dynamic one takes as many as it was converted with, even if its `forward` has further ones to be
    left out: what follows the inputs in a batch is more likely an index, or the targets. Plain values
    behind the last tensor may be left out.
    """
    tensors: tuple[bool, ...] | None = getattr(model, "inputs_are_tensors", None)
    if tensors is not None:
        return len(tensors) - tensors[::-1].index(True) <= count <= len(tensors)
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


def _positional(given: Any, model: nn.Module) -> Inputs:
    """Return inputs that are given in their order or by name."""
    if not isinstance(given, Mapping):
        return _tensors(given)
    inputs, rest = by_name(given, model)
    if rest:
        known = ", ".join(map(repr, getattr(model, "named_inputs", ())))
        raise ValueError(
            f"the inputs of a batch are {described(given)}; the network was converted with the inputs"
            f" {known}, and {next(iter(rest))!r} is none of them"
        )
    return _tensors(inputs)


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
        tensors: tuple[bool, ...] | None = getattr(model, "inputs_are_tensors", None)
        converted = "" if tensors is None else f", and it was converted with {len(tensors)}"
        raise ValueError(
            f"a batch gives the network {len(inputs)} input(s); its forward takes ({names}){converted}"
        )
    known: tuple[bool, ...] = getattr(model, "inputs_are_tensors", ())
    for place, (given, is_tensor) in enumerate(zip(inputs, known, strict=False), 1):
        if isinstance(given, torch.Tensor) and not is_tensor:
            raise ValueError(
                f"input {place} of a batch is {described(given)}; the network was converted with a plain"
                " value there, and in the place of several inputs a batch has a tuple or list of them"
            )


def _check_batch(inputs: Inputs) -> None:
    """Raise `ValueError` unless all inputs that are tensors hold as many examples."""
    shapes = [tuple(each.shape) for each in inputs if isinstance(each, torch.Tensor)]
    if not all(shapes):
        raise ValueError(
            "a batch has inputs of shape (); the first dimension must be the batch: pass a DataLoader,"
            " not a data set"
        )
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"the inputs of a batch (of shape {', '.join(map(str, shapes))}) must hold as many examples"
            " each, in their first dimension"
        )
