"""What `wenable train` writes while it runs: a CSV row an epoch, and scalars for TensorBoard."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Mapping
from typing import Any

import wenable as we
from wenable.cli.run_folder import RunFolder
from wenable.core.files import write_whole
from wenable.core.readings import Reading
from wenable.core.space import Mode
from wenable.modules.processes import rank
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training import StepReport
from wenable.training.data_sets import Data, accuracies

EVERY = 10
"""Steps between two scalars of the losses."""

ACCURACY = "search_top1_"
"""How the names of the columns with accuracies begin."""


class TrainingLogs:
    """Calibrates and evaluates the uniform modes after each epoch, and writes down what was found.

    - `folder`: gets `epochs.csv`, and with `tensorboard` a folder `tensorboard`. A run that goes on
      adds to what stands there.
    - `keep_best`: write the network whenever the mean accuracy of its uniform modes is the best so far.

    `epochs.csv` has a row for each epoch, and row 0 for the weights that the run started from:

    - `loss`, `loss_full`, `loss_smallest`: of all modes together and of two of them, the mean over
      the `steps` that this process made of the epoch; they are fewer where the run went on within it,
      and empty where it went on from its end. A mode that no step trained, as in a delay, has none.
    - `learning_rate`: of the last of these steps; `seconds`: how long they took, without evaluation.
    - `search_top1_full`, `search_top1_1_2`, ...: the accuracy of each uniform mode on the search split.

    Every process of a run evaluates, the first one writes. Raises `ImportError` where TensorBoard
    is asked for and not installed, and `ValueError` where the log that stands there has other columns.
    """

    def __init__(
        self,
        folder: RunFolder,
        net: DynamicNetwork,
        data: Data,
        *,
        tensorboard: bool = False,
        keep_best: bool = False,
    ) -> None:
        self.folder, self.net, self.data, self.keep_best = folder, net, data, keep_best
        self.modes = net.space.uniform_modes()
        self._ends = {"full": net.space.full, "smallest": net.space.smallest}
        self.tensorboard = tensorboard and rank() == 0
        self.writer: Any = None
        if self.tensorboard:
            _import_tensorboard()
        self.rows = self._rows_there() if folder.resume else {}
        self.reports: list[StepReport] = []
        self.steps, self.started = 0, time.monotonic()

    @property
    def columns(self) -> list[str]:
        """The headers of the table: names that a program can use as they are."""
        figures = [
            "epoch",
            "steps",
            "loss",
            "loss_full",
            "loss_smallest",
            "learning_rate",
            "seconds",
        ]
        return figures + [accuracy_column(mode) for mode in self.modes]

    def begin(self) -> None:
        """Write row 0, the accuracy of the weights that a new run starts from."""
        if not self.folder.checkpoint.exists():
            self._add_row(0)
        self.started = time.monotonic()

    def step(self, report: StepReport) -> None:
        """Note the losses of a step."""
        self.steps = report.step
        self.reports.append(report)
        if self.tensorboard and report.step % EVERY == 0:
            for name, mode in self._ends.items():
                loss = report.loss_of(mode)
                if loss is not None:
                    self._scalar(f"loss/{name}", loss)
            self._scalar("loss/mean", sum(report.losses) / len(report.losses))
            self._scalar("learning rate", report.learning_rate)

    def epoch(self, epoch: int) -> None:
        """Evaluate the uniform modes on the search split and add a row, unless it stands there."""
        if epoch + 1 not in self.rows:
            self._add_row(epoch + 1)
        self.reports, self.started = [], time.monotonic()

    def _add_row(self, epoch: int) -> None:
        seconds = time.monotonic() - self.started
        found = accuracies(self.net, self.modes, self.data, "search")
        if rank() > 0:
            return
        best = max((_mean(row) for row in self.rows.values()), default=-1.0)
        row = {"epoch": str(epoch), **self._figures(seconds), **_accuracies(found)}
        if self.keep_best and epoch and _mean(row) > best:
            we.save(self.net, self.folder.best)  # before the row that says so
        self.rows[epoch] = row
        self._write()
        if self.tensorboard:
            for mode, reading in found.items():
                name = f"top-1 on the search split/{str(mode).replace('/', ' of ')}"
                self._scalar(name, reading.known)
            self.writer.flush()

    def _figures(self, seconds: float) -> dict[str, str]:
        if not self.reports:
            return {}
        losses = {"loss": [sum(each.losses) / len(each.losses) for each in self.reports]}
        for name, mode in self._ends.items():
            found = [each.loss_of(mode) for each in self.reports]
            losses[f"loss_{name}"] = [loss for loss in found if loss is not None]
        return {
            "steps": str(len(self.reports)),
            **{name: f"{sum(v) / len(v):.6g}" for name, v in losses.items() if v},
            "learning_rate": f"{self.reports[-1].learning_rate:.6g}",
            "seconds": f"{seconds:.1f}",
        }

    def _write(self) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(row for _, row in sorted(self.rows.items()))
        write_whole(self.folder.log, text.getvalue())

    def _rows_there(self) -> dict[int, dict[str, str]]:
        if not self.folder.log.exists():
            return {}
        with self.folder.log.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            rows = list(table)
            if list(table.fieldnames or ()) != self.columns:
                raise ValueError(
                    f"{self.folder.log} has other columns than this run writes; move it away to go on"
                )
        return {int(row["epoch"]): row for row in rows}

    def _scalar(self, name: str, value: float) -> None:
        if (
            self.writer is None
        ):  # made with its first scalar, or a run that fails leaves an empty one
            self.writer = _import_tensorboard()(str(self.folder.tensorboard))
        self.writer.add_scalar(name, value, self.steps)


def accuracy_column(mode: Mode) -> str:
    """Return the header for the accuracy of a mode.

    >>> from wenable.core.space import Knob, Space
    >>> space = Space((Knob("fc", (1, 2)),))
    >>> accuracy_column(space.full), accuracy_column(space.uniform(2))
    ('search_top1_full', 'search_top1_1_2')
    """
    words = "full" if mode == mode.space.full else re.sub(r"[^0-9A-Za-z]+", "_", str(mode))
    return ACCURACY + words.strip("_")


def _accuracies(found: Mapping[Mode, Reading]) -> dict[str, str]:
    return {accuracy_column(mode): f"{reading.known:.4f}" for mode, reading in found.items()}


def _mean(row: Mapping[str, str]) -> float:
    """Return the mean accuracy of a row; below any where it is that of the untrained weights."""
    if row["epoch"] == "0":
        return -1.0
    values = [float(value) for name, value in row.items() if name.startswith(ACCURACY)]
    return sum(values) / len(values)


def _import_tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "`--tensorboard` needs TensorBoard: pip install 'wenable[tensorboard]'"
        ) from error
    return SummaryWriter
