"""Chooses, by timing, how each layer is computed in each option while training."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from wenable.layers.convolution import WeightEnabledConv2d
from wenable.layers.weight_enabled import WeightEnabled
from wenable.modules.passes import device_of, in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training.implementation_memory import ImplementationMemory, fastest

Implementations = dict[str, dict[int, str]]
"""For every layer, by its name: how each of its options is computed."""

ROUNDS, ENOUGH_S = 7, 0.4
"""A set of candidates is timed this often, or until this much time was spent, twice at least."""


def choose_implementations(
    net: DynamicNetwork,
    inputs: Sequence[torch.Tensor],
    autocast: Callable[[], Any],
    memory: ImplementationMemory | None = None,
) -> Implementations:
    """Time the ways in which each layer can be computed in each option; return the fastest.

    A forward and a backward pass of the single layer is timed, on random numbers in the shape,
    type and memory format that the layer gets for `inputs`. Layers that are alike are timed once.

    - `autocast`: returns the context that the passes run in.
    - `memory`: what earlier runs on this device found; what is not in it is timed and added.
    """
    memory = ImplementationMemory(None) if memory is None else memory
    layers = {name: m for name, m in net.named_modules() if isinstance(m, WeightEnabled)}
    found: dict[str, dict[int, str]] = {}
    implementations: Implementations = {}
    with in_eval_mode(net):
        seen = _inputs_of(net, layers, inputs, autocast)
    for name, x in seen.items():
        layer = layers[name]
        key = describe(layer, x)
        if key not in found:
            kept = memory.get(key, layer)
            if kept is None:
                times = time_implementations(layer, x, autocast)
                memory.put(key, times)
                kept = {n: fastest(of_option) for n, of_option in times.items()}
            found[key] = kept
        implementations[name] = found[key]
    memory.write()
    return implementations


def use_implementations(
    net: DynamicNetwork, implementations: Mapping[str, Mapping[int, str]]
) -> None:
    """Compute the layers in these ways while training, all others as written.

    Raises `ValueError` for a layer that the network lacks, or a way that a layer lacks.
    """
    layers = {name: m for name, m in net.named_modules() if isinstance(m, WeightEnabled)}
    unknown = sorted(set(implementations) - set(layers))
    if unknown:
        raise ValueError(f"`implementations` names {unknown[0]!r}, which is no switchable layer")
    for name, layer in layers.items():
        layer.use_implementations(implementations.get(name, {}))


def by_option(implementations: Mapping[str, Mapping[str, str]]) -> Implementations:
    """Return implementations as JSON keeps them, whose keys are text, with options as numbers."""
    return {
        name: {int(n): way for n, way in ways.items()} for name, ways in implementations.items()
    }


def describe(layer: WeightEnabled, x: torch.Tensor) -> str:
    """Return all that the speed of a layer depends on, as text: layers that share it are alike."""
    parts = [type(layer).__name__, "x".join(map(str, layer.weight.shape))]
    if isinstance(layer, WeightEnabledConv2d):
        geometry = (layer.stride, layer.padding, layer.dilation, layer.padding_mode)
        parts.append(" ".join(map(str, geometry)))
    parts += [
        f"bias {layer.bias is not None}",
        f"shuffle {layer.shuffle_groups if layer.reads_shuffled else 1}",
        f"options {layer.knob.options}",
        f"input {'x'.join(map(str, x.shape))} {x.dtype} {x.stride()}",
        f"weight {layer.weight.dtype} {layer.weight.stride()}",
        f"autocast {torch.get_autocast_dtype(layer.weight.device.type)}"
        if torch.is_autocast_enabled(layer.weight.device.type)
        else "",
    ]
    return "; ".join(filter(None, parts))


def _inputs_of(
    net: DynamicNetwork,
    layers: Mapping[str, WeightEnabled],
    inputs: Sequence[torch.Tensor],
    autocast: Callable[[], Any],
) -> dict[str, torch.Tensor]:
    """Return a tensor like the one that each layer gets, in the order of their calls."""
    seen: dict[str, torch.Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.setdefault(name, torch.empty_like(arguments[0], device="meta"))

        return hook

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), net.using("full"), autocast():
            net(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def time_implementations(
    layer: WeightEnabled, like: torch.Tensor, autocast: Callable[[], Any]
) -> dict[int, dict[str, float]]:
    """Return the median time in ms of a forward and backward pass, by option and implementation.

    - `like`: of the shape, type and memory format of the input, on any device.
    """
    with _left_as_it_was(layer):
        x = torch.empty_like(like, device=layer.weight.device).normal_().requires_grad_()
        wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
        results: dict[int, dict[str, float]] = {}
        for n in layer.knob.options:
            layer.set_option(n)
            # Also where there is no choice: what is remembered of a layer is then whole.
            calls = {
                name: _pass(layer, n, name, x, wanted, autocast)
                for name in layer.implementations_of(n)
            }
            results[n] = _times(calls, device_of(layer))
    return results


@contextmanager
def _left_as_it_was(layer: WeightEnabled) -> Iterator[None]:
    option, implementations = layer.option, layer.implementations
    try:
        with torch.random.fork_rng([layer.weight.device] if layer.weight.is_cuda else []):
            yield
    finally:
        layer.set_option(option)
        layer.implementations = implementations


def _pass(
    layer: WeightEnabled,
    n: int,
    implementation: str,
    x: torch.Tensor,
    wanted: Sequence[torch.Tensor],
    autocast: Callable[[], Any],
) -> Callable[[], None]:
    gradient: list[torch.Tensor] = []

    def run() -> None:
        layer.use_implementations({n: implementation})
        with torch.enable_grad():
            with autocast():
                y = layer(x)
            if not gradient:
                gradient.append(torch.randn_like(y))
            torch.autograd.grad(y, wanted, gradient[0])

    return run


def _times(calls: Mapping[str, Callable[[], None]], device: torch.device) -> dict[str, float]:
    """Return the median time of each call in ms, all of them timed in turns of random order."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    rng, started = random.Random(0), time.perf_counter()
    for number in range(ROUNDS):
        if number >= 2 and time.perf_counter() - started > ENOUGH_S:
            break
        for name in rng.sample(list(calls), len(calls)):
            samples[name].append(1e3 * _seconds(calls[name], device))
    return {name: statistics.median(times) for name, times in samples.items()}


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
