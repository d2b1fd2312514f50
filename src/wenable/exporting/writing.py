"""Writes a dynamic network with its modes as one bundle, and checks every mode before it does."""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wenable.core.files import check_writable, write_whole
from wenable.core.mode_ids import is_id
from wenable.core.readings import Reading
from wenable.core.space import Mode, ModeChoice
from wenable.exporting.agreement import DisagreementError, check_agreement
from wenable.exporting.half_weights import check_weights, with_rounded_weights
from wenable.exporting.image_sizes import Sides, checked_sizes
from wenable.exporting.mode_graphs import ModeGraphs, knobs_of_widths, views_of
from wenable.exporting.plain_networks import (
    check_exportable,
    other_numbers,
    plain_for_export,
    tensor_inputs,
)
from wenable.exporting.rounded_check import check_rounded, check_rounded_layers
from wenable.layers.implementations import is_pointwise
from wenable.modules.batch_parts import described
from wenable.modules.outputs import OutputNames
from wenable.modules.passes import in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork, UncalibratedWarning
from wenable.network.net_checks import check_dynamic, warn_if_uncalibrated
from wenable.runtime.bundle_file import (
    FORMAT,
    VERSION_OF_ONE_NETWORK,
    BundleError,
    bundle_bytes,
)
from wenable.runtime.engines import check_engine
from wenable.runtime.first_choice import TABLE
from wenable.runtime.graph import GROUPED, TensorType, types_to_json
from wenable.runtime.half_weights import HALVES
from wenable.runtime.session import Session
from wenable.version import __version__


def export(
    net: DynamicNetwork,
    modes: Iterable[ModeChoice],
    path: str | os.PathLike[str],
    *,
    engine: str = "onnxruntime",
    readings: Mapping[Any, Mapping[str, Reading]] | None = None,
    ids: Mapping[str, Mode] | None = None,
    image_sizes: Iterable[tuple[int, int]] = (),
    weights: str = "float32",
) -> Path:
    """Write the modes of a network to one bundle, which `wenable.runtime` runs without torch.

    - `modes`: which ones, of any method; they should be calibrated. The weights stand in the file once;
      a mode adds its norms and how it uses the weights.
    - `engine`: the one that every mode is checked on before the file is written: its answers must be
      those of the extracted network to 1e-4 of the largest. Of modes in few bits, where rounding
      decides, to 5 % of the largest, and five times what it makes of the simulation itself; and each
      layer by itself to 2 %. The bundle
      runs on other engines as well.
    - `readings`: for each mode by name. Under a deadline the runtime prefers modes by `"accuracy"`; where
      one has none, it goes by multiply-accumulates. `"energy"`, in mJ, serves `max_energy_mj`. Others are
      kept and not used.
    - `ids`: short names of the modes, as `Front.ids` has them, so that they are called the same in
      the bundle. It may name more than the exported ones; where it lacks one, all are numbered anew.

    - `image_sizes`: heights and widths of images that the bundle takes besides the example's, as
      `[(128, 128), (160, 192)]`: for each a graph is added, the weights are not, and every mode is
      checked at it before the file is written.

    - `weights`: the type that weights are stored in, `"float16"` or `"bfloat16"` for a file of half the
      size. They are rounded to it, and the modes are those of the rounded network, which every check is
      held against; biases and norms, with their statistics, stay as they are. Sessions compute in float32
      as before, and take as much memory.

    Outputs are the tensors that the network gives back, in order, whatever holds them: a tuple, a
    dict, a named tuple, a dataclass, one inside another. If they have names (`"logits"`, `"boxes.0"`) a
    session gives back a dict of them; None is left out. Inputs that are no tensors stay as they are
    in the network's example.

    The file is whole or not there: an export that fails leaves the old one.

    Returns the path. Raises `ValueError` for no modes, a mode twice, readings of a mode that is not
    exported, a network that was not converted or by a method whose modes a bundle cannot hold, weights
    that are not float32, a size of images that the network does not run on, outputs that are no tensors,
    a precision whose inputs' range was never seen, an unknown engine, or a graph that a bundle cannot hold;
    `EngineError` for an engine that is not installed; `OSError` where the file cannot be written;
    `RuntimeError` where a mode does not give the answers of the extracted network. Warns
    `UncalibratedWarning`.
    """
    _check_method(net)
    check_weights(weights)
    if engine != "auto":
        check_engine(engine)
    check_writable(path)
    wanted, given = checked_modes(net, modes, readings)
    outputs = check_exportable(net, "a bundle")
    for mode in wanted:
        warn_if_uncalibrated(net, mode, "exported")
    net = with_rounded_weights(net, weights)
    with in_eval_mode(net), torch.no_grad():
        sizes = checked_sizes(net, image_sizes)
        bundled = functools.partial(_bundle, net, wanted, given, ids or {}, outputs, sizes, weights)
        content = bundled()
        try:
            _check(net, wanted, content, engine, sizes)
        except DisagreementError:
            if not knobs_of_widths(net):
                raise
            # The network's code may compute with its number of channels, which a graph has as constants.
            content = bundled(widths_apart=True)
            _check(net, wanted, content, engine, sizes)
    return write_whole(path, content)


