"""How long the modes of every finished side take on this machine, for fronts at equal milliseconds.

    python -m experiments.worth_latency --scale A --data data/cifar10 [--threads 1] [--work out/worth]
        [--out .]

Every mode that `experiments.worth` compares is exported and run by a session on every installed engine,
our own kernels among them, one example at a time, as it is deployed: a mode of a smaller image makes it
smaller itself. All modes of all sides are timed in one run, in blocks in random order, and each counts
with the engine on which it is fastest. Leave the machine alone meanwhile. What was timed is kept beside the
side's answers; records and page are written again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import wenable as we
from experiments.engine_calls import quiet
from experiments.pixels import load_pixels
from experiments.worth_output import write_results
from experiments.worth_records import answers_file, latencies_file, parts_of
from experiments.worth_sides import SCALES, Scale, alone_sides
from results.provenance import made_by_command
from results.records import ROOT
from wenable.core.files import write_whole
from wenable.core.readings import Reading
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime import Session
from wenable.runtime.engine import describe_engine
from wenable.runtime.engines import installed_engines, is_installed, open_engine

TIMING = TimingPlan(blocks=5, calls=10, warmup=3, gap_ms=0.0)
Part = tuple[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.worth_latency")
    parser.add_argument("--scale", choices=list(SCALES), required=True)
    parser.add_argument("--data", type=Path, required=True, help="what the sides were trained on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("out/worth"))
    parser.add_argument("--out", type=Path, default=ROOT)
    run(**vars(parser.parse_args()))


def run(
    scale: str, data: Path, threads: int, work: Path, out: Path, timing: TimingPlan = TIMING
) -> dict[str, Any]:
    """Time the modes of all finished sides, and write records and page with what was found.

    Returns the records. Raises `ValueError` if no side is finished.
    """
    sizes, folder = SCALES[scale], work / scale
    alone = {side.name for side in alone_sides(sizes)}
    finished = [
        part
        for part in parts_of(sizes)
        if part[0] not in alone and answers_file(folder, *part).is_file()
    ]
    if not finished:
        raise ValueError(f"`--work` (={work}) has no side that is finished at the scale {scale!r}")
    classes = load_pixels(data, sizes.image_size, work).classes
    sizes = replace(sizes, make=functools.partial(sizes.make, classes))
    engines = [*installed_engines(), *(["native"] if is_installed("native") else [])]
    made = made_by_command(f"python -m experiments.worth_latency --scale {scale}")
    made |= {
        "engines": [describe_engine(open_engine(each, threads)) for each in engines],
        "threads": threads,
    }
    for part, found in _timed(sizes, folder, finished, engines, threads, timing).items():
        text = json.dumps({"made": made, "modes": found}, indent=1)
        write_whole(latencies_file(folder, *part), text + "\n")
    return write_results(scale, sizes, folder, out)


def _timed(
    sizes: Scale,
    folder: Path,
    parts: Sequence[Part],
    engines: Sequence[str],
    threads: int,
    timing: TimingPlan,
) -> dict[Part, dict[str, dict[str, Any]]]:
    """Return for each side and seed, by mode, the engine it is fastest on and the latency there."""
    calls: dict[tuple[Part, str, str], Callable[[], object]] = {}
    with _empty_cache() as cache:
        for part in parts:
            path = _exported(sizes, folder, part, cache)
            for engine in engines:
                session = Session(path, engine=engine, threads=threads)
                for mode in session.modes:
                    session.prepare(mode)
                    call = partial(session.run, session.example(), mode=mode)
                    calls[part, engine, mode] = call
        readings = measure_latencies(calls, timing, source="worth")
    found: dict[Part, dict[str, dict[str, Any]]] = {part: {} for part in parts}
    for (part, engine, mode), reading in readings.items():
        best = found[part].get(mode)
        if best is None or reading.known < best["latency_ms"]:
            found[part][mode] = _figures(engine, reading)
    return found


@contextmanager
def _empty_cache() -> Iterator[str]:
    """Give sessions a cache with nothing profiled and nothing remembered, and the old one back."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        try:
            yield cache
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def _figures(engine: str, reading: Reading) -> dict[str, Any]:
    return {
        "engine": engine, "latency_ms": reading.known, "low_ms": reading.low, "high_ms": reading.high
    }  # fmt: skip


def _exported(sizes: Scale, folder: Path, part: Part, into: str) -> Path:
    """Return a bundle with the modes of one side."""
    answers = answers_file(folder, *part)
    with np.load(answers) as file:
        modes = json.loads(str(file["header"]))["modes"]
    weights = answers.with_name(answers.name.replace(".answers.npz", ".safetensors"))
    net = we.load(weights, sizes.make())  # pyright: ignore[reportCallIssue]
    with quiet():
        return we.export(net, modes, Path(into) / f"{weights.stem}.wen")


if __name__ == "__main__":
    main()
