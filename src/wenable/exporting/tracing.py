"""Traces a mode of a dynamic network into a graph that a bundle holds."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from wenable.core.reasons import root_reason
from wenable.core.space import ModeChoice
from wenable.exporting.global_pooling import GlobalPoolingAsMean
from wenable.exporting.image_sizes import Sides
from wenable.exporting.output_names import with_outputs_named
from wenable.exporting.plain_networks import (
    input_names,
    plain_for_export,
    tensor_inputs,
    traced_by_exporter,
)
from wenable.exporting.sequences import without_sequences
from wenable.graph import modules_with_effect
from wenable.layers.roles import HasViews
from wenable.layers.weight_enabled import WeightEnabled
from wenable.modules.outputs import OutputNames
from wenable.network.dynamic_network import DynamicNetwork
from wenable.runtime.graph import (
    CONVOLUTION,
    LINEAR,
    NORM,
    TRANSPOSED,
    Attribute,
    Graph,
    Node,
    TensorType,
)

_SMALL = 4096
"""Values up to which a constant is computed at export; weights stay what they are."""


def bundle_graph(
    net: DynamicNetwork,
    outputs: OutputNames | None = None,
    mode: ModeChoice = "full",
    sides: Sides | None = None,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return the graph of a network, and every tensor that it reads, by name.

    Layers that run in groups and norms stand in it as operations of ours, with their names, and dense
    layers with views without; all else as ONNX's. So it is the graph of every mode that differs from
    this one in groups, norms and views alone.

    - `outputs`: their names, which they keep unless they are places only.
    - `mode`: the one that is traced; `sides`: another size of images than the example's.

    Raises `ValueError` where a switchable layer or a norm is not found in the traced graph: it
    would be exported in one option only.
    """
    model = _onnx_program(net, mode, sides)
    tensors = {each.name: _array(each) for each in model.graph.initializer}
    marking = _Marking(net, mode, model, tensors)
    nodes = _fold_constants(model, tensors, keep=marking.weights)
    marked = marking.mark(without_sequences(nodes, tensors, marking.shapes))
    graph = Graph(
        tuple(_type(each, batch=True) for each in model.graph.input),
        tuple(_type(each, batch=True) for each in model.graph.output),
        tuple(_without_unused(marked, {each.name for each in model.graph.output})),
        next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx")),
    )
    names = [each.name for each in graph.outputs]
    if outputs is not None and not outputs.are_positions:
        names = outputs.names
    graph = with_outputs_named(graph, names, taken=tensors)
    return graph, {name: tensors[name] for name in sorted(graph.tensors_read())}


def layers_with_views(net: DynamicNetwork) -> Iterator[tuple[str, HasViews]]:
    """Yield the layers of which a mode is told by views of their parameters, with their names."""
    for name, module in net.named_modules():
        if hasattr(module, "set_option") and isinstance(module, HasViews):
            yield name, module


