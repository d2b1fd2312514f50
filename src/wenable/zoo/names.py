"""Networks by name: from torchvision, timm, this package, or any function."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from wenable.zoo.reference import REFERENCE_NETWORKS


@dataclass(frozen=True)
class Source:
    """How a network is built: a name that `build` takes, and its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what says where weights come from is left out."""
        arguments = {k: v for k, v in self.arguments.items() if k not in _WEIGHT_ARGUMENTS}
        return {"name": self.name, "arguments": arguments}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Source:
        """Return the source written by `to_json`.

        Raises `ValueError` for a name outside torchvision, timm and `wenable.zoo`, and for an
        argument that would read or fetch another file: what a file names is never imported from
        anywhere else, and only builds.
        """
        name = str(values.get("name"))
        if not name.startswith(("torchvision:", "timm:", "wenable.zoo:")) or not isinstance(
            values.get("arguments"), Mapping
        ):
            raise ValueError(
                f"the file wants to build {name!r}, which is not of torchvision, timm or"
                " wenable.zoo; if you trust it, hand the function that builds it to"
                f" `wenable.load(path, model)` (on the command line: --model {name})"
            )
        if name.startswith("wenable.zoo:") and name.partition(":")[2] not in REFERENCE_NETWORKS:
            raise ValueError(
                f"{name!r} is no reference network; known: {', '.join(REFERENCE_NETWORKS)}"
            )
        arguments = cls.arguments_from_json(values)
        full_name(name)
        return cls(name, arguments)

    @staticmethod
    def arguments_from_json(values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a source written by `to_json`, for a builder that is trusted.

        Raises `ValueError` for what would read or fetch another file.
        """
        arguments = values.get("arguments")
        for key, value in (arguments or {}).items():
            if key in _WEIGHT_ARGUMENTS or not isinstance(value, int | float | bool | None):
                raise ValueError(
                    f"the file wants to build {values.get('name')!r} with {key}={value!r}; only"
                    " numbers are taken from a file, and no weights: build it yourself and pass"
                    " `model`"
                )
        return dict(arguments or {})


# Arguments of torchvision's and timm's builders that read or fetch weights.
_WEIGHT_ARGUMENTS = ("weights", "weights_backbone", "pretrained", "checkpoint_path", "cache_dir")


def build(source: Source | str, **arguments: Any) -> nn.Module:
    """Return a network by name, with random weights unless the arguments say otherwise.

    - `source`: `"torchvision:resnet50"`, `"timm:efficientnet_b0"`, `"package.module:function"`, or
      a bare name, which is looked up in torchvision first and then in timm.
    - `arguments`: passed on, as `num_classes=10`.

    The network remembers its source, so that a file saved from it can be loaded by path alone.

    Raises `ValueError` for a name that nothing answers to.

    >>> type(build("wenable.zoo:digits_resnet")).__name__
    'DigitsResNet'
    """
    if isinstance(source, str):
        source = Source(full_name(source), arguments)
    family, name = _parts(source.name)
    if family == "torchvision":
        model = _torchvision_models().get_model(name, **source.arguments)
    elif family == "timm":
        model = importlib.import_module("timm").create_model(name, **source.arguments)
    else:
        try:
            model = _function(family, name)(**source.arguments)
        except TypeError as error:
            raise ValueError(f"`model` (={source.name!r}) cannot be called: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{source.name!r} returned a {type(model).__name__}, not a torch.nn.Module"
        )
    model.wenable_source = source  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model


def full_name(name: str) -> str:
    """Return a name with its family; raises `ValueError` where nothing answers to it."""
    family, colon, rest = name.partition(":")
    known = {"torchvision": _in_torchvision, "timm": _in_timm}
    if not colon:
        for family, has in known.items():
            if has(name):
                return f"{family}:{name}"
        raise ValueError(
            f"`model` (={name!r}) is known to neither torchvision nor timm; write a name of theirs"
            " or 'package.module:function'"
        )
    if family in known and not known[family](rest):
        raise ValueError(f"`model` (={name!r}) is not known to {family}")
    return name


def builder(name: str) -> Callable[..., Any]:
    """Return the function that a name stands for, without calling it; raises as `build` does."""
    family, rest = _parts(full_name(name))
    if family == "torchvision":
        return _torchvision_models().get_model_builder(rest)
    if family == "timm":
        return importlib.import_module("timm").model_entrypoint(rest.partition(".")[0])
    return _function(family, rest)


def argument_for(name: str, wanted: Sequence[str]) -> str | None:
    """Return under which of some names the builder of a network takes an argument; None for none.

    - `wanted`: what the argument may be called, as `("num_classes", "classes")`.

    >>> argument_for("wenable.zoo:cifar_resnet20", ("num_classes", "classes"))
    'classes'
    """
    family, _ = _parts(full_name(name))
    if family in ("torchvision", "timm"):  # their builders pass on what they are given
        return wanted[0]
    parameters = inspect.signature(builder(name)).parameters
    named = next((each for each in wanted if each in parameters), None)
    passes_on = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return wanted[0] if named is None and passes_on else named


def _parts(name: str) -> tuple[str, str]:
    family, _, rest = name.partition(":")
    return family, rest


def _torchvision_models() -> Any:
    return importlib.import_module("torchvision.models")


def _in_torchvision(name: str) -> bool:
    return name in _torchvision_models().list_models(module=_torchvision_models())


def _in_timm(name: str) -> bool:
    # No names of files or hubs: timm would read or fetch those.
    return name.replace(".", "").isidentifier() and bool(
        importlib.import_module("timm").is_model(name.partition(".")[0])
    )


def _function(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`model` (='{module}:{name}') cannot be imported: {error}") from error
