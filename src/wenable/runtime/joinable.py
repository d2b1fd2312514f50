"""Whether networks can stand in one bundle: each answers the same request in the same form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

from wenable.runtime.bundle import Bundle
from wenable.runtime.sized import size_words
from wenable.runtime.sizes import value_shapes


def check_joinable(networks: Mapping[str, Bundle]) -> None:
    """Raise `ValueError`, in one line, for networks that one bundle cannot hold.

    - `networks`: name -> its bundle, opened.
    """
    for name, bundle in networks.items():
        if bundle.networks:
            held = ", ".join(bundle.networks)
            raise ValueError(
                f"`networks` has {name!r} (={bundle.path}), which is joined already and holds {held}:"
                " join those networks' own bundles"
            )
        without = [str(each.mode) for each in bundle.modes if not _has_macs(each.readings)]
        if without:
            raise ValueError(
                f"`networks` has {name!r} (={bundle.path}), whose mode {without[0]} has no MACs, by which"
                " networks are ordered: export it again"
            )
    (first, whole), *others = networks.items()
    for name, bundle in others:
        for what, told in _COMPARED.items():
            one, two = told(whole), told(bundle)
            if one != two:
                raise ValueError(
                    f"`networks` cannot be joined: {what} {one} in {first!r} and {two} in {name!r}; they"
                    " must be the same"
                )
    _check_labels(networks)
    _check_readings(networks)


def _has_macs(readings: Mapping[str, Any]) -> bool:
    return "macs" in readings and readings["macs"].value is not None


def _inputs(bundle: Bundle) -> str:
    # A single input needs no name to be told from others.
    named = len(bundle.inputs) > 1
    return "; ".join(
        f"{each.name + ' ' if named else ''}{each.dtype} {_shape(each.shape)}"
        for each in bundle.inputs
    )


def _outputs(bundle: Bundle) -> str:
    graph = bundle.graph_of(0)
    shapes = value_shapes(graph, bundle.weights_of(0).tensors)

    def words(name: str, dtype: str) -> str:
        sizes = shapes[name][1:]  # (C, H, W) shrink with the image that a mode takes
        return f"{dtype} {_shape((None, *sizes[: 1 if len(sizes) == 3 else None]))}"

    return "; ".join(words(each.name, each.dtype) for each in graph.outputs)


def _shape(sizes: Any) -> str:
    return "(" + ", ".join("N" if size is None else str(size) for size in sizes) + ")"


def _preprocessing(bundle: Bundle) -> str:
    if bundle.preprocessing is None:
        return "none"
    values = bundle.preprocessing.to_json().items()
    return ", ".join(f"{key} {value}" for key, value in values if key != "labels")


def _check_labels(networks: Mapping[str, Bundle]) -> None:
    """Refuse networks whose classes have other names, or another order."""
    labels = {
        name: each.preprocessing.labels if each.preprocessing else ()
        for name, each in networks.items()
    }
    (first, whole), *others = labels.items()
    for name, found in others:
        for place, (one, two) in enumerate(zip_longest(whole, found, fillvalue="nothing")):
            if one != two:
                raise ValueError(
                    f"`networks` cannot be joined: class {place} is called {one!r:.100} in {first!r} and"
                    f" {two!r:.100} in {name!r}; they must be the same"
                )


_COMPARED: Mapping[str, Callable[[Bundle], str]] = {
    "inputs are": _inputs,
    "outputs are": _outputs,
    "outputs are called": lambda bundle: str(bundle.output_names or "by their places"),
    "further sizes of images are": lambda bundle: (
        ", ".join(sorted(map(size_words, bundle.at_other_sizes))) or "none"
    ),
    "preprocessing is": _preprocessing,
}


def _check_readings(networks: Mapping[str, Bundle]) -> None:
    """Refuse readings of one name that cannot be compared: modes are chosen by them."""
    seen: dict[str, tuple[str, str]] = {}
    for name, bundle in networks.items():
        for mode in bundle.modes:
            for key, reading in mode.readings.items():
                kind = (
                    f"{reading.unit}, {'lower' if reading.lower_is_better else 'higher'} is better"
                )
                network, before = seen.setdefault(key, (name, kind))
                if before != kind:
                    raise ValueError(
                        f"`networks` cannot be joined: the reading {key!r} is in {before} in {network!r}"
                        f" and in {kind} in {name!r}; modes are chosen by it"
                    )
