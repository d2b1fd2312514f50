"""All that a run consists of at one moment: it can be written to a file and gone on from."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as safetensors_bytes
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wenable.core.files import write_whole
from wenable.modules.passes import device_of
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training.config import TrainConfig, with_present_words
from wenable.training.implementations import Implementations, by_option, use_implementations
from wenable.training.optimizers import make_optimizer, make_schedule

FORMAT, VERSION = "wenable-checkpoint", 2


class ScheduleChangeWarning(UserWarning):
    """A run goes on to another number of epochs than it was begun with: its schedule changes."""


class TrainState:
    """The network, optimizer, averaged weights and step of a run.

    What else a run depends on (learning rate, modes, order and augmentation of the images, random
    numbers in the network) is a function of the settings and the step.
    """

    def __init__(self, net: DynamicNetwork, config: TrainConfig, steps: int) -> None:
        self.net, self.config, self.steps, self.step = net, config, steps, 0
        self.optimizer = make_optimizer(net, config)
        self.schedule = make_schedule(self.optimizer, config, steps)
        # Made for another device it would disable itself.
        scaled = config.precision == "float16"
        self.scaler = torch.amp.GradScaler(device_of(net).type) if scaled else None
        self.planned: tuple[int, int] | None = None
        """The epochs and steps that the run was begun with, where they were others."""
        self.implementations: Implementations | None = None
        use_implementations(net, {})
        self.average: AveragedModel | None = None
        if config.ema_decay:
            blend = get_ema_multi_avg_fn(config.ema_decay)
            self.average = AveragedModel(net, multi_avg_fn=blend)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the state to one file, whole or not at all.

        Raises `OSError` where that fails; a file that stood there before still stands then.
        """
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        if self.average is not None:
            averaged = self.average.module.state_dict().items()
            tensors |= {f"average.{name}": tensor for name, tensor in averaged}
        numbers: dict[str, dict[str, Any]] = {}
        optimizer = self.optimizer.state_dict()
        for index, state in optimizer["state"].items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{index}.{key}"] = value
                else:
                    numbers.setdefault(str(index), {})[key] = value
        header = {
            "format": FORMAT,
            "version": VERSION,
            "step": self.step,
            "steps": self.steps,
            "config": self.config.to_json(),
            "network": self._network(),
            "groups": optimizer["param_groups"],
            "numbers": numbers,
            "implementations": self.implementations,
            "averaged": 0 if self.average is None else int(self.average.n_averaged),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        # A copy each: safetensors refuses tensors that share memory, as tied weights do.
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        return write_whole(path, safetensors_bytes(tensors, {"wenable": json.dumps(header)}))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take up the state that `save` wrote.

        Another number of epochs is taken, as long as the run has not made more of them yet; the
        schedule is that of the new number from here on.

        Raises `FileNotFoundError`, or `ValueError` where the file is damaged, or belongs to a run
        with other settings, another network or another number of batches an epoch.
        """
        header, tensors = read_checkpoint(path)
        self._check_settings(path, header)
        parts: dict[str, dict[str, torch.Tensor]] = {"net": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        _check_same_network(path, self.net.state_dict(), parts["net"])
        self._check_network(path, header)
        try:
            self.net.load_state_dict(parts["net"])
            if self.average is not None:
                self.average.module.load_state_dict(parts["average"])
                self.average.n_averaged.fill_(header["averaged"])
            self.optimizer.load_state_dict(_optimizer_state(header, parts["optimizer"]))
        except (KeyError, RuntimeError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ValueError(f"{path} belongs to another network: {first_line}") from error
        if self.scaler is not None and header["scaler"]:
            self.scaler.load_state_dict(header["scaler"])
        chosen = header.get("implementations", header.get("executions"))  # as it was once called
        if chosen is not None:
            self.choose(by_option(chosen))
        self.step = int(header["step"])
        if header["config"]["epochs"] != self.config.epochs:
            self.planned = header["config"]["epochs"], header["steps"]

    def _network(self) -> dict[str, Any]:
        """Return what tells networks of equal tensors apart: shuffles, sizes of images, classes."""
        if not isinstance(self.net, DynamicNetwork):  # one that stands beside it in a comparison
            return {}
        prepared = getattr(self.net, "preprocessing", None)
        return {
            "method": json.loads(json.dumps(self.net.conversion_method.to_json())),
            "multiply-accumulates": self.net.macs("full"),
            "classes": None if prepared is None else list(prepared.labels) or None,
        }

    def _check_settings(self, path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
        ours, theirs = self.config.to_json(), with_present_words(header["config"])
        # A run of an older version had what is now the default of the settings that it does not name.
        theirs = TrainConfig.from_json(theirs).to_json()
        for name, value in theirs.items():
            if ours.get(name) != value and name != "epochs":
                raise ValueError(
                    f"{path} belongs to a run with `{name}` = {value!r}; this one has"
                    f" {ours.get(name)!r}: resume with the same settings, or start a new run"
                )
        batches, of_theirs = self.steps // ours["epochs"], header["steps"] // theirs["epochs"]
        if batches != of_theirs:
            raise ValueError(
                f"{path} belongs to a run of {of_theirs} steps an epoch; with this data there are"
                f" {batches}"
            )
        if header["step"] > self.steps:
            raise ValueError(
                f"{path} has made {header['step']} steps, of {-(-header['step'] // batches)} epochs;"
                f" `epochs` (={ours['epochs']}) must not be fewer"
            )

    def _check_network(self, path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
        for name, value in self._network().items():
            known = header.get("network", {}).get(name)  # older files do not tell
            if known is not None and value is not None and value != known:
                raise ValueError(
                    f"{path} belongs to a run whose network has other {name} ({known}) than this one"
                    f" ({value}): resume with the same settings, or start a new run"
                )

    def change_of_schedule(self) -> str:
        """Return in a sentence what another number of epochs changes; empty where it is the same."""
        if self.planned is None:
            return ""
        epochs, steps = self.planned
        planned = replace(self.config, epochs=epochs)
        rates = []
        for config, count in ((planned, steps), (self.config, self.steps)):
            make_schedule(self.optimizer, config, count).step_update(self.step)
            rates.append(float(self.optimizer.param_groups[0]["lr"]))
        words = (
            f"the run goes on to {self.config.epochs} epochs, begun as one of {epochs}: the learning rate"
            f" is {rates[1]:.3g} at step {self.step} where it was to be {rates[0]:.3g}, and follows the"
            f" schedule of {self.config.epochs} epochs from here"
        )
        before, now = (
            planned.modes_at(self.step, steps),
            self.config.modes_at(self.step, self.steps),
        )
        if before != now:
            words += f"; a step makes {now} passes where it was to make {before}"
        return words

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the network have its averaged weights, if there are any, inside a `with` block."""
        if self.average is None:
            yield
            return
        own = copy.deepcopy(self.net.state_dict())
        self.net.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.net.load_state_dict(own)

    def choose(self, implementations: Implementations) -> None:
        """Compute the layers in these ways from now on, and in every run that goes on from this."""
        use_implementations(self.net, implementations)
        self.implementations = implementations


def read_checkpoint(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the header and the tensors of a checkpoint.

    Raises `FileNotFoundError`, or `ValueError` where the file is no checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path} to resume from")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("wenable", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own type for each kind of damage
        raise ValueError(f"{path} is truncated or no checkpoint: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint written by wenable")
    if header.get("version") != VERSION:
        raise ValueError(f"{path} has format version {header.get('version')}; this reads {VERSION}")
    return header, tensors


def _check_same_network(
    path: str | os.PathLike[str],
    ours: Mapping[str, torch.Tensor],
    theirs: Mapping[str, torch.Tensor],
) -> None:
    """Raise `ValueError` where a network differs in a tensor, before any of them is taken."""
    for name in sorted(set(ours) | set(theirs)):
        shapes = [tuple(each[name].shape) if name in each else None for each in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{path} belongs to another network: {name!r} has shape {shapes[1] or 'none'} there and"
                f" {shapes[0] or 'none'} here"
            )


def _optimizer_state(
    header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in header["numbers"].items()
    }
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return {"state": state, "param_groups": header["groups"]}
