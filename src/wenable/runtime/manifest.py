"""What the manifest of a bundle says, checked before anything is made of it: knobs, layers, modes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from wenable.core.mode_ids import is_id
from wenable.core.networks import in_network, split_network
from wenable.core.readings import Reading
from wenable.core.space import Mode, Space
from wenable.core.views import View
from wenable.runtime.implementations import BundleLayer

_MOST_CHANNELS = 2**24
_MOST_ENTRIES = 4096
"""Of knobs, of modes, of the views of one."""
_MOST_SIZES = 64
"""Of images, besides the first: each is checked as a whole when the file is opened."""
_FIGURES = ("value", "low", "high", "p90", "p99")
"""Of a reading: numbers, or None."""
_SHARE = re.compile(r"1(?:/[1-9][0-9]{0,7})?")
_COUNT = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True)
class ExportedMode:
    """A mode of a bundle, with what was measured of it: "accuracy", "latency" and so on.

    - `id`: its short name where it was given one, that of the front it comes from; else empty.
    - `graph`: the number of the graph that it runs.
    - `views`: stored weight -> the part of it that the mode uses; others are used as a whole.
    - `channels`: norm -> how many channels it has in the mode; others have all of theirs.
    """

    mode: Mode
    readings: Mapping[str, Reading]
    id: str = ""
    graph: int = 0
    views: Mapping[str, View] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)


def as_newest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a manifest in the form of the newest version: version 1 had one graph for all modes."""
    if manifest["version"] > 1:
        return manifest
    return {**manifest, "graphs": [manifest["graph"]]}


def object_of(values: Any, what: str) -> Mapping[str, Any]:
    """Return an object of JSON; raises `ValueError` for anything else."""
    if type(values) is not dict:
        raise ValueError(f"{what} (={values!r:.100}) must be an object of JSON")
    return values


def list_of(values: Any, what: str, least: int = 0) -> list[Any]:
    """Return a list of bounded length; raises `ValueError` for anything else."""
    if type(values) is not list or not least <= len(values) <= _MOST_ENTRIES:
        raise ValueError(f"{what} must be a list of {least} to {_MOST_ENTRIES} entries")
    return values


def text_of(value: Any, what: str) -> str:
    """Return a printable text; raises `ValueError` for anything else."""
    if type(value) is not str or not 0 < len(value) <= 1000 or not value.isprintable():
        raise ValueError(
            f"{what} (={value!r:.100}) must be a printable text of 1 to 1000 characters"
        )
    return value


