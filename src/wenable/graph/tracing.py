"""What follows what in a network, read from its graph and not from names.

`trace` records a forward pass and follows the channels of every tensor: which layer wrote them,
through which operations they passed unmixed. From that follow the norm that belongs to a layer, the
layers a shuffle may stand between, and the classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wenable.graph.calls import Operations, TracedGraph
from wenable.graph.examples import examples_in
from wenable.graph.last_layers import last_layers
from wenable.graph.recording import Recording, record
from wenable.graph.walker import Walker


def trace(model: nn.Module, example_inputs: tuple[Any, ...]) -> TracedGraph:
    """Record a pass of a network in eval mode and follow its channels.

    - `model`: it must be in eval mode. It runs, so it holds afterwards what it keeps of a pass.
    - `example_inputs`: positional inputs, with a batch dimension.

    Raises `ValueError` when the network cannot be traced, with the tracer's own first line.
    """
    recording = record(model, example_inputs)
    walker = _walked(model, recording)
    return TracedGraph(
        tuple(walker.layers),
        tuple(walker.norms),
        tuple(walker.outputs),
        frozenset(walker.computed),
        last_layers(recording.nodes, walker.products.owners),
        tuple(walker.products.found),
        examples_in(model, example_inputs),
        frozenset(walker.attention),
        walker.ends,
        Operations(
            recording.nodes,
            recording.names,
            walker.owners,
            {node: walker.running(node) or "" for node in recording.nodes},
        ),
        tuple(tuple(x.shape) if isinstance(x, torch.Tensor) else None for x in example_inputs),
    )


def modules_with_effect(model: nn.Module, example_inputs: tuple[Any, ...]) -> frozenset[str]:
    """Return the layers and norms that something in the output depends on.

    Some are run for nothing: a second head whose answer is used while training only.
    """
    recording = record(model, example_inputs, used_only=True)
    walker = _walked(model, recording)
    return frozenset(call.module for call in (*walker.layers, *walker.norms))


def _walked(model: nn.Module, recording: Recording) -> Walker:
    walker = Walker(model, recording.names)
    for node in recording.nodes:
        walker.visit(node)
        walker.note_other_uses(node)
    return walker
