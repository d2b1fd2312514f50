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
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from wenable.core.mode_ids import is_id, numbered, resolve
from wenable.core.preprocessing import Preprocessing
from wenable.core.readings import Reading
from wenable.core.space import Mode, Space
from wenable.runtime.building import ModeWeights, norms_to_fold
from wenable.runtime.graph import CONVOLUTION, LINEAR, NORM, Graph, Node
from wenable.runtime.implementations import BundleLayer
from wenable.runtime.sizes import check_sizes, most_held

FORMAT, VERSION = "wenable-bundle", 1
_MOST_BYTES = 2**31
"""Of a file: an ONNX model ends there."""
_MOST_VALUES = 2**28
"""Values of one input that a file may ask for, for each example."""
_MOST_CHANNELS = 2**24
_MOST_ENTRIES = 4096
"""Of knobs, of modes."""
_PRODUCTS = (
    CONVOLUTION, LINEAR, "BatchNormalization", "Conv", "ConvTranspose", "GRU", "Gemm", "GroupNormalization",
    "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul", "Mul", "PRelu", "RNN",
)  # fmt: skip
"""Operations whose constants are factors and biases."""
_STORED = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""safetensors' names of the types that a bundle may hold, and numpy's."""
_FIGURES = ("value", "low", "high", "p90", "p99")
"""Of a reading: numbers, or None."""
_DIGEST = re.compile("[0-9a-f]{64}")
_RUN = re.compile(r"1(?:/[1-9][0-9]{0,7})?(?:\*([1-9][0-9]{0,5}))?")
"""An option and how often it is repeated, as a mode is written."""


class BundleError(ValueError):
    """A file that is no bundle, is damaged, or was written by a newer version."""


@dataclass(frozen=True)
class ExportedMode:
    """A mode of a bundle, with what was measured of it: "accuracy", "latency" and so on.

    - `id`: its short name where it was given one, that of the front it comes from; else empty.
    """

    mode: Mode
    readings: Mapping[str, Reading]
    id: str = ""


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
        try:
            manifest, stored = _read(self.path)
            self._take(manifest, stored)
        except BundleError as error:
            raise BundleError(_one_line(f"{self.path} {error}")) from error
        except KeyError as error:
            raise BundleError(_one_line(f"{self.path} is damaged: it lacks {error}")) from error
        except (
            TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError,
            MemoryError,
        ) as error:  # fmt: skip
            raise BundleError(_one_line(f"{self.path} is damaged: {error}")) from error

    def _take(self, manifest: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> None:
        self.space = _space(_object(manifest["space"], "`space`"))
        self.graph = Graph.from_json(manifest["graph"])
        layers = [_layer(each, self.space) for each in _list(manifest["layers"], "`layers`")]
        self.layers = {each.name: each for each in layers}
        _check_unlike([each.name for each in layers], "layer")
        self.norms = [_norm(each) for each in _list(manifest["norms"], "`norms`")]
        _check_unlike([name for name, _ in self.norms], "norm")
        modes = _list(manifest["modes"], "`modes`", least=1)
        self.modes = tuple(_mode(each, self.space) for each in modes)
        _check_unlike([str(each.mode) for each in self.modes], "mode")
        _check_unlike([f"m{int(each.id[1:])}" for each in self.modes if each.id], "short name")
        kept = manifest["preprocessing"]
        self.preprocessing = None
        if kept is not None:
            self.preprocessing = Preprocessing.from_json(_object(kept, "`preprocessing`"))
        self.identity = _text(manifest["identity"], "`identity`")
        if not _DIGEST.fullmatch(self.identity):  # what is kept of a bundle has files named by it
            raise ValueError(f"`identity` (={self.identity!r:.100}) is no SHA-256")
        self._take_tensors(stored)
        self._check_graph()

    @cached_property
    def structure(self) -> str:
        """A SHA-256 of all that the time of its modes depends on: graph, layers and sizes, no values.

        So a bundle that holds other modes of the same network, or trained further, has the same.
        """
        shapes = {name: [list(each.shape), str(each.dtype)] for name, each in self._tensors.items()}
        layers = [asdict(each) for each in self.layers.values()]
        parts = [self.space.to_json(), self.graph.to_json(), layers, shapes]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _take_tensors(self, stored: Mapping[str, np.ndarray]) -> None:
        self._tensors: dict[str, np.ndarray] = {}
        norms: dict[str, np.ndarray] = {}
        for whole, array in stored.items():
            part, _, name = whole.partition(".")
            if part not in ("weights", "constants", "norms"):
                raise ValueError(f"it has a tensor {whole!r}, which belongs to nothing")
            of_part = norms if part == "norms" else self._tensors
            if _text(name, "the name of a tensor") in of_part:
                raise ValueError(f"it has the tensor {name!r} twice")
            if array.dtype.kind == "f" and bool(np.isnan(array).any()):
                raise ValueError(f"the tensor {whole!r} holds NaN")
            of_part[name] = array
        channels = sum(count for _, count in self.norms)
        self._norms: list[np.ndarray] = []
        for number, exported in enumerate(self.modes):
            found = norms.pop(str(number), None)
            if found is None or found.shape != (2, channels) or found.dtype != np.float32:
                raise ValueError(f"it lacks the norms of mode {exported.mode}")
            if not bool(np.isfinite(found).all()):
                raise ValueError(f"the norms of mode {exported.mode} are not finite")
            self._norms.append(found)
        if norms:
            raise ValueError(f"it has norms {min(norms)!r}, which belong to no mode")

    def _check_graph(self) -> None:
        graph, norms = self.graph, dict(self.norms)
        made = {each.name for each in graph.inputs}
        made.update(name for node in graph.nodes for name in node.outputs)
        for name in graph.tensors_read():
            if name not in self._tensors:
                raise ValueError(f"it lacks the tensor {name!r}")
        for name in self._tensors:
            if name in made:
                raise ValueError(f"{name!r} is a tensor of it, and its graph makes it")
        for node in graph.nodes:
            if node.op in _PRODUCTS:
                self._check_finite(node.inputs)
            if node.op == NORM and node.layer not in norms:
                raise ValueError(f"its graph has the norm {node.layer!r}, which it does not list")
            if node.op in (CONVOLUTION, LINEAR):
                self._check_layer(node)
        for convolution, norm in norms_to_fold(graph).items():
            self._check_folded(graph.nodes[convolution], graph.nodes[norm])
        for each in graph.inputs:
            if (
                each.shape[:1] != (None,)
                or math.prod(size or 1 for size in each.shape) > _MOST_VALUES
            ):
                raise ValueError(
                    f"the input {each.name!r} has shape {each.shape}; it must begin with a batch and"
                    f" hold at most {_MOST_VALUES} values for each example"
                )
        check_sizes(graph, self._tensors)
        self._checked_batches = {1}
        self._computed: dict[int, int] = {}

    def _check_finite(self, names: Sequence[str]) -> None:
        """Refuse infinity among factors; in a mask that is added, or as a bound, it has a meaning."""
        for name in names:
            array = self._tensors.get(name)
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"the tensor {name!r} holds infinity")

    def check_batch(self, batch: int) -> None:
        """Raise `BundleError` where the graph grows faster than the batch, beyond any memory."""
        if batch not in self._checked_batches:
            try:
                check_sizes(self.graph, self._tensors, batch)
            except ValueError as error:
                raise BundleError(_one_line(f"{self.path} {error}")) from error
            self._checked_batches.add(batch)

    def computed_bytes(self, batch: int) -> int:
        """Return about how many bytes of values live at once while the graph runs a batch."""
        if batch not in self._computed:
            self._computed[batch] = 4 * most_held(self.graph, self._tensors, batch)
        return self._computed[batch]

    @cached_property
    def weight_bytes(self) -> int:
        """The bytes of its weights and constants."""
        return sum(each.nbytes for each in self._tensors.values())

    def _check_folded(self, convolution: Node, norm: Node) -> None:
        weight, *bias = (self._tensors[each] for each in convolution.inputs[1:])
        channels = dict(self.norms)[norm.layer]
        shapes = [weight.shape[:1], *(each.shape for each in bias)]
        floating = all(each.dtype.kind == "f" for each in (weight, *bias))
        if weight.ndim < 3 or not floating or any(shape != (channels,) for shape in shapes):
            raise ValueError(
                f"the norm {norm.layer!r} has {channels} channels, the weight before it shape"
                f" {weight.shape} and type {weight.dtype}"
            )

    def _check_layer(self, node: Node) -> None:
        if node.layer not in self.layers:
            raise ValueError(f"its graph has the layer {node.layer!r}, which it does not list")
        layer, name = self.layers[node.layer], node.layer
        if any(each not in self._tensors for each in node.inputs[1:]):
            raise ValueError(f"the weight or bias of {name!r} is no tensor of it")
        weight, *bias = (self._tensors[each] for each in node.inputs[1:])
        whole = (layer.outputs, layer.inputs)
        if weight.shape[:2] != whole or (weight.ndim > 2) != (node.op == CONVOLUTION):
            kernel = ", ..." if node.op == CONVOLUTION else ""
            raise ValueError(
                f"the weight of {name!r} has shape {weight.shape}, not {str(whole)[:-1]}{kernel})"
            )
        size = node.attributes["input"]
        assert isinstance(size, list)
        convolution = node.op == CONVOLUTION
        fits = len(size) == weight.ndim - 1 if convolution else len(size) > 0
        if not fits or size[0 if convolution else -1] != layer.inputs:
            raise ValueError(f"the input of {name!r} has shape {size}, its weight {weight.shape}")
        if layer.pointwise and not _is_pointwise(node, weight):
            raise ValueError(f"{name!r} is listed as pointwise and is not")
        if any(each.shape != (layer.outputs,) for each in bias):
            raise ValueError(
                f"the bias of {name!r} has shape {bias[0].shape}, not ({layer.outputs},)"
            )
        if any(each.dtype.kind != "f" or each.dtype != weight.dtype for each in (weight, *bias)):
            raise ValueError(f"the weight or bias of {name!r} has type {weight.dtype}")

    def weights_of(self, number: int) -> ModeWeights:
        """Return what the model of mode `number` is built from."""
        kept, norms, start = self._norms[number], {}, 0
        for name, channels in self.norms:
            norms[name] = (kept[0, start : start + channels], kept[1, start : start + channels])
            start += channels
        options = dict(zip(self.space.names, self.modes[number].mode.options, strict=True))
        return ModeWeights(options, self._tensors, norms)

    def example(self, batch: int = 1) -> dict[str, np.ndarray]:
        """Return inputs to try it with, by name: random numbers, or zeros for whole ones."""
        rng, arrays = np.random.default_rng(0), {}
        for each in self.graph.inputs:
            shape, dtype = (batch, *(size or 1 for size in each.shape[1:])), np.dtype(each.dtype)
            drawn = rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
            arrays[each.name] = drawn.astype(dtype)
        return arrays

    @cached_property
    def ids(self) -> dict[str, Mode]:
        """The exported modes by short names: those they were given, or `m01` for the first."""
        if all(each.id for each in self.modes):
            return {each.id: each.mode for each in self.modes}
        return numbered(each.mode for each in self.modes)

    def number_of(self, mode: Any) -> int:
        """Return the number of an exported mode, by a short name too.

        Raises `ValueError` with all of them where it is none.
        """
        wanted = resolve(mode, self.space, self.ids, str(self.path))
        for number, exported in enumerate(self.modes):
            if exported.mode == wanted:
                return number
        names = ", ".join(str(each.mode) for each in self.modes[:8])
        more = ", ..." if len(self.modes) > 8 else ""
        raise ValueError(f"`mode` (={wanted}) was not exported; {self.path} has {names}{more}")


def _one_line(text: str) -> str:
    """Return a message as one line of bounded length, whatever a file made it quote."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= 1000 else f"{line[:1000]} ..."


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
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
    tensors = {name: _array(name, values) for name, values in parts}
    for name, array in tensors.items():
        if sums[name] != checksum(array):
            raise BundleError(f"was altered: the SHA-256 of {name!r} does not match")
    return manifest, tensors


