"""Counts the multiply-accumulates of whatever runs, by its operations and not by their kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch._ops import HigherOrderOperator
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import TorchDispatchMode

from wenable.graph.macs import RULES, macs_of, operation_name


def run_counted(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, int]:
    """Return what a network gives for `inputs`, and the multiply-accumulates that it took for all of it.

    What a parametrization computes of a weight (spectral norm, say) is not counted: it is done once
    in a pass, whatever the input holds, and not at all in a network that runs on a device.

    >>> layer = nn.LSTM(64, 128, batch_first=True)
    >>> run_counted(layer, (torch.ones(1, 20, 64),))[1] == 20 * 4 * 128 * (64 + 128)
    True
    """
    counter = _Counter()
    with (
        torch.no_grad(),
        _attention_in_parts(),
        _weights_uncounted(model, counter),
        counter,
        _whole(),
    ):
        outputs = model(*inputs)
    return outputs, counter.macs


def _whole() -> AbstractContextManager[Any]:
    """Let operations come to the counter as the network wrote them.

    Otherwise those that are made of others come as their parts, or as the one kernel that computes
    them, fused; which of the two depends on the machine and on what gradients are asked for.
    """
    guard: AbstractContextManager[Any] = torch._C._AutoDispatchBelowAutograd()
    return guard


class _Counter(TorchDispatchMode):
    """Adds up the multiply-accumulates of every operation that is called while it is active."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.paused = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, operation_name(func)
        if isinstance(func, HigherOrderOperator):
            return self._of_functions(func, name, args, kwargs)
        if name not in RULES and name != "prim::device":
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if not self.paused:
            self.macs += macs_of(name, args, output)
        return output

    def _of_functions(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Count an operation that takes functions: a condition by the branch that runs."""
        if name == "cond":
            chosen, branches, operands = args[0], args[1:3], args[3]
            with self:
                return branches[0 if chosen else 1](*operands)
        if name not in RULES:
            raise NotImplementedError(f"multiply-accumulates of {name!r} cannot be counted")
        output = func(*args, **kwargs)
        self.macs += macs_of(name, args, output)
        return output


def macs_in_parts(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the multiply-accumulates of one operation, counted over what it is made of.

    It is run: give it tensors without data.
    """
    with _Counter() as counter, torch.no_grad(), _whole():
        target(*args, **kwargs)
    return counter.macs


@contextlib.contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Keep torch's modules for attention from their fused path, which hides all that is in it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _weights_uncounted(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Stop counting while a parametrization computes its weight, of the newer and the older kind."""

    def pause(*_: Any) -> None:
        counter.paused += 1

    def go_on(*_: Any) -> None:
        counter.paused -= 1

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, ParametrizationList):
                for handle in (
                    module.register_forward_pre_hook(pause),
                    module.register_forward_hook(go_on, always_call=True),
                ):
                    stack.callback(handle.remove)
            for key, hook in weight_hooks(module).items():
                module._forward_pre_hooks[key] = _uncounted(hook, counter)
                stack.callback(module._forward_pre_hooks.__setitem__, key, hook)
        yield


def _uncounted(hook: Callable[..., Any], counter: _Counter) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        counter.paused += 1
        try:
            return hook(*args)
        finally:
            counter.paused -= 1

    return call


def weight_hooks(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """Return the hooks with which `torch.nn.utils` computes a weight before each call of a module.

    Those are of `weight_norm`, `spectral_norm` and `prune`, which came before parametrizations.
    """
    return {
        key: hook
        for key, hook in module._forward_pre_hooks.items()
        if type(hook).__module__.startswith("torch.nn.utils.")
    }