def _check_method(net: DynamicNetwork) -> None:
    check_dynamic(net)
    if not getattr(net.conversion_method, "fits_bundle", False):
        method = net.conversion_method.to_json()["method"]
        raise ValueError(
            f"`net` was converted by the method {method!r}, which does not say that a bundle can hold"
            " its modes (`fits_bundle`); write each one's network with wenable.export_executorch or"
            " torch.onnx.export (wenable.extract)"
        )


def checked_modes(
    net: DynamicNetwork,
    modes: Iterable[ModeChoice],
    readings: Mapping[Any, Mapping[str, Reading]] | None,
) -> tuple[list[Mode], dict[Mode, Mapping[str, Reading]]]:
    """Return the modes to export and what is known of them; refuses what does not fit together."""
    wanted = [net.space.mode(mode) for mode in modes]
    if not wanted:
        raise ValueError("`modes` is empty; name at least one, as 'full'")
    if len(set(wanted)) < len(wanted):
        raise ValueError("`modes` names a mode twice")
    if readings is not None and not isinstance(readings, Mapping):
        raise ValueError(
            f"`readings` is {described(readings)}; allowed: a dict of modes, each with a dict of readings"
        )
    given = {net.space.mode(mode): each for mode, each in (readings or {}).items()}
    for mode, each in given.items():
        _check_readings(mode, each)
    unknown = [str(mode) for mode in given if mode not in wanted]
    if unknown:
        raise ValueError(f"`readings` has mode {unknown[0]}, which is not among `modes`")
    return wanted, given


def _check_readings(mode: Mode, given: Any) -> None:
    """Raise `ValueError` unless the readings of a mode are readings by name."""
    wrong = f"`readings` of mode {mode} "
    if not isinstance(given, Mapping):
        wrong += f"is {described(given)}"
    else:
        bad = next((key for key in given if not isinstance(key, str)), None)
        other = next((key for key in given if not isinstance(given[key], Reading)), None)
        if bad is None and other is None:
            _check_accuracy_is_found(mode, given)
            return
        key = other if bad is None else bad
        wrong += f"holds {key!r}: {described(given[key])}"
    raise ValueError(
        f'{wrong}; allowed: a dict of readings by name, as {{"accuracy": wenable.Reading(0.9, "top-1")}}'
    )


def _check_accuracy_is_found(mode: Mode, given: Mapping[str, Reading]) -> None:
    """Raise `ValueError` for an accuracy under a name that the runtime does not look under."""
    name = next((name for name, reading in given.items() if reading.unit == "top-1"), None)
    if name is not None and "accuracy" not in given:
        raise ValueError(
            f"`readings` of mode {mode} has its top-1 accuracy under {name!r}; the runtime chooses by"
            ' "accuracy": name it so'
        )


def _bundle(
    net: DynamicNetwork,
    modes: list[Mode],
    readings: Mapping[Mode, Mapping[str, Reading]],
    ids: Mapping[str, Mode],
    outputs: OutputNames,
    sizes: Sequence[Sides] = (),
    stored_in: str = "float32",
    widths_apart: bool = False,
) -> bytes:
    short = {mode: name for name, mode in ids.items() if is_id(name)}
    names = (
        [{"id": short[mode]} for mode in modes] if set(modes) <= set(short) else [{}] * len(modes)
    )
    graphs = ModeGraphs(net, outputs, widths_apart=widths_apart)
    numbers = [graphs.number_of(mode) for mode in modes]
    at_sizes = [{"graphs": [graphs.number_of(mode, each) for mode in modes]} for each in sizes]
    layers = {node.layer for graph in graphs.graphs for node in graph.nodes if node.op in GROUPED}
    weights = {name for name, _ in net.named_parameters()}
    tensors = {  # not `ascontiguousarray`, which makes a list of one of a single number
        f"{'weights' if name in weights else 'constants'}.{name}": np.array(array, order="C")
        for name, array in sorted(graphs.tensors.items())
    }
    norms = net.switchable_norms()
    described = []
    for number, mode in enumerate(modes):
        tensors[f"norms.{number}"], channels = _norms_of(net, mode)
        graph = graphs.graphs[numbers[number]]
        views = views_of(net, mode, graph.tensors_read())
        described.append(
            {
                "mode": str(mode),
                "graph": numbers[number],
                "views": {name: view.to_json() for name, view in views.items()},
                "channels": channels,
            }
        )
    manifest = {
        "format": FORMAT,
        "version": VERSION_OF_ONE_NETWORK,
        "wenable": __version__,
        "space": net.space.to_json(),
        "inputs": types_to_json(network_inputs(net, graphs.graphs[0].inputs)),
        "output_names": None if outputs.are_positions else list(outputs.names),
        "graphs": [graph.to_json() for graph in graphs.graphs],
        "layers": [
            {
                "name": layer.name,
                "knob": layer.knob,
                "inputs": layer.inputs,
                "outputs": layer.outputs,
                "shuffle_groups": layer.shuffle.groups if layer.shuffle else 1,
                "pointwise": _is_pointwise(net.get_submodule(layer.name)),
            }
            for layer in net.switchable_layers
            if layer.name in layers
        ],
        "norms": [[name, norm.num_features] for name, norm in norms.items()],
        "modes": [
            {**each, "readings": readings_of(net, mode, readings), **name}
            for each, mode, name in zip(described, modes, names, strict=True)
        ],
        **({"sizes": at_sizes} if at_sizes else {}),
        "preprocessing": net.preprocessing.to_json() if net.preprocessing else None,
    }
    halves = {
        name: stored_in
        for name, array in tensors.items()
        if stored_in in HALVES and name.startswith("weights.") and array.ndim > 1
    }
    return bundle_bytes(manifest, tensors, halves)


