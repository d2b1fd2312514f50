"""Builds the ONNX model of one mode from a graph, its weights and a choice of implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from wenable.core.views import Rounding
from wenable.runtime.graph import (
    CONVOLUTION,
    GROUPED,
    LINEAR,
    NORM,
    TRANSPOSED,
    Graph,
    Node,
    consumers,
)
from wenable.runtime.implementations import (
    BundleLayer,
    Implementation,
    merged_transposed_weight,
    merged_weight,
)
from wenable.runtime.onnx_writer import onnx_model
from wenable.runtime.rounding import (
    INTEGER_BITS,
    RoundedWeight,
    integer_bias,
    integer_weight,
    rounded_input,
)
from wenable.runtime.stored_order import chains, stored_orders

Choose = Callable[[BundleLayer, int], Implementation]
"""How to execute a layer in an option."""


@dataclass(frozen=True)
class ModeWeights:
    """What the model of one mode is built from.

    - `options`: knob -> n.
    - `tensors`: the weights, cut as the mode uses them, and the constants, by name.
    - `norms`: norm -> its scale and shift in this mode, shape `(channels,)` each.
    - `roundings`: weight -> the grid that its layer's weight and input are rounded to; they are not
      rounded yet, since a grid is that of the weights that take part.
    """

    options: Mapping[str, int]
    tensors: Mapping[str, np.ndarray]
    norms: Mapping[str, tuple[np.ndarray, np.ndarray]]
    roundings: Mapping[str, Rounding] = field(default_factory=dict)


def choose_each(
    layers: Mapping[str, BundleLayer], options: Mapping[str, int], choose: Choose
) -> dict[str, Implementation]:
    """Return how every layer is executed in a mode; a layer in its full option as a whole."""
    return {
        name: choose(layer, options[layer.knob]) if options[layer.knob] > 1 else Implementation(1)
        for name, layer in layers.items()
    }


@dataclass(frozen=True)
class BuiltModel:
    """The model of one mode.

    - `nodes`: its operations, in the order of the graph; `tensors`: the constants that they read.
    - `layer_of`: value -> the switchable layer whose implementation makes it, its shuffle included.
    - `content`: as an engine takes it.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, np.ndarray]
    layer_of: Mapping[str, str]
    content: bytes


def build_model(
    graph: Graph,
    layers: Mapping[str, BundleLayer],
    weights: ModeWeights,
    implementations: Mapping[str, Implementation],
) -> bytes:
    """Return the ONNX model of one mode; see `build`."""
    return build(graph, layers, weights, implementations).content


def build(
    graph: Graph,
    layers: Mapping[str, BundleLayer],
    weights: ModeWeights,
    implementations: Mapping[str, Implementation],
) -> BuiltModel:
    """Return the ONNX model of one mode: operations of ONNX only, each norm folded where it can be.

    - `implementations`: of every layer; one that is `"stored"` needs a chain to a producer that runs as a
      whole.

    Raises `ValueError` for an operation of ours that does not fit its layer, and for a shuffle that
    cannot be stored.
    """
    builder = _Builder(
        layers, weights, implementations, _stored(graph, layers, weights, implementations)
    )
    folded = norms_to_fold(graph)
    after = {norm: graph.nodes[convolution] for convolution, norm in folded.items()}
    for number, node in enumerate(graph.nodes):
        norm = graph.nodes[folded[number]] if number in folded else None
        if number not in after:
            builder.add(number, node, norm)
    content = onnx_model(graph.inputs, graph.outputs, builder.nodes, builder.tensors, graph.opset)
    return BuiltModel(tuple(builder.nodes), builder.tensors, builder.layer_of, content)


def _stored(
    graph: Graph,
    layers: Mapping[str, BundleLayer],
    weights: ModeWeights,
    implementations: Mapping[str, Implementation],
) -> dict[int, np.ndarray]:
    """Return node -> the order in which its output channels are stored."""
    wanted = [name for name, each in implementations.items() if each.shuffling == "stored"]
    if not wanted:
        return {}
    known = chains(graph, weights.tensors)
    for name in wanted:
        if name not in known or implementations[known[name].producer].groups > 1:
            raise ValueError(f"the input of {name!r} cannot be stored in its order")
    orders = {name: layers[name].input_order() for name in wanted}
    return stored_orders([known[name] for name in wanted], orders)


