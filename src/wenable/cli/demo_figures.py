"""What the demo shows of its modes: a table, a picture, and every figure as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from wenable.cli.terminal import mode_table
from wenable.core.files import write_whole
from wenable.core.mode_ids import numbered
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode
from wenable.network.dynamic_network import DynamicNetwork
from wenable.report.figures import TEST
from wenable.report.front_plot import Panel, plot_fronts


@dataclass(frozen=True)
class DemoFigures:
    """The figures of all modes that were tested, from the most to the least costly.

    - `front`: the modes that were kept of it; the others are the uniform ones beside them.
    - `accuracy`: on the test split; `latency`: on the engine, of one image.
    """

    net: DynamicNetwork
    front: Front
    accuracy: dict[Mode, Reading]
    latency: dict[Mode, Reading]

    def print_table(self, console: Console) -> None:
        """Print a row for each mode."""
        rows = [
            (
                "kept" if mode in self.front.modes else "uniform",
                mode,
                self.net.macs(mode),
                self.net.macs("full"),
                {"latency ms": self.latency[mode], "accuracy %": self.accuracy[mode]},
            )
            for mode in self.accuracy
        ]
        names = named(self.front, self.accuracy)
        console.print(mode_table("modes of the trained network", rows, names))
        console.print(
            f"accuracy: {self.count:,} test scenes, 95 % interval.\nlatency: one image on"
            f" {self.engine}, median and quartiles."
        )

    def draw(self, path: Path) -> Path:
        """Write the picture: accuracy against MACs, and against latency on the engine."""
        title = (
            f"Which digit stands in the middle? {self.count:,} test scenes\n"
            f"{self.engine}; {next(iter(self.latency.values())).device}"
        )
        panels = {
            "macs": self._panel(
                lambda mode: Reading(self.net.macs(mode), "MACs", source="counted")
            ),
            "latency": self._panel(lambda mode: self.latency[mode]),
        }
        return plot_fronts(panels, path, title=title)

    def write(self, path: Path) -> Path:
        """Write mode, MACs, accuracy and latency of each mode as JSON."""
        rows = [
            {
                "mode": str(mode),
                "macs": self.net.macs(mode),
                "accuracy": asdict(reading),
                "latency": asdict(self.latency[mode]),
            }
            for mode, reading in self.accuracy.items()
        ]
        return write_whole(path, json.dumps(rows, indent=1))

    @property
    def count(self) -> int:
        """How many images are behind each accuracy."""
        return min(reading.count for reading in self.accuracy.values())

    @property
    def engine(self) -> str:
        """The engine that the latencies are from, with its version and threads."""
        return next(iter(self.latency.values())).source.partition(";")[0]

    def _panel(self, cost: Callable[[Mode], Reading]) -> Panel:
        points = {
            mode: Point(mode, reading, cost(mode), test=reading)
            for mode, reading in self.accuracy.items()
        }
        return Panel(
            tuple(points[mode] for mode in self.front.modes),
            tuple(points[mode] for mode in self.net.space.uniform_modes()),
            TEST,
        )


def named(front: Front, modes: Iterable[Mode]) -> dict[str, Mode]:
    """Return short names: those that the front has, and further ones for the modes beside it."""
    return numbered([*front.modes, *(mode for mode in modes if mode not in front.modes)])
