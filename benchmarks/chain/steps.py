"""One network through the whole chain, from `convert` to answers on both engines."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import wenable as we
from benchmarks.chain.networks import Network
from benchmarks.chain.rounding import INPUTS, Answers, distances_from_truth
from wenable.exporting.agreement import (
    TOLERANCE,
    allowed_difference,
    difference_of,
    own_rounding,
)
from wenable.graph import run_counted
from wenable.modules.outputs import tensors_of
from wenable.runtime import Session

ENGINES = ("onnxruntime", "openvino")
STEPS = ("convert", "train", "calibrate", "extract", "save", "export", *ENGINES)


def chain(network: Network) -> dict[str, Any]:
    """Return how far a network comes; nothing is raised for a step that fails.

    `"passed"` holds the steps that were done, `"detail"` why the next one was not.
    """
    started, row = time.perf_counter(), {"passed": [], "detail": ""}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        way = Way(network, Path(folder), row)
        for name in STEPS:
            try:
                way.step(name)()
            except Exception as error:  # whatever it is, it is the answer
                row["detail"] = (
                    f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:300]}"
                )
                break
            row["passed"].append(name)
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


class Way:
    """One network on its way, one method a step; `row` says what was found."""

    def __init__(self, network: Network, folder: Path, row: dict[str, Any]) -> None:
        self.network, self.folder, self.row = network, folder, row
        self.net: Any = None
        self.modes: list[Any] = []

    def step(self, name: str) -> Callable[[], None]:
        """Return what does a step."""
        if name in ENGINES:
            return lambda: self.run(name)
        found: Callable[[], None] = getattr(self, name)
        return found

    def inputs(
        self, batch: int, size: tuple[int, int] | None = None, seed: int | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return random inputs, of another size of images too."""
        generator = torch.Generator().manual_seed(batch if seed is None else seed)
        shapes = [
            (shape[0], *size) if size is not None and len(shape) == 3 else shape
            for shape in self.network.shapes
        ]
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in shapes)

    def convert(self) -> None:
        """Convert, and take three modes: full, one between, the smallest."""
        model = with_values(self.network.build())
        method = we.WeightEnabling(**dict(self.network.settings))
        self.net = net = we.convert(model, self.inputs(2), method=method)
        self.modes = list(dict.fromkeys([net.space.full, net.space.uniform(4), net.space.smallest]))
        full = net.macs("full")
        self.row["knobs"] = len(net.space.knobs)
        self.row["macs"] = full
        self.row["switched"] = round(sum(layer.macs for layer in net.switchable_layers) / full, 4)
        self.row["smallest"] = round(net.macs(net.space.smallest) / full, 4)

    def train(self) -> None:
        """Take one step on all three modes together; every gradient has to be finite."""
        net = self.net.train()
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        for mode in self.modes:
            with net.using(mode):
                found = tensors_of(net(*self.inputs(3)))
                losses = [each.square().mean() for each in found if each.is_floating_point()]
                torch.stack(losses).sum().backward()
        gradients = [each.grad for each in net.parameters() if each.grad is not None]
        if not gradients or not all(bool(each.isfinite().all()) for each in gradients):
            raise ValueError("a gradient is missing or not finite")
        optimizer.step()
        net.eval()

    def calibrate(self) -> None:
        """Calibrate the three modes on batches of the network's own inputs."""
        inputs = self.inputs(8)
        batch = inputs[0] if len(inputs) == 1 else (inputs, torch.zeros(8))
        we.calibrate(self.net, self.modes, [batch])

    def extract(self) -> None:
        """Extract every mode, and compare its outputs and its count with the network's."""
        self.plain = {}
        for mode in self.modes:
            plain = self.plain[mode] = we.extract(self.net, mode).eval()
            with torch.no_grad(), self.net.using(mode):
                inputs = self.inputs(2)
                check(tensors_of(plain(*inputs)), tensors_of(self.net(*inputs)), f"extract {mode}")
            macs = run_counted(plain, inputs)[1]
            if macs != 2 * self.net.macs(mode):
                raise ValueError(f"mode {mode} costs {macs / 2}, not {self.net.macs(mode)}")

    def save(self) -> None:
        """Save, load into a new network, and compare."""
        path = self.folder / "net.we"
        we.save(self.net, path)
        loaded = we.load(path, self.network.build()).eval()
        for mode in self.modes:
            with torch.no_grad(), self.net.using(mode), loaded.using(mode):
                inputs = self.inputs(2)
                check(tensors_of(loaded(*inputs)), tensors_of(self.net(*inputs)), f"load {mode}")

    def export(self) -> None:
        """Export; every mode is held against the extracted network at each size of images."""
        sizes = [self.network.other_size] if self.network.other_size else []
        path = we.export(self.net, self.modes, self.folder / "net.wen", image_sizes=sizes)
        self.row["bytes"] = path.stat().st_size

    def run(self, engine: str) -> None:
        """Run a batch of another length, and images of another size, in every mode."""
        others = [self.inputs(3)]
        if self.network.other_size:
            others.append(self.inputs(1, self.network.other_size))
        with Session(self.folder / "net.wen", engine=engine, threads=1) as session:
            for mode in self.modes:
                for inputs in others:
                    self.hold(engine, mode, inputs, lambda x, at=mode: _answers(session, at, x))

    def hold(self, engine: str, mode: Any, inputs: tuple[torch.Tensor, ...], run: Answers) -> None:
        """Hold an engine's answers against the extracted network, as `export` does.

        Two computations in float32 differ by what rounding does to each of them. Where that is more
        than the tolerance, the extracted network runs in float64 as well: how far its own float32
        answers are from that, five times over, is allowed on top. The row then tells what rounding
        does to the network elsewhere: in torch, in its plain export, in the session.
        """
        plain = self.plain[mode]
        with torch.no_grad():
            expected = [each.numpy() for each in tensors_of(plain(*inputs))]
        found = [difference_of(a, b) for a, b in zip(expected, run(inputs), strict=True)]
        if max(found) <= TOLERANCE:
            return
        own = own_rounding(plain, inputs, expected)
        for difference, each in zip(found, own, strict=True):
            if not difference <= allowed_difference(each):
                raise ValueError(
                    f"mode {mode} differs by {difference:.1e} of the largest output, and rounding"
                    f" moves the network itself by {each:.1e}"
                )
        if max(found) > self.row.get("rounding", {}).get("difference", 0):
            several = [self.inputs(1, seed=1000 + i) for i in range(INPUTS)]
            self.row["rounding"] = {
                "engine": engine, "mode": str(mode), "difference": max(found), "network": max(own),
                **distances_from_truth(plain, several, run, engine, self.folder),
            }  # fmt: skip


def _answers(session: Session, mode: Any, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    arrays = tuple(each.numpy() for each in inputs)
    found = session.run(arrays[0] if len(arrays) == 1 else arrays, mode=mode)
    found = tuple(found.values()) if isinstance(found, dict) else found
    return list(found) if isinstance(found, tuple) else [found]


def check(found: Any, expected: Any, what: str) -> None:
    """Raise `ValueError` where outputs differ by more than rounding."""
    for ours, theirs in zip(found, expected, strict=True):
        difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6))
        if ours.shape != theirs.shape or not difference <= TOLERANCE or np.isnan(difference):
            raise ValueError(f"{what} differs by {difference:.1e} of the largest output")


def with_values(model: nn.Module) -> nn.Module:
    """Give norms statistics, and biases values, that change what passes through; in eval mode."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        drawn = torch.rand(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.data.copy_(drawn + 0.5)
        elif name.endswith(("running_mean", "bias")) and tensor.is_floating_point():
            tensor.data.copy_(0.2 * drawn - 0.1)
    return model.eval()
