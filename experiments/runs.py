"""Training runs: one network by one method from one seed, trained once and kept in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save as tensors_as_bytes
from torch import nn

import wenable as we
from experiments.answers import accuracy, right_answers
from experiments.budget import Budget
from experiments.data import ExperimentData
from experiments.methods import METHODS
from experiments.networks import NETWORKS
from wenable.core.files import write_whole
from wenable.core.readings import Reading
from wenable.modules.passes import device_of, in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training import Checkpoint, StepReport
from wenable.training.state import TrainState

CHECKPOINT_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Run:
    """One training run.

    - `network`, `method`: names in `experiments.networks` and `experiments.methods`.
    - `distillation`: whether the modes learn from the full one (in-place distillation).
    """

    network: str
    method: str
    seed: int
    budget: Budget
    distillation: bool = False

    @property
    def name(self) -> str:
        """A name for its files."""
        taught = ["distilled"] if self.distillation else []
        method = self.method.replace(", ", "-").replace(" ", "-")
        length = f"{self.budget.epochs}-epochs"
        return "-".join([self.network, method, *taught, length, str(self.seed)])

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "network": self.network,
            "method": self.method,
            "seed": self.seed,
            "budget": self.budget.to_json(),
            "distillation": self.distillation,
        }


def start_of(network: str, seed: int) -> nn.Module:
    """Return the network with the random weights that every method starts from."""
    torch.manual_seed(seed)
    return NETWORKS[network]()


def device_at_hand() -> torch.device:
    """Return what trains and evaluates here: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(run: Run, data: ExperimentData, work: Path) -> DynamicNetwork:
    """Return the network of a run: from its file where it was trained before.

    A run that was stopped goes on where it was. Raises `ValueError` for a file of another budget.
    """
    path = work / f"{run.name}.safetensors"
    stamp = path.with_suffix(".json")
    model = start_of(run.network, run.seed)
    if _is_finished(path, stamp, run):
        return _as_asked(we.load(path, model), run, path).to(device_at_hand())
    work.mkdir(parents=True, exist_ok=True)
    net = we.convert(model, data.example, method=METHODS[run.method]()).to(device_at_hand())
    config = replace(run.budget.training(run.seed), distillation=run.distillation)
    checkpoint = Checkpoint(
        work / f"{run.name}.checkpoint", every_s=CHECKPOINT_EVERY_S, resume=True
    )
    goes_on = Path(checkpoint.path).is_file()
    started = time.perf_counter()
    we.train(
        net,
        data.training(run.budget.batch_size, run.seed),
        config,
        on_step=_Told(run.name),
        checkpoint=checkpoint,
    )
    we.save(net, path)
    # How long a run took is known only where it was not stopped in between.
    _stamp(stamp, run, None if goes_on else time.perf_counter() - started)
    return net


def _as_asked(net: DynamicNetwork, run: Run, path: Path) -> DynamicNetwork:
    """Return a network from a file; raises `ValueError` where its method had other settings."""
    wanted, found = METHODS[run.method]().to_json(), net.conversion_method.to_json()
    differ = sorted(key for key in wanted if found.get(key) != json.loads(json.dumps(wanted[key])))
    if differ:
        raise ValueError(
            f"{path} was trained by {run.method!r} with another `{differ[0]}`"
            f" (={found.get(differ[0])!r}, now {wanted[differ[0]]!r}); take another --work"
        )
    return net


def trained_alone(run: Run, n: int, data: ExperimentData, work: Path) -> nn.Module:
    """Return the plain network of the uniform mode 1/n of a run's method, trained by itself.

    It goes over the data as often as the run does, with one pass a step where that makes
    `budget.passes`, and has the run's optimizer, schedule, batches and augmentation.
    """
    net = we.convert(start_of(run.network, run.seed), data.example, method=METHODS[run.method]())
    with in_eval_mode(net):
        we.calibrate(net, net.space.uniform(n), [next(iter(data.calibration))])
        plain = we.extract(net, net.space.uniform(n))
    return _plain_once(plain, run, data, work / f"{run.name}-alone-{n}.safetensors")


