"""Several bundles as one: networks of the same inputs and outputs, among whose modes a device chooses.

Nothing is computed: each network was checked when it was exported, and keeps its graphs, its weights and
its norms. What is called the same in two networks gets the network's name before it; a tensor that two of
them hold alike stands in the file once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wenable.core.files import check_writable, write_whole
from wenable.core.knob import Knob
from wenable.core.mode_ids import is_id
from wenable.core.networks import in_network, joined_knobs
from wenable.core.space import Space
from wenable.runtime.bundle import Bundle
from wenable.runtime.bundle_file import (
    FORMAT,
    VERSION_OF_NETWORKS,
    BundleError,
    bundle_bytes,
    checksum,
    read_bundle_file,
)
from wenable.runtime.graph import types_to_json
from wenable.runtime.joinable import check_joinable
from wenable.runtime.manifest import as_newest
from wenable.runtime.sized import shapes_of
from wenable.version import __version__

Tensors = Mapping[str, np.ndarray]


def join(networks: Mapping[str, str | os.PathLike[str]], path: str | os.PathLike[str]) -> Path:
    """Write several bundles into one, whose modes are those of all; needs no torch.

    A mode is called `network=NAME`, and what it is called in its own bundle behind that:
    `"network=little"`, `"network=big,1/4,size=160"`. Sessions, deadlines, profiles, `escalate` and the
    command line take them as any others. The networks are ordered by the multiply-accumulates of their
    costliest modes, so the first mode, which runs if nothing is said, is the first of the costliest.

    - `networks`: name -> its bundle, two or more of the same inputs, outputs and preprocessing. The
      inputs and outputs are called as in the costliest, if they have no names of their own.

    Modes are numbered anew (`m01`). The file is whole or not there.

    Returns the path. Raises `FileNotFoundError`, or `BundleError` for a bundle that cannot be read;
    `ValueError` for fewer than two, a name that the text of a mode could not hold, networks that differ
    in inputs, outputs, preprocessing, sizes of images or what their readings are of, a bundle that is
    joined already, and one without MACs; `OSError` where the file cannot be written.

    >>> join({"big": "big.wen", "little": "little.wen"}, "pair.wen")  # doctest: +SKIP
    """
    check_writable(path)
    names = tuple(networks)
    _check_names(names)
    parts = [_Part.read(name, Path(networks[name])) for name in names]
    check_joinable({part.name: part.bundle for part in parts})
    parts.sort(key=lambda part: -part.macs)
    content = _content(parts)
    with tempfile.TemporaryDirectory() as folder:
        try:
            Bundle(write_whole(Path(folder) / "joined.wen", content))
        except BundleError as error:
            reason = str(error).partition("joined.wen ")[2].removeprefix("is damaged: ")
            raise ValueError(
                f"`networks` (={', '.join(names)}) cannot be joined: {reason}"
            ) from error
    return write_whole(path, content)


def _check_names(names: tuple[str, ...]) -> None:
    if len(names) < 2:
        raise ValueError(f"`networks` (={', '.join(names)}) must name two or more bundles")
    for name in names:
        if not isinstance(name, str) or is_id(name) or not name.isprintable() or len(name) > 100:
            raise ValueError(
                f"`networks` names {name!r:.100}; allowed: printable texts of up to 100 characters, and"
                " none as m01, which is a mode"
            )
    Knob("network", tuple(range(1, len(names) + 1)), labels=names)  # refuses what it could not hold


@dataclass(frozen=True)
class _Part:
    """One of the networks: its bundle, opened and verified, and what its file holds."""

    name: str
    bundle: Bundle
    manifest: Mapping[str, Any]
    tensors: Tensors

    @classmethod
    def read(cls, name: str, path: Path) -> _Part:
        bundle = Bundle(path)
        manifest, tensors = read_bundle_file(path)
        return cls(name, bundle, as_newest(manifest), tensors)

    @property
    def macs(self) -> float:
        """The multiply-accumulates of its costliest mode."""
        return max(each.readings["macs"].known for each in self.bundle.modes)

    def called(self, name: str) -> str:
        return in_network(name, self.name)


def _content(parts: list[_Part]) -> bytes:
    """Return the content of a bundle that holds these networks, most costly first."""
    first = parts[0]
    space = Space(joined_knobs({each.name: each.bundle.space.knobs for each in parts}))
    tensors: dict[str, np.ndarray] = {}
    halves: dict[str, str] = {}
    known: dict[str, str] = {}
    graphs: list[Any] = []
    modes: list[Any] = []
    sizes: list[list[int]] = [[] for _ in first.bundle.at_other_sizes]
    for part in parts:
        before = set(tensors)
        new = _added(part, tensors, known)
        for whole, kind in part.manifest.get("halves", {}).items():
            called = f"weights.{new[whole.removeprefix('weights.')]}"
            if called not in before and called in tensors:
                halves[called] = kind
        for number in range(len(part.bundle.modes)):
            tensors[f"norms.{len(modes) + number}"] = part.tensors[f"norms.{number}"]
        modes += [_mode(part, number, space, new, len(graphs))
                  for number in range(len(part.bundle.modes))]  # fmt: skip
        for place, own in enumerate(_sizes_as_in(first, part)):
            sizes[place] += [len(graphs) + number for number in own]
        graphs += [_graph(part, each, new, first) for each in part.manifest["graphs"]]
    manifest = {
        "format": FORMAT,
        "version": VERSION_OF_NETWORKS,
        "wenable": __version__,
        "space": space.to_json(),
        "inputs": types_to_json(first.bundle.inputs),
        "output_names": first.manifest.get("output_names"),
        "graphs": graphs,
        "layers": [
            {**each, "name": part.called(each["name"]), "knob": part.called(each["knob"])}
            for part in parts
            for each in part.manifest["layers"]
        ],
        "norms": [[part.called(name), n] for part in parts for name, n in part.manifest["norms"]],
        "modes": modes,
        **({"sizes": [{"graphs": each} for each in sizes]} if sizes else {}),
        "preprocessing": first.manifest["preprocessing"],
    }
    return bundle_bytes(manifest, tensors, halves)


def _added(part: _Part, tensors: dict[str, np.ndarray], known: dict[str, str]) -> dict[str, str]:
    """Put a network's tensors beside the others; return what each is called there.

    - `known`: the sum of each tensor of other networks -> its name; what is the same stands once.
    """
    new, own = {}, {}
    for whole, array in sorted(part.tensors.items()):
        kind, _, name = whole.partition(".")
        if kind == "norms":
            continue
        digest = checksum(array)
        new[name] = known.get(digest, part.called(name))
        if digest not in known:
            tensors[f"{kind}.{new[name]}"] = array
            own.setdefault(digest, new[name])
    known.update(own)
    return new


def _mode(part: _Part, number: int, space: Space, new: Mapping[str, str], graphs: int) -> Any:
    """Return a mode as the joined bundle lists it; `graphs`: how many stand before the network's."""
    told, mode = part.manifest["modes"][number], part.bundle.modes[number]
    return {
        "mode": str(space.of_network(part.name, mode.mode)),
        "graph": mode.graph + graphs,
        "views": {new[name]: each for name, each in told.get("views", {}).items()},
        "channels": {part.called(name): n for name, n in told.get("channels", {}).items()},
        "readings": told["readings"],
    }


