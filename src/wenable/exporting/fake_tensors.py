"""Clears away what an exporter's trace leaves in caches outside of the network that it traced.

Exporters run a network on fake tensors, which have sizes and no values. What the network keeps in
itself goes with the copy that was traced; what it keeps behind `lru_cache`, in its class or in a
global would be fake for every network that shares it.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from torch import nn
from torch._subclasses import FakeTensor

_DEEPEST = 4
"""How many containers inside one another are looked into."""
_OTHERS = {"torch", "torchvision", "numpy", "wenable", *sys.stdlib_module_names} - {"__main__"}
"""Packages that keep no tensor of a network."""
_LRU_CACHE = type(functools.lru_cache(len))


@contextmanager
def without_fakes_left(network: nn.Module) -> Iterator[None]:
    """Leave no fake tensor behind that the code of a network keeps when it is traced in the block.

    Functions behind `lru_cache` forget what they hold when any of it is fake. The classes of the
    network, the globals of their code and of the functions that they call, and the dicts, lists and
    objects in them hold again what they held before.
    """
    before = {id(each): (each, _copy(each)) for each in _containers(network)}
    try:
        yield
    finally:
        for each in _containers(network):
            _restore(each, before.get(id(each), (each, {}))[1])
        for each in gc.get_objects():
            if type(each) is _LRU_CACHE and any(map(_holds_a_fake, gc.get_referents(each))):
                each.cache_clear()


def _copy(container: Any) -> dict[Any, Any]:
    """Return what a container holds, by key or by place."""
    if isinstance(container, list):
        return dict(enumerate(list.__iter__(container)))
    if isinstance(container, type):
        return dict(vars(container))
    # What it really holds: one of a class of its own may load half a library when it is asked.
    return dict(dict.items(container))


def _restore(container: Any, before: dict[Any, Any]) -> None:
    """Put what was there before in the place of a fake tensor; what is new goes."""
    now = _copy(container)
    for key in reversed([key for key, value in now.items() if _is_fake(value)]):
        old = before.get(key)
        keeps = key in before and not _is_fake(old)
        if isinstance(container, type):
            setattr(container, key, old) if keeps else delattr(container, key)
        elif keeps:
            container[key] = old
        else:
            del container[key]


def _is_fake(value: Any) -> bool:
    """Say whether a value is a fake tensor, or cannot be changed and holds one."""
    if isinstance(value, tuple | frozenset | set):
        return any(map(_is_fake, value))
    return isinstance(value, FakeTensor)


def _holds_a_fake(value: Any, depth: int = 0) -> bool:
    if isinstance(value, FakeTensor):
        return True
    return depth < _DEEPEST and any(_holds_a_fake(each, depth + 1) for each in _inside(value))


def _inside(value: Any) -> Iterable[Any]:
    """Return what a plain container holds, or the attributes of an object of the network's code."""
    if isinstance(value, dict):
        return list(dict.values(value))
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return list(vars(value).values()) if _is_an_object(value) else ()


def _is_an_object(value: Any) -> bool:
    plain = isinstance(value, type | ModuleType | FunctionType | nn.Module)
    return not plain and hasattr(value, "__dict__") and _is_of_network(type(value).__module__)


def _is_of_network(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] not in _OTHERS


# --- where a network's code can keep something ----------------------------------------------------


def _containers(network: nn.Module) -> list[Any]:
    """Return the classes, namespaces, dicts and lists that the code of a network reaches.

    All of the packages that its classes are from is looked through, and of other packages what that
    code names itself: what they import in turn would be half of what is installed.
    """
    found: dict[int, Any] = {}
    classes = {cls for module in network.modules() for cls in type(module).__mro__}
    own = {cls.__module__.partition(".")[0] for cls in classes} - _OTHERS
    todo: list[tuple[Any, int, bool]] = [(cls, 0, True) for cls in classes]
    while todo:
        value, depth, is_named_by_own = todo.pop()
        if isinstance(value, tuple) and depth < _DEEPEST:
            todo += [(each, depth + 1, is_named_by_own) for each in value]
        value = _unwrapped(value)
        package = _package_of(value)
        if package is not None and package not in own and not is_named_by_own:
            continue
        container = _container(value)
        if container is None or id(container) in found or depth > _DEEPEST:
            continue
        found[id(container)] = container
        is_own = package in own if package is not None else is_named_by_own
        inner = depth + 1 if package is None else 0
        todo += [(each, inner, is_own) for each in _copy(container).values()]
        if isinstance(value, type):
            todo.append((sys.modules.get(value.__module__), 0, is_own))
        if isinstance(value, FunctionType):
            todo += [(cell, 0, is_own) for cell in _closed_over(value)]
    return list(found.values())


def _unwrapped(value: Any) -> Any:
    """Return the function behind decorators.

    What an object answers to `__wrapped__` by code of its own does not count: mocks always answer.
    """
    seen: set[int] = set()
    while not isinstance(value, type | ModuleType) and id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        else:
            attributes = getattr(value, "__dict__", None)
            inner = attributes.get("__wrapped__") if isinstance(attributes, dict) else None
            value = value if inner is None else inner
    return value


def _package_of(value: Any) -> str | None:
    """Return the package that a class, function or module is from; None for any other value."""
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0]
    if isinstance(value, type | FunctionType):
        return str(value.__module__).partition(".")[0]
    return None


def _container(value: Any) -> Any:
    """Return the container that a value is, or that its code can write to; None when it is neither."""
    if isinstance(value, type):
        return value if _is_of_network(value.__module__) else None
    if isinstance(value, ModuleType):
        return vars(value) if _is_of_network(value.__name__) else None
    if isinstance(value, FunctionType):
        return value.__globals__ if _is_of_network(value.__module__) else None
    if isinstance(value, dict | list):
        return value
    return vars(value) if _is_an_object(value) else None


def _closed_over(function: FunctionType) -> list[Any]:
    cells = function.__closure__ or ()
    return [cell.cell_contents for cell in cells if cell != type(cell)()]
