"""Batches and outputs of any structure: what is done to each tensor of them, and some of their examples.

What is gone into: lists, tuples, named tuples, dicts and dataclasses, one inside another. Everything
else that is no tensor stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from wenable.modules.example_inputs import PLAIN
from wenable.modules.outputs import named_leaves


def mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Return the same structure with what a function makes of each tensor; dicts become plain ones.

    >>> mapped(torch.negative, {"a": [torch.ones(1), None], "b": "text"})
    {'a': [tensor([-1.]), None], 'b': 'text'}
    """
    return _rebuilt(value, lambda part: mapped(function, part), function)


def moved(value: Any, device: torch.device) -> Any:
    """Return the same structure with its tensors on a device."""
    return mapped(lambda tensor: tensor.to(device), value)


def without_gradient(value: Any) -> Any:
    """Return the same structure with its tensors detached."""
    return mapped(torch.Tensor.detach, value)


def some_examples(value: Any, count: int, start: int, stop: int, what: str) -> Any:
    """Return the examples from `start` to before `stop` of something that holds `count`.

    The first dimension of a tensor is the batch. A list or tuple of as many dicts or dataclasses as
    there are examples holds one for each, as detectors take their targets; so does one of as many
    tensors of other lengths. None, numbers and texts are the same for all examples.

    - `what`: what it is, for the refusal.

    Raises `ValueError` when the examples cannot be told apart.

    >>> some_examples({"a": torch.arange(4), "b": [{"c": 1}, {}, {}, {"c": 2}]}, 4, 2, 4, "`x`")
    {'a': tensor([2, 3]), 'b': [{}, {'c': 2}]}
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, torch.Tensor):
        if not value.ndim or len(value) != count:
            raise ValueError(
                f"{what} cannot be split into examples: a tensor of shape {tuple(value.shape)} has not"
                f" the {count} examples of the batch in its first dimension"
            )
        return value[start:stop]
    if _has_one_for_each(value, count, what):
        return value[start:stop]
    parts = _rebuilt(value, lambda part: some_examples(part, count, start, stop, what), None)
    if parts is value:
        raise ValueError(
            f"{what} cannot be split into examples: it holds a {type(value).__name__}; allowed: tensors"
            " and plain values, in lists, tuples, dicts or dataclasses"
        )
    return parts


def names_in(outputs: Any) -> tuple[str, ...]:
    """Return what outputs hold, as text to compare and to show: paths, and kinds of what is no tensor.

    >>> names_in({"logits": torch.ones(1), "loss": None}), names_in(torch.ones(1))
    (('logits',), ('',))
    """
    return tuple(
        name if isinstance(each, torch.Tensor) else f"{name} ({type(each).__name__})"
        for name, each in named_leaves(outputs)
    )


def same_names(
    names: tuple[str, ...] | None, outputs: Any, first: object, mode: object
) -> tuple[str, ...]:
    """Return what outputs hold; raise `ValueError` if the outputs of the first mode held anything else."""
    found = names_in(outputs)
    if names not in (None, found):
        raise ValueError(
            f"the network gives back {_shown(names or ())} in mode {first}, and"
            f" {_shown(found)} in mode {mode}; one loss is of outputs of one structure in all modes"
        )
    return found


def _shown(names: tuple[str, ...]) -> str:
    """Return what `names_in` found in a few words."""
    if names == ("",):
        return "one tensor"
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") or "nothing"


def _rebuilt(
    value: Any,
    part: Callable[[Any], Any],
    tensor: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Any:
    """Return a container with something made of each of its parts; what is no container as it is."""
    if isinstance(value, torch.Tensor):
        return value if tensor is None else tensor(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Hugging Face's `ModelOutput` is a dataclass and a dict: its fields are all there is.
        named = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: part(getattr(value, name)) for name in named})
    if isinstance(value, Mapping):
        return {key: part(each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(part, value))
    if isinstance(value, list | tuple):
        return type(value)(map(part, value))
    return value


def _has_one_for_each(value: Any, count: int, what: str) -> bool:
    """Say whether a list has an entry for each example, and is no list of columns."""
    if not isinstance(value, list | tuple) or hasattr(value, "_fields") or len(value) != count:
        return False
    if all(isinstance(each, Mapping) or dataclasses.is_dataclass(each) for each in value):
        return True
    lengths = {each.shape[0] if each.ndim else None for each in _tensors_of(value)}
    if lengths == {count} and count > 1:
        raise ValueError(
            f"{what} cannot be split into examples: a {type(value).__name__} of {count} tensors of length"
            f" {count} may hold one for each example or {count} for all; give a dict instead"
        )
    return lengths != {count}


def _tensors_of(value: Any) -> Iterator[torch.Tensor]:
    return (each for _, each in named_leaves(value) if isinstance(each, torch.Tensor))
