"""What made a result: the command, the commit, the machine and the versions."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

from wenable.measure.device import describe_device

ROOT = Path(__file__).parents[1]


def made_by_command(command: str) -> dict[str, Any]:
    """Return what makes a result now: the command, the commit, the machine and the versions."""
    return {
        "command": command,
        "commit": present_commit(),
        "machine": describe_device(),
        "versions": {"torch": torch.__version__},
    }


def present_commit() -> str:
    """Return the short hash of the commit at hand, with a plus if files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "src", "benchmarks", "experiments"
    )
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
