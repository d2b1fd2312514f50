"""Runs the demo's bundle under deadlines, in a process of its own that never imports torch."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors import safe_open

from wenable.runtime import Session

REQUESTS = 300
TOLERANCE = 1e-3
"""How far the logits may be from PyTorch's, as a share of the largest."""


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


def run_under(session: Session, deadline_ms: float) -> tuple[Counter[str], float]:
    """Return how often each mode ran, and the share of requests that met the deadline."""
    x, controller = session.example(), session.controller()
    before = len(controller.outcomes)
    for _ in range(REQUESTS):
        session.run(x, deadline_ms=deadline_ms)
    outcomes = controller.outcomes[before:]
    met = sum(each.total_ms <= deadline_ms for each in outcomes) / len(outcomes)
    return Counter(each.name for each in outcomes), met


def main(bundle: Path, answers: Path) -> bool:
    """Print what was found; say whether the answers agree."""
    session = Session(bundle)
    compared, agree = same_answers(session, answers)
    verdict = "the answers of PyTorch" if agree else "OTHER ANSWERS"
    engine = f"{session.engine.name} {session.engine.version}"
    print(f"{engine}, without torch: {compared} modes give {verdict}")  # noqa: T201
    figures = session.controller().modes
    slow, fast = max(each.latency_ms for each in figures), min(each.latency_ms for each in figures)
    for deadline_ms in (3 * slow, (slow + fast) / 2):
        modes, met = run_under(session, deadline_ms)
        ran = ", ".join(f"{mode}: {count}" for mode, count in modes.most_common())
        print(  # noqa: T201
            f"deadline {deadline_ms:.2f} ms: {100 * met:.0f} % of {REQUESTS} requests in time; {ran}"
        )
    assert "torch" not in sys.modules
    return agree


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1]), Path(sys.argv[2])) else 1)
