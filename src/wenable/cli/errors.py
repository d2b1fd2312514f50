"""How a command ends that fails or is interrupted: one line, an exit status, and no empty folders."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from wenable.cli.outputs import check_reads_none
from wenable.core.files import no_empty_folder_left

shown_in_full = {"debug": False}
"""Whether errors are shown with their traceback, as `wenable --debug` asks."""

OTHERS_WAIT_S = 20.0
"""How long processes but the first keep an error back, which the first has as a rule told by then."""


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Print what a user can mend as one line; `wenable --debug` shows the traceback instead."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        paths = [each for each in (*args, *kwargs.values()) if isinstance(each, Path)]
        try:
            with contextlib.ExitStack() as folders:
                for path in paths:
                    folders.enter_context(no_empty_folder_left(path))
                check_reads_none(kwargs)
                command(*args, **kwargs)
                if sys.stdout is not None:
                    sys.stdout.flush()
        except typer.Exit:  # a RuntimeError too
            raise
        except KeyboardInterrupt:
            _print_error("interrupted")
            raise typer.Exit(130) from None  # as shells have it: 128 and the signal's number
        except (ValueError, FloatingPointError, ImportError, OSError, RuntimeError) as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                _drop_output()
                raise typer.Exit(1) from error
            if shown_in_full["debug"]:
                raise
            from wenable.cli.option_names import as_typed, option_names

            _print_error("error: " + as_typed(_words(error), option_names(command), kwargs))
            raise typer.Exit(1) from error

    return run


def _nobody_reads() -> bool:
    """Say whether the pipe that is printed to was closed, as by `head`, and not another one."""
    if sys.stdout is None or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)
    except (OSError, ValueError):  # it was replaced by what is no file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _drop_output() -> None:
    """Send what is still to be printed nowhere: Python would complain of it when it ends."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _words(error: Exception) -> str:
    """Return what went wrong; of the system's own errors the file and the reason, without a number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _print_error(words: str) -> None:
    """Print why a command ends; of several processes that fail alike the first one only."""
    process = int(os.environ.get("RANK", "0"))  # as torchrun has it
    if process:
        # Where the first fails too, torchrun ends this process meanwhile.
        time.sleep(OTHERS_WAIT_S)
        words = f"process {process}: {words}"
    from wenable.cli.terminal import PlainConsole

    PlainConsole(stderr=True).print(words, style="red", soft_wrap=True)
