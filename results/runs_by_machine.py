"""Results of one benchmark on several machines: the last run on each machine stays in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results.records import read_records, write_records


def add_run(path: Path, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Write a run into a file in the place of its machine's, and return all that are there.

    Machines stand in the order of their names.
    """
    before = read_records(path)["runs"] if path.is_file() else []
    others = [each for each in before if each["machine"] != run["machine"]]
    runs = sorted([*others, run], key=lambda each: each["machine"])
    write_records(path, {"runs": runs})
    return runs