def norms_to_fold(graph: Graph) -> dict[int, int]:
    """Return convolution -> norm, by number, where the norm alone reads what the convolution makes."""
    readers = consumers(graph.nodes)
    wanted = {each.name for each in graph.outputs}
    stored = graph.tensors_read()
    found = {}
    for number, node in enumerate(graph.nodes):
        convolution = node.op in (CONVOLUTION, "Conv") and len(node.inputs) > 1
        if not convolution or not stored.issuperset(node.inputs[1:]):
            continue
        after = readers.get(node.outputs[0], [])
        if len(after) == 1 and graph.nodes[after[0]].op == NORM and node.outputs[0] not in wanted:
            found[number] = after[0]
    return found


class _Builder:
    def __init__(
        self,
        layers: Mapping[str, BundleLayer],
        weights: ModeWeights,
        implementations: Mapping[str, Implementation],
        stored: Mapping[int, np.ndarray],
    ) -> None:
        self.layers, self.weights, self.implementations = layers, weights, implementations
        self.stored = stored
        self.nodes: list[Node] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.layer_of: dict[str, str] = {}

    def add(self, number: int, node: Node, norm: Node | None) -> None:
        before = len(self.nodes)
        self._add(number, node, norm)
        if node.op in GROUPED and node.layer:
            made = [name for each in self.nodes[before:] for name in each.outputs]
            self.layer_of.update(dict.fromkeys(made, node.layer))

    def _add(self, number: int, node: Node, norm: Node | None) -> None:
        rows = self.stored.get(number)
        stored = all(name in self.weights.tensors for name in node.inputs[1:])
        if node.op == CONVOLUTION or (node.op == "Conv" and len(node.inputs) > 1 and stored):
            self._convolution(node, norm, rows)
        elif node.op == TRANSPOSED:
            self._transposed(node)
        elif node.op == LINEAR:
            self._linear(node)
        elif node.op == NORM:
            self._norm(node, rows)
        else:
            for name in node.inputs:
                if name in self.weights.tensors:
                    self.tensors[name] = self.weights.tensors[name]
            self.nodes.append(node)

    def _convolution(self, node: Node, norm: Node | None, rows: np.ndarray | None) -> None:
        weight, bias = self._read(node.inputs[1]), None
        if len(node.inputs) > 2:
            bias = self._read(node.inputs[2])
        x, attributes, product = node.inputs[0], dict(node.attributes), False
        sizes: list[int] = []
        if node.op == CONVOLUTION:
            layer = self._layer(node)
            option = self.weights.options[layer.knob]
            implementation = self.implementations[layer.name]
            weight = merged_weight(weight, option, implementation.groups, layer.input_order())
            attributes["group"], product = implementation.groups, implementation.product
            sizes = _input_sizes(node)
            del attributes["input"]
            if implementation.groups > 1:
                x = self._shuffled(x, layer, implementation, sizes, channels=1)
        name = node.outputs[0] if norm is None else norm.outputs[0]
        grid, rounded = self.weights.roundings.get(node.inputs[1]), None
        if grid is not None:
            x, rounded = self._on_grid(x, name, grid), RoundedWeight.of(weight, grid.bits)
            weight = rounded.values()
        if norm is not None:
            scale, shift = self.weights.norms[norm.layer]
            with np.errstate(over="ignore"):  # infinite then, as it would be at run time
                weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
                rounded = None if rounded is None else rounded.times(scale)
            bias = shift if bias is None else shift + bias * scale
        if rows is not None:
            weight, bias = weight[rows], None if bias is None else bias[rows]
            rounded = None if rounded is None else rounded.in_order(rows)
        if product:
            self._pointwise_product(x, weight, bias, sizes, name)
            return
        if grid is not None and rounded is not None and grid.bits == INTEGER_BITS:
            inputs = [x, *self._integers(rounded, bias, grid, name)]
        else:
            inputs = [x, self._tensor(f"{name}.weight", weight)]
            if bias is not None and bias.any():
                inputs.append(self._tensor(f"{name}.bias", bias))
        self.nodes.append(Node("Conv", tuple(inputs), (name,), attributes))

    def _transposed(self, node: Node) -> None:
        """Add a transposed convolution in its groups; a norm behind it stays by itself."""
        layer, name = self._layer(node), node.outputs[0]
        implementation = self.implementations[layer.name]
        x, sizes = node.inputs[0], _input_sizes(node)
        weight = merged_transposed_weight(
            self._read(node.inputs[1]), self.weights.options[layer.knob], implementation.groups,
            layer.input_order(),
        )  # fmt: skip
        if implementation.groups > 1:
            x = self._shuffled(x, layer, implementation, sizes, channels=1)
        inputs = [x, self._tensor(f"{name}.weight", weight)]
        if len(node.inputs) > 2:
            inputs.append(self._tensor(f"{name}.bias", self._read(node.inputs[2])))
        attributes = {key: each for key, each in node.attributes.items() if key != "input"}
        attributes["group"] = implementation.groups
        self.nodes.append(Node("ConvTranspose", tuple(inputs), (name,), attributes))

    def _on_grid(self, x: str, name: str, grid: Rounding) -> str:
        """Return a layer's input on its grid."""
        name = f"{name}.input"
        self.nodes.extend(rounded_input(x, name, grid, self._tensor))
        return name

    def _integers(
        self, weight: RoundedWeight, bias: np.ndarray | None, grid: Rounding, name: str
    ) -> list[str]:
        """Return the weight and the bias of a convolution, made of integers."""
        node, made = integer_weight(weight, f"{name}.weight", 0, self._tensor)
        self.nodes.append(node)
        if bias is None or not bias.any():
            return [made]
        node = integer_bias(bias, weight, grid, f"{name}.bias", self._tensor)
        if node is None:
            return [made, self._tensor(f"{name}.bias", bias)]
        self.nodes.append(node)
        return [made, node.outputs[0]]

    def _pointwise_product(
        self, x: str, weight: np.ndarray, bias: np.ndarray | None, sizes: list[int], name: str
    ) -> None:
        """Multiply the channels of each group by its block, at all positions at once."""
        # g: groups, o, i: outputs and inputs of a group, p: positions
        groups = sizes[0] // weight.shape[1]
        blocks_goi = weight.reshape(groups, -1, weight.shape[1])
        blocks = self._tensor(f"{name}.blocks", np.ascontiguousarray(blocks_goi))
        x_gip = self._reshaped(x, f"{name}.groups", [0, groups, weight.shape[1], -1])
        parts = f"{name}.parts"
        self.nodes.append(Node("MatMul", (blocks, x_gip), (parts,)))
        if bias is not None and bias.any():
            shift = self._tensor(f"{name}.bias", bias.reshape(1, groups, -1, 1))
            self.nodes.append(Node("Add", (parts, shift), (f"{name}.shifted",)))
            parts = f"{name}.shifted"
        self._reshaped(parts, name, [0, len(weight), *sizes[1:]])

    def _linear(self, node: Node) -> None:
        x, name = node.inputs[0], node.outputs[0]
        weight, groups = self._read(node.inputs[1]), 1
        product = f"{name}.product" if len(node.inputs) > 2 else name
        if node.layer:
            layer = self._layer(node)
            option, implementation = (
                self.weights.options[layer.knob],
                self.implementations[layer.name],
            )
            groups = implementation.groups
            weight = merged_weight(weight, option, groups, layer.input_order())
            if groups > 1:
                sizes = _input_sizes(node)
                x = self._shuffled(x, layer, implementation, sizes, channels=len(sizes))
        grid, rounded = self.weights.roundings.get(node.inputs[1]), None
        if grid is not None:
            x, rounded = self._on_grid(x, name, grid), RoundedWeight.of(weight, grid.bits)
            weight = rounded.values()
        if groups > 1:
            self._grouped_product(x, weight, groups, _input_sizes(node)[:-1], product)
        elif rounded is not None and grid is not None and grid.bits == INTEGER_BITS:
            made, columns = integer_weight(rounded, f"{name}.weight", 1, self._tensor)
            self.nodes += [made, Node("MatMul", (x, columns), (product,))]
        else:
            columns = self._tensor(f"{name}.weight", np.ascontiguousarray(weight.T))
            self.nodes.append(Node("MatMul", (x, columns), (product,)))
        if len(node.inputs) > 2:
            bias = self._tensor(f"{name}.bias", self._read(node.inputs[2]))
            self.nodes.append(Node("Add", (product, bias), (name,)))

    def _grouped_product(
        self, x: str, weight: np.ndarray, groups: int, leading: list[int], name: str
    ) -> None:
        """Multiply each group of the last dimension by its block."""
        # g: groups, i, o: inputs and outputs of a group
        blocks_gio = weight.reshape(groups, -1, weight.shape[1]).transpose(0, 2, 1)
        x_g1i = self._reshaped(x, f"{name}.groups", [0, *leading, groups, 1, weight.shape[1]])
        blocks = self._tensor(f"{name}.blocks", np.ascontiguousarray(blocks_gio))
        self.nodes.append(Node("MatMul", (x_g1i, blocks), (f"{name}.parts",)))
        self._reshaped(f"{name}.parts", name, [0, *leading, len(weight)])

    def _norm(self, node: Node, rows: np.ndarray | None) -> None:
        scale, shift = self.weights.norms[node.layer]
        if rows is not None:
            scale, shift = scale[rows], shift[rows]
        rank, name = node.attributes["rank"], node.outputs[0]
        if not isinstance(rank, int) or not 2 <= rank <= 8:
            raise ValueError(f"the graph is damaged: `rank` (={rank!r}) of {node.layer!r}")
        shape = (1, -1, *[1] * (rank - 2))
        scale_name = self._tensor(f"{name}.scale", scale.reshape(shape))
        shift_name = self._tensor(f"{name}.shift", shift.reshape(shape))
        self.nodes.append(Node("Mul", (node.inputs[0], scale_name), (f"{name}.scaled",)))
        self.nodes.append(Node("Add", (f"{name}.scaled", shift_name), (name,)))

    def _shuffled(
        self,
        x: str,
        layer: BundleLayer,
        implementation: Implementation,
        sizes: list[int],
        channels: int,
    ) -> str:
        """Return the input in the order in which the layer reads it.

        - `sizes`: of the input without the batch; `channels`: the place of its channels.
        """
        order = layer.input_order()
        if order is None or implementation.shuffling == "stored":
            return x
        name = f"{x}.for.{layer.name}"
        if implementation.shuffling == "gather":
            return self._gathered(x, name, order, channels)
        if implementation.shuffling == "gather last":
            return self._gathered_last(x, name, order, channels, len(sizes) + 1)
        before, after = sizes[: channels - 1], sizes[channels:]
        parts = [layer.shuffle_groups, layer.inputs // layer.shuffle_groups]
        split = self._reshaped(x, f"{name}.split", [0, *before, *parts, *after])
        turned = list(range(len(sizes) + 2))
        turned[channels], turned[channels + 1] = channels + 1, channels
        self.nodes.append(Node("Transpose", (split,), (f"{name}.turned",), {"perm": turned}))
        return self._reshaped(f"{name}.turned", name, [0, *sizes])

    def _gathered(self, x: str, name: str, order: np.ndarray, axis: int) -> str:
        indices = self._tensor(f"{name}.order", order.astype(np.int64))
        self.nodes.append(Node("Gather", (x, indices), (name,), {"axis": axis}))
        return name

    def _gathered_last(self, x: str, name: str, order: np.ndarray, axis: int, rank: int) -> str:
        """Gather with the channels last: an engine that keeps them so has nothing to turn."""
        last = [*(place for place in range(rank) if place != axis), axis]
        back = [last.index(place) for place in range(rank)]
        self.nodes.append(Node("Transpose", (x,), (f"{name}.last",), {"perm": last}))
        gathered = self._gathered(f"{name}.last", f"{name}.gathered", order, rank - 1)
        self.nodes.append(Node("Transpose", (gathered,), (name,), {"perm": back}))
        return name

    def _reshaped(self, x: str, name: str, shape: list[int]) -> str:
        sizes = self._tensor(f"{name}.sizes", np.array(shape, np.int64))
        self.nodes.append(Node("Reshape", (x, sizes), (name,)))
        return name

    def _layer(self, node: Node) -> BundleLayer:
        layer, weight = self.layers[node.layer], self._read(node.inputs[1])
        sizes = (layer.outputs, layer.inputs)
        sizes = sizes[::-1] if node.op == TRANSPOSED else sizes
        if weight.shape[:2] != sizes:
            raise ValueError(
                f"the weight of {layer.name!r} has shape {weight.shape}, not"
                f" ({sizes[0]}, {sizes[1]}, ...)"
            )
        return layer

    def _read(self, name: str) -> np.ndarray:
        return self.weights.tensors[name]

    def _tensor(self, name: str, array: np.ndarray) -> str:
        # The weight of a layer called "linear" must not be taken for that of a value of that name.
        name = f"={name}"
        self.tensors[name] = array
        return name


def _input_sizes(node: Node) -> list[int]:
    """Return the shape of a layer's input without the batch."""
    sizes = node.attributes.get("input")
    whole = isinstance(sizes, list) and all(isinstance(size, int) and size > 0 for size in sizes)
    if not whole or not isinstance(sizes, list) or len(sizes) > 7:
        raise ValueError(f"the graph is damaged: `input` (={sizes!r}) of {node.layer!r}")
    return [int(size) for size in sizes]
