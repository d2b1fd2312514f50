"""Writes a mode of 8 bits as an ONNX model whose layers multiply 8-bit integers for real."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wenable.core.files import check_writable, write_whole
from wenable.core.space import ModeChoice
from wenable.exporting.fake_tensors import without_fakes_left
from wenable.exporting.global_pooling import GlobalPoolingAsMean
from wenable.exporting.int8_check import Simulation, check_int8
from wenable.exporting.plain_networks import (
    check_exportable,
    plain_for_export,
    tensor_inputs,
    traced_by_exporter,
)
from wenable.graph import modules_with_effect
from wenable.layers.quantization import FakeQuantizedInput, weight_grid
from wenable.modules.copying import put_in_place
from wenable.modules.passes import in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork

BITS = 8


def export_int8(net: DynamicNetwork, mode: ModeChoice, path: str | os.PathLike[str]) -> Path:
    """Write a mode with layers of 8 bits as an ONNX model in the QDQ form, and return where it lies.

    - `net`: converted with `SwitchablePrecision`, alone or beside groups or widths; the mode should be
      trained or calibrated.
    - `path`: of the file, as `net.int8.onnx`.

    Weights are 8-bit integers in the file, inputs are quantised before each layer, and batch norms
    right behind a layer are folded into its scales, which leaves its integers but for signs. Engines
    (ONNX Runtime, OpenVINO, TensorRT) multiply 8-bit integers where such a layer's output is quantised
    again, directly or behind a ReLU; a layer before a sum runs in floating point on the same numbers.
    Layers of other precisions stay simulated. The model takes any number of examples; its input is
    called `input` and its output `output`; several outputs have the names that the network gives them,
    or their places.

    On x86 processors without VNNI, engines add pairs of products in 16 bits, which can overflow; ONNX
    Runtime's session option `session.x64quantprecision` set to `"1"` keeps that from happening.

    Before the file is written ONNX Runtime runs it, with that option, on the network's example: the
    output of each layer of 8 bits must be the simulated one for the same input, to 2 % of the largest;
    and its answers those of the simulated mode to 5 % of the largest, and five times what rounding
    makes of the simulation itself. They differ where a sum lies between two integers of the next layer
    and rounding decides.

    Raises `ValueError` for a network with several inputs, weights that are not float32, outputs that
    are no tensors, or a mode without a layer of 8 bits;
    `RuntimeError` where ONNX Runtime gives other answers. Warns `UncalibratedWarning`.

    Example::

        export_int8(net, "8-bit", "net.int8.onnx")
    """
    mode = net.space.mode(mode)
    check_writable(path)
    example = tensor_inputs(net)
    if len(example) != 1:
        raise ValueError(f"`net` takes {len(example)} inputs; one can be exported as int8")
    outputs = check_exportable(net, "an int8 model")
    plain = plain_for_export(net, mode)
    x = example[0]
    with torch.no_grad(), in_eval_mode(plain):
        rows = _quantised_rows(plain, x)
        if not rows:
            raise ValueError(f"`mode` (={mode}) has no layer of 8 bits")
        norms = _norms_behind(plain, rows, x)
        before = copy.deepcopy(plain)
        simulation = Simulation(before, x, {name: norms.get(name) for name in rows})
        replacements: dict[str, nn.Module] = {}
        for name, row in rows.items():
            norm = plain.get_submodule(norms[name]) if name in norms else None
            replacements[name] = IntegerLayer(row[0], row[1], norm)  # pyright: ignore[reportArgumentType]
        put_in_place(plain, {**replacements, **{norm: nn.Identity() for norm in norms.values()}})
        content = _onnx_of(plain, x, [name or "output" for name in outputs.names])
        check_int8(content, simulation)
    return write_whole(path, content)


class IntegerLayer(nn.Module):
    """A convolution or dense layer as ONNX's nodes for quantised numbers; to be exported, not run.

    - `rounding`: the grid of its input.
    - `layer`: its weight lies on the grid of 8 bits.
    - `norm`: the batch norm that reads its output, to be folded in.
    """

    def __init__(
        self,
        rounding: FakeQuantizedInput,
        layer: nn.Conv1d | nn.Conv2d | nn.Linear,
        norm: nn.modules.batchnorm._BatchNorm | None,
    ) -> None:
        super().__init__()
        self.layer = [layer]  # its geometry; its weights are not to be in the file
        # The largest number of each output is on the grid, so the grid is found again.
        grid = weight_grid(layer.weight, rounding.bits)
        integers, scale = grid.integers(layer.weight), grid.scale.flatten()
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
        if norm is not None:
            integers, scale, bias = _folded(integers, scale, bias, norm)
        has_bias = layer.bias is not None or norm is not None
        product_scale = rounding.scale * scale
        self.register_buffer("input_scale", rounding.scale)
        self.register_buffer("input_zero", rounding.zero_point.to(torch.uint8))
        self.register_buffer("integers", integers.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("bias_scale", product_scale)
        wide = (bias.double() / product_scale.double()).round()
        # Engines add the bias to the sums of products, in 32 bits. One that does not fit stays a float.
        self.fits = float(wide.abs().max()) < 2**31
        kept = wide.to(torch.int32) if self.fits else bias
        self.register_buffer("bias", kept if has_bias else None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the output as a tracer sees it."""
        quantized = _quantize(input, self.input_scale, self.input_zero)
        x = _dequantize(quantized, self.input_scale, self.input_zero)
        weight = _dequantize(self.integers, self.scale, self.zero, axis=0)
        bias: Any = self.bias
        if bias is not None and self.fits:
            bias = _dequantize(bias, self.bias_scale, axis=0)
        layer = self.layer[0]
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            return layer._conv_forward(x, weight, bias)
        return nn.functional.linear(x, weight, bias)


