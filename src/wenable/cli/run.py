"""`wenable run`: a bundle on images or arrays, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wenable.cli.inputs import Named, named_inputs
from wenable.cli.terminal import consoles, counted, print_json
from wenable.runtime import Session


def run_once(
    bundle: Path,
    inputs: Sequence[Path],
    mode: str,
    deadline_ms: float | None,
    engine: str,
    threads: int | None,
    top_k: int,
    as_json: bool,
) -> bool:
    """Run a bundle on each input, print the most likely classes, say whether all of them ran.

    What cannot be read or run is named, and the others run all the same.
    """
    if top_k < 1:
        raise ValueError(f"`--top-k` (={top_k}) must be at least 1")
    if mode and deadline_ms is not None:
        raise ValueError("`--mode` and `--deadline-ms` were both given; name one of them")
    console, problems = consoles(as_json)
    given = named_inputs(inputs)
    session = Session(bundle, engine=engine, threads=threads)
    if mode:
        session.prepare(mode)  # an unknown one is one error, not one for each input
    rows: list[dict[str, Any]] = []
    failed = 0
    for each in given:
        try:
            found = list(_rows(each, session, mode, deadline_ms, top_k))
        except (ValueError, OSError) as error:
            failed += 1
            rows.append({"input": each.name, "error": str(error)})
            problems.print(f"error: {error}", style="red", soft_wrap=True)
            continue
        rows += found
        for row in found:
            console.print(_line(row))
    if as_json:
        print_json(rows)
    if failed and len(given) > 1:
        problems.print(f"{failed} of {counted(len(given), 'input')} could not be run", style="red")
    return not failed


def _rows(
    given: Named, session: Session, mode: str, deadline_ms: float | None, top_k: int
) -> Iterator[dict[str, Any]]:
    """Run one input, and go through what is known of each example in it."""
    x = given.read(session.bundle.preprocessing)
    started = time.perf_counter()
    y = session.run(x, mode=mode or None, deadline_ms=deadline_ms)
    taken = 1e3 * (time.perf_counter() - started)
    used = session.modes[session.bundle.number_of(mode) if mode else 0]
    if deadline_ms is not None:
        used = session.controller(len(x)).decisions[-1].name
    for number in range(len(x)):
        name = given.name if len(x) == 1 else f"{given.name}[{number}]"
        row = {"input": name, "id": _id(used, session), "mode": used, "latency_ms": taken}
        if isinstance(y, np.ndarray) and y.ndim == 2 and len(y) == len(x):
            yield row | {"answer": _most_likely(y[number], session, top_k)}
        else:  # no classes: a map of them, boxes, several outputs
            outputs = y if isinstance(y, tuple) else (y,)
            yield row | {"shapes": [list(np.shape(each)) for each in outputs]}


def _line(row: dict[str, Any]) -> str:
    if "answer" in row:
        answer = ", ".join(f"{name} {100 * share:.0f} %" for name, share in row["answer"])
    else:
        answer = "outputs " + ", ".join(str(tuple(shape)) for shape in row["shapes"])
    # A text of many layers says less than its short name, which `wenable inspect` explains.
    mode = row["id"] if "," in row["mode"] else row["mode"]
    return f"{row['input']}: {answer}  ({row['latency_ms']:.2f} ms, mode {mode})"


def _id(mode: str, session: Session) -> str:
    """Return the short name of an exported mode."""
    wanted = session.bundle.modes[session.bundle.number_of(mode)].mode
    return next(name for name, each in session.bundle.ids.items() if each == wanted)


def _most_likely(logits: np.ndarray, session: Session, count: int) -> list[tuple[str, float]]:
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    kept = session.bundle.preprocessing
    labels: list[str] = list(kept.labels) if kept else []
    best = np.argsort(-shares)[:count]
    names: list[str] = [labels[i] if i < len(labels) else str(i) for i in best]
    return list(zip(names, shares[best].tolist(), strict=True))
