"""Reading the nodes of a traced graph: the name of an operation, shapes, arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from wenable.graph.macs import operation_name

# Operations whose result shares its memory with their first argument.
VIEWS = tuple(
    """
    select slice narrow view reshape flatten squeeze unsqueeze unflatten permute transpose expand
    split split_with_sizes chunk getitem detach alias unbind movedim t
    """.split()
)


def operation(node: Node) -> str:
    """Return the name of an operation, as `"conv2d"`; empty for a node that calls nothing."""
    return operation_name(node.target) if node.op == "call_function" else ""


def shape_of(argument: Any) -> tuple[int, ...]:
    """Return the shape of a tensor; empty for anything else."""
    value = argument.meta.get("val") if isinstance(argument, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument that may be given by position or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)
