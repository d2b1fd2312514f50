"""Walks the nodes of a traced graph in execution order and keeps where channels come from."""

from __future__ import annotations

import posixpath
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torchvision.ops import FrozenBatchNorm2d

from wenable.graph.calls import LayerCall, ModuleEnd
from wenable.graph.macs import LAYERS
from wenable.graph.nodes import VIEWS, operation, shape_of
from wenable.graph.origin import Origin
from wenable.graph.products import Products
from wenable.graph.rules import RULES

# Operations that read a parameter as it is; what they mean for switching is handled there.
_READERS_OF_WEIGHTS = (*LAYERS, "batch_norm")
# Products of two tensors that layers wrote: of queries with keys, of their softmax with values.
_ATTENTION_PRODUCTS = ("scaled_dot_product_attention", "matmul", "bmm", "baddbmm", "einsum")
_ATTENTION = "<attention>"
_PROJECTIONS = frozenset(
    f"conv{kind}{dimensions}d" for kind in ("", "_transpose") for dimensions in (1, 2, 3)
) | {"linear"}
# A network that is one layer by itself; any other that holds a weight multiplies with a parameter.
_LAYERS_ALONE = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)


class Walker:
    """Visits the nodes in execution order and keeps the origin of each tensor."""

    def __init__(self, model: nn.Module, names: dict[str, str]) -> None:
        self.modules = dict(model.named_modules())
        firsts = {id(module): name for name, module in self.modules.items()}
        every = model.named_modules(remove_duplicate=False)
        self.first_names = {name: firsts[id(module)] for name, module in every}
        parameters = model.named_parameters(remove_duplicate=False)
        buffers = model.named_buffers(remove_duplicate=False)
        self.tensors: dict[str, torch.Tensor] = {**dict(parameters), **dict(buffers)}
        self.names = names
        self.products = Products(self.modules, names, self.first_names)
        self.origins: dict[Node, Origin | None] = {}
        self.layers: list[LayerCall] = []
        self.norms: list[LayerCall] = []
        self.outputs: list[Origin | None] = []
        self.computed: set[str] = set()
        self.ends: dict[str, ModuleEnd] = {}
        self.owners: dict[Node, str] = {}
        # Of every tensor, the last layers (or attention) that wrote to it, by whatever operations.
        self.writers: dict[Node, frozenset[str]] = {}
        self.attention: set[str] = set()
        self.latest_projections: frozenset[str] = frozenset()

    def visit(self, node: Node) -> None:
        """Follow one node; its inputs have been visited before."""
        if node.op == "output":
            self.outputs = [self.origins.get(each) for each in node.all_input_nodes]
        if node.op != "call_function":
            self.products.visit(node, 0, [], None)
            return
        name, position = operation(node), len(self.origins)
        self._note_ends(node)
        self.writers[node] = self._written_by(node, name)
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
        origin = rule(self, node) if rule else None
        running = [each for each in self._running_stack(node) if each is not None]
        owner = self.owners.get(node) if name in LAYERS else None
        self.products.visit(node, position, running, owner)
        if origin is not None and not _fits(origin, node):
            origin = None
        self.origins[node] = origin
        # An in-place operation changes what later readers of its first argument see.
        if name.endswith("_") and node.args and isinstance(node.args[0], Node):
            self._written_in_place(node.args[0], origin)

    def _written_in_place(self, node: Node, origin: Origin | None) -> None:
        self.origins[node] = origin
        # What is written to part of a tensor changes the whole, in ways that are not followed.
        while operation(node).removesuffix("_") in VIEWS and isinstance(node.args[0], Node):
            node = node.args[0]
            self.origins[node] = None

    def _written_by(self, node: Node, name: str) -> frozenset[str]:
        """Return the last layers that wrote to a node's output, and note those of attention."""
        inputs = [self.writers.get(each, frozenset()) for each in node.all_input_nodes]
        written = frozenset().union(*inputs)
        if name in _PROJECTIONS:
            layer = self.owner(node, node.args[1], "weight")
            if (
                layer is not None
                and inputs[0] == {_ATTENTION}
                and self._is_beside_projections(layer)
            ):
                self.attention.add(layer)
            # A product with some other tensor, as the joint projection of torch's own attention.
            return frozenset({layer or f"<{node.name}>"})
        products = [each for each in node.args if isinstance(each, Node) and self.writers.get(each)]
        if name in _ATTENTION_PRODUCTS and len(products) > 1:
            self.attention |= written - {_ATTENTION}
            self.latest_projections = written - {_ATTENTION} or self.latest_projections
            return frozenset({_ATTENTION})
        return written

    def _is_beside_projections(self, layer: str) -> bool:
        """Whether a layer is of the attention whose output it reads, and not of the block around.

        Attention may stand where a convolution does: what reads it there is the block's next layer.
        """
        paths = [each.replace(".", "/").rpartition("/")[0] for each in self.latest_projections]
        attention = [part for part in posixpath.commonpath(paths).split("/") if part]
        return layer.split(".")[: len(attention)] == attention

    def origin(self, argument: Any) -> Origin | None:
        """Return where the channels of an argument come from, or None where that is unknown."""
        return self.origins.get(argument) if isinstance(argument, Node) else None

    def is_frozen_norm(self, module: str) -> bool:
        """Whether a module is a batch norm whose statistics are constants."""
        return type(self.modules[module]) is FrozenBatchNorm2d

    def is_constant(self, argument: Any) -> bool:
        """Whether an argument is a number, or a tensor that follows from no input of the network."""
        return not isinstance(argument, Node) or argument not in self.products.varying

    def owner(self, node: Node, argument: Any, leaf: str) -> str | None:
        """Return the module whose parameter or buffer `leaf` this argument is, or None.

        The tracer knows a shared tensor by one of its names only; the module that is running when
        the operation is called says which of its owners is meant.
        """
        if not isinstance(argument, Node) or argument.name not in self.names:
            return None
        running = self.running(node)
        tensor = self.tensors[self.names[argument.name]]
        if running is not None and getattr(self.modules[running], leaf, None) is tensor:
            return running if running or isinstance(self.modules[""], _LAYERS_ALONE) else None
        module, _, found = self.names[argument.name].rpartition(".")
        return self.first_names.get(module) if found == leaf else None

    def note_other_uses(self, node: Node) -> None:
        """Note the modules whose parameters are read by anything but a layer or a norm."""
        if operation(node) in _READERS_OF_WEIGHTS or node.op == "output":
            return
        for argument in node.all_input_nodes:
            name = self.names.get(argument.name, "")
            if self.first_names.get(name.rpartition(".")[0]) and name.endswith(".weight"):
                self.computed.add(self.first_names[name.rpartition(".")[0]])

    def running(self, node: Node) -> str | None:
        """Return the innermost module that is running at a node, by its first name."""
        stack = self._running_stack(node)
        return stack[-1] if stack else None

    def _running_stack(self, node: Node) -> list[str | None]:
        """Return the modules that are running at a node, the network first."""
        stack = node.meta.get("nn_module_stack", {}).values()
        return [self.first_names.get(str(each[0]).partition("@")[0]) for each in stack]

    def _note_ends(self, node: Node) -> None:
        # The last note of each module stays.
        end = ModuleEnd(len(self.origins), shape_of(node), node.name)
        self.ends |= {name: end for name in self._running_stack(node) if name is not None}


def _fits(origin: Origin, node: Node) -> bool:
    """Whether a claimed origin agrees with the shape; a list of tensors is checked at its items."""
    shape = shape_of(node)
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return True
    return len(shape) >= -origin.axis and shape[origin.axis] == origin.width
