"""Saves a dynamic network as one safetensors file with a JSON header, and loads it again.

The weights stand under their own names, so any reader of safetensors can use them. Nothing is
pickled. The header says how the network was made dynamic; the architecture is rebuilt by name (from
torchvision, timm or `wenable.zoo`) or handed in, and converted anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from wenable.core.files import write_whole
from wenable.core.preprocessing import Preprocessing
from wenable.core.space import Space
from wenable.core.stored_tensors import in_one_order
from wenable.layers.batch_norm import Statistics
from wenable.layers.quantization import InputRange
from wenable.methods import method_from_json
from wenable.modules.copying import copy_network
from wenable.modules.example_inputs import zeros_from_json
from wenable.modules.outputs import tensors_of
from wenable.modules.passes import in_eval_mode, same_random_numbers
from wenable.modules.state_tensors import state_tensors
from wenable.network.conversion import convert
from wenable.network.dynamic_network import Calibration, DynamicNetwork
from wenable.network.gain import ConversionWarning
from wenable.version import __version__
from wenable.zoo import Source, build

FORMAT, VERSION = "wenable-network", 1
_CALIBRATIONS = "wenable.calibrations"
_ANSWERS = "wenable.answers"


def save(net: DynamicNetwork, path: str | os.PathLike[str]) -> Path:
    """Write a dynamic network, with the statistics of its calibrated modes, to one file.

    The file is whole or not there. It can be loaded by path alone where the network was built with
    `wenable.zoo.build`; otherwise `load` needs the model.

    Raises `ValueError` where weights hold NaN or a module keeps more than tensors in its state,
    `OSError` where the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in state_tensors(net).items()}
    parameters = {name for name, _ in net.named_parameters()}
    for name, tensor in tensors.items():
        # Infinity is a number to some buffers: masks of attention hold it.
        infinite = name in parameters and not bool(tensor.isfinite().all())
        if infinite or (tensor.is_floating_point() and bool(tensor.isnan().any())):
            raise ValueError(f"`net` has NaN or infinite values in {name!r}; nothing was written")
    calibrations = []
    for number, mode in enumerate(net.calibrated_modes):
        kept = net.calibration(mode)
        assert kept is not None
        own = kept.statistics is None
        calibrations.append(
            {"mode": str(mode), "images": kept.images, "own": own, "weights": kept.weights}
        )
        for norm, statistics in (kept.statistics or {}).items():
            tensors[f"{_CALIBRATIONS}.{number}.{norm}.mean"] = statistics.mean.cpu()
            tensors[f"{_CALIBRATIONS}.{number}.{norm}.var"] = statistics.var.cpu()
    for number, answer in enumerate(_answers(net)):
        tensors[f"{_ANSWERS}.{number}"] = answer
    # A copy each: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    source = getattr(net, "wenable_source", None)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "wenable": __version__,
        "class": net.original_class.__qualname__,
        "architecture": source.to_json() if source else None,
        "method": net.conversion_method.to_json(),
        "space": net.space.to_json(),
        "example": net.example_to_json(),
        "preprocessing": net.preprocessing.to_json() if net.preprocessing else None,
        "calibrations": calibrations,
        "ranges": {name: each.calibrated_for for name, each in _calibrated_ranges(net)},
    }
    header["sha256"] = _digest(header, tensors)
    content = safetensors_bytes(tensors, {"wenable": json.dumps(header)})
    return write_whole(path, in_one_order(content))


