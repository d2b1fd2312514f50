"""Whether an int8 file computes what was simulated: each layer by itself, and the network as a whole.

A deep network can make much of one integer that rounding decides, so its last answers tell little of a
layer that is slightly wrong; the layers themselves do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wenable.exporting.agreement import difference_of
from wenable.modules.outputs import tensors_of

LAYER_TOLERANCE = 0.02
"""How far a layer's output may be from the simulated one, as a share of the largest: one integer of its
input may be rounded otherwise."""
TOLERANCE = 0.05
"""How far an answer may be from that of the simulation, as a share of the largest, but for its noise."""
_NOISES = 4
_NUDGE = 1e-5
"""How far inputs are moved, as a share of themselves, to see what rounding makes of it.

By that much engines differ from a simulated layer, most of it from biases that they round to integers. A
tenth of it changes no integer at all in some narrow network, of which an engine still changes some.
"""


@dataclass(frozen=True)
class Simulation:
    """The simulated mode that a file is held against.

    - `network`: the mode's plain network, before anything was replaced; `x`: an input batch.
    - `norms`: layer of 8 bits -> the batch norm that was folded into it, or None.
    """

    network: nn.Module
    x: torch.Tensor
    norms: Mapping[str, str | None]


def check_int8(content: bytes, simulation: Simulation) -> None:
    """Raise `RuntimeError` where ONNX Runtime's answers are not those of the simulation.

    Layer by layer: as the file has it, fed with what the file feeds it. Then as a whole, with
    integers multiplied; there five times the noise of the simulation is allowed on top, which is how
    far its answers move in float64, and with inputs moved by a hundred-thousandth.
    """
    for name, difference in _layer_differences(content, simulation):
        if not difference <= LAYER_TOLERANCE:
            raise RuntimeError(
                f"the layer {name!r} differs in the file from the simulated one by"
                f" {100 * difference:.1f} % of its largest output; at most {100 * LAYER_TOLERANCE:.0f} %"
                " is allowed, and nothing was written"
            )
    network, x = simulation.network, simulation.x
    expected = tensors_of(network(x))
    allowed = TOLERANCE + 5 * simulation_noise(network, (x,), expected)
    found = _run(content, x, optimised=True)
    difference = largest_difference(found, expected)
    if not difference <= allowed:
        raise RuntimeError(
            f"ONNX Runtime's answers differ from the simulated ones by {100 * difference:.1f} % of the"
            f" largest; at most {100 * allowed:.1f} % is allowed, and nothing was written"
        )


def _layer_differences(content: bytes, simulation: Simulation) -> Iterator[tuple[str, float]]:
    """Yield how far each layer of 8 bits is from the simulated one, given the same input."""
    import onnx

    model = onnx.load_model_from_string(content)
    ends = _ends(model.graph)
    missing = sorted(set(simulation.norms) - set(ends))
    if missing:
        raise RuntimeError(f"the layer {missing[0]!r} is not in the file as integers")
    values = list(dict.fromkeys(value for pair in ends.values() for value in pair))
    known = {each.name for each in model.graph.output}
    for value in values:
        if value not in known:
            model.graph.output.append(onnx.ValueInfoProto(name=value))
    outputs = [each.name for each in model.graph.output]
    found = _run(model.SerializeToString(), simulation.x, optimised=False)
    by_name = dict(zip(outputs, found, strict=True))
    for name, norm in simulation.norms.items():
        given, answer = (by_name[value] for value in ends[name])
        expected = simulation.network.get_submodule(name)(given)
        if norm is not None:
            expected = simulation.network.get_submodule(norm)(expected)
        yield name, _difference(answer, expected)


def _ends(graph: Any) -> dict[str, tuple[str, str]]:
    """Return layer of 8 bits -> the value that is quantised for it, and its output."""
    makers = {node.output[0]: node for node in graph.node}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or not node.input[1].endswith(".input_scale"):
            continue
        layer = node.input[1].removesuffix(".input_scale")
        (numbers,) = readers[node.output[0]]
        (product,) = readers[numbers.output[0]]
        output = product.output[0]
        # A dense layer is a product, a transposed weight, and a sum with the bias.
        after = readers.get(output, [])
        if product.op_type == "MatMul" and len(after) == 1 and after[0].op_type == "Add":
            others = [name for name in after[0].input if name != output]
            if makers[others[0]].op_type == "DequantizeLinear":
                output = after[0].output[0]
        found[layer] = (node.input[0], output)
    return found


def _run(content: bytes, x: torch.Tensor, *, optimised: bool) -> list[torch.Tensor]:
    from wenable.runtime.quiet_onnxruntime import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(each) for each in session.run(None, {"input": x.numpy()})]


def simulation_noise(
    network: nn.Module, inputs: tuple[torch.Tensor, ...], expected: list[torch.Tensor]
) -> float:
    """Return how far rounding alone moves the answers of the simulation, as a share of the largest."""
    generator = torch.Generator().manual_seed(0)
    precise = (each.double() if each.is_floating_point() else each for each in inputs)
    # Not in a copy: a network that was cut at an exit is of a class of torch.fx, whose copies call
    # themselves for ever once another class is derived from it. Back in float32 all bits are as before.
    try:
        found = tensors_of(network.double()(*precise))
    finally:
        network.float()
    moved = [[each.float() for each in found]]
    for _ in range(_NOISES):
        nudged = (
            each * (1 + _NUDGE * torch.randn(each.shape, generator=generator))
            if each.is_floating_point()
            else each
            for each in inputs
        )
        moved.append(tensors_of(network(*nudged)))
    return max(largest_difference(each, expected) for each in moved)


def largest_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return how far answers are from those expected, at most, as a share of the largest."""
    return max(_difference(one, other) for one, other in zip(found, expected, strict=True))


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return difference_of(expected.detach().numpy(), found.detach().numpy())