def _array(name: str, values: Mapping[str, Any]) -> np.ndarray:
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


def checksum(array: np.ndarray) -> str:
    """Return the SHA-256 of a tensor's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()


def _object(values: Any, what: str) -> Mapping[str, Any]:
    if type(values) is not dict:
        raise ValueError(f"{what} (={values!r:.100}) must be an object of JSON")
    return values


def _list(values: Any, what: str, least: int = 0) -> list[Any]:
    if type(values) is not list or not least <= len(values) <= _MOST_ENTRIES:
        raise ValueError(f"{what} must be a list of {least} to {_MOST_ENTRIES} entries")
    return values


def _text(value: Any, what: str) -> str:
    if type(value) is not str or not 0 < len(value) <= 1000 or not value.isprintable():
        raise ValueError(
            f"{what} (={value!r:.100}) must be a printable text of 1 to 1000 characters"
        )
    return value


def _whole(value: Any, what: str, most: int = _MOST_CHANNELS) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"{what} (={value!r:.100}) must be a whole number from 1 to {most}")
    return value


def _check_unlike(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"it lists the {what} {name!r} twice")
        seen.add(name)


def _space(values: Any) -> Space:
    for knob in _list(values["knobs"], "`knobs`", least=1):
        name = _text(_object(knob, "a knob")["name"], "the name of a knob")
        for option in _list(knob["options"], f"`options` of {name!r}", least=1):
            _whole(option, f"an option of {name!r}")
        if any(b % a for a, b in pairwise(knob["options"])):  # finer blocks lie within coarser ones
            raise ValueError(f"the options (={knob['options']!r:.100}) of {name!r} do not nest")
        for each in _list(knob["must_divide"], f"`must_divide` of {name!r}"):
            if len(_list(each, f"a size of {name!r}")) != 2:
                raise ValueError(f"a size of {name!r} (={each!r:.100}) must be its name and itself")
            _whole(each[1], f"the {_text(each[0], 'the name of a size')} of {name!r}")
    _check_unlike([knob["name"] for knob in values["knobs"]], "knob")
    return Space.from_json(values)


def _norm(values: Any) -> tuple[str, int]:
    if type(values) is not list or len(values) != 2:
        raise ValueError(f"a norm (={values!r:.100}) must be its name and its channels")
    name = _text(values[0], "the name of a norm")
    return name, _whole(values[1], f"the channels of {name!r}")


def _layer(values: Mapping[str, Any], space: Space) -> BundleLayer:
    name = _text(_object(values, "a layer")["name"], "the name of a layer")
    knob = values["knob"]
    options = {each.name: each.options for each in space.knobs}
    if type(knob) is not str or knob not in options:
        raise ValueError(f"the layer {name!r} has the knob {knob!r:.100}, which it does not list")
    sizes = {each: _whole(values[each], f"`{each}` of {name!r}")
             for each in ("inputs", "outputs", "shuffle_groups")}  # fmt: skip
    pointwise = values["pointwise"]
    if type(pointwise) is not bool:
        raise ValueError(f"`pointwise` (={pointwise!r:.100}) of {name!r} must be true or false")
    layer = BundleLayer(name, knob, options[knob], **sizes, pointwise=pointwise)
    divided = [(layer.inputs, n) for n in (*layer.options, layer.shuffle_groups)]
    divided += [(layer.outputs, n) for n in layer.options]
    if any(size % n for size, n in divided):
        raise ValueError(f"the options of {name!r} do not divide its channels (={sizes})")
    return layer


def _is_pointwise(node: Node, weight: np.ndarray) -> bool:
    return (
        node.op == CONVOLUTION
        and weight.ndim == 4
        and weight.shape[2:] == (1, 1)
        and node.attributes.get("strides", [1, 1]) == [1, 1]
        and node.attributes.get("pads", [0] * 4) == [0] * 4
        and node.attributes.get("auto_pad", "NOTSET") == "NOTSET"
    )


def _mode(values: Mapping[str, Any], space: Space) -> ExportedMode:
    text, count = _object(values, "a mode")["mode"], 0
    if type(text) is not str:
        raise ValueError(f"a mode (={text!r:.100}) must be a text")
    for part in text.split(","):
        run = _RUN.fullmatch(part)
        count += int(run[1] or 1) if run else len(space.knobs) + 1
    if count > len(space.knobs):  # before anything of that size is made
        raise ValueError(f"a mode (={text!r:.100}) is not one of its {len(space.knobs)} knobs")
    readings = _object(values["readings"], f"`readings` of mode {text!r:.100}")
    name = values.get("id", "")
    if type(name) is not str or (name and not is_id(name)):
        raise ValueError(f"the short name (={name!r:.100}) of a mode must be as m01")
    return ExportedMode(
        space.mode(text),
        {_text(key, "the name of a reading"): _reading(each) for key, each in readings.items()},
        name,
    )


def _reading(values: Any) -> Reading:
    for name, value in _object(values, "a reading").items():
        if name in _FIGURES:
            fits, kind = value is None or type(value) in (int, float), "a number"
        elif name == "count":
            fits, kind = type(value) is int and value >= 0, "a whole number"
        else:
            fits, kind = type(value) is str, "a text"
        if not fits:
            raise ValueError(f"`{name:.100}` (={value!r:.100}) of a reading must be {kind}")
    return Reading(**values)