def check_unlike(names: Sequence[str], what: str) -> None:
    """Raise `ValueError` for a name that stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"it lists the {what} {name!r} twice")
        seen.add(name)


def read_space(values: Any) -> Space:
    """Return the space of a manifest."""
    for knob in list_of(values["knobs"], "`knobs`", least=1):
        name = text_of(object_of(knob, "a knob")["name"], "the name of a knob")
        for option in list_of(knob["options"], f"`options` of {name!r}", least=1):
            _whole(option, f"an option of {name!r}")
        for label in list_of(knob.get("labels", []), f"`labels` of {name!r}"):
            text_of(label, f"a label of {name!r}")
        if not knob.get("labels"):  # those with labels are numbers of no meaning
            _check_nest(name, knob["options"])
        for each in list_of(knob["must_divide"], f"`must_divide` of {name!r}"):
            if len(list_of(each, f"a size of {name!r}")) != 2:
                raise ValueError(f"a size of {name!r} (={each!r:.100}) must be its name and itself")
            _whole(each[1], f"the {text_of(each[0], 'the name of a size')} of {name!r}")
        if "network" in knob:
            text_of(knob["network"], f"the network of {name!r}")
    check_unlike([knob["name"] for knob in values["knobs"]], "knob")
    return Space.from_json(values)


def _check_nest(name: str, options: Sequence[int]) -> None:
    if any(b % a for a, b in pairwise(options)):  # finer blocks lie within coarser ones
        raise ValueError(f"the options (={list(options)!r:.100}) of {name!r} do not nest")


def read_norm(values: Any) -> tuple[str, int]:
    """Return the name of a norm and its channels."""
    if type(values) is not list or len(values) != 2:
        raise ValueError(f"a norm (={values!r:.100}) must be its name and its channels")
    name = text_of(values[0], "the name of a norm")
    return name, _whole(values[1], f"the channels of {name!r}")


def norms_of_networks(
    norms: Sequence[tuple[str, int]], space: Space
) -> Mapping[str, Mapping[str, int]]:
    """Return network -> its norms with their channels; all under "" where there is one network.

    Raises `ValueError` for a norm that belongs to none of several networks.
    """
    if not space.networks:
        return {"": dict(norms)}
    found: dict[str, dict[str, int]] = {name: {} for name in space.networks}
    for norm, channels in norms:
        owners = [name for name in found if norm.startswith(in_network("", name))]
        if not owners:
            raise ValueError(f"the norm {norm!r} belongs to none of its networks")
        found[owners[0]][norm] = channels
    return found


def read_layer(values: Mapping[str, Any], space: Space) -> BundleLayer:
    """Return a layer that runs in groups."""
    name = text_of(object_of(values, "a layer")["name"], "the name of a layer")
    knob = values["knob"]
    options = {each.name: each.options for each in space.knobs}
    if type(knob) is not str or knob not in options:
        raise ValueError(f"the layer {name!r} has the knob {knob!r:.100}, which it does not list")
    _check_nest(knob, options[knob])
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


def read_mode(
    values: Mapping[str, Any], space: Space, graphs: int, norms: Mapping[str, int]
) -> ExportedMode:
    """Return an exported mode.

    - `graphs`: how many graphs there are; `norms`: the norms with all their channels.
    """
    text = object_of(values, "a mode")["mode"]
    if type(text) is not str:
        raise ValueError(f"a mode (={text!r:.100}) must be a text")
    _check_mode_text(text, space)
    readings = object_of(values["readings"], f"`readings` of mode {text!r:.100}")
    name = values.get("id", "")
    if type(name) is not str or (name and not is_id(name)):
        raise ValueError(f"the short name (={name!r:.100}) of a mode must be as m01")
    graph = values.get("graph", 0)
    if type(graph) is not int or not 0 <= graph < graphs:
        raise ValueError(f"`graph` (={graph!r:.100}) of mode {text} must be from 0 to {graphs - 1}")
    return ExportedMode(
        space.mode(text),
        {text_of(key, "the name of a reading"): _reading(each) for key, each in readings.items()},
        name,
        graph,
        _views(values.get("views", {}), text),
        _channels(values.get("channels", {}), text, norms),
    )


def read_sizes(values: Any, modes: int, graphs: int) -> list[list[int]]:
    """Return the graphs of the modes at each further size of images.

    - `modes`, `graphs`: how many there are.
    """
    found = []
    if len(list_of(values, "`sizes`")) > _MOST_SIZES:
        raise ValueError(f"`sizes` has more than {_MOST_SIZES} entries")
    for each in values:
        numbers = list_of(object_of(each, "a size")["graphs"], "`graphs` of a size", least=modes)
        known = all(type(number) is int and 0 <= number < graphs for number in numbers)
        if len(numbers) != modes or not known:
            raise ValueError(
                f"`graphs` (={numbers!r:.100}) of a size must be a number from 0 to {graphs - 1} for each"
                f" of {modes} modes"
            )
        found.append(numbers)
    return found


def _check_mode_text(text: str, space: Space) -> None:
    """Refuse a text that would be more than the knobs, before anything of that size is made."""
    whole, knobs = text, space.knobs
    if space.networks:
        name, text = split_network(text)
        if name not in space.networks:
            raise ValueError(f"a mode (={whole!r:.100}) names none of its networks")
        if not text:
            return
        knobs = space.networks[name].knobs
    labels = {label for knob in knobs for label in knob.labels}
    names = {knob.name for knob in knobs if not set(knob.name) & set("*?[")}
    count = 0
    for part in text.split(","):
        name, named, option = part.rpartition("=")
        option, _, times = option.partition("*")
        fits = (option in labels or _SHARE.fullmatch(option)) and (not named or name in names)
        repeated = times and not named and _COUNT.fullmatch(times)
        count += int(times) if repeated else 1
        if not fits or (times and not repeated) or count > len(knobs) + bool(named):
            raise ValueError(f"a mode (={whole!r:.100}) is not one of its {len(knobs)} knobs")


def _views(values: Any, mode: str) -> dict[str, View]:
    found = {}
    entries = object_of(values, f"`views` of mode {mode}")
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"`views` of mode {mode} has more than {_MOST_ENTRIES} entries")
    for name, each in entries.items():
        try:
            found[name] = View.from_json(object_of(each, f"the view of {name!r:.100}"))
        except KeyError as error:
            raise ValueError(f"the view of {name!r:.100} in mode {mode} lacks {error}") from error
        except ValueError as error:
            raise ValueError(f"the view of {name!r:.100} in mode {mode}: {error}") from error
    return found


def _channels(values: Any, mode: str, norms: Mapping[str, int]) -> dict[str, int]:
    for name, count in object_of(values, f"`channels` of mode {mode}").items():
        if name not in norms:
            raise ValueError(
                f"`channels` of mode {mode} has the norm {name!r:.100}, which it lacks"
            )
        _whole(count, f"the channels of {name!r} in mode {mode}", norms[name])
    return dict(values)


def _whole(value: Any, what: str, most: int = _MOST_CHANNELS) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"{what} (={value!r:.100}) must be a whole number from 1 to {most}")
    return value


def _reading(values: Any) -> Reading:
    for name, value in object_of(values, "a reading").items():
        if name in _FIGURES:
            fits, kind = value is None or type(value) in (int, float), "a number"
        elif name == "count":
            fits, kind = type(value) is int and value >= 0, "a whole number"
        elif name == "lower_is_better":
            fits, kind = type(value) is bool, "true or false"
        else:
            fits, kind = type(value) is str, "a text"
        if not fits:
            raise ValueError(f"`{name:.100}` (={value!r:.100}) of a reading must be {kind}")
    return Reading(**values)
