"""Parts of a long experiment: each is computed once and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wenable.core.files import write_whole


def kept(
    path: Path, identity: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return a part: from its file, where that is of the same identity, and otherwise computed.

    - `identity`: all that the part is a function of, as plain values.

    Raises `ValueError` where the file is no whole JSON.
    """
    wanted = json.loads(json.dumps(identity))
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["identity"] == wanted:
                return found["values"]
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{path} is no whole part of an experiment: {error!r}") from error
    values = json.loads(json.dumps(compute()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"identity": wanted, "values": values}, indent=1) + "\n")
    return values
