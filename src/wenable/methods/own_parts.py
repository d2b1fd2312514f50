"""What an instance of a layer has beside what its class gives it, and a replacement would lose."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn


def own_parts(layer: nn.Module) -> str:
    """Return why a plain layer of torch cannot be replaced, or an empty text.

    Attributes whose names begin with `_` are the business of libraries, and are not looked at.

    >>> layer = nn.Linear(4, 2)
    >>> layer.gain = 2.0
    >>> own_parts(layer)
    "has an attribute 'gain' of its own, which would be lost"
    """
    if has_hooks(layer):
        return "has hooks, which would be lost"
    if has_own_forward(layer):
        return "has a `forward` of its own, which would be lost"
    held = [*layer._parameters, *layer._buffers, *layer._modules]
    known = _names_of_class(type(layer))
    own = [name for name in vars(layer) if not name.startswith("_")] + held
    extra = [name for name in own if name not in known]
    return f"has an attribute {extra[0]!r} of its own, which would be lost" if extra else ""


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, which a replacement would lose."""
    return any(value for name, value in vars(module).items() if name.endswith("_hooks"))


def has_own_forward(module: nn.Module) -> bool:
    """Whether a forward was set on a module itself, which runs in the place of its class's."""
    return "forward" in vars(module)


def _names(layer: nn.Module) -> list[str]:
    """Return the names of a layer's attributes, tensors and children."""
    return [*vars(layer), *layer._parameters, *layer._buffers, *layer._modules]


@functools.cache
def _names_of_class(kind: type[nn.Module]) -> frozenset[str]:
    sizes = (1, 1) if kind is nn.Linear else (1, 1, 1)  # a convolution has a kernel besides
    plain: Any = kind
    return frozenset(_names(plain(*sizes, device="meta")))
