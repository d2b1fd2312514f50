"""Results in a file of records: JSON, one record a line, each with what made it.

Results are a dictionary. Its lists of dictionaries are the records, one line each; everything else
is a record of its own, the first. So a line can be read, compared and filtered by itself, and a new
run changes the lines of what it measured:

    {"part": "", "made": {"command": ..., "commit": ..., "machine": ...}, "record": {"threads": 1}}
    {"part": "rows", "made": {...}, "record": {"network": "resnet50", ...}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wenable.core.files import write_whole

ROOT = Path(__file__).parents[1]
PROVENANCE = ("command", "commit", "machine", "versions", "date")


def records_file(out: Path, name: str) -> Path:
    """Return the file of the records called `name`, below a root such as the repository's."""
    return out / "results" / f"{name}.jsonl"


def page_file(out: Path, name: str, suffix: str = ".md") -> Path:
    """Return the page made of the records called `name`, or its picture, below the same root."""
    return out / "docs" / "results" / f"{name}{suffix}"


def write_page(out: Path, name: str, text: str) -> None:
    """Write the page made of the records called `name`; its folder is made where it is missing."""
    path = page_file(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def write_records(path: Path, results: Mapping[str, Any]) -> None:
    """Write results to a file, whole or not at all; `read_records` returns them as they were.

    Raises `TypeError` for values that JSON does not have.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(each, ensure_ascii=False) for each in _records(results)]
    write_whole(path, "".join(f"{line}\n" for line in lines))


def read_records(path: Path) -> dict[str, Any]:
    """Return the results in a file, as they were given to `write_records`.

    Raises `FileNotFoundError` if there is no such file, and `ValueError`, naming the line, if a
    line is no record.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "speed.jsonl"
    >>> write_records(path, {"commit": "439296c", "rows": [{"ms": 1.0}, {"ms": 2.0}]})
    >>> read_records(path)
    {'commit': '439296c', 'rows': [{'ms': 1.0}, {'ms': 2.0}]}
    """
    results: dict[str, Any] = {}
    # Not `splitlines`: it would also split at line separators inside a text.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            each = json.loads(line)
            part, made, record = each["part"], each["made"], each["record"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no record: {error!r}") from error
        if part:
            results.setdefault(part, []).append(record)
        else:
            results |= made | record
    return results


def _records(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = {key: value for key, value in results.items() if _is_list_of_records(value)}
    made = {key: results[key] for key in PROVENANCE if key in results and key not in parts}
    rest = {key: value for key, value in results.items() if key not in parts and key not in made}
    found = [{"part": "", "made": made, "record": rest}]
    for part, values in parts.items():
        found += [{"part": part, "made": made, "record": value} for value in values]
    return found


def _is_list_of_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)
