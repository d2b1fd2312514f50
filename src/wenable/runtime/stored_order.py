"""Where a shuffle costs nothing: the layer before it can store its outputs in the shuffled order.

That takes a producer that runs as a whole, so that its rows may be in any order, and nothing between
the two layers but operations on single channels (norms, activations, depthwise convolutions), read
by nobody else. Their weights are then put in the same order, once, when the model is built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wenable.runtime.graph import CONVOLUTION, NORM, Graph, Node, consumers

_OF_SINGLE_VALUES = frozenset(
    ["Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Tanh", "Identity"]
)


@dataclass(frozen=True)
class Chain:
    """Two switchable convolutions with operations on single channels between them.

    - `producer`, `reader`: names of the layers; `nodes`: the numbers of the producer's node and of
      all between.
    """

    producer: str
    reader: str
    nodes: tuple[int, ...]


def chains(graph: Graph, tensors: Mapping[str, np.ndarray]) -> dict[str, Chain]:
    """Return the chain that ends in each switchable convolution that has one, by its name.

    A layer that is called several times has none: each call reads what another layer wrote.
    """
    calls = Counter(node.layer for node in graph.nodes)
    readers = consumers(graph.nodes)
    made_by = {name: number for number, node in enumerate(graph.nodes) for name in node.outputs}
    wanted = {each.name for each in graph.outputs}
    found = {}
    for number, node in enumerate(graph.nodes):
        if node.op != CONVOLUTION or calls[node.layer] > 1:
            continue
        numbers, value, reading = [], node.inputs[0], [number]
        while value in made_by and readers[value] == reading and value not in wanted:
            before = made_by[value]
            numbers.append(before)
            if graph.nodes[before].op == CONVOLUTION:
                producer = graph.nodes[before].layer
                if calls[producer] == 1:
                    found[node.layer] = Chain(producer, node.layer, tuple(numbers))
                break
            if not _keeps_channels_apart(graph.nodes[before], tensors):
                break
            value, reading = graph.nodes[before].inputs[0], [before]
    return found


def _keeps_channels_apart(node: Node, tensors: Mapping[str, np.ndarray]) -> bool:
    if node.op == NORM or node.op in _OF_SINGLE_VALUES:
        # A limit of `Clip` is one number for all channels.
        return all(tensors[n].size <= 1 for n in node.inputs[1:] if n in tensors)
    if node.op != "Conv" or len(node.inputs) < 2:
        return False
    weight = tensors.get(node.inputs[1])
    # One filter for each channel: those with several outputs a channel would not keep their places.
    return (
        weight is not None
        and weight.ndim == 4
        and weight.shape[1] == 1
        and node.attributes.get("group") == weight.shape[0]
        and all(name in tensors for name in node.inputs[1:])
    )


def stored_orders(
    found: Sequence[Chain], orders: Mapping[str, np.ndarray | None]
) -> dict[int, np.ndarray]:
    """Return node -> the order of its output channels, for the chains whose shuffle is stored.

    - `orders`: reader -> the order in which it reads its input.

    Raises `ValueError` where two chains want the same node in different orders.
    """
    stored: dict[int, np.ndarray] = {}
    for chain in found:
        order = orders[chain.reader]
        for number in chain.nodes:
            if order is None or number in stored:
                raise ValueError(f"the input of {chain.reader!r} cannot be stored in its order")
            stored[number] = order
    return stored