def _onnx_program(net: DynamicNetwork, mode: ModeChoice, sides: Sides | None) -> Any:
    """Return the ONNX model of a mode, norms and weights as they are in the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statistics are put in for each mode
        plain = plain_for_export(net, mode, own_size=True)
    # A batch of 1 would be taken for a constant.
    examples = tuple(
        each.expand(2, *each.shape[1:]).contiguous() for each in tensor_inputs(net, mode, sides)
    )
    batch = torch.export.Dim("batch")
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            traced_by_exporter(plain, examples),
            GlobalPoolingAsMean(),
        ):
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                plain,
                examples,
                dynamo=True,
                optimize=False,  # it would fold norms into weights
                verbose=False,
                input_names=input_names(net),
                dynamic_shapes=(tuple({0: batch} for _ in examples),),
            )
            model = program.model_proto
            _call_by_first_names(model, plain)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(
            f"the network cannot be exported: torch.onnx does not trace it: {root_reason(error)}"
        ) from error
    finally:
        logger.setLevel(level)
    return model


def _call_by_first_names(model: Any, plain: nn.Module) -> None:
    """Give the tensors of a module that stands in several places the name of the first, as torch does."""
    firsts = {id(module): name for name, module in plain.named_modules()}
    first_of = {
        name: firsts[id(module)] for name, module in plain.named_modules(remove_duplicate=False)
    }
    new: dict[str, str] = {}
    for tensor in model.graph.initializer:
        place, _, leaf = tensor.name.rpartition(".")
        if first_of.get(place, place) != place:
            new[tensor.name] = ".".join(filter(None, (first_of[place], leaf)))
            tensor.name = new[tensor.name]
    for node in model.graph.node:
        for number, name in enumerate(node.input):
            node.input[number] = new.get(name, name)


def _array(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def _type(value: Any, *, batch: bool) -> TensorType:
    from onnx import helper

    kind = value.type.tensor_type
    sizes = [each.dim_value or None for each in kind.shape.dim]
    dtype = str(np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    return TensorType(value.name, dtype, (None, *sizes[1:]) if batch and sizes else tuple(sizes))


def _fold_constants(
    model: Any, tensors: dict[str, np.ndarray], keep: Collection[str]
) -> list[Node]:
    """Compute what depends on small constants only, other than those to keep; return the rest."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    dtypes = {each.name: _type(each, batch=False).dtype
              for each in (*model.graph.input, *model.graph.value_info, *model.graph.output)}  # fmt: skip
    nodes = []
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "CastLike" and node.input[0] in tensors:
            like = tensors.get(node.input[1])
            dtype = dtypes.get(node.input[1], "float32") if like is None else str(like.dtype)
            tensors[node.output[0]] = tensors[node.input[0]].astype(dtype)
        elif node.op_type == "Shape" and node.input[0] in tensors:
            part = slice(attributes.get("start", 0), attributes.get("end"))
            tensors[node.output[0]] = np.array(tensors[node.input[0]].shape[part], np.int64)
        elif all(name not in keep and _is_small(name, tensors) for name in node.input):
            given = {name: tensors[name] for name in node.input if name}
            found: Any = ReferenceEvaluator(node).run(None, given)
            tensors.update(zip(node.output, map(np.asarray, found), strict=True))
        else:
            nodes.append(_node(node, attributes))
    return nodes


def _is_small(name: str, tensors: Mapping[str, np.ndarray]) -> bool:
    return not name or (name in tensors and tensors[name].size <= _SMALL)


def _node(node: Any, attributes: Mapping[str, Any]) -> Node:
    if node.domain not in ("", "ai.onnx"):
        raise ValueError(f"the network uses {node.domain}.{node.op_type}, which is not ONNX's own")
    plain: dict[str, Attribute] = {}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, list | tuple) and not value:
            continue
        if not isinstance(value, int | float | str | list):
            raise ValueError(
                f"the network uses {node.op_type} with {name!r}, which has no JSON form"
            )
        plain[name] = value
    return Node(node.op_type, tuple(node.input), tuple(node.output), plain)