def readings_of(
    net: DynamicNetwork, mode: Mode, readings: Mapping[Mode, Mapping[str, Reading]]
) -> dict[str, Any]:
    """Return the JSON form of what is known of a mode, its counted MACs among it."""
    counted = {"macs": Reading(net.macs(mode), "MACs", source="counted")}
    return {key: asdict(each) for key, each in (counted | dict(readings.get(mode, {}))).items()}


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and is_pointwise(layer) and layer.stride == (1, 1)


def network_inputs(net: DynamicNetwork, own: Sequence[TensorType]) -> list[TensorType]:
    """Return the inputs that the network takes, by those of a mode, whose images may be smaller."""
    return [
        replace(each, shape=(None, *tensor.shape[1:]))
        for each, tensor in zip(own, tensor_inputs(net), strict=True)
    ]


def _norms_of(net: DynamicNetwork, mode: Mode) -> tuple[np.ndarray, dict[str, int]]:
    """Return scale and shift of every norm in a mode, shape `(2, channels of all norms)`.

    Also the channels of those norms that have fewer in it than they have.
    """
    parts, channels = [], {}
    with net.using(mode):
        for name, norm in net.switchable_norms().items():
            plain: Any = norm.plain_norm()
            if plain.num_features != norm.num_features:
                channels[name] = plain.num_features
            scale = plain.running_var.double().add(plain.eps).rsqrt()
            shift = -plain.running_mean.double() * scale
            if plain.affine:
                weight = plain.weight.double()
                scale, shift = scale * weight, shift * weight + plain.bias.double()
            parts.append(torch.stack([scale, shift]).float().cpu().numpy())
    return (np.concatenate(parts, 1) if parts else np.zeros((2, 0), np.float32)), channels


def _check(
    net: DynamicNetwork,
    modes: list[Mode],
    content: bytes,
    engine: str,
    sizes: Sequence[Sides] = (),
) -> None:
    """Run every mode from the file's content, at every size, and compare with the extracted network.

    On the example that was traced, and on other numbers for more examples: what an exporter took for a
    constant shows there.
    """
    example = tensor_inputs(net)
    twice = tuple(each.repeat(2, *[1] * (each.ndim - 1)) for each in example)
    with tempfile.TemporaryDirectory() as folder:
        path = write_whole(Path(folder) / "check.wen", content)
        try:
            session = Session(path, engine=engine)
        except BundleError as error:
            reason = str(error).removeprefix(f"{path} is damaged: ")
            raise ValueError(f"the network cannot be exported: {reason}") from error
        # By the table, which changes more than what is written; nothing is timed for a check.
        table = dict.fromkeys(session.modes, TABLE)
        session.profile = replace(session.profile, schemes=table)
        for mode in modes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UncalibratedWarning)  # told of already
                plain = plain_for_export(net, mode)
            others = [other_numbers(tensor_inputs(net, sides=each), batch=2) for each in sizes]
            for inputs in (twice, other_numbers(example, batch=4), *others):
                arrays = tuple(each.numpy() for each in inputs)
                found = session.run(arrays[0] if len(arrays) == 1 else arrays, mode=mode)
                if isinstance(found, dict):
                    found = tuple(found.values())
                answers = found if isinstance(found, tuple) else (found,)
                if session.bundle.weights_of(session.bundle.number_of(mode)).roundings:
                    check_rounded_layers(net, plain, session, mode, arrays)
                    check_rounded(plain, inputs, answers, mode, engine)
                else:
                    check_agreement(plain, inputs, answers, mode, engine)
