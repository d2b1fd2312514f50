"""Whether the parts of a bundle fit together: graphs, layers, norms, and the views of each mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from wenable.core.views import View
from wenable.runtime.building import norms_to_fold
from wenable.runtime.graph import (
    CONVOLUTION,
    GROUPED,
    LINEAR,
    NORM,
    TRANSPOSED,
    Graph,
    Node,
    TensorType,
)
from wenable.runtime.implementations import BundleLayer
from wenable.runtime.shapes import Shape
from wenable.runtime.sizes import check_sizes

_MOST_VALUES = 2**28
"""Values of one input that a file may ask for, for each example."""
_PRODUCTS = (
    *GROUPED, "BatchNormalization", "Conv", "ConvTranspose", "GRU", "Gemm", "GroupNormalization",
    "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul", "Mul", "PRelu", "RNN",
)  # fmt: skip
"""Operations whose constants are factors and biases."""
Tensors = Mapping[str, np.ndarray]


def check_graph(
    graph: Graph, tensors: Tensors, layers: Mapping[str, BundleLayer], norms: Mapping[str, int]
) -> None:
    """Raise `ValueError` where a graph does not fit the whole weights, whatever the mode.

    - `norms`: their names and channels.
    """
    made = {each.name for each in graph.inputs}
    made.update(name for node in graph.nodes for name in node.outputs)
    for name in graph.tensors_read():
        if name not in tensors:
            raise ValueError(f"it lacks the tensor {name!r}")
    for name in tensors:
        if name in made:
            raise ValueError(f"{name!r} is a tensor of it, and its graph makes it")
    for node in graph.nodes:
        if node.op in _PRODUCTS:
            _check_finite(node.inputs, tensors)
        if node.op == NORM and node.layer not in norms:
            raise ValueError(f"its graph has the norm {node.layer!r}, which it does not list")
        if node.op in GROUPED:
            _check_layer(node, tensors, layers)
    for each in graph.inputs:
        if each.shape[:1] != (None,) or math.prod(size or 1 for size in each.shape) > _MOST_VALUES:
            raise ValueError(
                f"the input {each.name!r} has shape {each.shape}; it must begin with a batch and"
                f" hold at most {_MOST_VALUES} values for each example"
            )


def check_mode(
    graph: Graph,
    tensors: Tensors,
    views: Mapping[str, View],
    layers: Mapping[str, BundleLayer],
    norms: Mapping[str, int],
) -> list[Shape]:
    """Raise `ValueError` where a mode does not fit together; return the shapes of its outputs.

    - `graph`, `tensors`: with the mode's groups, cut as it wants them.
    - `norms`: their names, and their channels in the mode.
    """
    _check_views(graph, tensors, views, layers)
    for convolution, norm in norms_to_fold(graph).items():
        _check_folded(graph.nodes[convolution], graph.nodes[norm], tensors, norms)
    shapes = check_sizes(graph, tensors)
    for node in graph.nodes:
        if node.op == NORM and shapes[node.inputs[0]][1:2] != (norms[node.layer],):
            raise ValueError(
                f"the norm {node.layer!r} has {norms[node.layer]} channels in a mode, and reads shape"
                f" {shapes[node.inputs[0]]}"
            )
    return [shapes[each.name] for each in graph.outputs]


def check_alike(first: Sequence[TensorType], other: Sequence[TensorType], what: str) -> None:
    """Raise `ValueError` where two graphs have other inputs, or outputs."""
    if [(each.name, each.dtype) for each in first] != [(each.name, each.dtype) for each in other]:
        raise ValueError(f"its graphs have {what} of other names or types")


def _check_finite(names: Sequence[str], tensors: Tensors) -> None:
    """Refuse infinity among factors; in a mask that is added, or as a bound, it has a meaning."""
    for name in names:
        array = tensors.get(name)
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"the tensor {name!r} holds infinity")


def _check_views(
    graph: Graph, tensors: Tensors, views: Mapping[str, View], layers: Mapping[str, BundleLayer]
) -> None:
    readers: dict[str, list[Node]] = {name: [] for name in views}
    for node in graph.nodes:
        for name in node.inputs:
            if name in readers:
                readers[name].append(node)
    for name, view in views.items():
        if tensors[name].dtype.kind != "f":
            raise ValueError(f"a mode has a view of {name!r}, which is of {tensors[name].dtype}")
        weight_of = [node for node in readers[name] if list(node.inputs[1:2]) == [name]]
        if len(weight_of) < len(readers[name]):
            weight_of = []
        if view.groups is not None:
            fits = weight_of and all(node.op in ("Conv", "ConvTranspose") for node in weight_of)
            if not fits or len(tensors[name]) % view.groups:
                raise ValueError(
                    f"a mode has {view.groups} groups for {name!r} of shape {tensors[name].shape},"
                    " which do not divide it, or it is not the weight of a convolution"
                )
        if view.rounding is not None and not all(
            node.op in ("Conv", CONVOLUTION, LINEAR) for node in weight_of or [Node("", (), ())]
        ):
            raise ValueError(f"a mode rounds {name!r}, which is not the weight of a layer alone")
        cut = (view.rows, view.columns, view.groups) != (None, None, None)
        if cut and any(node.layer in layers for node in readers[name]):
            raise ValueError(f"a mode cuts {name!r}, whose layer runs in groups")


def _check_folded(
    convolution: Node, norm: Node, tensors: Tensors, norms: Mapping[str, int]
) -> None:
    weight, *bias = (tensors[each] for each in convolution.inputs[1:])
    channels = norms[norm.layer]
    shapes = [weight.shape[:1], *(each.shape for each in bias)]
    floating = all(each.dtype.kind == "f" for each in (weight, *bias))
    if weight.ndim < 3 or not floating or any(shape != (channels,) for shape in shapes):
        raise ValueError(
            f"the norm {norm.layer!r} has {channels} channels, the weight before it shape"
            f" {weight.shape} and type {weight.dtype}"
        )


def _check_layer(node: Node, tensors: Tensors, layers: Mapping[str, BundleLayer]) -> None:
    plain = node.op == LINEAR and not node.layer  # a dense layer that runs in no groups
    if not plain and node.layer not in layers:
        raise ValueError(f"its graph has the layer {node.layer!r}, which it does not list")
    name = node.layer or node.inputs[1]
    if any(each not in tensors for each in node.inputs[1:]):
        raise ValueError(f"the weight or bias of {name!r} is no tensor of it")
    weight, *bias = (tensors[each] for each in node.inputs[1:])
    if any(each.dtype.kind != "f" or each.dtype != weight.dtype for each in (weight, *bias)):
        raise ValueError(f"the weight or bias of {name!r} has type {weight.dtype}")
    outputs = weight.shape[1:2] if node.op == TRANSPOSED else weight.shape[:1]
    if weight.ndim < 2 or any(each.shape != outputs for each in bias):
        raise ValueError(
            f"the bias of {name!r} has shape {bias[0].shape if bias else None}, not"
            f" ({outputs[0] if outputs else 1},)"
        )
    if not plain:
        _check_grouped(node, weight, layers[node.layer])
    elif weight.ndim != 2:
        raise ValueError(f"the weight of {name!r} has shape {weight.shape}, not (outputs, inputs)")


def _check_grouped(node: Node, weight: np.ndarray, layer: BundleLayer) -> None:
    name, whole = layer.name, (layer.outputs, layer.inputs)
    if node.op == TRANSPOSED:
        whole = whole[::-1]
    convolution = node.op != LINEAR
    if weight.shape[:2] != whole or (weight.ndim > 2) != convolution:
        kernel = ", ..." if convolution else ""
        raise ValueError(
            f"the weight of {name!r} has shape {weight.shape}, not {str(whole)[:-1]}{kernel})"
        )
    if node.op == TRANSPOSED and node.attributes.get("group", 1) != 1:  # its mode says in how many
        raise ValueError(f"{name!r} is a transposed convolution whose groups the graph fixes")
    size = node.attributes["input"]
    assert isinstance(size, list)
    fits = len(size) == weight.ndim - 1 if convolution else len(size) > 0
    if not fits or size[0 if convolution else -1] != layer.inputs:
        raise ValueError(f"the input of {name!r} has shape {size}, its weight {weight.shape}")
    if layer.pointwise and not _is_pointwise(node, weight):
        raise ValueError(f"{name!r} is listed as pointwise and is not")


def _is_pointwise(node: Node, weight: np.ndarray) -> bool:
    return (
        node.op == CONVOLUTION
        and weight.ndim == 4
        and weight.shape[2:] == (1, 1)
        and node.attributes.get("strides", [1, 1]) == [1, 1]
        and node.attributes.get("pads", [0] * 4) == [0] * 4
        and node.attributes.get("auto_pad", "NOTSET") == "NOTSET"
    )