class _Marking:
    """Finds the switchable layers and the norms among the operations, by the names of weights."""

    def __init__(
        self,
        net: DynamicNetwork,
        mode: ModeChoice,
        model: Any,
        tensors: Mapping[str, np.ndarray],
    ) -> None:
        self.net, self.mode = net, mode
        self.tensors = tensors
        self.weights = {f"{name}.weight": name for name, _ in layers_with_views(net)}
        self.grouped = {
            name for name in self.weights.values()
            if isinstance(net.get_submodule(name), WeightEnabled)
        }  # fmt: skip
        self.norms = {
            ".".join(filter(None, (name, norm.name_in_plain, part))): name
            for name, norm in net.switchable_norms().items()
            for part in ("weight", "running_mean")
        }
        # An output may be what a layer inside reads, as the maps of a detector's backbone.
        values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
        self.shapes = {
            each.name: [size.dim_value for size in each.type.tensor_type.shape.dim]
            for each in values
        }
        self.transposed: dict[str, str] = {}
        self.found: set[str] = set()

    def mark(self, nodes: list[Node]) -> list[Node]:
        marked = [self._marked(node) for node in nodes]
        missing = sorted((set(self.weights.values()) | set(self.norms.values())) - self.found)
        missing = [name for name in missing if name in self._used()] if missing else []
        if missing:
            raise ValueError(
                f"the network cannot be exported: {missing[0]!r} is not found in its traced graph as a"
                " layer of its own, so its option could not be switched"
            )
        return [node for node in marked if node.outputs[0] not in self.transposed]

    def _used(self) -> frozenset[str]:
        """Return the layers and norms that the network's outputs depend on."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever its statistics are
            plain = plain_for_export(self.net, self.mode, own_size=True)
        return modules_with_effect(plain, tensor_inputs(self.net, self.mode))

    def _marked(self, node: Node) -> Node:
        if node.op == "Transpose" and node.inputs[0] in self.weights:
            self.transposed[node.outputs[0]] = node.inputs[0]
            return node
        if node.op == "BatchNormalization":
            return self._norm(node)
        if node.op == "Reshape":
            return self._flattening(node)
        if node.op in ("Conv", "ConvTranspose") and self._adds_zeros(node):
            node = replace(node, inputs=node.inputs[:2])
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        weight = self.transposed.get(weight, weight)
        if weight not in self.weights:
            return node
        name = self.weights[weight]
        self.found.add(name)
        inputs = (node.inputs[0], weight, *node.inputs[2:])
        if node.op in ("Conv", "ConvTranspose"):
            if name not in self.grouped:
                return replace(node, inputs=inputs)
            attributes = {**node.attributes, **self._input(node.inputs[0])}
            op = CONVOLUTION if node.op == "Conv" else TRANSPOSED
            return Node(op, inputs, node.outputs, attributes, name)
        plain_gemm = node.op == "Gemm" and node.attributes.get("transB") == 1
        if plain_gemm or (node.op == "MatMul" and node.inputs[1] in self.transposed):
            if name not in self.grouped:
                return Node(LINEAR, inputs, node.outputs)
            return Node(LINEAR, inputs, node.outputs, self._input(node.inputs[0]), name)
        raise ValueError(f"the network cannot be exported: {name!r} is read by {node.op}")

    def _adds_zeros(self, node: Node) -> bool:
        """Say whether a bias is the zeros that the exporter writes for none."""
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        return bias in self.tensors and not self.tensors[bias].any()

    def _norm(self, node: Node) -> Node:
        owners = [self.norms[name] for name in node.inputs[1:] if name in self.norms]
        if not owners:
            return node
        self.found.add(owners[0])
        rank = len(self.shapes[node.inputs[0]])
        return Node(NORM, node.inputs[:1], node.outputs[:1], {"rank": rank}, owners[0])

    def _flattening(self, node: Node) -> Node:
        """Return a reshape as what it is, if it only joins all dimensions but the first.

        It is the same operation then in a mode with fewer channels.
        """
        before, after = (self.shapes.get(name, []) for name in (node.inputs[0], node.outputs[0]))
        known = len(before) > 1 and len(after) == 2 and before[0] == after[0] == 0
        if not known or not all(before[1:]) or math.prod(before[1:]) != after[1]:
            return node
        return Node("Flatten", node.inputs[:1], node.outputs, {"axis": 1})

    def _input(self, name: str) -> dict[str, Attribute]:
        """Return the shape of a layer's input without the batch: what its speed depends on."""
        sizes = self.shapes[name][1:]
        if not all(size > 0 for size in sizes):
            raise ValueError(
                f"the network cannot be exported: {name!r} has a size that depends on its input"
            )
        return {"input": sizes}


def _without_unused(nodes: list[Node], wanted: set[str]) -> list[Node]:
    kept: list[Node] = []
    needed = set(wanted)
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]
