"""Ends a long command when it is asked to: Ctrl-C or a scheduler's SIGTERM, after the step at hand."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C ended, as shells have it."""


class StopRequest:
    """Whether somebody asked the command to stop, and the exit status that tells how."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Say whether to stop."""
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """128 and the signal's number: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note Ctrl-C and SIGTERM inside a `with` block; a second Ctrl-C ends the program at once.

    A second SIGTERM does not: `torchrun` sends one to all its processes after the terminal has sent
    them Ctrl-C, while they still write what they have.
    """
    request = StopRequest()

    def note(number: int, _: Any) -> None:
        request.signal = request.signal or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
