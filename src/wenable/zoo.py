"""Networks by name, and the reference networks that examples and experiments use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


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
        name, arguments = str(values.get("name")), values.get("arguments")
        if not name.startswith(("torchvision:", "timm:", "wenable.zoo:")) or not isinstance(
            arguments, Mapping
        ):
            raise ValueError(
                f"the file wants to build {name!r}, which is not of torchvision, timm or"
                " wenable.zoo; build it yourself and pass `model`"
            )
        if name.startswith("wenable.zoo:") and name.partition(":")[2] not in REFERENCE_NETWORKS:
            raise ValueError(
                f"{name!r} is no reference network; known: {', '.join(REFERENCE_NETWORKS)}"
            )
        for key, value in arguments.items():
            if key in _WEIGHT_ARGUMENTS or not isinstance(value, int | float | bool | None):
                raise ValueError(
                    f"the file wants to build {name!r} with {key}={value!r}; only numbers are taken"
                    " from a file, and no weights: build it yourself and pass `model`"
                )
        full_name(name)
        return cls(name, dict(arguments))


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
    family, _, name = source.name.partition(":")
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


# --- reference networks -----------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is an average pooling where the size halves."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else nn.AvgPool2d(stride)

    def forward(self, x: Any) -> Any:
        """Map `(N, width, H, W)` to `(N, width, H / stride, W / stride)`."""
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A small residual network for 8x8 grey images: a stem, three basic blocks, a classifier.

    - `width`: the channels of every layer; each block but the first halves the size.
    """

    def __init__(self, width: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(BasicBlock(width, stride) for stride in (1, 2, 2)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Any) -> Any:
        """Map `(N, 1, 8, 8)` to logits `(N, classes)`."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


def digits_resnet(width: int = 128) -> DigitsResNet:
    """Return the network of `wenable demo`: six switchable convolutions, of 128 channels by default."""
    return DigitsResNet(width)


class PaddedShortcut(nn.Module):
    """A shortcut without weights: every second pixel, and zero channels on both sides.

    Source: option A of the residual networks for CIFAR-10 (He et al., 2016).
    """

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Any) -> Any:
        """Map `(N, C, H, W)` to `(N, C + added, H / 2, W / 2)`."""
        half = self.added // 2
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.added - half))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut that has no weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else PaddedShortcut(outputs - inputs)

    def forward(self, x: Any) -> Any:
        """Map `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """The residual network for 32x32 images: three stages of 16, 32 and 64 channels.

    - `blocks`: basic blocks in each stage; 3 make ResNet-20.

    Source: He et al., 2016, section 4.2.
    """

    def __init__(self, blocks: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Any) -> Any:
        """Map `(N, 3, 32, 32)` to logits `(N, classes)`."""
        x = nn.functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = CifarBlock(inputs, outputs, 1 if inputs == outputs else 2)
    return nn.Sequential(first, *(CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def cifar_resnet20(classes: int = 10) -> CifarResNet:
    """Return ResNet-20 for 32x32 images: 18 switchable convolutions besides the stem."""
    return CifarResNet(3, classes)


REFERENCE_NETWORKS = ("digits_resnet", "cifar_resnet20")
