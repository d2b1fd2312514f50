"""Copies any torch network, and puts modules in the place of others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=nn.Module)


def copy_network(model: Module, copied: Mapping[int, Any] | None = None) -> Module:
    """Return a deep copy of a network.

    Results of an earlier pass that it keeps (features, losses) are copied as plain values: torch copies
    no tensor that belongs to a backward pass.

    - `copied`: what the copy has in the place of objects of the network, by their identity.

    Raises `ValueError` when some module refuses to be copied.
    """
    memo: dict[int, Any] = {**copies_of_results(model), **(copied or {})}
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
        if name not in ("_parameters", "_buffers", "_modules") and _may_hold_more(value)
        for leaf in tree_leaves(value)
    )
    return {
        id(each): each.detach().clone()
        for each in kept
        if isinstance(each, torch.Tensor) and not each.is_leaf
    }


def _may_hold_more(value: object) -> bool:
    """Say whether an attribute may hold a tensor: most of a module's are plain values or empty."""
    if isinstance(value, dict | list | tuple):
        return bool(value)
    return not (value is None or isinstance(value, bool | int | float | str))


def put_in_place(net: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put each replacement wherever the module it replaces is registered."""
    places: dict[int, list[str]] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    for name, replacement in replacements.items():
        for place in places[id(net.get_submodule(name))]:
            parent, _, leaf = place.rpartition(".")
            setattr(net.get_submodule(parent), leaf, replacement)
