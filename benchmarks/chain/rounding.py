"""What rounding alone does to a network: in torch, in its plain export, and in a session of its bundle."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wenable.exporting.agreement import difference_of
from wenable.modules.outputs import tensors_of

INPUTS = 40
"""On how many inputs rounding is looked at."""
WAYS = ("session", "plain export", "torch")
"""Of computing a mode in float32."""

Answers = Callable[[tuple[torch.Tensor, ...]], Sequence[np.ndarray]]


def distances_from_truth(
    plain: nn.Module,
    several: Sequence[tuple[torch.Tensor, ...]],
    session: Answers,
    engine: str,
    folder: Path,
) -> dict[str, list[float]]:
    """Return how far float32 is from float64: the median and the largest over several inputs.

    Of the extracted network in torch, of its plain export on the engine, and of the session; each as
    the largest difference of any output, as a share of the largest of that output.
    """
    precise = copy.deepcopy(plain).double()
    ways = (
        session,
        plain_export(plain, several[0], engine, folder),
        lambda inputs: _in_torch(plain, inputs),
    )
    answers: dict[str, Answers] = dict(zip(WAYS, ways, strict=True))
    found: dict[str, list[float]] = {name: [] for name in answers}
    for inputs in several:
        truth = _in_torch(precise, tuple(each.double() for each in inputs))
        for name, answer in answers.items():
            pairs = zip(truth, answer(inputs), strict=True)
            found[name].append(max(difference_of(a, b) for a, b in pairs))
    return {name: [statistics.median(each), max(each)] for name, each in found.items()}


def _in_torch(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    with torch.no_grad():
        return [each.numpy() for each in tensors_of(network(*inputs))]


def plain_export(
    plain: nn.Module, inputs: tuple[torch.Tensor, ...], engine: str, folder: Path
) -> Answers:
    """Return the extracted network as torch exports it, on an engine with one thread."""
    path = folder / "plain.onnx"
    torch.onnx.export(plain, inputs, str(path), dynamo=True, verbose=False)
    return {"onnxruntime": _onnxruntime, "openvino": _openvino}[engine](path)


def _onnxruntime(path: Path) -> Answers:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(str(path), options)
    names = [each.name for each in session.get_inputs()]
    return lambda inputs: session.run(
        None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
    )


def _openvino(path: Path) -> Answers:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled: Any = openvino.Core().compile_model(str(path), "CPU", settings)

    def answer(inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
        made = compiled([each.numpy() for each in inputs])
        return [made[each] for each in compiled.outputs]

    return answer
