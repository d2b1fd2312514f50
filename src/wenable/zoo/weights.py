"""Weights from a file: safetensors, or a state dict of PyTorch, read without running what it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

# Under which names programs keep the weights beside what else a run needs.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "module")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_SHOWN = 3


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name.

    The file may be safetensors, a network saved by `wenable.save` (its full mode), or what
    `torch.save` wrote of a state dict, also inside the dict of a checkpoint. What wrappers put before
    every name (`module.`) is taken off. Only tensors and plain values are unpickled.

    Raises `FileNotFoundError`, or `ValueError` when the file is damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _state_dict(path)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): each for name, each in tensors.items()}
    return tensors


def load_weights(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    leave_out: Sequence[str] = (),
    called: str = "`tensors`",
) -> list[str]:
    """Put tensors into a network and return the names of those it kept as they were.

    - `leave_out`: patterns of names, as `"fc.*"`, that are not loaded: a head for other classes.
    - `called`: what errors call the tensors.

    Raises `ValueError` with the tensors that are missing, unexpected or of another shape, before
    anything is changed, and when a pattern fits no name.
    """
    own = model.state_dict()
    for pattern in leave_out:
        if not any(fnmatchcase(name, pattern) for name in (*own, *tensors)):
            raise ValueError(
                f"`leave_out` (={pattern!r}) fits no tensor; there is {_some(list(own))}"
            )

    def wanted(name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in leave_out)

    # Older files lack this count, which matters to none but norms without a momentum.
    missing = [n for n in own if n not in tensors and wanted(n) and "num_batches_tracked" not in n]
    unexpected = [name for name in tensors if name not in own and wanted(name)]
    both = [name for name in own if name in tensors and wanted(name)]
    shapes = [name for name in both if own[name].shape != tensors[name].shape]
    if missing or unexpected or shapes:
        raise ValueError(_differences(called, own, tensors, missing, unexpected, shapes))
    with torch.no_grad():
        for name in both:
            own[name].copy_(tensors[name])
    return [name for name in own if name not in both]


def other_shapes(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of tensors that both have, in another shape: a head for other classes."""
    own = model.state_dict()
    return [name for name in own if name in tensors and own[name].shape != tensors[name].shape]


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            ours = "wenable" in (file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own type for each kind of damage
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if not ours:
        return tensors
    # Of a network of ours: the full mode's, without what belongs to other modes.
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("wenable.") and ".by_pattern." not in name
    }


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile's, pickle's and torch's own for each kind of damage
        if "WeightsUnpickler" in str(error) or "weights_only" in str(error):
            raise ValueError(
                f"{path} holds more than weights, or is none of PyTorch's files; nothing else is read"
                " from a pickle: write `torch.save(model.state_dict(), path)` where it was made"
            ) from error
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} is no file of weights that PyTorch can read: {first}") from error
    return _unwrapped(found, path)


def _unwrapped(found: Any, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict, or of the one inside a checkpoint."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a state dict")
    if found and all(isinstance(each, torch.Tensor) for each in found.values()):
        return dict(found)
    inside = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
    plain = {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}
    if inside is None and plain:  # beside a number of the epoch, say
        return plain
    if inside is None:
        keys = ", ".join(map(str, list(found)[:_SHOWN])) or "nothing"
        raise ValueError(f"{path} holds no state dict: it holds {keys}")
    return _unwrapped(inside, path)


def _differences(
    called: str,
    own: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    missing: list[str],
    unexpected: list[str],
    shapes: list[str],
) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if shapes:
        words = [f"{n} {tuple(tensors[n].shape)} for {tuple(own[n].shape)}" for n in shapes]
        parts.append(f"{len(shapes)} of another shape ({_some(words)})")
    way_out = ""
    if shapes and not missing and not unexpected:
        modules = dict.fromkeys(f"{name.rpartition('.')[0]}.*" for name in shapes)
        way_out = f"; to start them anew, leave out {_some([repr(each) for each in modules])}"
    return f"{called} does not fit the network: of the tensors {', '.join(parts)}{way_out}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
