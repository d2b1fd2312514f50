"""Finds the layers that write a network's outputs: the last ones on every way to each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from torch.fx import Node

from wenable.graph.nodes import VIEWS, argument, operation, shape_of

# Their inputs stand side by side in the output, each written by its own layers.
_SIDE_BY_SIDE = ("cat", "stack", "concat", "concatenate", "hstack", "vstack", "dstack", "copy")


@dataclass(frozen=True, slots=True)
class _Written:
    """Which layers wrote a tensor last, as bits.

    - `last`: the last layers, and those that one skip joins to them.
    - `without_skips`: those alone that no other layer of them reads.
    - `behind`: every layer that came before, these included.
    """

    last: int = 0
    without_skips: int = 0
    behind: int = 0


def last_layers(nodes: Sequence[Node], owners: Mapping[Node, str]) -> frozenset[str]:
    """Return the layers from which an output is computed without another layer in between.

    From each output the ways go back through every operation: activations, norms, reshapes, pooling,
    upsampling, products, and both sides of a sum. Where one side of a sum leads to the other (a skip
    around a part of the network), the layer before the skip counts too, but what reached that layer
    by skips of its own does not: otherwise every block of a residual network without a head would
    write its output. A depthwise layer is one of them, and what stands before it as well.

    - `nodes`: in execution order; `owners`: each operation that multiplies with a weight -> whose.
    """
    return _Walk(owners).run(nodes)


class _Walk:
    def __init__(self, owners: Mapping[Node, str]) -> None:
        self.owners = owners
        self.written: dict[Node, _Written] = {}
        self.names: list[str] = []
        self.before: list[int] = []
        """Of each layer, in the order of its bit, all layers that lead to it."""

    def run(self, nodes: Sequence[Node]) -> frozenset[str]:
        last = 0
        for node in nodes:
            if node.op == "output":
                last = _union(self._of(each).last for each in node.all_input_nodes)
            elif node.op == "call_function":
                self._visit(node)
        return frozenset(self.names[bit] for bit in _bits(last))

    def _of(self, node: Node) -> _Written:
        return self.written.get(node, _Written())

    def _visit(self, node: Node) -> None:
        inputs = list(dict.fromkeys(self._of(each) for each in node.all_input_nodes))
        name = operation(node).rstrip("_")
        if self.owners.get(node):
            found = self._by_layer(node, inputs)
        elif name in _SIDE_BY_SIDE:
            found = _beside(inputs)
        else:
            found = self._joined(inputs)
        self.written[node] = found
        first = node.args[0] if node.args else None
        if operation(node).endswith("_") and isinstance(first, Node):
            self._write_in_place(first, found)

    def _by_layer(self, node: Node, inputs: list[_Written]) -> _Written:
        bit, behind = 1 << len(self.names), _union(each.behind for each in inputs)
        self.names.append(self.owners[node])
        self.before.append(behind)
        if not _is_depthwise(node):
            return _Written(bit, bit, behind | bit)
        through = _beside(inputs)
        return _Written(through.last | bit, through.without_skips | bit, behind | bit)

    def _joined(self, inputs: list[_Written]) -> _Written:
        """Return what writes a tensor that is computed from several others, as a sum."""
        skips = [each for each in inputs if any(self._leads_to(each, other) for other in inputs)]
        ends = [each for each in inputs if each not in skips]
        alone = _union(each.without_skips for each in ends)
        last = _union(each.last for each in ends) | _union(each.without_skips for each in skips)
        return _Written(last, alone, _union(each.behind for each in inputs))

    def _leads_to(self, one: _Written, other: _Written) -> bool:
        """Whether all last layers of one tensor come before those of another."""
        before = _union(self.before[bit] for bit in _bits(other.without_skips))
        return bool(one.without_skips) and one.without_skips & ~before == 0

    def _write_in_place(self, node: Node, found: _Written) -> None:
        """Let later readers of a tensor see what was written to it, or to a view of it."""
        self.written[node] = found
        while operation(node).rstrip("_") in VIEWS and isinstance(node.args[0], Node):
            node = node.args[0]
            self.written[node] = _beside([self._of(node), found])


def _beside(inputs: Iterable[_Written]) -> _Written:
    every = list(inputs)
    return _Written(
        _union(each.last for each in every),
        _union(each.without_skips for each in every),
        _union(each.behind for each in every),
    )


def _union(masks: Iterable[int]) -> int:
    return reduce(or_, masks, 0)


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def _is_depthwise(node: Node) -> bool:
    """Whether a convolution keeps every channel to itself."""
    if not operation(node).startswith("conv"):
        return False
    weight, groups = shape_of(node.args[1]), argument(node, 6, "groups", 1)
    channels = shape_of(node.args[0])[1 - len(weight)]
    return groups > 1 and groups == channels
