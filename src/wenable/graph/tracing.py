"""What follows what in a network, read from its graph and not from names.

`trace` runs `torch.export` (non-strict) on a network and follows the channels of every tensor:
which layer wrote them, through which operations they passed unmixed. From that follow the norm that
belongs to a layer, the layers a shuffle may stand between, and the classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wenable.graph.calls import Graph, Operations
from wenable.graph.walker import Walker


def trace(model: nn.Module, example_inputs: tuple[Any, ...]) -> Graph:
    """Trace a network in eval mode and follow its channels.

    - `model`: it must be in eval mode; it is not changed.
    - `example_inputs`: positional inputs, with a batch dimension.

    Raises `ValueError` where the network cannot be traced, with the tracer's own first line.
    """
    try:
        program = torch.export.export(model, example_inputs, strict=False)
    except Exception as error:  # the tracer raises whatever the model's own code raises
        first_line = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ValueError(
            f"`model` (={type(model).__name__}) cannot be traced by torch.export with this"
            f" `example_input`: {first_line[0]}"
        ) from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    walker = Walker(model, names)
    for node in program.graph.nodes:
        walker.visit(node)
        walker.note_other_uses(node)
    return Graph(
        tuple(walker.layers),
        tuple(walker.norms),
        tuple(walker.outputs),
        frozenset(walker.computed),
        next(len(each) for each in example_inputs if isinstance(each, torch.Tensor)),
        frozenset(walker.attention),
        walker.ends,
        Operations(
            tuple(program.graph.nodes),
            names,
            walker.owners,
            {node: walker.running(node) or "" for node in program.graph.nodes},
        ),
    )
