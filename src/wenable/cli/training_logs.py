"""What `wenable train` writes while it runs: a CSV row an epoch, and scalars for TensorBoard."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from wenable.cli.work import Data, accuracies
from wenable.dynamic_network import DynamicNetwork
from wenable.processes import rank
from wenable.training import StepReport

EVERY = 10
"""Steps between two scalars of the losses."""


class TrainingLogs:
    """Calibrates and evaluates the uniform modes after each epoch, and writes down what was found.

    - `folder`: gets `epochs.csv`, and with `tensorboard` a folder `tensorboard`.
    - `resume`: add to what stands there; otherwise it is begun anew.

    Every process of a run evaluates, the first one writes. Raises `ImportError` where TensorBoard
    is asked for and not installed.
    """

    def __init__(
        self, folder: Path, net: DynamicNetwork, data: Data, *, resume: bool, tensorboard: bool
    ) -> None:
        self.path, self.net, self.data = folder / "epochs.csv", net, data
        self.writer = _writer(folder / "tensorboard") if tensorboard and rank() == 0 else None
        self.steps = 0
        if not resume and rank() == 0:
            self.path.unlink(missing_ok=True)

    def step(self, report: StepReport) -> None:
        """Note the losses of a step."""
        self.steps = report.step
        if self.writer is not None and report.step % EVERY == 0:
            self.writer.add_scalar("loss/full", report.losses[0], report.step)
            self.writer.add_scalar("loss/smallest", report.losses[1], report.step)
            self.writer.add_scalar(
                "loss/mean", sum(report.losses) / len(report.losses), report.step
            )
            self.writer.add_scalar("learning rate", report.learning_rate, report.step)

    def epoch(self, epoch: int) -> None:
        """Evaluate the uniform modes on the search split, and add a row."""
        found = accuracies(self.net, self.net.space.uniform_modes(), self.data, "search")
        if rank() > 0:
            return
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(["epoch", *(f"top1 {mode} (search split)" for mode in found)])
            rows.writerow([epoch + 1, *(f"{reading.known:.4f}" for reading in found.values())])
        if self.writer is not None:
            for mode, reading in found.items():
                name = f"top-1 on the search split/{str(mode).replace('/', ' of ')}"
                self.writer.add_scalar(name, reading.known, self.steps)
            self.writer.flush()


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "`--tensorboard` needs TensorBoard: pip install 'wenable[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder))
