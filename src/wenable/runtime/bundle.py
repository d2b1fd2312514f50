"""The bundle: one file with the weights once, the graph, and every exported mode.

It is a safetensors file. Its tensors are the whole weights (`weights.*`), the graph's constants
(`constants.*`) and, for each mode, one tensor `norms.NUMBER` of shape `(2, channels)`: the scale and
the shift of every norm, in the order of the manifest. The manifest is JSON in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from wenable.preprocessing import Preprocessing
from wenable.runtime.building import ModeWeights
from wenable.runtime.graph import CONVOLUTION, LINEAR, NORM, Graph
from wenable.runtime.lowering import SwitchableLayer
from wenable.space import Mode, Space
from wenable.tables import Reading

FORMAT, VERSION = "wenable-bundle", 1
_MOST_VALUES = 2**31
"""Values of one input that a file may ask for, for each example."""


class BundleError(ValueError):
    """A file that is no bundle, is damaged, or was written by a newer version."""


@dataclass(frozen=True)
class ExportedMode:
    """A mode of a bundle, with what was measured of it: "accuracy", "latency" and so on."""

    mode: Mode
    readings: Mapping[str, Reading]


class Bundle:
    """An opened and verified bundle; read-only.

    Raises `FileNotFoundError`, or `BundleError` in one line where the file is truncated, altered,
    from a newer version, or says what cannot be. Nothing in it is executed or unpickled.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            what = "is a folder, not a file" if self.path.is_dir() else "does not exist"
            raise FileNotFoundError(f"`path` (={self.path}) {what}")
        manifest, self._tensors = _read(self.path)
        try:
            self._take(manifest)
        except BundleError:
            raise
        except (
            KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError,
            RecursionError,
        ) as error:  # fmt: skip
            raise BundleError(f"{self.path} is damaged: {error}") from error

    def _take(self, manifest: Mapping[str, Any]) -> None:
        self.space = Space.from_json(manifest["space"])
        self.graph = Graph.from_json(manifest["graph"])
        self.layers = {each["name"]: _layer(each, self.space) for each in manifest["layers"]}
        self.norms = [(str(name), int(channels)) for name, channels in manifest["norms"]]
        self.modes = tuple(_mode(each, self.space) for each in manifest["modes"])
        kept = manifest["preprocessing"]
        self.preprocessing = Preprocessing.from_json(kept) if kept else None
        self.identity = str(manifest["identity"])
        self._check_graph()
        self._check_tensors()

    def _check_graph(self) -> None:
        norms = {name for name, _ in self.norms}
        for node in self.graph.nodes:
            known = {CONVOLUTION: self.layers, LINEAR: self.layers, NORM: norms}.get(node.op)
            if known is not None and node.layer not in known:
                raise BundleError(
                    f"{self.path} is damaged: {node.op} of {node.layer!r}, which it does not list"
                )
            if node.op in (CONVOLUTION, LINEAR, "Conv") and len(node.inputs) < 2:
                raise BundleError(f"{self.path} is damaged: {node.op} without a weight")
            if not node.outputs:
                raise BundleError(f"{self.path} is damaged: {node.op} makes nothing")
        for each in self.graph.inputs:
            if math.prod(size or 1 for size in each.shape) > _MOST_VALUES:
                raise BundleError(f"{self.path} asks for an input of shape {each.shape}")

    def _check_tensors(self) -> None:
        missing = sorted(self.graph.tensors_read() - set(self._tensors))
        if missing:
            raise BundleError(f"{self.path} is damaged: it lacks the tensor {missing[0]!r}")
        channels = sum(count for _, count in self.norms)
        for number, exported in enumerate(self.modes):
            found = self._tensors.get(f"norms.{number}")
            if found is None or found.shape != (2, channels):
                raise BundleError(f"{self.path} is damaged: it lacks the norms of {exported.mode}")
            if not bool(np.isfinite(found).all()):
                raise BundleError(f"{self.path} has norms of {exported.mode} that are not finite")

    def weights_of(self, number: int) -> ModeWeights:
        """Return what the model of mode `number` is built from."""
        kept, norms, start = self._tensors[f"norms.{number}"], {}, 0
        for name, channels in self.norms:
            norms[name] = (kept[0, start : start + channels], kept[1, start : start + channels])
            start += channels
        patterns = dict(zip(self.space.names, self.modes[number].mode.options, strict=True))
        return ModeWeights(patterns, self._tensors, norms)

    def number_of(self, mode: Any) -> int:
        """Return the number of an exported mode; raises `ValueError` with all of them otherwise."""
        wanted = self.space.mode(mode)
        for number, exported in enumerate(self.modes):
            if exported.mode == wanted:
                return number
        names = ", ".join(str(each.mode) for each in self.modes[:8])
        more = ", ..." if len(self.modes) > 8 else ""
        raise ValueError(f"`mode` (={wanted}) was not exported; {self.path} has {names}{more}")


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
    """Return the manifest and the tensors, all of them verified."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            manifest = _manifest(metadata, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except BundleError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise BundleError(f"{path} is truncated or no bundle: {error}") from error
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or set(sums) != set(tensors):
        raise BundleError(f"{path} was altered: its tensors are not those it lists")
    for name, array in tensors.items():
        if sums[name] != checksum(array):
            raise BundleError(f"{path} was altered: the SHA-256 of {name!r} does not match")
    return manifest, {_short(name): array for name, array in tensors.items()}


def _manifest(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any]:
    text = metadata.get("wenable", "")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is no bundle: it has no manifest") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path} is no bundle: it has no manifest")
    version = manifest.get("version")
    if type(version) is not int or version > VERSION:
        raise BundleError(
            f"{path} has version {version} of the format, written by wenable"
            f" {str(manifest.get('wenable'))[:20]}; this reads up to {VERSION}: upgrade wenable"
        )
    if metadata.get("sha256") != hashlib.sha256(text.encode()).hexdigest():
        raise BundleError(f"{path} was altered: the SHA-256 of its manifest does not match")
    return manifest


def checksum(array: np.ndarray) -> str:
    """Return the SHA-256 of a tensor's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()


def _short(name: str) -> str:
    """Return the name that the graph uses for a tensor of the file."""
    return name.removeprefix("weights.").removeprefix("constants.")


def _layer(values: Mapping[str, Any], space: Space) -> SwitchableLayer:
    name, knob = str(values["name"]), str(values["knob"])
    options = {each.name: each.options for each in space.knobs}
    layer = SwitchableLayer(
        name,
        knob,
        options[knob],
        values["inputs"],
        values["outputs"],
        values["shuffle_groups"],
        bool(values["pointwise"]),
    )
    sizes = (layer.inputs, layer.outputs, layer.shuffle_groups)
    if not all(type(size) is int and 0 < size < 2**24 for size in sizes):
        raise ValueError(f"the sizes (={sizes}) of {name!r}")
    divided = [(layer.inputs, n) for n in (*layer.patterns, layer.shuffle_groups)]
    divided += [(layer.outputs, n) for n in layer.patterns]
    if any(size % n for size, n in divided):
        raise ValueError(f"the patterns of {name!r} do not divide its {sizes[:2]} channels")
    return layer


def _mode(values: Mapping[str, Any], space: Space) -> ExportedMode:
    readings = {str(key): Reading(**each) for key, each in values["readings"].items()}
    return ExportedMode(space.mode(str(values["mode"])), readings)
