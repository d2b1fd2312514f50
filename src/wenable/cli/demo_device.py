"""What a device does with the demo's bundle, in a process that never imports torch.

It compares the answers of every mode with PyTorch's, and measures how long the modes take.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import safe_open

from wenable.core.files import write_whole
from wenable.measure.latency import TimingPlan
from wenable.profiling import measure_modes
from wenable.runtime import Session

TOLERANCE = 1e-3
"""How far the logits may be from PyTorch's, as a share of the largest."""
TIMING = TimingPlan(blocks=8, calls=25, warmup=5, gap_ms=10.0)


def same_answers(session: Session, answers: Path) -> tuple[int, bool]:
    """Return how many modes were compared with what PyTorch answered, and whether all agree."""
    with safe_open(answers, framework="np") as file:
        modes = json.loads(file.metadata()["modes"])
        images = file.get_tensor("images")
        expected = {mode: file.get_tensor(str(number)) for number, mode in enumerate(modes)}
    compared = [mode for mode in modes if mode in session.modes]
    agree = all(
        np.abs(session.run(images, mode=mode) - expected[mode]).max()
        <= TOLERANCE * np.abs(expected[mode]).max()
        for mode in compared
    )
    return len(compared), bool(compared) and agree


def main(bundle: Path, answers: Path, out: Path) -> bool:
    """Print whether the answers agree, and write the latencies of all modes as JSON to `out`."""
    # One thread: so small a network gains little by more, and the deadline run has one core.
    session = Session(bundle, threads=1)
    compared, agree = same_answers(session, answers)
    engine = f"{session.engine.name} {session.engine.version}"
    verdict = "the answers of PyTorch" if agree else "OTHER ANSWERS"
    print(f"{engine}, without torch: {compared} modes give {verdict}")  # noqa: T201
    found = measure_modes(session, TIMING)
    latencies = {mode: asdict(reading) for mode, reading in found.items()}
    write_whole(out, json.dumps({"engine": session.engine.name, "latencies": latencies}, indent=1))
    assert "torch" not in sys.modules
    return agree


if __name__ == "__main__":
    sys.exit(0 if main(*map(Path, sys.argv[1:4])) else 1)
