"""Plans a mode for our kernels: from a graph and weights to steps over planes, each with its place.

Nothing is computed here. A graph that holds what the kernels have not is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wenable.runtime.building import ModeWeights
from wenable.runtime.graph import Graph, Node
from wenable.runtime.implementations import BundleLayer
from wenable.runtime.native.chains import ChainStep
from wenable.runtime.native.fusing import ACTIVATIONS, Fused, fused
from wenable.runtime.native.packing import PackedWeights
from wenable.runtime.native.steps import (
    NUMBERS,
    VALUE_MULTIPLIED,
    CombineStep,
    CopyStep,
    Step,
)
from wenable.runtime.native.values import Buffer, Memory, Planes, Value
from wenable.runtime.shapes import Shape
from wenable.runtime.sizes import value_shapes

_OVERRUN = 16
"""Values that a kernel may write past the end of a plane."""


class UnsupportedError(ValueError):
    """A graph that our kernels cannot run; says which operation it is."""


@dataclass
class Plan:
    """Steps in order, with the place of every plane.

    - `inputs`, `outputs`: values of each for one example.
    - `shares`: of each step, layer -> the share of its time that the layer brings; what is missing
      belongs to no layer that switches.
    """

    steps: Sequence[Step]
    shares: Sequence[Mapping[str, float]]
    place: np.ndarray
    arena: int
    inputs: list[int]
    outputs: list[int]
    output_shapes: list[Shape]

    def build(self, native: Any, machine: Any) -> Any:
        """Return a program that runs it on a machine."""
        program = native.Program(machine, self.arena, self.inputs, self.outputs)
        for step in self.steps:
            step.emit(program, self.place)
        return program


class Planner:
    """What the rules for operations (`operations.py`) work on.

    - `packed`: arrays of weights, shared with the plans of other modes.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Mapping[str, BundleLayer],
        weights: ModeWeights,
        packed: PackedWeights,
    ) -> None:
        self.graph, self.layers, self.weights, self._packed = graph, layers, weights, packed
        self.tensors = weights.tensors
        self.shapes = _shapes(graph, self.tensors)
        self.memory = Memory(_OVERRUN)
        self.steps: list[Step] = []
        self.values: dict[str, Value] = {}
        self.aside: set[str] = set()
        self.used: list[np.ndarray] = []
        self.readers: dict[str, list[Fused]] = {}
        self._made_for: dict[int, str] = {}
        """Step -> the layer whose operation added it."""
        self._layer_of = {
            each.inputs[1]: each.layer for each in graph.nodes if each.layer in layers
        }
        """Weight -> its layer."""

    def plan(self, rules: Mapping[str, Callable[[Planner, Fused], None]]) -> Plan:
        """Return the plan; raises `UnsupportedError` for what there is no rule for."""
        for number, each in enumerate(self.graph.inputs):
            if each.dtype != "float32":
                raise UnsupportedError(f"its input {each.name!r} is of {each.dtype}, not float32")
            self.values[each.name] = _input_value(self.shapes[each.name], number)
        items = fused(self.graph, self.tensors, self.shapes)
        for item in items:
            for name in item.reads:
                self.readers.setdefault(name, []).append(item)
        for item in items:
            self._add(item, rules)
        for number, each in enumerate(self.graph.outputs):
            value = self.settled(self.value(each.name))
            self.steps.append(CopyStep(value, self.sample(value), None, output=number))
        for step in self.steps:
            if isinstance(step, ChainStep):
                step.pack(self)
        self._set_lifetimes()
        outputs = [self.shapes[each.name] for each in self.graph.outputs]
        place = self.memory.place()
        return Plan(
            self.steps,
            [self._shares(step) for step in self.steps],
            place,
            self.memory.arena,
            [int(np.prod(self.shapes[each.name])) for each in self.graph.inputs],
            [int(np.prod(shape)) for shape in outputs],
            outputs,
        )

    def _add(self, item: Fused, rules: Mapping[str, Callable[[Planner, Fused], None]]) -> None:
        node = item.node
        given = [name for name in node.inputs if name]
        if node.op in ("Shape", "Size") or all(
            name in self.aside or name in self.tensors for name in given
        ):
            # Sizes that reshapes are given: `shapes` tells what becomes of them.
            self.aside.update(name for name in node.outputs if name)
            return
        if node.op not in rules:
            raise UnsupportedError(
                f"{node.op} makes {node.outputs[0]!r}, and there is no kernel for it"
            )
        before = {id(step) for step in self.steps}
        try:
            rules[node.op](self, item)
        except UnsupportedError:
            raise
        except (ValueError, IndexError, AssertionError, KeyError, TypeError) as error:
            raise UnsupportedError(f"{node.op} makes {node.outputs[0]!r} of {error}") from error
        if node.layer in self.layers:
            added = (id(step) for step in self.steps if id(step) not in before)
            self._made_for.update(dict.fromkeys(added, node.layer))
        for name in (item.output, *node.outputs):
            if name in self.values and self.values[name].shape != self.shapes[name][1:]:
                found, wanted = self.values[name].shape, self.shapes[name][1:]
                raise AssertionError(f"{node.op} made {name!r} of shape {found}, not {wanted}")

    def _shares(self, step: Step) -> dict[str, float]:
        """Return layer -> its share of a step; a chain is shared out by multiply-accumulates."""
        if not isinstance(step, ChainStep):
            layer = self._made_for.get(id(step))
            return {layer: 1.0} if layer else {}
        macs = {self._layer_of.get(name): float(count) for name, count in step.macs().items()}
        total = sum(macs.values())
        return {layer: count / total for layer, count in macs.items() if layer}

    def _set_lifetimes(self) -> None:
        for number, step in enumerate(self.steps):
            made = step.makes
            for buffer in [made] if isinstance(made, Buffer) else made or ():
                buffer.made = buffer.last = number
            for planes in step.reads:
                for buffer in self.memory.buffers_of(planes):
                    buffer.last = number

    # What rules ask for

    def value(self, name: str) -> Value:
        """Return a value that an operation made."""
        if name not in self.values:
            raise UnsupportedError(f"the value {name!r} is a constant, or depends on sizes")
        return self.values[name]

    def settled(self, value: Value, *, input_too: bool = False) -> Value:
        """Return a value without multiplications that are still to be made."""
        if value.source >= 0 and input_too:
            value = self.copied(value)
        if value.scales is None:
            return value
        made = self.buffer_like(value)
        self.join(value, made)
        step = CombineStep(value.planes, made, VALUE_MULTIPLIED, 0, right=value.scales)
        self.steps.append(step)
        return replace(value, planes=made.numbers.reshape(value.planes.shape), scales=None)

    def read(self, name: str) -> Value:
        """Return a value that lies in the arena as it is."""
        value = self.settled(self.value(name), input_too=True)
        self.values[name] = value  # whoever reads it next need not do it again
        return value

    def copied(self, value: Value) -> Value:
        """Return a copy of an input of the network in the arena."""
        made = self.buffer_like(value)
        self.steps.append(CopyStep(value, None, made))
        return replace(value, planes=made.numbers.reshape(value.planes.shape), source=-1)

    def buffer_like(self, value: Value) -> Buffer:
        """Return a new buffer for as many planes of the same size."""
        return self.memory.buffer(value.planes.size, value.rows, value.columns)

    def sample(self, value: Value) -> Buffer | None:
        """Return a buffer whose planes are like those of a value; None for an input of the network."""
        if value.source >= 0:
            return None
        buffers = self.memory.buffers_of(value.planes)
        for each in buffers[1:]:  # one kernel goes through all of them
            each.pitch.join(buffers[0].pitch)
        points = [each.is_points for each in buffers]
        return buffers[points.index(False) if False in points else 0]

    def join(self, value: Value, *buffers: Buffer) -> None:
        """Have the planes of a value and of buffers the same distance between rows."""
        first, *others = (*self.memory.buffers_of(value.planes), *buffers)
        for each in others:
            each.pitch.join(first.pitch)

    def pack(self, name: str, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an array made of the tensor `name`, made once for all modes that have it in common."""
        found = self._packed.get(self.tensors[name], key, make)
        self.used.append(found)
        return found

    def finish(self, item: Fused, made: Buffer, shape: Sequence[int] | None = None) -> None:
        """Call what a step made by the name of its output."""
        wanted = tuple(self.shapes[item.output][1:] if shape is None else shape)
        spatial = len(wanted) > 2 or (made.rows, made.columns) != (1, 1)
        dimensions = wanted[:-2] if spatial else wanted
        self.values[item.output] = Value(
            made.numbers.reshape(dimensions), made.rows, made.columns, spatial
        )

    def activate(self, item: Fused, value: Value) -> None:
        """Apply an activation to a value, as a step of its own."""
        made = self.buffer_like(value)
        self.join(value, made)
        ones = np.ones(value.planes.size, np.float32)
        number = ACTIVATIONS.index(item.activation)
        step = CombineStep(value.planes, made, NUMBERS, number, scale=ones, shift=ones * 0)
        self.steps.append(step)
        self.values[item.output] = replace(value, planes=made.numbers.reshape(value.planes.shape))


def planes_of(value: Value) -> Planes:
    """Return the planes of a value, whatever its dimensions."""
    return value.planes.ravel()


def _input_value(shape: Shape, number: int) -> Value:
    spatial = len(shape) > 3
    dimensions = shape[1:-2] if spatial else shape[1:]
    rows, columns = shape[-2:] if spatial else (1, 1)
    planes = np.arange(int(np.prod(dimensions))).reshape(dimensions)
    return Value(planes, rows, columns, spatial, source=number)


def _shapes(graph: Graph, tensors: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """Return the shape of every value for one example; refuses what does not keep examples apart."""
    one, two = (value_shapes(graph, tensors, batch) for batch in (1, 2))
    aside: set[str] = set()
    for node in graph.nodes:
        if node.op in ("Shape", "Size") or all(
            n in aside or n in tensors for n in node.inputs if n
        ):
            aside.update(node.outputs)
            continue
        for name in filter(None, node.outputs):
            if not one[name] or one[name][0] != 1 or two[name] != (2, *one[name][1:]):
                raise UnsupportedError(
                    f"{node.op} makes {name!r}, whose first dimension is not that of the examples"
                )
    return one


def constant(planner: Planner, node: Node, number: int) -> np.ndarray:
    """Return an input of a node that has to be a tensor of the bundle."""
    name = node.inputs[number] if number < len(node.inputs) else ""
    if name not in planner.tensors:
        raise UnsupportedError(
            f"{node.op} makes {node.outputs[0]!r} with {name!r}, which is no constant"
        )
    return planner.tensors[name]
