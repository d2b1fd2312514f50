"""Whether an engine gives the answers of a mode of few bits, where rounding decides some of them.

Layer by layer, where little can add up, and as a whole; as `int8_check.py` does for an int8 file.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from wenable.core.resampling import resampled
from wenable.core.space import Mode
from wenable.exporting.agreement import DisagreementError
from wenable.exporting.int8_check import (
    LAYER_TOLERANCE,
    TOLERANCE,
    largest_difference,
    simulation_noise,
)
from wenable.layers.image_size import SmallerImagesFirst
from wenable.modules.outputs import tensors_of
from wenable.network.dynamic_network import DynamicNetwork
from wenable.runtime.building import build_model, norms_to_fold
from wenable.runtime.graph import Graph, TensorType, consumers
from wenable.runtime.session import Session
from wenable.runtime.sized import shapes_of
from wenable.runtime.sizes import value_shapes

NOISE_TIMES = 5
"""How many times what rounding makes of the simulation itself an engine may be off on top."""


def check_rounded(
    plain: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    found: Sequence[np.ndarray],
    mode: Mode,
    engine: str,
) -> None:
    """Raise `DisagreementError` where what an engine gives is not what the simulated mode gives.

    - `plain`: the extracted network, which rounds in floating point; `found`: the engine's answers.

    An engine sums integers where the simulation sums floats, so that a sum which lies between two
    integers of the next layer may be rounded the other way. An answer may be off by 5 % of the largest,
    and by five times what such decisions make of the simulation itself.
    """
    with torch.no_grad():
        expected = tensors_of(plain(*inputs))
        noise = simulation_noise(plain, inputs, expected)
    answers = [torch.from_numpy(np.asarray(each)) for each in found]
    if [each.shape for each in answers] != [each.shape for each in expected]:
        raise DisagreementError(f"{engine} gives outputs of other shapes than mode {mode} has")
    difference, allowed = largest_difference(answers, expected), TOLERANCE + NOISE_TIMES * noise
    if not difference <= allowed:
        raise DisagreementError(
            f"mode {mode} differs on {engine} from the extracted network by {difference:.1%} of its"
            f" largest output, more than {allowed:.1%}; nothing was written"
        )


def check_rounded_layers(
    net: DynamicNetwork,
    plain: nn.Module,
    session: Session,
    mode: Mode,
    inputs: tuple[np.ndarray, ...],
) -> None:
    """Raise `DisagreementError` where a rounded layer gives another output than the simulated one.

    Both are given what the engine gives the layer. One integer of its input may be rounded otherwise, so
    2 % of the largest output are allowed.
    """
    sizes = (session.bundle, *session.bundle.at_other_sizes)
    shapes_given = tuple(each.shape[1:] for each in inputs)
    place = [shapes_of(each) for each in sizes].index(shapes_given)
    bundle, number = sizes[place], session.bundle.number_of(mode)
    network = plain.network if isinstance(plain, SmallerImagesFirst) else plain
    graph, weights = bundle.graph_of(number), bundle.weights_of(number)
    layers = list(_layers(graph, weights.roundings))
    shapes = value_shapes(graph, weights.tensors)
    known = {each.name for each in (*graph.inputs, *graph.outputs)}
    ends = dict.fromkeys(name for start, end, _, _ in layers for name in (start, end))
    more = tuple(
        TensorType(name, "float32", (None, *shapes[name][1:])) for name in ends if name not in known
    )
    seen = replace(graph, outputs=(*graph.outputs, *more))
    ways = {
        # What is looked at keeps its order: no layer before it can store another one.
        name: replace(way, shuffling="gather") if way.shuffling == "stored" else way
        for name, way in session.implementations(place * len(bundle.modes) + number).items()
    }
    model = build_model(seen, bundle.layers, weights, ways)
    given = {
        each.name: _of_own_size(array, each)
        for each, array in zip(graph.inputs, inputs, strict=True)
    }
    found = session.engine.prepare(model)(given)
    values = given | {each.name: array for each, array in zip(seen.outputs, found, strict=True)}
    for start, end, name, norm in layers:
        with torch.no_grad():
            expected = network.get_submodule(name)(torch.from_numpy(values[start]))
            if norm:
                part = net.switchable_norms()[norm].name_in_plain
                expected = network.get_submodule(".".join(filter(None, (norm, part))))(expected)
        difference = largest_difference([torch.from_numpy(values[end])], [expected])
        if not difference <= LAYER_TOLERANCE:
            raise DisagreementError(
                f"the layer {name!r} in mode {mode} differs on {session.engine.name} from the simulated"
                f" one by {difference:.1%} of its largest output; at most {LAYER_TOLERANCE:.0%} is allowed,"
                " and nothing was written"
            )


def _of_own_size(array: np.ndarray, own: TensorType) -> np.ndarray:
    """Return images as small as a mode's graph takes them; anything else as it is."""
    if array.shape[1:] == own.shape[1:]:
        return array
    height, width = (int(side or 0) for side in own.shape[2:])
    return np.ascontiguousarray(resampled(array, height, width))


def _layers(graph: Graph, rounded: Container[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield what a rounded layer reads and makes, its name, and the norm that is folded into it."""
    folded, readers = norms_to_fold(graph), consumers(graph.nodes)
    for number, node in enumerate(graph.nodes):
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        if weight in rounded:
            name = weight.removesuffix(".weight")
            last = graph.nodes[folded[number]] if number in folded else node
            after = readers.get(node.outputs[0], [])
            # A dense layer on more than vectors is a product, and a sum with its bias.
            if len(after) == 1 and f"{name}.bias" in graph.nodes[after[0]].inputs:
                last = graph.nodes[after[0]]
            yield node.inputs[0], last.outputs[0], name, last.layer if last is not node else ""
