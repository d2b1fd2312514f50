"""The graphs that the modes of a network run, each of them once, and the tensors that they read.

Modes whose layers use other parts of their weights run the graph of the full mode; see
`layers.roles.HasViews`. A knob that sets a module which does something else in each option, an early
exit say, has a graph for each of its options. So has one that makes the images smaller: its graphs take
images of the mode's size, and the runtime makes those that it is given smaller. So has a width that the
graph of the full mode does not fit, since the network's code names numbers of channels, or whose code
computes with them, which shows in its answers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from wenable.core.space import Mode
from wenable.core.views import View
from wenable.exporting.image_sizes import Sides
from wenable.exporting.output_names import unlike, with_outputs_named
from wenable.exporting.tracing import bundle_graph, layers_with_views
from wenable.layers.batch_norm import SwitchableBatchNorm
from wenable.layers.exits import HEAD, NAMES_IN_HEAD, ExitPoint
from wenable.layers.slimmable import SlimmableLayer
from wenable.modules.outputs import OutputNames
from wenable.network.dynamic_network import DynamicNetwork
from wenable.runtime.graph import Graph
from wenable.runtime.mode_views import CutTensors, in_mode
from wenable.runtime.sizes import value_shapes


class ModeGraphs:
    """Traces the graphs of modes as they are asked for.

    - `graphs`: in the order of their numbers; `tensors`: what they read, parameters as a whole.
    - `widths_apart`: whether each width has a graph of its own, if that of the full mode fits it too.
    """

    def __init__(
        self, net: DynamicNetwork, outputs: OutputNames | None, *, widths_apart: bool = False
    ) -> None:
        self._net, self._outputs, self._apart = net, outputs, widths_apart
        self._numbers: dict[tuple[Mode, Sides | None], int] = {}
        self._own = _knobs_with_own_graphs(net)
        self._widths = knobs_of_widths(net)
        self.graphs: list[Graph] = []
        self.tensors: dict[str, np.ndarray] = {}

    def number_of(self, mode: Mode, sides: Sides | None = None) -> int:
        """Return the number of the graph that a mode runs.

        - `sides`: another size of images than the example's.
        """
        full = self._net.space.full
        shared = any(mode[name] != full[name] for name in self._widths - self._own)
        if not (shared and self._apart):
            number = self._traced(mode, self._own, sides)
            if not shared or self._fits(mode, self.graphs[number]):
                return number
        return self._traced(mode, self._own | self._widths, sides)

    def _traced(self, mode: Mode, own: frozenset[str], sides: Sides | None) -> int:
        """Return the number of the graph of a mode in which only the knobs `own` are not at full."""
        space = self._net.space
        traced = space.mode(
            {name: mode[name] if name in own else space.full[name] for name in mode}
        )
        if (traced, sides) not in self._numbers:
            graph, read = bundle_graph(self._net, self._outputs, traced, sides)
            if self.graphs:  # those of an exit are made by another operation, and called after that
                alike = [each.name for each in self.graphs[0].outputs]
                graph = with_outputs_named(graph, alike, taken=read)
            names = _names_of_branch(self._net, traced)
            graph = _renamed(graph, names)
            read = {names.get(name, name): array for name, array in read.items()}
            self._numbers[traced, sides] = self._added(graph, read)
        return self._numbers[traced, sides]

    def _fits(self, mode: Mode, graph: Graph) -> bool:
        """Say whether the operations of a graph fit what a mode leaves of its weights."""
        views = views_of(self._net, mode, graph.tensors_read())
        try:
            value_shapes(in_mode(graph, views), CutTensors(self.tensors).sized(views))
        except ValueError:
            return False
        return True

    def _added(self, graph: Graph, read: Mapping[str, np.ndarray]) -> int:
        """Put a graph beside the others; a tensor of theirs is shared where it is the same."""
        viewed = {name for name, _ in (*layers_with_views(self._net), *_exits(self._net))}
        whole = {
            name: parameter.detach().cpu().numpy()
            for name, parameter in self._net.named_parameters()
            if name.rpartition(".")[0] in viewed
        }
        names: dict[str, str] = {}
        made = {name for each in (graph, *self.graphs) for name in _made(each)}
        for name, array in read.items():
            array = whole.get(name, array)
            names[name] = self._name_for(name, array, made)
            self.tensors[names[name]] = array
        for name in _made(graph) & set(self.tensors):
            names[name] = unlike(name, "_value", made | set(self.tensors))
            made.add(names[name])
        graph = _renamed(graph, names)
        if graph not in self.graphs:
            self.graphs.append(graph)
        return self.graphs.index(graph)

    def _name_for(self, name: str, array: np.ndarray, made: set[str]) -> str:
        kept = self.tensors.get(name)
        if name not in made and (kept is None or _same(kept, array)):
            return name
        number = 1
        while True:
            other = f"{name}.{number}"
            kept = self.tensors.get(other)
            if other not in made and (kept is None or _same(kept, array)):
                return other
            number += 1


def views_of(net: DynamicNetwork, mode: Mode, read: Iterable[str]) -> dict[str, View]:
    """Return the views of a mode: tensor -> the part of it that the mode uses.

    - `read`: the tensors that its graph reads; others have none.
    """
    wanted = set(read)
    with net.using(mode):
        found = {
            f"{prefix}.{name}": view
            for prefix, layer in layers_with_views(net)
            for name, view in layer.views().items()
        }
        found |= {
            f"{prefix}.{name}": view
            for prefix, point in _exits(net)
            for name, view in point.exit_views().items()
        }
    return {name: view for name, view in found.items() if name in wanted}


def _knobs_with_own_graphs(net: DynamicNetwork) -> frozenset[str]:
    """Return the knobs that set something else than norms and layers with views."""
    modules = dict(net.named_modules())
    same_graph = {name for name, _ in layers_with_views(net)}
    same_graph |= {
        name for name, module in modules.items() if isinstance(module, SwitchableBatchNorm)
    }
    return frozenset(
        knob
        for knob, followers in net._wenable.plan.followers.items()
        if any(
            each.module not in same_graph and each.setter != "set_exit_width"
            for each in followers  # the inputs among them
        )
    )


def knobs_of_widths(net: DynamicNetwork) -> frozenset[str]:
    """Return the knobs that leave layers fewer channels."""
    return frozenset(
        module.knob.name for module in net.modules() if isinstance(module, SlimmableLayer)
    )


def _exits(net: DynamicNetwork) -> Iterator[tuple[str, ExitPoint]]:
    for name, module in net.named_modules():
        if isinstance(module, ExitPoint):
            yield name, module


def _names_of_branch(net: DynamicNetwork, mode: Mode) -> dict[str, str]:
    """Return the names that the parameters of the branch of a mode have in the network it is cut from."""
    with net.using(mode):
        return {
            f"{HEAD}.{plain}": f"{name}.{own}"
            for name, point in _exits(net)
            if point.stops
            for plain, own in NAMES_IN_HEAD.items()
        }


def _made(graph: Graph) -> set[str]:
    return {name for node in graph.nodes for name in node.outputs if name}


def _renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    new = {old: name for old, name in names.items() if old != name}
    if not new:
        return graph
    nodes = tuple(
        replace(
            node,
            inputs=tuple(new.get(name, name) for name in node.inputs),
            outputs=tuple(new.get(name, name) for name in node.outputs),
        )
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