def _quantize(x: torch.Tensor, scale: Any, zero: Any) -> torch.Tensor:
    return torch.onnx.ops.symbolic(
        "QuantizeLinear", (x, scale, zero), dtype=torch.uint8, shape=x.shape
    )


def _dequantize(q: Any, scale: Any, zero: Any = None, axis: int | None = None) -> torch.Tensor:
    inputs = (q, scale) if zero is None else (q, scale, zero)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", inputs, attributes, dtype=torch.float32, shape=q.shape
    )


def _folded(
    integers: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    norm: nn.modules.batchnorm._BatchNorm,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return integers, scales and bias of a layer with the batch norm behind it.

    A factor for each output belongs to its scale; where it is negative, the integers change sign.
    """
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    factor = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight
    shift = norm.bias if norm.bias is not None else torch.zeros_like(mean)
    signs = factor.sign().reshape(-1, *[1] * (integers.ndim - 1))
    folded_scale = torch.where(factor != 0, scale * factor.abs(), torch.ones_like(scale))
    return integers * signs, folded_scale, (bias - mean) * factor + shift


def _quantised_rows(plain: nn.Module, x: torch.Tensor) -> dict[str, nn.Sequential]:
    """Return the layers of 8 bits that an output depends on, each behind the rounding of its input."""
    used = modules_with_effect(plain, (x,))
    return {
        name: module
        for name, module in plain.named_modules()
        if isinstance(module, nn.Sequential)
        and len(module) == 2
        and isinstance(module[0], FakeQuantizedInput)
        and module[0].bits == BITS
        and f"{name}.1" in used
    }


def _norms_behind(
    plain: nn.Module, rows: dict[str, nn.Sequential], x: torch.Tensor
) -> dict[str, str]:
    """Return the batch norm of each layer whose output is read by that norm alone."""
    with traced_by_exporter(plain, (x,)):
        program = torch.export.export(plain, (x,), strict=False)
    names = program.graph_signature.inputs_to_parameters

    def owner(node: Any, position: int) -> str:
        weight = node.args[position] if len(node.args) > position else None
        return names.get(getattr(weight, "name", ""), "").rpartition(".")[0]

    found = {}
    for node in program.graph.nodes:
        users = list(node.users)
        layer = (
            owner(node, 1) if "conv2d" in str(node.target) or "linear" in str(node.target) else ""
        )
        row = layer.removesuffix(".1")
        if row not in rows or len(users) != 1 or "batch_norm" not in str(users[0].target):
            continue
        norm = owner(users[0], 1)
        if norm:
            found[row] = norm
    return found


def _onnx_of(plain: nn.Module, x: torch.Tensor, outputs: list[str]) -> bytes:
    # Two examples: torch takes a size of 1 for one that will never be another.
    example = torch.cat([x, x])
    batch = (({0: torch.export.Dim.DYNAMIC},),)
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory() as folder,
        without_fakes_left(plain),
        GlobalPoolingAsMean(),
    ):
        warnings.simplefilter("ignore")  # the exporter warns of its own parts
        program = torch.onnx.export(
            plain,
            (example,),
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=["input"],
            output_names=outputs,
            dynamic_shapes=batch,
        )
        assert program is not None
        file = Path(folder) / "model.onnx"
        program.save(file)
        return _with_constant_bounds(file.read_bytes())


def _with_constant_bounds(content: bytes) -> bytes:
    """Return a model with numbers in the place of casts of numbers, as torch writes ReLU6's bounds.

    ONNX Runtime sees that such a clip is done by the rounding behind it only where its bounds are
    plain numbers; otherwise it multiplies floats.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    graph = model.graph
    numbers = {
        node.output[0]: onnx.helper.get_attribute_value(node.attribute[0])
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name in ("value_int", "value_float")
    }
    floats = {name for each in graph.node if each.op_type == "Clip" for name in each.input[1:]}
    for node in list(graph.node):
        if node.op_type != "CastLike" or node.output[0] not in floats:
            continue
        if node.input[0] in numbers:
            bound = np.array(numbers[node.input[0]], np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(bound, node.output[0]))
            graph.node.remove(node)
    _forget_the_trace(graph)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _forget_the_trace(graph: Any) -> None:
    """Drop where each operation was traced: stacks with the paths of this machine's files."""
    for each in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
