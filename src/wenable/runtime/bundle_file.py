"""The file that a bundle lies in: safetensors with a manifest, read at once and verified by its sums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as safetensors_bytes

from wenable.core.stored_tensors import in_one_order
from wenable.runtime.half_weights import HALVES, halved, read_halves, widened

FORMAT, VERSION = "wenable-bundle", 4
VERSION_OF_ONE_NETWORK, VERSION_OF_NETWORKS = 2, 3
"""What bundles are written as if no weight stands in half its bytes: readers of these read them."""
_MOST_BYTES = 2**31
"""Of a file: an ONNX model ends there."""
_STORED = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""safetensors' names of the types that a bundle may hold, and numpy's."""


class BundleError(ValueError):
    """A file that is no bundle, is damaged, or was written by a newer version."""


def one_line(text: str) -> str:
    """Return a message as one line of bounded length, whatever a file made it quote."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= 1000 else f"{line[:1000]} ..."


def read_bundle_file(path: Path) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
    """Return the manifest and the tensors, all of them verified.

    The file is read at once: a map of it would end the process where another truncates it.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise BundleError(f"is larger than {_MOST_BYTES} bytes, which no bundle is")
    try:
        content = path.read_bytes()
        parts = deserialize(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"is truncated or no bundle: {error}") from error
    manifest = _manifest(metadata)
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or set(sums) != {name for name, _ in parts}:
        raise BundleError("was altered: its tensors are not those it lists")
    try:
        halves = read_halves(manifest.get("halves", {}))
    except ValueError as error:
        raise BundleError(f"is damaged: {error}") from error
    tensors = {name: _array(name, values, halves.get(name)) for name, values in parts}
    for name, array in tensors.items():
        if sums[name] != checksum(array):
            raise BundleError(f"was altered: the SHA-256 of {name!r} does not match")
    return manifest, tensors


def _array(name: str, values: Mapping[str, Any], half: str | None) -> np.ndarray:
    """Return a tensor, in float32 if it stands in half its bytes.

    - `half`: the type that the manifest says it has then.
    """
    if half is not None:
        return _widened(name, values, half)
    if values["dtype"] not in _STORED:
        raise BundleError(
            f"is damaged: the tensor {name!r} has type {values['dtype']}; allowed:"
            f" {', '.join(_STORED)}"
        )
    data, dtype = values["data"], np.dtype(_STORED[values["dtype"]])
    if dtype.kind == "b" and bool((np.frombuffer(data, np.uint8) > 1).any()):
        raise BundleError(f"is damaged: the tensor {name!r} is neither true nor false")
    array = np.frombuffer(data, dtype.newbyteorder("<")).reshape(values["shape"])
    array.flags.writeable = False
    return array


def _widened(name: str, values: Mapping[str, Any], half: str) -> np.ndarray:
    if values["dtype"] != HALVES[half]:
        raise BundleError(f"is damaged: the tensor {name!r} has type {values['dtype']}, not {half}")
    bits = np.dtype(np.float16 if half == "float16" else np.uint16).newbyteorder("<")
    array = widened(np.frombuffer(values["data"], bits), half).reshape(values["shape"])
    array.flags.writeable = False
    return array


def _manifest(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    text = metadata.get("wenable", "")
    try:
        manifest = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"is no bundle: it has no manifest ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError("is no bundle: it has no manifest")
    version = manifest.get("version")
    if type(version) is not int or version < 1:
        raise BundleError(f"is damaged: its version is {version!r}")
    if version > VERSION:
        raise BundleError(
            f"has version {version} of the format, written by wenable"
            f" {str(manifest.get('wenable'))[:20]}; this reads up to {VERSION}: upgrade wenable"
        )
    if metadata.get("sha256") != hashlib.sha256(text.encode()).hexdigest():
        raise BundleError("was altered: the SHA-256 of its manifest does not match")
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def bundle_bytes(
    manifest: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    halves: Mapping[str, str] | None = None,
) -> bytes:
    """Return the content of a bundle; its sums and its identity are added to the manifest here.

    - `halves`: tensors that stand in half their bytes -> the type, which has all of their numbers. Their
      sums are those of float32, as they are read.

    The identity is what figures that were taken of a bundle belong to: its graphs and weights, not its
    readings.
    """
    sums = {name: checksum(array) for name, array in tensors.items()}
    told_elsewhere = ("id", "readings")
    modes = [
        {key: value for key, value in each.items() if key not in told_elsewhere}
        for each in manifest["modes"]
    ]
    belonging = [manifest["inputs"], manifest["graphs"], modes, sums]
    belonging += [manifest["sizes"]] if "sizes" in manifest else []
    identity = hashlib.sha256(json.dumps(belonging, sort_keys=True).encode()).hexdigest()
    told = {"version": VERSION, "halves": dict(halves)} if halves else {}
    text = json.dumps({**manifest, **told, "sha256": sums, "identity": identity})
    digest = hashlib.sha256(text.encode()).hexdigest()
    stored = dict(tensors)
    for name, kind in (halves or {}).items():
        stored[name] = halved(tensors[name], kind)
    types = {name: HALVES[kind] for name, kind in (halves or {}).items()}
    return in_one_order(safetensors_bytes(stored, {"wenable": text, "sha256": digest}), types)


def checksum(array: np.ndarray) -> str:
    """Return the SHA-256 of a tensor's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()
