"""Which state of the project a result was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path


def present_commit() -> str:
    """Return the short hash of the commit at hand, with a plus where files differ from it."""

    def git(*arguments: str) -> str:
        root = Path(__file__).parents[1]
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "src", "benchmarks", "experiments"
    )
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