def load(
    path: str | os.PathLike[str], model: nn.Module | Callable[..., nn.Module] | None = None
) -> Any:
    """Return the dynamic network that `save` wrote, in eval mode and the full mode.

    - `model`: the architecture, with any weights, which is left untouched; or a function that builds
      it, called with the arguments that the file holds, as `num_classes=3`. Needed where the network
      was not built by `wenable.zoo.build` from torchvision, timm or `wenable.zoo`.

    Raises `FileNotFoundError`, or `ValueError` where the file is truncated, altered, from a newer
    version of the format, or made for another architecture.
    """
    header, tensors = _read(Path(path))
    if model is None:
        if header["architecture"] is None:
            raise ValueError(
                f"{path} does not say how its {header['class']} is built; pass the architecture:"
                " wenable.load(path, model=...)"
            )
        model = build(Source.from_json(header["architecture"]))
    elif not isinstance(model, nn.Module):
        model = _built(model, Source.arguments_from_json(header["architecture"] or {}))
    try:
        example = zeros_from_json(header["example"])
        method = method_from_json(header["method"])
        space = Space.from_json(header["space"])
        wanted = list(header["calibrations"])
        preprocessing = header.get("preprocessing")  # files of the first version have none
        preprocessing = Preprocessing.from_json(preprocessing) if preprocessing else None
        ranges = {str(name): int(weights) for name, weights in header.get("ranges", {}).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a network saved by wenable: {error}") from error
    weights = {n: t for n, t in tensors.items() if not n.startswith((_CALIBRATIONS, _ANSWERS))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # whoever converted it was told
        net = convert(_in_types_of(weights, copy_network(model)), example, method=method)
    _register_late_buffers(net, weights)
    _check_architecture(net, weights, space, path)
    net.load_state_dict(weights)
    _check_finite(net, path)
    _put_calibrations(net, wanted, tensors, path)
    for name, module in net.named_modules():
        if isinstance(module, InputRange):
            module.calibrated_for = ranges.get(name)  # files of before have none
    _check_answers(net.eval(), tensors, path)
    net.preprocessing = preprocessing
    return net


def _calibrated_ranges(net: DynamicNetwork) -> Iterator[tuple[str, InputRange]]:
    """Yield the ranges of inputs, by name, that calibration saw with certain weights."""
    for name, module in net.named_modules():
        if isinstance(module, InputRange) and module.calibrated_for is not None:
            yield name, module


def _in_types_of(weights: Mapping[str, torch.Tensor], model: nn.Module) -> nn.Module:
    """Give the tensors of a network the types that they have in a file, parts of it their own."""
    types = {t.dtype for t in weights.values() if t.is_floating_point()}
    if len(types) <= 1:  # what is in no file too; `to` would make complex numbers real
        one = next(iter(types), torch.float32)
        return model._apply(lambda tensor: tensor.to(one) if tensor.is_floating_point() else tensor)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in weights and tensor.is_floating_point():
            tensor.data = tensor.data.to(weights[name].dtype)
    return model


def _register_late_buffers(net: DynamicNetwork, weights: Mapping[str, torch.Tensor]) -> None:
    """Let a network run once when the file has tensors that it lacks: some register them in a pass."""
    if set(weights) - set(net.state_dict()):
        with torch.no_grad(), in_eval_mode(net), same_random_numbers(net):
            net(*net.example_batch)


def _built(function: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        model = function(**arguments)
    except TypeError as error:
        raise ValueError(f"`model` cannot be called with {dict(arguments)}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"`model` must be a network or return one, and returned a {type(model).__name__}"
        )
    return model


def _answers(net: DynamicNetwork) -> list[torch.Tensor]:
    """Return the first values of what the full mode answers to the network's own example.

    A copy answers: a network may keep what it made of its first input.
    """
    net = copy_network(net)
    with torch.no_grad(), in_eval_mode(net), net.using("full"), same_random_numbers(net):
        outputs = tensors_of(net(*net.example_batch))
    return [output.detach().cpu().flatten()[:64].float() for output in outputs]


def _check_answers(net: DynamicNetwork, tensors: Mapping[str, torch.Tensor], path: Any) -> None:
    """Compare with the answers in the file: equal shapes do not make equal networks."""
    for number, answer in enumerate(_answers(net)):
        expected = tensors.get(f"{_ANSWERS}.{number}", torch.empty(0))
        finite = answer[answer.isfinite()]
        tolerance = 1e-2 * max(float(finite.abs().max()), 1e-3) if len(finite) else 0.0
        if answer.shape != expected.shape or not torch.allclose(
            answer, expected, rtol=0, atol=tolerance, equal_nan=True
        ):
            raise ValueError(
                f"{path} was made for another architecture: with its weights this"
                f" {net.original_class.__name__} gives other answers than were saved with them"
            )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"`path` (={path}) {what}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("wenable", "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own type for each kind of damage
        raise ValueError(f"{path} is truncated or no safetensors file: {error}") from error
    try:
        header = dict(json.loads(text))
        found = header.pop("sha256")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a network saved by wenable: no header") from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a network saved by wenable: format {header.get('format')!r}"
        )
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(
            f"{path} has format version {version}, written by wenable {header.get('wenable')}; this"
            f" is wenable {__version__}, which reads up to {VERSION}: upgrade it"
        )
    if found != _digest(header, tensors):
        raise ValueError(f"{path} was altered after it was saved: its SHA-256 does not match")
    return header, tensors


def _digest(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the header and of every tensor, in an order of its own."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_architecture(
    net: DynamicNetwork, weights: Mapping[str, torch.Tensor], space: Space, path: Any
) -> None:
    expected = state_tensors(net)
    for name in dict.fromkeys((*expected, *weights)):
        mine = tuple(expected[name].shape) if name in expected else "absent"
        theirs = tuple(weights[name].shape) if name in weights else "absent"
        if mine != theirs:
            raise ValueError(
                f"{path} was made for another architecture: {name!r} is {theirs} in the file and"
                f" {mine} in the {net.original_class.__name__} it is loaded into"
            )
    if net.space != space:
        raise ValueError(
            f"{path} was made for another architecture: it switches {len(space.names)} layers from"
            f" {space.names[0]!r}, this network {len(net.space.names)} from {net.space.names[0]!r}"
        )


def _check_finite(net: DynamicNetwork, path: Any) -> None:
    for name, parameter in net.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"{path} is damaged: it has NaN or infinite weights in {name!r}")


def _put_calibrations(
    net: DynamicNetwork,
    wanted: list[Mapping[str, Any]],
    tensors: Mapping[str, torch.Tensor],
    path: Any,
) -> None:
    try:
        for number, each in enumerate(wanted):
            prefix = f"{_CALIBRATIONS}.{number}."
            statistics = None
            if not each["own"]:
                statistics = {
                    norm: Statistics(
                        tensors[f"{prefix}{norm}.mean"], tensors[f"{prefix}{norm}.var"]
                    )
                    for norm in net.switchable_norms()
                }
                for norm, one in statistics.items():
                    if not bool(one.mean.isfinite().all() and one.var.isfinite().all()):
                        raise ValueError(
                            f"{path} is damaged: the statistics of {norm!r} are not finite"
                        )
            calibration = Calibration(statistics, each["images"], int(each["weights"]))
            net.restore_calibration(net.space.mode(str(each["mode"])), calibration)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lacks the statistics of a mode it lists: {error}") from error
