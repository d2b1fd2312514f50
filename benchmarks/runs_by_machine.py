"""Results of one benchmark on several machines: each machine's last run stays in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wenable.files import write_whole


def add_run(path: Path, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Write a run into a file in the place of its machine's, and return all that are there.

    Machines stand in the order of their names.
    """
    before = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    others = [each for each in before if each["machine"] != run["machine"]]
    runs = sorted([*others, run], key=lambda each: each["machine"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"runs": runs}, indent=1) + "\n")
    return runs