def trained_off_the_shelf(
    network: str, beside: str, seed: int, budget: Budget, data: ExperimentData, work: Path
) -> nn.Module:
    """Return a plain network trained with the budget of a dynamic one: one pass a step.

    - `network`, `beside`: names in `experiments.networks`; the second is the one it stands beside.
    """
    run = Run(network, f"plain, beside {beside}", seed, budget)
    return _plain_once(start_of(network, seed), run, data, work / f"{run.name}.safetensors")


def _plain_once(plain: nn.Module, run: Run, data: ExperimentData, path: Path) -> nn.Module:
    """Return a plain network trained with a run's budget: from its file where it was before."""
    stamp, plain = path.with_suffix(".json"), plain.to(device_at_hand())
    if _is_finished(path, stamp, run):
        plain.load_state_dict(load_tensors(path))
        return plain.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    checkpoint = path.with_suffix(".checkpoint")
    goes_on = checkpoint.is_file()
    _train_plain(plain, run, data, checkpoint)
    state = {name: tensor.cpu().contiguous() for name, tensor in plain.state_dict().items()}
    write_whole(path, tensors_as_bytes(state))
    _stamp(stamp, run, None if goes_on else time.perf_counter() - started)
    return plain.eval()


def _train_plain(plain: nn.Module, run: Run, data: ExperimentData, path: Path) -> None:
    """Train a plain network in place; a run that was stopped goes on where it was."""
    config, device = run.budget.training(run.seed), device_of(plain)
    if config.mixup or config.cutmix:
        raise ValueError(
            f"the recipe {run.budget.recipe!r} mixes images, which plain networks are not trained with here"
        )
    plain.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    loader = data.training(run.budget.batch_size, run.seed)
    # Of the network a state needs no more than its weights, which a plain one has as well.
    state = TrainState(cast(Any, plain), config, len(loader) * config.epochs)
    if path.is_file():
        state.load(path)
    written = time.monotonic()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for epoch in range(state.step // len(loader), config.epochs):
            for images, labels in loader.batches(epoch, state.step % len(loader)):
                torch.manual_seed(run.seed * state.steps + state.step)  # for dropout
                loss = _plain_step(state, images.to(device), labels.to(device))
                if state.step % 200 == 0:
                    print(path.stem, state.step, state.steps, round(float(loss), 3), flush=True)
                if time.monotonic() - written > CHECKPOINT_EVERY_S:
                    state.save(path)
                    written = time.monotonic()
    if state.average is not None:
        plain.load_state_dict(state.average.module.state_dict())


def _plain_step(state: TrainState, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Make one step of a plain network, and return its loss."""
    config, plain = state.config, cast(nn.Module, state.net)
    state.schedule.step_update(state.step)
    state.optimizer.zero_grad(set_to_none=True)
    outputs = plain(images.to(memory_format=torch.channels_last))
    loss = nn.functional.cross_entropy(outputs, labels, label_smoothing=config.label_smoothing)
    loss.backward()
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(plain.parameters(), config.clip_grad)
    state.optimizer.step()
    if state.average is not None:
        state.average.update_parameters(plain)
    state.step += 1
    return loss.detach()


def plain_accuracy(plain: nn.Module, batches: Iterable[Any], split: str = "test") -> Reading:
    """Return the top-1 of a plain network on a split, with its interval."""
    return accuracy(right_answers(plain, batches), plain, split)


def _is_finished(path: Path, stamp: Path, run: Run) -> bool:
    """Say whether a run's file is there; raises `ValueError` where it is of another run."""
    if not (path.is_file() and stamp.is_file()):
        return False
    found = json.loads(stamp.read_text(encoding="utf-8"))["run"]
    if found != run.to_json():
        raise ValueError(
            f"{path} was trained with another budget than is asked for; take another --work"
        )
    return True


def training_seconds(run: Run, work: Path) -> float | None:
    """Return how long a run took; None where it was not finished, or not in one go."""
    stamp = work / f"{run.name}.json"
    return json.loads(stamp.read_text())["training_s"] if stamp.is_file() else None


def _stamp(path: Path, run: Run, seconds: float | None) -> None:
    write_whole(path, json.dumps({"run": run.to_json(), "training_s": seconds}, indent=1) + "\n")


class _Told:
    """Prints a line every hundred steps."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, report: StepReport) -> None:
        if report.step % 100 == 0:
            losses = [round(loss, 3) for loss in report.losses]
            print(self.name, report.step, report.steps, losses, flush=True)
