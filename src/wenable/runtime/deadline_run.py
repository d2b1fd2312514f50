"""Requests under deadlines as a file for `wenable report`: what ran when, how long it took, the load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wenable.runtime.controller import Controller
from wenable.runtime.simulation import LoadTrace, Served


def run_of_controller(controller: Controller, title: str) -> dict[str, Any]:
    """Return the JSON form of the last requests of a controller, as many as it keeps (`log_size`).

    The load is what the controller believed when it chose.

    >>> from wenable.runtime.decisions import ModeFigures
    >>> controller = Controller([ModeFigures("1", 0.9, 10.0)], clock=lambda: 5.0)
    >>> outcome = controller.observe(controller.choose(deadline_ms=20.0), 12.0)
    >>> run_of_controller(controller, "one request")["requests"]
    [[4.988, 20.0, 12.0, 0]]
    """
    requests = [
        [
            round(each.time_s - each.total_ms / 1e3, 6),
            each.deadline_ms,
            round(each.total_ms, 3),
            each.mode,
        ]
        for each in controller.outcomes
        if each.deadline_ms is not None
    ]
    load = [[round(each.time_s, 6), round(each.slowdown, 3)] for each in controller.decisions]
    names = [each.name for each in controller.modes]
    return _run(title, names, requests, load)


def run_of_simulation(
    served: Sequence[Served], modes: Sequence[str], trace: LoadTrace, title: str
) -> dict[str, Any]:
    """Return the JSON form of a simulated run, with the load as it was."""
    requests = [
        [round(s.arrival.time_s, 6), s.arrival.deadline_ms, round(s.total_ms, 3), s.mode]
        for s in served
    ]
    load = [[each[0], round(trace.slowdown(each[0]), 3)] for each in requests]
    return _run(title, list(modes), requests, load)


def _run(title: str, modes: list[str], requests: list[Any], load: list[Any]) -> dict[str, Any]:
    return {
        "format": "wenable-deadline-run",
        "version": 1,
        "title": title,
        "modes": modes,
        "requests": requests,
        "load": load,
    }