def _sizes_as_in(first: _Part, part: _Part) -> list[list[int]]:
    """Return the graphs of a network's modes at each further size, in the order of the first network's."""
    by_shape = {shapes_of(each): each for each in part.bundle.at_other_sizes}
    return [
        [mode.graph for mode in by_shape[shapes_of(each)].modes]
        for each in first.bundle.at_other_sizes
    ]


def _graph(part: _Part, graph: Any, tensors: Mapping[str, str], first: _Part) -> Any:
    """Return a graph with the names of the joined bundle; inputs and outputs are called as the first's."""
    names, common = dict(tensors), set[str]()
    for ends in ("inputs", "outputs"):
        wanted = [each["name"] for each in first.manifest["graphs"][0][ends]]
        common.update(wanted)
        names.update(zip((each["name"] for each in graph[ends]), wanted, strict=True))
    for node in graph["nodes"]:
        for value in node["outputs"]:
            if value in common:  # a value within the network that is called so
                names.setdefault(value, part.called(value))
    return {
        **graph,
        **{ends: [{**each, "name": names[each["name"]]} for each in graph[ends]]
           for ends in ("inputs", "outputs")},
        "nodes": [_node(part, node, names) for node in graph["nodes"]],
    }  # fmt: skip


def _node(part: _Part, node: Any, names: Mapping[str, str]) -> Any:
    return {
        **node,
        "inputs": [names.get(each, each) for each in node["inputs"]],
        "outputs": [names.get(each, each) for each in node["outputs"]],
        **({"layer": part.called(node["layer"])} if node.get("layer") else {}),
    }
