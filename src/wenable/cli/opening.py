"""Opens networks for every command: by name with weights, or as wenable saved them."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

import wenable as we
from wenable.network.dynamic_network import DynamicNetwork
from wenable.zoo import MadeFor, argument_for, build, load_weights, made_for, read_weights
from wenable.zoo.names import builder, full_name
from wenable.zoo.weights import other_shapes


@dataclass(frozen=True)
class Wanted:
    """How a network by name is opened.

    - `pretrained`: with the weights that torchvision, timm or a function of yours has for it.
    - `weights`: or with those of a file; `leave_out`: patterns of tensors that are not taken from it.
    - `classes`: outputs of the classifier; None for as many as the network has by itself.
    - `image_size`: height and width of its images; None for those it was made for.
    """

    pretrained: bool = False
    weights: Path | None = None
    leave_out: Sequence[str] = ()
    classes: int | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        for option, value in (("classes", self.classes), ("image_size", self.image_size)):
            if value is not None and value < 1:
                name = "--num-classes" if option == "classes" else "--image-size"
                raise ValueError(f"`{name}` (={value}) must be at least 1")
        if self.pretrained and self.weights is not None:
            raise ValueError("`--pretrained` and `--weights` were both given; name one of them")
        if self.leave_out and self.weights is None:
            raise ValueError("`--leave-out` needs `--weights`: it says what is not taken from them")


@dataclass(frozen=True)
class Opened:
    """A network by name, and what is worth telling of it."""

    model: torch.nn.Module
    made_for: MadeFor | None
    notes: list[str] = field(default_factory=list)


def one_of(argument: str, option: str) -> str:
    """Return the network's name, given as an argument or by `--model`."""
    if bool(argument) == bool(option):
        raise ValueError(
            "a network must be named once: as MODEL, or by --model package.module:function"
        )
    return argument or option


def open_saved(path: Path, model: str = "") -> DynamicNetwork:
    """Return a network that wenable saved.

    - `model`: the name of the function that builds it, where that is one of yours.

    Raises as `wenable.load` and `wenable.zoo.build` do.
    """
    if not model:
        return we.load(path)
    _find_modules_here()
    return we.load(path, partial(build, full_name(model)))


def open_network(name: str, wanted: Wanted) -> Opened:
    """Return a network by name, with the weights and the classes that are wanted.

    Raises `ValueError` where the network does not take what is wanted, or weights do not fit.
    """
    _find_modules_here()
    name = full_name(name)
    arguments, notes = _arguments(name, wanted)
    pretrained = _pretrained(name, arguments) if wanted.pretrained else None
    if pretrained is None:
        model = build(name, **arguments)
    else:
        model, new = pretrained
        notes.append("weights: the pretrained ones" + _new(new))
    if wanted.weights is not None:
        tensors = read_weights(wanted.weights)
        called = f"`--weights` (={wanted.weights})"
        new = load_weights(model, tensors, leave_out=wanted.leave_out, called=called)
        new = [each for each in new if "num_batches_tracked" not in each]
        notes.append(f"weights: {wanted.weights}" + _new(new))
    return Opened(model, made_for(model), notes)


def _arguments(name: str, wanted: Wanted) -> tuple[dict[str, Any], list[str]]:
    """Return what the builder is called with for the classes and the image size, and notes."""
    arguments: dict[str, Any] = {}
    notes: list[str] = []
    if wanted.classes is not None:
        argument = argument_for(name, ("num_classes", "classes"))
        if argument is None:
            notes.append(f"{name} takes no `num_classes`: it keeps the outputs that it has")
        else:
            arguments[argument] = wanted.classes
    if wanted.image_size is not None:
        argument = _size_argument(name)
        if argument is not None:
            arguments[argument] = wanted.image_size
    return arguments, notes


def _size_argument(name: str) -> str | None:
    """Return the argument that builds a network for other images; None where any size will do."""
    family, _, rest = name.partition(":")
    if family == "torchvision":
        return "image_size" if rest.startswith("vit_") else None
    if family == "timm":
        import timm

        known = timm.get_pretrained_cfg(rest)
        return "img_size" if known is not None and known.fixed_input_size else None
    found = argument_for(name, ("image_size", "img_size"))
    return found if found in _parameters(builder(name)) else None


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _pretrained(name: str, arguments: dict[str, Any]) -> tuple[torch.nn.Module, list[str]]:
    """Return a network with its pretrained weights, and the tensors that start anew."""
    family, _, rest = name.partition(":")
    if family == "torchvision":
        return _pretrained_of_torchvision(name, rest, arguments)
    argument, value = "pretrained", True
    if family != "timm":
        known = _parameters(builder(name))
        argument = next((each for each in ("pretrained", "weights") if each in known), "")
        if not argument:
            raise ValueError(
                f"`--pretrained`: {name} has no argument called pretrained or weights; name a file"
                " of weights by --weights"
            )
        value = True if argument == "pretrained" else "DEFAULT"
    if family == "timm" and not _has_weights(rest):
        raise ValueError(f"`--pretrained`: timm has no weights for {rest}")
    return _fetched(name, lambda: build(name, **arguments, **{argument: value})), []


def _has_weights(name: str) -> bool:
    import timm

    known = timm.get_pretrained_cfg(name)
    return known is not None and bool(known.has_weights)


def _pretrained_of_torchvision(
    name: str, rest: str, arguments: dict[str, Any]
) -> tuple[torch.nn.Module, list[str]]:
    from torchvision.models import get_model_weights

    known = get_model_weights(rest)
    if not len(known):
        raise ValueError(f"`--pretrained`: torchvision has no weights for {rest}")
    best: Any = getattr(known, "DEFAULT", None) or next(iter(known))
    if rest in ("googlenet", "inception_v3"):  # their weights are for inputs of another range
        arguments = arguments | {"transform_input": True, "aux_logits": False}
    model = build(name, **arguments)
    tensors = _fetched(name, lambda: dict(best.get_state_dict(progress=False, check_hash=True)))
    own = model.state_dict()
    unused = [each for each in tensors if each not in own]  # classifiers that help in training only
    left = [*other_shapes(model, tensors), *unused]
    new = load_weights(model, tensors, leave_out=left, called=f"`--pretrained` ({best})")
    return model, [each for each in new if "num_batches_tracked" not in each]


def _fetched(name: str, fetch: Callable[[], Any]) -> Any:
    """Return what is fetched from the network; a failure in one line that names the way out."""
    try:
        return fetch()
    except Exception as error:  # urllib's, the hub's and the operating system's own types
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"`--pretrained`: the weights of {name} could not be had: {first[:200]}; fetch them"
            " elsewhere and name the file by --weights"
        ) from error


def _new(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"; started anew: {', '.join(names[:4])}{more}"


def _find_modules_here() -> None:
    """Let functions of the user's own be imported from the folder the command is called in."""
    here = os.getcwd()  # noqa: PTH109
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
