"""`wenable run`: a bundle on images or arrays, one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from rich.console import Console

from wenable.cli.inputs import Named, named_inputs
from wenable.cli.terminal import consoles, counted, print_json
from wenable.runtime import Session
from wenable.runtime.engine import EngineError
from wenable.runtime.sized import size_given

_SUM_TOLERANCE = 1e-3
"""How far the numbers of a network that ends in a softmax may be from 1 in sum."""


def run_once(
    bundle: Path,
    inputs: Sequence[Path],
    mode: str,
    deadline_ms: float | None,
    engine: str,
    threads: int | None,
    top_k: int,
    strict: bool,
    as_json: bool,
    precision: str = "float32",
) -> bool:
    """Run a bundle on each input, print the most likely classes, say whether all of them ran.

    What cannot be read or run is named, and the others run all the same. The modes are made ready before
    anything is timed. With `strict` a deadline that was missed counts as one that did not run.
    """
    if top_k < 1:
        raise ValueError(f"`--top-k` (={top_k}) must be at least 1")
    if mode and deadline_ms is not None:
        raise ValueError("`--mode` and `--deadline-ms` were both given; name one of them")
    if deadline_ms is not None and not 0 < deadline_ms < math.inf:
        raise ValueError(f"`--deadline-ms` (={deadline_ms}) must be a finite number above 0")
    if strict and deadline_ms is None:
        raise ValueError("`--strict` was given without `--deadline-ms`: there is nothing to miss")
    terminal = consoles(as_json)
    given = named_inputs(inputs)
    with Session(bundle, engine=engine, threads=threads, precision=precision) as session:
        if session.precision != precision:
            terminal[1].print(f"computed in {session.precision}")
        if mode:
            session.prepare(mode)  # an unknown one is one error, not one for each input
        rows, failed = _run_each(given, session, mode, deadline_ms, top_k, terminal)
    problems = terminal[1]
    if as_json:
        print_json(rows)
    if failed and len(given) > 1:
        problems.print(f"{failed} of {counted(len(given), 'input')} could not be run", style="red")
    late = [row for row in rows if row.get("met") is False]
    if late and deadline_ms is not None:
        ran = sum("met" in row for row in rows)
        problems.print(
            f"the deadline of {deadline_ms:g} ms was missed by {len(late)} of {ran}", style="yellow"
        )
    return not failed and not (strict and late)


def _run_each(
    given: Sequence[Named],
    session: Session,
    mode: str,
    deadline_ms: float | None,
    top_k: int,
    terminal: tuple[Console, Console],
) -> tuple[list[dict[str, Any]], int]:
    """Return what is known of each example, and how many inputs could not be run; print both."""
    console, problems = terminal
    warm: set[tuple[int, str | None]] = set()
    rows: list[dict[str, Any]] = []
    failed = 0
    for each in given:
        try:
            x = each.read(session.bundle.preprocessing)
            _warm_up(x, session, mode, deadline_ms, warm)
            found = list(_rows(each.name, x, session, mode, deadline_ms, top_k))
        except (ValueError, OSError, EngineError) as error:
            failed += 1
            rows.append({"input": each.name, "error": str(error)})
            problems.print(f"error: {error}", style="red", soft_wrap=True)
            continue
        rows += found
        failed += any("error" in row for row in found)
        for row in found:
            if "error" in row:
                words = f"error: {row['input']}: {row['error']}"
                problems.print(words, style="red", soft_wrap=True)
            else:
                console.print(_line(row))
    return rows, failed


def _warm_up(
    x: np.ndarray,
    session: Session,
    mode: str,
    deadline_ms: float | None,
    warm: set[tuple[int, str | None]],
) -> None:
    """Make ready what an input will run in, so that its time is not that of a first call.

    - `warm`: the sizes of batch and of images for which that was done.
    """
    size = size_given(x, session.image_sizes)
    if (len(x), size) in warm:
        return
    if deadline_ms is None:
        session.run(x, mode=mode or None)
    else:
        session.run(x)  # refuses an input that does not fit, before anything is timed for its batch
        session.warm_up([len(x)], size)
    warm.add((len(x), size))


def _rows(
    given: str,
    x: np.ndarray,
    session: Session,
    mode: str,
    deadline_ms: float | None,
    top_k: int,
) -> Iterator[dict[str, Any]]:
    """Run one input, and go through what is known of each example in it."""
    started = time.perf_counter()
    y = session.run(x, mode=mode or None, deadline_ms=deadline_ms)
    taken = 1e3 * (time.perf_counter() - started)
    if isinstance(y, dict):
        y = next(iter(y.values())) if len(y) == 1 else tuple(y.values())
    used = session.modes[session.bundle.number_of(mode) if mode else 0]
    met: dict[str, Any] = {}
    if deadline_ms is not None:
        size = size_given(x, session.image_sizes)
        outcome = session.controller(len(x), size).outcomes[-1]
        used, taken = outcome.name, outcome.total_ms
        met = {"deadline_ms": deadline_ms, "met": taken <= deadline_ms}
    for number in range(len(x)):
        name = given if len(x) == 1 else f"{given}[{number}]"
        row = {"input": name, "id": _id(used, session), "mode": used, "latency_ms": taken} | met
        if _is_classes(y) and len(y) == len(x):
            wrong = _wrong(y[number])
            if wrong:
                yield {"input": name, "error": f"the network answered {wrong}"}
            else:
                yield row | {"answer": _most_likely(y[number], session, top_k)}
        else:  # no classes: a map of them, boxes, several outputs, whole numbers
            outputs = y if isinstance(y, tuple) else (y,)
            yield row | {"shapes": [list(np.shape(each)) for each in outputs]}


def _line(row: dict[str, Any]) -> str:
    if "answer" in row:
        answer = ", ".join(f"{name} {100 * share:.0f} %" for name, share in row["answer"])
    else:
        answer = "outputs " + ", ".join(str(tuple(shape)) for shape in row["shapes"])
    # A text of many layers says less than its short name, which `wenable inspect` explains.
    mode = row["id"] if "," in row["mode"] else row["mode"]
    time_ms = f"{row['latency_ms']:.2f} ms"
    if "met" in row:
        time_ms += f" of {row['deadline_ms']:g} ms, {'met' if row['met'] else 'MISSED'}"
    return f"{row['input']}: {answer}  ({time_ms}, mode {mode})"


def _id(mode: str, session: Session) -> str:
    """Return the short name of an exported mode."""
    wanted = session.bundle.modes[session.bundle.number_of(mode)].mode
    return next(name for name, each in session.bundle.ids.items() if each == wanted)


def _is_classes(y: Any) -> TypeGuard[np.ndarray]:
    """Say whether an output has a number for each class."""
    return isinstance(y, np.ndarray) and y.ndim == 2 and y.dtype.kind == "f" and y.shape[1] > 0


def _wrong(numbers: np.ndarray) -> str:
    """Say what makes numbers tell nothing of classes; "" where they do. `-inf` is a class left out."""
    if np.isnan(numbers).any():
        return "NaN"
    return "" if np.isfinite(numbers.max()) else "infinity"


def _shares(numbers: np.ndarray) -> np.ndarray:
    """Return the share of each class: those of a network that ends in them, or those of its logits."""
    numbers = numbers.astype(np.float64)
    if numbers.min() >= 0 and abs(numbers.sum() - 1) <= _SUM_TOLERANCE:
        return numbers
    shares = np.exp(numbers - numbers.max())
    return shares / shares.sum()


def _most_likely(numbers: np.ndarray, session: Session, count: int) -> list[tuple[str, float]]:
    shares = _shares(numbers)
    kept = session.bundle.preprocessing
    labels: list[str] = list(kept.labels) if kept else []
    best = np.argsort(-shares)[:count]
    names: list[str] = [labels[i] if i < len(labels) else str(i) for i in best]
    return list(zip(names, shares[best].tolist(), strict=True))
