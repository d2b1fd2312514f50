"""Which layers can run in groups, and as what; and why others cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from wenable.core.space import Knob
from wenable.graph import LayerCall, TracedGraph
from wenable.layers.convolution import (
    WeightEnabledConv1d,
    WeightEnabledConv2d,
    WeightEnabledConv3d,
)
from wenable.layers.linear import WeightEnabledLinear
from wenable.layers.transposed_convolution import (
    WeightEnabledConvTranspose1d,
    WeightEnabledConvTranspose2d,
    WeightEnabledConvTranspose3d,
)
from wenable.methods.own_parts import own_parts
from wenable.methods.remaining import parametrization, why

KNOWN = "plain convolution or dense layer of torch.nn"
_CONVOLUTIONS: Mapping[type[nn.Module], Callable[[Any, Knob, int], nn.Module]] = {
    nn.Conv1d: WeightEnabledConv1d,
    nn.Conv2d: WeightEnabledConv2d,
    nn.Conv3d: WeightEnabledConv3d,
    nn.ConvTranspose1d: WeightEnabledConvTranspose1d,
    nn.ConvTranspose2d: WeightEnabledConvTranspose2d,
    nn.ConvTranspose3d: WeightEnabledConvTranspose3d,
}


def channels_of(module: nn.Module) -> tuple[int, ...]:
    """Return how many channels (or neurons) a layer reads and writes; nothing for other modules."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels, module.out_channels
    return ()


def weight_enabled(
    layer: nn.Module, knob: Knob, shuffle_groups: int, calls: Sequence[LayerCall]
) -> nn.Module:
    """Return the layer that runs in groups, in place of one that `refusal` has nothing against."""
    if isinstance(layer, nn.Linear):
        return WeightEnabledLinear(layer, knob, shuffle_groups, len(calls[0].input_shape))
    return _CONVOLUTIONS[type(layer)](layer, knob, shuffle_groups)


def refusal(
    module: nn.Module,
    name: str,
    calls: Sequence[LayerCall],
    graph: TracedGraph,
    shared: frozenset[str],
) -> str:
    """Return why a layer cannot be switched safely, or an empty text.

    - `calls`: all of them in one pass: a siamese branch and a head that is shared over scales have
      several.
    - `shared`: modules that share a parameter with another.
    """
    if not calls or name in graph.computed_weights or parametrization(module):
        return why(name, module, graph, KNOWN)
    if not all(call.direct for call in calls):
        return "has its weight used by another module, past its own forward"
    if type(module) is not nn.Linear and type(module) not in _CONVOLUTIONS:
        return why(name, module, graph, KNOWN)
    if name in shared:
        return "shares its weight with another layer"
    if own_parts(module):
        return own_parts(module)
    if isinstance(module, nn.Linear):
        return _refused_inputs(calls)
    assert isinstance(module, nn.modules.conv._ConvNd)
    return _refused_convolution(module, calls)


def _refused_inputs(calls: Sequence[LayerCall]) -> str:
    ranks = sorted({len(call.input_shape) for call in calls})
    if len(ranks) > 1:  # what it is extracted as depends on them
        several = " and ".join(map(str, ranks))
        return f"is called {len(calls)} times in one pass, on inputs of {several} dimensions"
    if not 2 <= ranks[0] <= 4:
        return f"reads an input of {ranks[0]} dimensions; 2, 3 and 4 are known"
    return ""


def _refused_convolution(convolution: nn.modules.conv._ConvNd, calls: Sequence[LayerCall]) -> str:
    if convolution.groups > 1:
        depthwise = convolution.groups == convolution.in_channels
        return "is depthwise" if depthwise else f"already has {convolution.groups} groups"
    if any(len(call.input_shape) < convolution.weight.ndim for call in calls):
        return (
            "reads an input without a batch, whose channels are in another place: give an example with"
            " one, as x.unsqueeze(0)"
        )
    if all(math.prod(call.output_shape[2:]) == 1 for call in calls):
        ones = "x".join("1" * (convolution.weight.ndim - 2))
        return f"works on a {ones} map" if len(ones) > 1 else "works on maps of length 1"
    return ""
