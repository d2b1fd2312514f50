"""What a network was converted with: of every input its shape and type, or the plain value it is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

PLAIN = (type(None), bool, int, float, str)
"""What an input may be besides a tensor: settings of the forward pass, the same in every call."""

_MOST_VALUES = 10**8  # of an input that a file can make `load` allocate


@dataclass(frozen=True, slots=True)
class ExampleInput:
    """One input of a network.

    - `shape`, `dtype`: of a tensor, with the example's batch; empty and None for what is none.
    - `value`: what is no tensor.
    """

    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    value: bool | float | str | None = None

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor with a batch dimension."""
        return self.dtype is not None

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `examples_from_json` reads back."""
        if self.dtype is None:
            return {"value": self.value}
        return {"shape": list(self.shape), "dtype": str(self.dtype).removeprefix("torch.")}


def checked_inputs(
    example_input: Any, forward: Callable[..., Any] | None = None
) -> tuple[Any, ...]:
    """Return the positional inputs that an example stands for; refuses what cannot be one.

    - `forward`: of the network, which says the places of inputs that are given by name.

    >>> len(checked_inputs((torch.ones(2, 3), None)))
    2
    """
    if isinstance(example_input, Mapping) and forward is not None:
        example_input = in_their_places(example_input, forward)
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    for place, each in enumerate(inputs):
        if not isinstance(each, torch.Tensor) and type(each) not in PLAIN:
            what = "`example_input`" if inputs[0] is example_input else f"`example_input[{place}]`"
            raise ValueError(
                f"{what} is a {type(each).__name__}; allowed: a tensor (N, ...), or a tuple of positional"
                " inputs or a dict of them by name, each a tensor, None, a number or a text. Give a"
                " network that takes lists or dicts a torch.nn.Module around it whose forward takes"
                " tensors one by one"
            )
        if isinstance(each, torch.Tensor) and (not each.ndim or not len(each)):
            raise ValueError(
                f"`example_input` (an input of shape {tuple(each.shape)}) must hold at least one"
                " example, in its first dimension"
            )
    if not any(isinstance(each, torch.Tensor) for each in inputs):
        raise ValueError(
            f"`example_input` (={example_input!r:.100}) must hold a tensor with a batch dimension"
        )
    return inputs


def in_their_places(named: Mapping[str, Any], forward: Callable[..., Any]) -> tuple[Any, ...]:
    """Return inputs given by name as positional ones; what is left out in between is its default.

    Raises `ValueError` for a name that is no place of the forward, and a place that must be filled.

    >>> in_their_places({"x": 1, "y": 2}, lambda x, mask=None, y=0, z=3: None)
    (1, None, 2)
    """
    places = [
        each
        for each in inspect.signature(forward).parameters.values()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.POSITIONAL_ONLY)
    ]
    names = [each.name for each in places]
    unknown = [name for name in named if name not in names]
    if unknown:
        raise ValueError(
            f"`example_input` names {unknown[0]!r}; the network's forward has places for"
            f" {', '.join(names) or 'nothing'}. Give one that takes keywords alone a torch.nn.Module"
            " around it whose forward takes tensors one by one"
        )
    last = max((names.index(name) for name in named), default=-1)
    for each in places[: last + 1]:
        if each.name not in named and each.default is each.empty:
            raise ValueError(
                f"`example_input` lacks {each.name!r}, which the network's forward needs"
            )
    return tuple(named.get(each.name, each.default) for each in places[: last + 1])


def names_of_places(forward: Callable[..., Any], count: int) -> dict[str, Any]:
    """Return the names of the first `count` places of a forward, self left out, with their defaults."""
    places = list(inspect.signature(forward).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return {each.name: each.default for each in places[:count] if each.kind in kinds}


def describe(inputs: Iterable[Any]) -> tuple[ExampleInput, ...]:
    """Return what is kept of the inputs that a network is converted with."""
    return tuple(
        ExampleInput(tuple(each.shape), each.dtype)
        if isinstance(each, torch.Tensor)
        else ExampleInput(value=each)
        for each in inputs
    )


def one_example(
    inputs: Sequence[ExampleInput],
    device: torch.device,
    floating: torch.dtype | None,
    *,
    whole: bool = False,
) -> tuple[Any, ...]:
    """Return inputs of a batch of one, always the same: random numbers, zeros for whole ones.

    - `floating`: the type of the network's weights, which may have changed since.
    - `whole`: a batch as large as the example's.
    """
    generator = torch.Generator().manual_seed(0)
    made: list[Any] = []
    for each in inputs:
        shape = each.shape if whole else (1, *each.shape[1:])
        if each.dtype is None:
            made.append(each.value)
        elif each.dtype.is_floating_point:
            drawn = torch.randn(shape, generator=generator)
            made.append(drawn.to(device, floating or each.dtype))
        else:
            made.append(torch.zeros(shape, dtype=each.dtype, device=device))
    return tuple(made)


def zeros_from_json(values: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Return inputs as `ExampleInput.to_json` describes them, zeros where they are tensors.

    Raises `ValueError` for what is no input, or would take too much memory.
    """
    inputs: list[Any] = []
    for each in values:
        if "value" in each:
            if type(each["value"]) not in PLAIN:
                raise ValueError(f"the file's example input (={dict(each)!r:.100}) is no input")
            inputs.append(each["value"])
            continue
        shape = tuple(int(size) for size in each["shape"])
        dtype = getattr(torch, str(each["dtype"]), None)
        if not isinstance(dtype, torch.dtype) or not shape or min(shape) < 1:
            raise ValueError(f"the file's example input (={dict(each)}) is no tensor")
        if math.prod(shape) > _MOST_VALUES:
            raise ValueError(f"the file's example input (of shape {shape}) is too large to trace")
        inputs.append(torch.zeros(shape, dtype=dtype))
    return tuple(inputs)
