"""Runs a part of the demo in a process of its own, with a bar while it lasts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from wenable.cli.terminal import busy, progress_bar

_LOOK_S = 0.2


def in_a_fresh_process(
    console: Console,
    progress: Console,
    words: str,
    module: str,
    *arguments: Path | str,
    seconds: int = 0,
) -> bool:
    """Run a module of `wenable.cli`, then print what it said; return whether it ended well.

    - `console`: for what it says, `progress`: for the bar, with `words` before it.
    - `seconds`: how long the module takes at most, if that is known; the bar shows the time left.
    """
    command = [sys.executable, "-m", f"wenable.cli.{module}", *map(str, arguments)]
    size = {"COLUMNS": str(console.width), "PYTHONIOENCODING": console.encoding}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | size, text=True, encoding=console.encoding
    ) as process:
        if seconds:
            _wait(process, progress, words, seconds)
        with busy(progress, words):
            said, _ = process.communicate()
    sys.stdout.write(said)
    sys.stdout.flush()
    return process.returncode == 0


def _wait(process: subprocess.Popen[str], progress: Console, words: str, seconds: int) -> None:
    """Show a bar of so many seconds until the process ends, or they have passed."""
    started = time.monotonic()
    with progress_bar(progress, words) as update:
        while process.poll() is None and time.monotonic() < started + seconds:
            update(int(time.monotonic() - started), seconds, "")
            time.sleep(_LOOK_S)
