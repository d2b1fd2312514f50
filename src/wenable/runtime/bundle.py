"""The bundle: one file with the weights once, the graphs, and every exported mode as views of the weights.

It is a safetensors file. Its tensors are the whole weights (`weights.*`), the graphs' constants
(`constants.*`) and, for each mode, one tensor `norms.NUMBER` of shape `(2, channels)`: the scale and
the shift of every norm, in the order of the manifest. The manifest is JSON in the file's metadata.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wenable.core.given_numbers import as_whole
from wenable.core.mode_ids import numbered, resolve
from wenable.core.preprocessing import Preprocessing
from wenable.core.space import Mode
from wenable.runtime.building import ModeWeights
from wenable.runtime.bundle_checks import check_alike, check_graph, check_mode
from wenable.runtime.bundle_file import FORMAT as FORMAT
from wenable.runtime.bundle_file import VERSION as VERSION
from wenable.runtime.bundle_file import BundleError, one_line, read_bundle_file
from wenable.runtime.bundle_file import checksum as checksum
from wenable.runtime.graph import Graph, TensorType, types_from_json
from wenable.runtime.image_sizes import check_inputs, check_other_size
from wenable.runtime.index_limits import index_limits
from wenable.runtime.manifest import ExportedMode as ExportedMode
from wenable.runtime.manifest import (
    as_newest,
    check_unlike,
    list_of,
    norms_of_networks,
    object_of,
    read_layer,
    read_mode,
    read_norm,
    read_sizes,
    read_space,
    text_of,
)
from wenable.runtime.mode_views import CutTensors, in_mode
from wenable.runtime.sizes import check_sizes, most_held
from wenable.runtime.stored_order import Chain, chains

_MOST_RANK = 8
"""Dimensions of a tensor: what engines compute with. One of them ended the process for a bias of 20."""
_MOST_NODES = 2**16
"""Of all graphs that differ between modes, together: each is checked when the file is opened."""
_DIGEST = re.compile("[0-9a-f]{64}")


class Bundle:
    """An opened and verified bundle; read-only.

    Raises `FileNotFoundError`, or `BundleError` in one line where the file is truncated, altered,
    from a newer version, or says what cannot be. Nothing in it is executed or unpickled.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            what = "is no regular file" if self.path.exists() else "does not exist"
            what = "is a folder, not a file" if self.path.is_dir() else what
            raise FileNotFoundError(f"`path` (={self.path}) {what}")
        try:
            manifest, stored = read_bundle_file(self.path)
            self.halves: Mapping[str, str] = manifest.get("halves", {})
            """Weights that stand in half their bytes in the file -> "float16" or "bfloat16"."""
            self._take(as_newest(manifest), stored)
        except BundleError as error:
            raise BundleError(one_line(f"{self.path} {error}")) from error
        except KeyError as error:
            raise BundleError(one_line(f"{self.path} is damaged: it lacks {error}")) from error
        except (
            TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError,
            MemoryError,
        ) as error:  # fmt: skip
            raise BundleError(one_line(f"{self.path} is damaged: {error}")) from error

    def _take(self, manifest: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> None:
        self.space = read_space(object_of(manifest["space"], "`space`"))
        graphs = list_of(manifest["graphs"], "`graphs`", least=1)
        self._graphs = [Graph.from_json(each) for each in graphs]
        self.inputs = self._graphs[0].inputs
        """The inputs of the network; a mode may take smaller images, see `inputs_of`."""
        if "inputs" in manifest:
            self.inputs = types_from_json(list_of(manifest["inputs"], "`inputs`", least=1))
        self.output_names = _names_of_outputs(manifest.get("output_names"), self._graphs)
        """The names that the network has for its outputs, or None where they are places only."""
        layers = [read_layer(each, self.space) for each in list_of(manifest["layers"], "`layers`")]
        self.layers = {each.name: each for each in layers}
        check_unlike([each.name for each in layers], "layer")
        self.norms = [read_norm(each) for each in list_of(manifest["norms"], "`norms`")]
        check_unlike([name for name, _ in self.norms], "norm")
        modes, norms = list_of(manifest["modes"], "`modes`", least=1), dict(self.norms)
        self._norms_in = norms_of_networks(self.norms, self.space)
        self.modes = tuple(read_mode(each, self.space, len(graphs), norms) for each in modes)
        check_unlike([str(each.mode) for each in self.modes], "mode")
        check_unlike([f"m{int(each.id[1:])}" for each in self.modes if each.id], "short name")
        kept = manifest["preprocessing"]
        self.preprocessing = None
        if kept is not None:
            self.preprocessing = Preprocessing.from_json(object_of(kept, "`preprocessing`"))
        self.identity = text_of(manifest["identity"], "`identity`")
        if not _DIGEST.fullmatch(self.identity):  # what is kept of a bundle has files named by it
            raise ValueError(f"`identity` (={self.identity!r:.100}) is no SHA-256")
        self._take_tensors(stored)
        for graph in self._graphs:
            check_graph(graph, self._tensors, self.layers, norms)
        self._check_modes()
        sizes = read_sizes(manifest.get("sizes", []), len(self.modes), len(graphs))
        self.at_other_sizes = tuple(map(self._at_size, sizes))
        """The same bundle at each further size of images that it takes, as a whole of its own."""
        shapes = [[each.shape for each in one.inputs] for one in (self, *self.at_other_sizes)]
        if any(shape in shapes[:place] for place, shape in enumerate(shapes)):
            raise ValueError("it lists a size of images twice")

    def _at_size(self, graphs: Sequence[int]) -> Bundle:
        """Return this bundle with the graphs of another size of images, one for each mode."""
        other = copy.copy(self)
        pairs = zip(self.modes, graphs, strict=True)
        other.modes = tuple(replace(mode, graph=number) for mode, number in pairs)
        other.inputs, other.at_other_sizes = self._graphs[graphs[0]].inputs, ()
        check_other_size(self.inputs, other.inputs)
        other._check_modes()
        return other

    @cached_property
    def structure(self) -> str:
        """A SHA-256 of all that the time of its modes depends on: graphs, layers and sizes, no values.

        So a bundle that holds other modes of the same network, or trained further, has the same, as
        long as its modes differ in groups alone; what is cut otherwise belongs to it mode by mode.
        """
        shapes = {name: [list(each.shape), str(each.dtype)] for name, each in self._tensors.items()}
        layers = [asdict(each) for each in self.layers.values()]
        parts: list[Any] = [self.space.to_json(), self._graphs[0].to_json(), layers, shapes]
        others = [each for each in self.modes if each.views or each.graph]
        if others:
            # Those of another size of images belong to it here.
            parts.append([graph.to_json() for graph in self._graphs[1:]])
            parts.append([[str(each.mode), each.graph, _sizes(each)] for each in others])
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _take_tensors(self, stored: Mapping[str, np.ndarray]) -> None:
        self._tensors: dict[str, np.ndarray] = {}
        norms: dict[str, np.ndarray] = {}
        for whole, array in stored.items():
            part, _, name = whole.partition(".")
            if part not in ("weights", "constants", "norms"):
                raise ValueError(f"it has a tensor {whole!r}, which belongs to nothing")
            of_part = norms if part == "norms" else self._tensors
            if text_of(name, "the name of a tensor") in of_part:
                raise ValueError(f"it has the tensor {name!r} twice")
            if array.ndim > _MOST_RANK:
                raise ValueError(f"the tensor {whole!r:.100} has {array.ndim} dimensions")
            if array.dtype.kind == "f" and bool(np.isnan(array).any()):
                raise ValueError(f"the tensor {whole!r} holds NaN")
            of_part[name] = array
        self._norms: list[np.ndarray] = []
        for number, exported in enumerate(self.modes):
            found, channels = norms.pop(str(number), None), sum(self._channels_of(number).values())
            if found is None or found.shape != (2, channels) or found.dtype != np.float32:
                raise ValueError(f"it lacks the norms of mode {exported.mode}")
            if not bool(np.isfinite(found).all()):
                raise ValueError(f"the norms of mode {exported.mode} are not finite")
            self._norms.append(found)
        if norms:
            raise ValueError(f"it has norms {min(norms)!r}, which belong to no mode")

    def _check_modes(self) -> None:
        """Check what differs between modes once for each difference: a graph, cut as it is."""
        self._cut = CutTensors(self._tensors)
        self._adapted: dict[Any, Graph] = {}
        self._chains: dict[int, Mapping[str, Chain]] = {}
        alike: dict[Any, int] = {}
        self._like: list[int] = []  # the first mode of the same kind, for each
        outputs, nodes = None, 0
        for number, exported in enumerate(self.modes):
            network, _ = self.space.within(exported.mode)  # whose norms it has
            kind = (network, exported.graph, _sizes(exported), str(exported.channels))
            if kind not in alike:
                alike[kind] = number
                nodes += len(self._graphs[exported.graph].nodes)
                if nodes > _MOST_NODES:
                    raise ValueError(f"its modes have more than {_MOST_NODES} operations together")
                outputs = self._check_mode(number, outputs)
            self._like.append(alike[kind])
        self._unlike = tuple(alike.values())
        self._checked_batches = {1}
        self._computed: dict[tuple[int, int], int] = {}

    def _check_mode(self, number: int, outputs: list[Any] | None) -> list[Any]:
        exported, graph = self.modes[number], self.graph_of(number)
        check_inputs(self.inputs, graph.inputs)
        check_alike(self._graphs[0].outputs, graph.outputs, "outputs")
        tensors, channels = self._cut.sized(exported.views), self._channels_of(number)
        found = check_mode(graph, tensors, exported.views, self.layers, channels)
        if outputs is not None and not self._fit(found, outputs, graph):
            raise ValueError(f"mode {exported.mode} makes outputs of shapes {found}, not {outputs}")
        return found

    def _fit(self, found: list[Any], outputs: list[Any], graph: Graph) -> bool:
        """Say whether outputs have the shapes of other modes'; of smaller images they may be smaller."""
        if graph.inputs == self._graphs[self.modes[0].graph].inputs:
            return found == outputs
        same = [(len(each), each[:2]) for each in found] == [
            (len(each), each[:2]) for each in outputs
        ]
        return same and all(a == b or len(a) == 4 for a, b in zip(found, outputs, strict=True))

    def _channels_of(self, number: int) -> dict[str, int]:
        """Return norm -> its channels in a mode; those of other networks are not among them."""
        exported = self.modes[number]
        own = self._norms_in[self.space.within(exported.mode)[0]]
        unknown = exported.channels.keys() - own
        if unknown:
            raise ValueError(f"mode {exported.mode} has channels of {min(unknown)!r}, not its norm")
        return {**own, **exported.channels}

    def check_batch(self, batch: int) -> int:
        """Return a size of batch as an int; raises where it is none, or larger than the graph can bear.

        Raises `ValueError` for what is no whole number above 0, `BundleError` where the graph grows
        faster than the batch, beyond any memory.
        """
        whole = as_whole(batch)
        if whole is None or whole < 1:
            raise ValueError(f"`batch` (={batch!r}) must be a whole number above 0")
        if whole not in self._checked_batches:
            try:
                for graph, tensors in self._each_unlike():
                    check_sizes(graph, tensors, whole)
            except ValueError as error:
                raise BundleError(one_line(f"{self.path} {error}")) from error
            self._checked_batches.add(whole)
        return whole

    @cached_property
    def answers_row_by_row(self) -> bool:
        """Whether each output has one row for each example; others cannot be told apart in a batch."""
        return all(
            check_sizes(graph, tensors, batch)[each.name][:1] == (batch,)
            for graph, tensors in self._each_unlike()
            for batch in (2, 3)  # one of them may happen to be another size
            for each in graph.outputs
        )

    def computed_bytes(self, batch: int, number: int) -> int:
        """Return about how many bytes of values live at once while mode `number` runs a batch, at most."""
        key = batch, self._like[number]
        if key not in self._computed:
            tensors = self._cut.sized(self.modes[number].views)
            self._computed[key] = 4 * most_held(self.graph_of(number), tensors, batch)
        return self._computed[key]

    def _each_unlike(self) -> Iterator[tuple[Graph, Mapping[str, np.ndarray]]]:
        """Yield graph and tensors of one mode of each kind."""
        for number in self._unlike:
            yield self.graph_of(number), self._cut.sized(self.modes[number].views)

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it holds, most costly first; none if it holds one, as most do."""
        return tuple(self.space.networks)

    @cached_property
    def weight_bytes(self) -> int:
        """The bytes of its weights and constants."""
        return sum(each.nbytes for each in self._tensors.values())

    def inputs_of(self, number: int) -> tuple[TensorType, ...]:
        """Return the inputs that the graph of mode `number` takes: smaller images, if it has them."""
        return self._graphs[self.modes[number].graph].inputs

    @cached_property
    def index_limits(self) -> dict[str, int]:
        """The rows that inputs choose from, by name: in whichever mode has the fewest."""
        found: dict[str, int] = {}
        for graph in self._graphs:
            for name, rows in index_limits(graph, self._tensors).items():
                found[name] = min(found.get(name, rows), rows)
        return found

    def graph_of(self, number: int) -> Graph:
        """Return the graph that mode `number` runs, with the groups that its layers have in it."""
        exported = self.modes[number]
        groups = tuple((name, view.groups) for name, view in exported.views.items() if view.groups)
        kind = exported.graph, groups
        if kind not in self._adapted:
            self._adapted[kind] = in_mode(self._graphs[exported.graph], exported.views)
        return self._adapted[kind]

    def chains_of(self, number: int) -> Mapping[str, Chain]:
        """Return where the shuffles of mode `number` can be stored; see `stored_order.chains`."""
        kind = id(self.graph_of(number))
        if kind not in self._chains:
            tensors = self._cut.of(self.modes[number].views)
            self._chains[kind] = chains(self.graph_of(number), tensors)
        return self._chains[kind]

    def weights_of(self, number: int) -> ModeWeights:
        """Return what the model of mode `number` is built from."""
        exported, kept, norms, start = self.modes[number], self._norms[number], {}, 0
        for name, channels in self._channels_of(number).items():
            norms[name] = (kept[0, start : start + channels], kept[1, start : start + channels])
            start += channels
        options = dict(zip(self.space.names, exported.mode.options, strict=True))
        views = exported.views
        roundings = {name: view.rounding for name, view in views.items() if view.rounding}
        return ModeWeights(options, self._cut.of(views), norms, roundings)

    @property
    def knobs_beside_groups(self) -> tuple[str, ...]:
        """The names of the knobs that change more than groups: the image size, a width, an exit, bits."""
        grouped = {layer.knob for layer in self.layers.values()}
        return tuple(name for name in self.space.names if name not in grouped)

    def why_not_any_mode(self) -> str:
        """Return why only its exported modes can be built; "" where any mode of its space can.

        Where modes differ in groups alone, options say all there is to say.
        """
        others = self.knobs_beside_groups
        if not others:
            return ""
        return (
            f"the knob {others[0]!r} changes more than groups, and a bundle knows what for the modes"
            " only that were exported"
        )

    def example(self, batch: int = 1, number: int | None = None) -> dict[str, np.ndarray]:
        """Return inputs to try it with, by name: random numbers, or zeros for whole ones.

        - `number`: of the mode whose graph gets them; without it those that a session takes.
        """
        rng, arrays = np.random.default_rng(0), {}
        for each in self.inputs if number is None else self.inputs_of(number):
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


def _names_of_outputs(names: Any, graphs: Sequence[Graph]) -> tuple[str, ...] | None:
    """Return the names of outputs as the manifest has them; files of before have none."""
    if names is None:
        return None
    read = tuple(text_of(each, "an output's name") for each in list_of(names, "`output_names`"))
    check_unlike(list(read), "output")
    if any(len(graph.outputs) != len(read) for graph in graphs):
        raise ValueError(f"`output_names` has {len(read)} names, and a graph has other outputs")
    return read


def _sizes(exported: ExportedMode) -> str:
    """Return how a mode's weights are cut and rounded, without the grids of its inputs."""
    cut = [
        [name, view.rows, view.columns, view.groups, view.rounding.bits if view.rounding else 32]
        for name, view in sorted(exported.views.items())
    ]
    return json.dumps(cut)
