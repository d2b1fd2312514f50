"""What a trace returns: the calls of layers and norms, and what reaches the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.fx import Node

from wenable.graph.origin import Origin


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a module with weights, in execution order.

    - `module`: its qualified name; `input`: where the channels that it reads come from, or None.
    - `input_shape`, `output_shape`: with the example's batch.
    """

    module: str
    input: Origin | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    direct: bool
    """Whether the module itself was running, or another one that uses its parameters."""
    axis: int
    """The dimension that it reads as channels, counted from the end."""


@dataclass(frozen=True, slots=True)
class ModuleEnd:
    """Where a module is done in execution order, for the last time.

    - `position`: of its last operation among all; `shape`: of what that wrote.
    - `node`: the name of that operation in the trace.
    """

    position: int
    shape: tuple[int, ...]
    node: str


@dataclass(frozen=True, slots=True)
class Product:
    """One operation that multiplies and adds, in execution order.

    - `operation`: its name, as `"linear"`; `position`: among all operations, as in `ModuleEnd`.
    - `macs`: its multiply-accumulates for the whole example input.
    - `owner`: the module whose weight it multiplies with, or the qualified name of a parameter or
      buffer that is no module's weight; empty for a product of activations, as those of attention.
    - `module`: the innermost module that ran it.
    """

    operation: str
    position: int
    macs: int
    owner: str
    module: str


@dataclass(frozen=True, slots=True)
class Operations:
    """Every operation of a trace, in execution order, and whose it is.

    - `nodes`: with the inputs, parameters and outputs.
    - `parameters`: the name of a node that is a parameter or buffer -> its qualified name.
    - `owners`: the operation of a layer or norm -> that module; `running`: every operation -> the
      innermost module that ran it; both by first names.
    """

    nodes: tuple[Node, ...]
    parameters: Mapping[str, str]
    owners: Mapping[Node, str]
    running: Mapping[Node, str]


@dataclass(frozen=True)
class TracedGraph:
    """A traced network: the calls of its layers and norms, and what reaches its output."""

    layers: tuple[LayerCall, ...]
    norms: tuple[LayerCall, ...]
    outputs: tuple[Origin | None, ...]
    computed_weights: frozenset[str]
    """Modules whose weight is used otherwise than by their own operation: changed before it (weight
    norm, standardisation), or in another product besides (a tied decoder)."""
    classifiers: frozenset[str]
    """The layers that write an output of the network: the last ones on every way to it."""
    products: tuple[Product, ...]
    """Every operation that multiplies and adds, but those that compute a parametrized weight."""
    examples: int
    """How many examples the traced input held; 1 where its first dimension is not a batch."""
    attention: frozenset[str]
    """The layers whose output goes straight into attention, or that read what comes out of it."""
    ends: Mapping[str, ModuleEnd]
    """Where each module that was run is done, by its first name; the network itself is `""`."""
    operations: Operations
    """The trace itself, for what the rest does not tell."""
    inputs: tuple[tuple[int, ...] | None, ...] = ()
    """The shapes of the positional inputs, with the example's batch; None for what is no tensor."""

    def macs(self, owner: str) -> int:
        """Return the multiply-accumulates for one example of all that is multiplied with a weight.

        - `owner`: as in `Product`; a layer that is called several times counts each of its calls.
        """
        own = sum(product.macs for product in self.products if product.owner == owner)
        return own // self.examples

    def macs_besides_layers(self) -> dict[str, int]:
        """Return the multiply-accumulates for one example that belong to no layer that is entered.

        Those are products of activations, as those of attention, and with parameters that are no
        layer's weight, by the innermost module that runs them.
        """
        found: Counter[str] = Counter()
        for product in self.products:
            if product.owner not in self.ends or not product.owner:
                found[product.module] += product.macs
        return {module: macs // self.examples for module, macs in found.items()}


def shared_modules(model: nn.Module) -> frozenset[str]:
    """Return the modules that share a parameter with another, or are reached by two names."""
    places: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), set()).add(name.rpartition(".")[0])
    return frozenset(name for names in places.values() if len(names) > 1 for name in names)


def calls_by_module(calls: Sequence[LayerCall]) -> dict[str, list[LayerCall]]:
    """Return the calls of each module, in execution order."""
    found: dict[str, list[LayerCall]] = {}
    for call in calls:
        found.setdefault(call.module, []).append(call)
    return found
