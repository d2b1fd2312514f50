"""One HTML page about fronts: everything is in it, nothing is fetched, and data stays data."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from wenable.core.files import write_whole
from wenable.core.readings import Front
from wenable.report.page_data import page_data

# In this order: each file uses what stands before it.
_SCRIPTS = (
    "page_text.js",
    "page_axes.js",
    "page_strip.js",
    "page_chart.js",
    "page_deadline.js",
    "page_table.js",
    "page_scatter.js",
    "page.js",
)
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def write_report(
    path: str | os.PathLike[str],
    series: Mapping[str, Front],
    *,
    title: str = "",
    predictions: Sequence[Mapping[str, Any]] = (),
    search_split: bool = False,
) -> Path:
    """Write a page about one or several fronts, and return its path.

    It shows accuracy against cost, what runs under a deadline, and every mode layer by layer. The
    page is one file that fetches nothing. Its script is allowed by its hash; text out of the
    fronts is never read as code.

    - `series`: name -> front; devices or methods to compare. Networks may differ, units may not.
    - `title`: the heading; the names of the series where it is empty.
    - `predictions`: verifications, each as the JSON form that says `wenable-verification`: predicted
      costs beside measured ones. `median_error` in it is a share: 0.08 is 8 %.
    - `search_split`: open with the accuracies on the search split in the table, beside those on the
      test split; a reader can switch them on and off.

    Raises `ValueError` where there is no front, units differ or a verification is malformed, and
    `OSError` where the file cannot be written. The file is written whole or not at all.

    Example:
        `write_report("report.html", {"laptop": front}, title="ResNet-50 on a laptop")`
    """
    heading = title or " and ".join(series)
    data = page_data(series, heading, predictions) | {"search_split": search_split}
    return write_whole(path, _fill(heading, data))


def _fill(heading: str, data: Mapping[str, Any]) -> str:
    style = _part("page.css")
    script = '(() => {\n"use strict";\n' + "".join(map(_part, _SCRIPTS)) + "})();"
    parts = {
        "title": html.escape(heading),
        "data": json_for_html(data),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
    }
    # One pass, so that a marker inside the data is left alone.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def json_for_html(values: Any) -> str:
    r"""Return values as JSON that no HTML parser can take for a tag, whatever texts they hold.

    Raises `ValueError` for NaN and infinity, which JSON does not have.

    >>> json_for_html("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda found: _ESCAPES[found[0]], text)


def _part(name: str) -> str:
    return resources.files("wenable.report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return the hash by which the page's own security policy knows its style and script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
