"""All that a run consists of at one moment: it can be written to a file and gone on from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as safetensors_bytes
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wenable.dynamic_network import DynamicNetwork
from wenable.files import write_whole
from wenable.training.config import TrainConfig
from wenable.training.executions import Executions, by_pattern, use_executions
from wenable.training.optimizers import make_optimizer, make_schedule

FORMAT, VERSION = "wenable-checkpoint", 2


class TrainState:
    """The network, optimizer, averaged weights and step of a run.

    What else a run depends on (learning rate, modes, order and augmentation of the images, random
    numbers in the network) is a function of the settings and the step.
    """

    def __init__(self, net: DynamicNetwork, config: TrainConfig, steps: int) -> None:
        self.net, self.config, self.steps, self.step = net, config, steps, 0
        self.optimizer = make_optimizer(net, config)
        self.schedule = make_schedule(self.optimizer, config, steps)
        self.scaler = torch.amp.GradScaler() if config.precision == "float16" else None
        self.executions: Executions | None = None
        use_executions(net, {})
        self.average: AveragedModel | None = None
        if config.averaging:
            blend = get_ema_multi_avg_fn(config.averaging)
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
            "groups": optimizer["param_groups"],
            "numbers": numbers,
            "executions": self.executions,
            "averaged": 0 if self.average is None else int(self.average.n_averaged),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        # A copy each: safetensors refuses tensors that share memory, as tied weights do.
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        return write_whole(path, safetensors_bytes(tensors, {"wenable": json.dumps(header)}))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take up the state that `save` wrote.

        Raises `FileNotFoundError`, or `ValueError` where the file is damaged, or belongs to a run
        with other settings, another network or another number of steps.
        """
        header, tensors = read_checkpoint(path)
        ours = self.config.to_json()
        for name, value in header["config"].items():
            if ours.get(name) != value:
                raise ValueError(
                    f"{path} belongs to a run with `{name}` = {value!r}; this one has"
                    f" {ours.get(name)!r}: resume with the same settings, or start a new run"
                )
        if header["steps"] != self.steps:
            raise ValueError(
                f"{path} belongs to a run of {header['steps']} steps; with this data there are"
                f" {self.steps}"
            )
        parts: dict[str, dict[str, torch.Tensor]] = {"net": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
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
        if header["executions"] is not None:
            self.choose(by_pattern(header["executions"]))
        self.step = int(header["step"])

    def choose(self, executions: Executions) -> None:
        """Compute the layers in these ways from now on, and in every run that goes on from this."""
        use_executions(self.net, executions)
        self.executions = executions


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
