"""All that a GPU is wanted for, in twelve minutes of one, the most valuable first.

    python -m experiments.on_a_gpu --work out/gpu [--scale gpu] [--minutes 12] [--out out/gpu]

(a) the time of an image against the size of the batch (Figure 7), (b) its energy by the GPU's own counter,
(c) r of a training step, (d) the comparison of `experiments.worth` at the scale `gpu`. Every part has a
share of the minutes. What is measured is written at once, a line each, and not measured again: a run that
ended early goes on in the next. The images come from one file in `--work`, made beforehand by `--data` on
a machine with the files; the GPU machine needs no network. See docs/guides/on-a-gpu.md.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import training_speed
from experiments import gpu_speed, worth
from experiments.gpu_speed import (
    BFLOAT16,
    GRAPHS,
    NETWORKS,
    WAYS,
    calls_of,
    cells,
    modes_of,
    why_not,
)
from experiments.page_gpu import page
from experiments.pixels import load_pixels
from experiments.worth_sides import JOINT_POOLED, SLIM_JOINT, UNIFORM_ALONE, US_NET_FOUND
from experiments.worth_sides import SCALES as WORTH
from results.provenance import made_by_command
from results.records import records_file, write_page, write_records
from wenable.core.reasons import first_line
from wenable.measure.energy import EnergyPlan
from wenable.modules.denormals import flush_denormals

SHARES = {"times": 0.3, "energies": 0.2, "training step": 0.1, "comparison": 0.4}
"""Which share of the minutes each part may take; what one leaves over the next has."""


@dataclass(frozen=True)
class Scale:
    """How much is measured: networks and batches of (a) and (b), the network of (c), the scale of (d)."""

    networks: tuple[str, ...]
    batches: tuple[int, ...]
    energy_batches: tuple[int, ...]
    energy: EnergyPlan
    step: tuple[str, int]
    worth: str


SCALES = {
    "smoke": Scale(
        ("tiny-bottleneck-resnet",), (1, 2), (1,), EnergyPlan(1, 0.1, 1, 0.0, 0.0, 0.1),
        ("wenable.zoo:cifar_resnet20", 2), "smoke",
    ),
    "gpu": Scale(
        ("resnet50", "mobilenet-v2", "efficientnet-b0"), (1, 2, 4, 8, 16, 32, 64, 128, 256), (64, 1),
        EnergyPlan(trials=5, window_s=1.0, steps=5, warmup_s=0.3, cooldown_s=0.2, idle_s=3.0),
        ("torchvision:resnet50", 64), "gpu",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.on_a_gpu")
    parser.add_argument("--scale", choices=list(SCALES), default="gpu")
    parser.add_argument("--work", type=Path, default=Path("out/gpu"))
    parser.add_argument(
        "--data", type=Path, help="train/CLASS/*, test/CLASS/*; not on the GPU machine"
    )
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--prepare", action="store_true", help="only make the file of images")
    run(**vars(parser.parse_args()))


def run(
    scale: str, work: Path, data: Path | None, minutes: float, out: Path, prepare: bool = False
) -> None:
    """Measure what is missing, part by part, and write records and page after each.

    Raises `FileNotFoundError` where there is no file of images, before anything is measured, and an
    `ExceptionGroup` at the end where parts failed.
    """
    flush_denormals()
    sizes, images = SCALES[scale], data or work / "cifar10"
    load_pixels(images, WORTH[sizes.worth].image_size, work)  # refused here rather than at the end
    if prepare:
        return
    log = Log(work / f"on-a-gpu-{scale}.jsonl")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modes = functools.cache(modes_of)  # converting takes seconds for each network
    parts: dict[str, Callable[[float], None]] = {
        "times": lambda until: _times(sizes, log, device, modes, until),
        "energies": lambda until: _energies(sizes, log, device, modes, until),
        "training step": lambda until: _training_step(sizes, log, device),
        "comparison": lambda until: _comparison(sizes, images, work, out, until),
    }
    began, share = time.monotonic(), 0.0
    failed: list[Exception] = []
    for name, measure in parts.items():
        share += SHARES[name]
        until = began + 60 * minutes * share
        try:
            if time.monotonic() < until:
                measure(until)
        except Exception as error:  # the parts behind it are worth their minutes all the same
            failed.append(error)
            print(f"{name}: {error!r}", flush=True)
        _write(log, scale, out)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        raise ExceptionGroup("parts that failed; the others are measured", failed)


class Log:
    """What was measured, a line each, written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # the machine went away while this line was written
                continue

    def has(self, **key: Any) -> bool:
        """Say whether there is a line of these values that is no error: an error is tried again."""
        return any(
            "error" not in line and all(line.get(name) == value for name, value in key.items())
            for line in self
        )

    def add(self, **values: Any) -> None:
        """Write a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _times(
    sizes: Scale, log: Log, device: torch.device, modes: Callable[[str], Any], until: float
) -> None:
    """(a) Time every mode of every network, way and batch."""
    for network, way, batch in cells(sizes.networks, sizes.batches, WAYS):
        key = {"part": "times", "network": network, "way": way, "batch": batch}
        if log.has(**key):
            continue
        if time.monotonic() > until:
            return
        if why := why_not(way, device):
            log.add(**key, absent=why)
            continue
        _measured(log, key, modes(network), device, gpu_speed.times_of)


def _energies(
    sizes: Scale, log: Log, device: torch.device, modes: Callable[[str], Any], until: float
) -> None:
    """(b) The energy of every mode, as fast as PyTorch runs it here."""
    way = BFLOAT16 if why_not(GRAPHS, device) else GRAPHS
    for batch in sizes.energy_batches:
        for network in sizes.networks:
            key = {"part": "energies", "network": network, "way": way, "batch": batch}
            if log.has(**key):
                continue
            if time.monotonic() > until:
                return

            def measure(calls: Any, batch: int, name: str, way: str) -> dict[str, Any]:
                return gpu_speed.energies_of(calls, batch, name, sizes.energy)

            _measured(log, key, modes(network), device, measure)


def _measured(
    log: Log, key: dict[str, Any], modes: Any, device: torch.device, measure: Callable[..., Any]
) -> None:
    """Measure one cell and write it; what does not fit into the memory is written as that."""
    network, way, batch = key["network"], key["way"], key["batch"]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    try:
        with torch.inference_mode():
            calls = calls_of(modes, way, batch, NETWORKS[network][1], device)
            found = measure(calls, batch, name, way)
    except torch.cuda.OutOfMemoryError:
        log.add(**key, absent="out of memory")
        return
    except RuntimeError as error:  # one cell must not cost the minutes of all others
        log.add(**key, error=first_line(error))
        return
    log.add(
        **key, device=name, modes=found, macs={m: macs for m, (_, macs) in modes.items()},
        made=made_by_command("python -m experiments.on_a_gpu"),
    )  # fmt: skip
    del calls
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _training_step(sizes: Scale, log: Log, device: torch.device) -> None:
    """(c) How much longer a step of several passes takes than its multiply-accumulates say."""
    network, batch = sizes.step
    key = {"part": "training step", "network": network, "batch": batch}
    if log.has(**key):
        return
    precision = "bfloat16" if device.type == "cuda" else "float32"
    arguments = argparse.Namespace(
        batch=batch, device=device.type, precision=precision, passes=[4], rounds=5
    )
    for row in training_speed.measure(network, "channels_last", arguments):
        log.add(**key, row=row, made=made_by_command("python -m experiments.on_a_gpu"))


def _comparison(sizes: Scale, images: Path, work: Path, out: Path, until: float) -> None:
    """(d) The sides of `experiments.worth`, as far as the time goes; the runs go on next time."""
    minutes = (until - time.monotonic()) / 60
    sides = (US_NET_FOUND, *UNIFORM_ALONE, JOINT_POOLED, SLIM_JOINT)
    worth.run(sizes.worth, images, work, out, sides=sides, minutes=minutes)


def _write(log: Log, scale: str, out: Path) -> None:
    """Write records and page of all that was measured so far."""
    lines = list(log)
    if not lines:
        return
    made = next((line["made"] for line in lines if "made" in line), None)
    if made is None:
        return
    results = {**made, "scale": scale, "cells": lines}
    write_records(records_file(out, "on-a-gpu"), results)
    write_page(out, "on-a-gpu", page(results))


if __name__ == "__main__":
    main()
