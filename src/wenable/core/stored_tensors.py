"""safetensors files whose bytes follow from what they hold, so that they can be signed."""

from __future__ import annotations

import json
from collections.abc import Mapping


def in_one_order(content: bytes, types: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file with the texts of its header in one order.

    safetensors writes its tensors in an order of its own, and its texts in one that differs from run to
    run. Tensors stay where they are.

    - `types`: tensors whose bytes are numbers of another type than numpy has -> safetensors' name of it.

    Source: the format of safetensors: eight bytes for the length of the header, the header as JSON
    padded with spaces, the tensors.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    texts = header.pop("__metadata__", {})
    for name, kind in (types or {}).items():
        header[name]["dtype"] = kind
    ordered = {"__metadata__": dict(sorted(texts.items())), **dict(sorted(header.items()))}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
