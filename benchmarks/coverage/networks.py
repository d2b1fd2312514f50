"""The networks that are tried: every classifier of torchvision, one network of every timm module."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from wenable.core.files import write_whole

CLASSES = 1000
PICKED = Path(__file__).parent / "timm_networks.json"


@dataclass(frozen=True)
class Candidate:
    """A network to try: its library, the family it stands for, its name, its input `(C, H, W)`."""

    library: str
    family: str
    name: str
    input_size: tuple[int, int, int]

    def build(self) -> nn.Module:
        """Return the network with random weights, in eval mode."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notices of the libraries about their own future
            if self.library == "timm":
                return timm.create_model(self.name, num_classes=CLASSES).eval()
            # These two ask for it, since their initialisation takes minutes.
            slow = self.name in ("googlenet", "inception_v3")
            more = {"init_weights": False} if slow else {}
            return torchvision.models.get_model(self.name, weights=None, **more).eval()


def torchvision_networks() -> list[Candidate]:
    """Return all classification networks of torchvision."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [_of_torchvision(name) for name in names]


def _of_torchvision(name: str) -> Candidate:
    builder = torchvision.models.get_model_builder(name)
    size = 299 if name == "inception_v3" else 224
    return Candidate("torchvision", builder.__module__.rpartition(".")[2], name, (3, size, size))


def timm_networks() -> list[Candidate]:
    """Return one network for every module of timm: those that `pick_timm_networks` wrote down."""
    picked: dict[str, str] = json.loads(PICKED.read_text())
    return [_of_timm(name, family) for family, name in picked.items()]


def pick_timm_networks() -> None:
    """Write down the smallest network of every module, by its number of parameters: minutes."""
    picked = {family: _smallest(family) for family in timm.list_modules()}
    write_whole(PICKED, json.dumps(picked, indent=1) + "\n")


def _of_timm(name: str, family: str) -> Candidate:
    settings = timm.get_pretrained_cfg(name)
    assert settings is not None
    return Candidate("timm", family, name, settings.input_size)


def _smallest(family: str) -> str:
    names = timm.list_models(module=family)
    # Networks named test_* are toys for timm's own tests.
    real = [name for name in names if not name.startswith("test_")] or names
    return min(real, key=_parameters)


def _parameters(name: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=CLASSES)
        except Exception:  # a few read values while they are built, which meta tensors lack
            model = timm.create_model(name, num_classes=CLASSES)
    return sum(parameter.numel() for parameter in model.parameters())
