"""What a network gives back: its tensors, each with a name.

Networks return a tensor, a tuple, a dict, a named tuple, a dataclass (Hugging Face's `ModelOutput`
is one), or one of these inside another. torch's own flattening takes a dataclass for one leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import SUPPORTED_NODES


def named_leaves(outputs: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything that outputs hold, in order, with the path to it; None is left out.

    >>> one, two = torch.ones(1), torch.ones(2)
    >>> [name for name, _ in named_leaves({"boxes": [one, two], "scores": one, "loss": None})]
    ['boxes.0', 'boxes.1', 'scores']
    """
    parts = _parts(outputs)
    if parts is not None:
        for key, part in parts:
            yield from named_leaves(part, f"{path}.{key}" if path else str(key))
    elif outputs is not None:
        yield path, outputs


def _parts(outputs: Any) -> list[tuple[Any, Any]] | None:
    """Return the parts of a container with their names, or None for anything else."""
    if isinstance(outputs, Mapping):
        return list(outputs.items())
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        fields = dataclasses.fields(outputs)
        return [(field.name, getattr(outputs, field.name)) for field in fields]
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return list(zip(outputs._fields, outputs, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(outputs, list | tuple):
        return list(enumerate(outputs))
    if type(outputs) in SUPPORTED_NODES:  # a class that says itself how it is flattened
        return list(enumerate(SUPPORTED_NODES[type(outputs)].flatten_fn(outputs)[0]))
    return None


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    """Return the tensors that outputs hold, in order."""
    return [each for _, each in named_leaves(outputs) if isinstance(each, torch.Tensor)]


@dataclasses.dataclass(frozen=True, slots=True)
class OutputNames:
    """The names of the tensors that a network gives back, in order.

    - `names`: `"logits"`, `"boxes.0"`; the only one of a network that returns one tensor is `""`.
    - `are_positions`: they are nothing but places in a tuple or a list.
    """

    names: tuple[str, ...]
    are_positions: bool


def output_names(outputs: Any, what: str) -> OutputNames:
    """Return the names of outputs that are tensors, all of them.

    - `what`: what is to hold them, for the refusal.

    Raises `ValueError` when there is none, or one that is no tensor.
    """
    leaves = list(named_leaves(outputs))
    for name, each in leaves:
        if not isinstance(each, torch.Tensor):
            where = f" at {name!r}" if name else ""
            raise ValueError(
                f"the network gives back a {type(each).__name__}{where}; {what} holds tensors only: let"
                " its forward return tensors, in tuples, lists, dicts, named tuples or dataclasses"
            )
    if not leaves:
        raise ValueError(f"the network gives back no tensor; {what} holds at least one")
    names = tuple(name for name, _ in leaves)
    return OutputNames(
        names, all(part.isdecimal() for name in names for part in name.split(".") if part)
    )
