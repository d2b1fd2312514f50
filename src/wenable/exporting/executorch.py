"""Writes the modes of a network as the methods of one ExecuTorch program, and checks each before."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wenable.core.files import check_writable, write_whole
from wenable.core.readings import Reading
from wenable.core.reasons import first_line
from wenable.core.space import Mode, ModeChoice
from wenable.exporting.agreement import check_agreement
from wenable.exporting.plain_networks import (
    check_exportable,
    other_numbers,
    plain_for_export,
    tensor_inputs,
    traced_by_exporter,
)
from wenable.exporting.writing import checked_modes, readings_of
from wenable.modules.outputs import OutputNames
from wenable.modules.passes import in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.net_checks import warn_if_uncalibrated
from wenable.version import __version__

FORMAT = "wenable executorch"
VERSION = 1
ABOUT = "wenable"
"""The method that returns what the file holds, as one string of JSON."""


@dataclass(frozen=True, slots=True)
class ExecuTorchFile:
    """What `export_executorch` has written.

    - `path`: the file.
    - `methods`: the name of the method of each mode, by the mode's text.
    - `bytes`: the size of the file; each mode holds its own weights in it.
    - `weight_bytes`: what the parameters of the full mode take in float32.
    - `undelegated`: the operators of each mode that XNNPACK does not run, by the mode's text;
      ExecuTorch's portable kernels run these, which are slower.
    """

    path: Path
    methods: Mapping[str, str]
    bytes: int
    weight_bytes: int
    undelegated: Mapping[str, tuple[str, ...]]


def export_executorch(
    net: DynamicNetwork,
    modes: Iterable[ModeChoice],
    path: str | os.PathLike[str],
    *,
    readings: Mapping[Any, Mapping[str, Reading]] | None = None,
) -> ExecuTorchFile:
    """Write the modes of a network to one ExecuTorch file for XNNPACK, with a method for each.

    - `modes`: which ones; they should be calibrated. Their methods are `mode_0`, `mode_1`, ..., in
      this order. Each holds its own weights: the size of the file is about the sum over the modes.
    - `path`: of the file, as `net.pte`.
    - `readings`: for each mode by name, as "accuracy" or "latency"; they travel in the file.

    A method takes one example: the batch is fixed at 1, and so are the sizes. The method `wenable`
    returns a JSON text with the modes and their methods, the inputs, the names of the outputs (which
    are the tensors that the network gives back, in order), the preprocessing with its labels, and the
    readings.

    Before the file is written every method is run by ExecuTorch on this machine, on the network's
    example and on random numbers: its answers must be those of the extracted network to 1e-4 of the
    largest. The file is whole or not there: an export that fails leaves the old one.

    Raises `ModuleNotFoundError` where executorch is not installed; `OSError` where the file cannot be
    written; `ValueError` for no modes, a mode
    twice, or readings of a mode that is not exported; `RuntimeError` where ExecuTorch cannot hold the
    network, or a mode does not give the answers of the extracted network. Warns
    `UncalibratedWarning`.

    Example::

        written = export_executorch(net, ["1", "1/4"], "net.pte")
        written.methods  # {"1": "mode_0", "1/4": "mode_1"}
    """
    check_writable(path)
    wanted, given = checked_modes(net, modes, readings)
    _need_executorch()
    outputs = check_exportable(net, "an ExecuTorch file")
    for mode in wanted:
        warn_if_uncalibrated(net, mode, "exported")
    names = {mode: f"mode_{number}" for number, mode in enumerate(wanted)}
    # executorch warns of what it does inside; that a mode is uncalibrated was told above.
    with warnings.catch_warnings(), in_eval_mode(net), torch.no_grad():
        warnings.simplefilter("ignore")
        plain = {name: plain_for_export(net, mode) for mode, name in names.items()}
        example = tensor_inputs(net)
        about = json.dumps(_about(net, names, given, example, outputs))
        content, undelegated = _lower(plain, example, about)
        _check(content, names, plain, example, about)
    return ExecuTorchFile(
        write_whole(path, content),
        {str(mode): name for mode, name in names.items()},
        len(content),
        4 * net.parameter_count("full"),
        {str(mode): undelegated[name] for mode, name in names.items()},
    )


def _need_executorch() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module("executorch.exir")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "executorch":
            raise
        raise ModuleNotFoundError(
            "executorch is not installed: pip install 'wenable[executorch]'", name="executorch"
        ) from error


def _about(
    net: DynamicNetwork,
    names: Mapping[Mode, str],
    readings: Mapping[Mode, Mapping[str, Reading]],
    example: tuple[torch.Tensor, ...],
    outputs: OutputNames,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "wenable": __version__,
        "modes": [
            {"mode": str(mode), "method": name, "readings": readings_of(net, mode, readings)}
            for mode, name in names.items()
        ],
        "inputs": [
            {"shape": list(each.shape), "dtype": str(each.dtype).removeprefix("torch.")}
            for each in example
        ],
        "outputs": list(outputs.names),
        "preprocessing": net.preprocessing.to_json() if net.preprocessing else None,
    }


def _lower(
    plain: Mapping[str, nn.Module], example: tuple[torch.Tensor, ...], about: str
) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    """Return the file's content, and the operators of each method that XNNPACK does not take."""
    lower: Any = import_module("executorch.exir").to_edge_transform_and_lower
    xnnpack: Any = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    try:
        programs = {}
        for name, each in plain.items():
            with traced_by_exporter(each, example):
                programs[name] = torch.export.export(each, example, strict=False)
        edge = lower(
            programs, partitioner=[xnnpack.XnnpackPartitioner()], constant_methods={ABOUT: about}
        )
        lowered = edge.to_executorch()
    except Exception as error:  # those of torch.export and of executorch are of many kinds
        raise RuntimeError(f"ExecuTorch cannot hold the network: {first_line(error)}") from error
    operators = {
        plan.name: tuple(f"{each.name}.{each.overload}".rstrip(".") for each in plan.operators)
        for plan in lowered.executorch_program.execution_plan
    }
    return bytes(lowered.buffer), operators


def _check(
    content: bytes,
    names: Mapping[Mode, str],
    plain: Mapping[str, nn.Module],
    example: tuple[torch.Tensor, ...],
    about: str,
) -> None:
    """Run every method from the file's content and compare with the extracted networks."""
    program: Any = import_module("executorch.runtime").Runtime.get().load_program(content)
    if program.load_method(ABOUT).execute([])[0] != about:
        raise RuntimeError(f"method {ABOUT} does not give its text back; nothing was written")
    for mode, name in names.items():
        method = program.load_method(name)
        for inputs in (example, other_numbers(example)):
            found = [each.numpy() for each in method.execute(list(inputs))]
            check_agreement(plain[name], inputs, found, mode, "ExecuTorch")
