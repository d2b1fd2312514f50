"""Finds what multiplies and adds in a traced network, and whose weight it multiplies with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._pytree import tree_leaves, tree_map

from wenable.graph.calls import Product
from wenable.graph.counter import macs_in_parts, weight_hooks
from wenable.graph.macs import LAYERS, RULES, macs_of, weight_of
from wenable.graph.nodes import operation, shape_of

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
# What `torch.nn.utils` calls the parameters that it computes a weight from.
_LEAVES_OF_WEIGHTS = ("weight", "weight_orig", "weight_v", "weight_g")
# The recurrent ones read their weights from lists, and no other argument of theirs is a weight.
_WITH_LISTS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
# Made of others, but never of products: most operations of a network, and not worth a look.
_TRIVIAL = ("reshape", "flatten", "to", "contiguous", "dropout", "batch_norm", "layer_norm")


class Products:
    """Notes the products of a trace, one node after the other.

    - `modules`: the network's, by first name; `names`: the name of a node that is a parameter or a
      buffer -> its qualified name; `first_names`: every name of a module -> its first.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        names: Mapping[str, str],
        first_names: Mapping[str, str],
    ) -> None:
        self.modules, self.names, self.first_names = modules, names, first_names
        self.found: list[Product] = []
        self.owners: dict[Node, str] = {}
        # The nodes that follow from an input: what does not is a weight, or computed from weights.
        self.varying: set[Node] = set()

    def visit(self, node: Node, position: int, running: list[str], owner: str | None) -> None:
        """Note a node's product, if it is one.

        - `running`: the modules that are running, the network first.
        - `owner`: the module whose weight a layer multiplies with, where that is known already.
        """
        self._note_varying(node)
        if node.op != "call_function" or self._computes_a_weight(node, running):
            return
        name, macs = operation(node), _macs(node)
        if not macs:
            return
        module = running[-1] if running else ""
        owner = self._owner(node, name, module) if owner is None else owner
        self.owners[node] = owner
        self.found.append(Product(name, position, macs, owner, module))

    def modules_behind(self, weight: Any) -> set[str]:
        """Return the modules whose parameters a computed weight was computed from."""
        found = {self._split(name)[0] for name in self._parameters_behind(weight)}
        return {self.first_names[name] for name in found if name in self.first_names}

    # --- whose weight it is -----------------------------------------------------------------------

    def _owner(self, node: Node, name: str, module: str) -> str:
        if name in LAYERS:
            weight = weight_of(name, node.args)
            found = self._parameters_behind(weight)
            own = any(True for _ in self.modules[module].parameters(recurse=False))
            if not found and own and weight in self.varying:
                return module  # a kernel for each input, mixed from the module's own weights
        elif name in _WITH_LISTS:
            lists = [each for each in node.args if isinstance(each, list | tuple)]
            found = [name for each in lists[-1] for name in self._parameters_behind(each)]
        else:
            constant = [each for each in node.all_input_nodes if each not in self.varying]
            found = [name for each in constant for name in self._parameters_behind(each)]
        names = [self._named(each) for each in found]
        # Of a weight and its mask, say, the module that has both.
        return next((each for each in names if each in self.modules), names[0]) if names else ""

    def _parameters_behind(self, weight: Any) -> list[str]:
        """Return the parameters and buffers that a tensor was computed from, by qualified name.

        Not those behind another layer: its weights are its own.
        """
        found: dict[str, None] = {}
        todo, seen = [weight] if isinstance(weight, Node) else [], set[Node]()
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.name in self.names:
                found[self.names[node.name]] = None
            elif node not in self.varying or node not in self.owners:
                todo.extend(reversed(node.all_input_nodes))
        return list(found)

    def _named(self, parameter: str) -> str:
        """Return the module that a parameter is the weight of, or its own name."""
        module, leaf = self._split(parameter)
        module = self.first_names.get(module, module)
        known = isinstance(self.modules.get(module), _RECURRENT) or leaf in _LEAVES_OF_WEIGHTS
        return module if known and module else f"{module}.{leaf}".lstrip(".")

    def _split(self, parameter: str) -> tuple[str, str]:
        """Return the module and the attribute that a parameter belongs to, past a parametrization."""
        module, _, leaf = parameter.rpartition(".")
        parts = module.split(".")
        if "parametrizations" in parts:
            at = parts.index("parametrizations")
            return ".".join(parts[:at]), parts[at + 1]
        return module, leaf

    # --- what is no product of the network's ------------------------------------------------------

    def _note_varying(self, node: Node) -> None:
        is_input = node.op == "placeholder" and node.name not in self.names
        if is_input or any(each in self.varying for each in node.all_input_nodes):
            self.varying.add(node)
            if operation(node).endswith("_") and isinstance(node.args[0], Node):
                self.varying.add(node.args[0])

    def _computes_a_weight(self, node: Node, running: list[str]) -> bool:
        """Whether an operation is a parametrization's, of the newer or the older kind."""
        if any(isinstance(self.modules[name], ParametrizationList) for name in running):
            return True
        return (
            node not in self.varying
            and operation(node) in ("mv", "dot")
            and bool(running and weight_hooks(self.modules[running[-1]]))
        )


def _macs(node: Node) -> int:
    """Return the multiply-accumulates of a node, for the whole example input."""
    name = operation(node)
    if name in RULES:
        return macs_of(name, tree_map(_value, node.args), _value(node))
    tensors = sum(len(shape_of(each)) > 0 for each in node.all_input_nodes)
    if tensors < 2 or name in _TRIVIAL or not isinstance(node.target, torch._ops.OpOverload):
        return 0
    args, kwargs = tree_map(_on_meta, (node.args, node.kwargs))
    whole = all(each.device.type == "meta" for each in tree_leaves(args) if hasattr(each, "device"))
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        node.target.name(), "CompositeImplicitAutograd"
    )
    return macs_in_parts(node.target, args, kwargs) if whole and composite else 0


def _value(argument: Any) -> Any:
    return argument.meta.get("val") if isinstance(argument, Node) else argument


def _on_meta(argument: Any) -> Any:
    value = _value(argument)
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")
