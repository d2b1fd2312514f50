"""How long every way to execute every layer takes inside the network, by the engine's own counters.

A layer alone is another matter: an engine fuses a layer with what follows it and keeps data in
layouts of its own, and a layer that does not take that layout makes its neighbours pay.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from wenable.profiling.attribution import times_of_layers
from wenable.runtime.building import ModeWeights, build
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import DeviceProfile
from wenable.runtime.engines import Engine, EngineError
from wenable.runtime.lowering import Lowering, SwitchableLayer, lowerings_of
from wenable.runtime.stored_order import Chain, chains

Progress = Callable[[int, int, str], None]
"""Told how many of how many measurements are done, and of what."""

Design = dict[str, Lowering]
"""How every layer of the network is executed in one measurement."""


def measure_layers(
    bundle: Bundle,
    engine: Engine,
    on_progress: Progress = lambda done, of, what: None,
    *,
    mixtures: int = 12,
    rounds: int = 2,
    calls: int = 8,
) -> dict[str, dict[Lowering, float]]:
    """Return the time of the lowerings of every layer on an engine, in ms, inside whole networks.

    Each lowering is tried in all layers at once, and then in mixtures, since what a layer takes
    depends on its neighbours; the median over the networks counts. Then the best of them are put
    together, for each pattern, and measured again beside each other; of those that were, this counts.
    A lowering takes the same time in whatever finer pattern it is used: a finer pattern only has more
    of them to choose from. One that the engine refuses is left out.

    - `mixtures`: how many random ones; `rounds`: how often the best are put together; `calls`: of
      each network.
    """
    linked = chains(bundle.graph, bundle.weights_of(0).tensors)
    designs = list(_designs(bundle.layers, linked, mixtures))
    patterns = _patterns(bundle)
    most = networks_measured(bundle, mixtures, rounds)
    first = _Samples(bundle, engine, calls)
    for number, (what, design) in enumerate(designs):
        on_progress(number, most, f"layers: {what}")
        first.add(design)
    known = first.medians()
    for done in range(rounds):
        together = _Samples(bundle, engine, calls)
        for number, n in enumerate(patterns):
            on_progress(
                len(designs) + done * len(patterns) + number, most, f"layers: best at 1/{n}"
            )
            together.add(best_lowerings(bundle, linked, known, bundle.space.uniform(n)))
        again = together.medians()
        known = {layer: times | again[layer] for layer, times in known.items()}
    return known


def networks_measured(bundle: Bundle, mixtures: int = 12, rounds: int = 2) -> int:
    """Return how many networks `measure_layers` runs."""
    patterns = len(_patterns(bundle))
    return 1 + 6 * patterns + mixtures + rounds * patterns


def _patterns(bundle: Bundle) -> list[int]:
    return sorted({n for layer in bundle.layers.values() for n in layer.patterns if n > 1})


def best_lowerings(
    bundle: Bundle,
    linked: Mapping[str, Chain],
    times_ms: Mapping[str, Mapping[Lowering, float]],
    patterns: Mapping[str, int],
) -> Design:
    """Return how every layer of a mode is executed where its layers were measured so."""
    known = DeviceProfile(bundle.structure, "", "", 1, times_ms)
    return known.lowerings(bundle.layers, linked, patterns, "measured")


class _Samples:
    """The times of layers in the networks that were measured."""

    def __init__(self, bundle: Bundle, engine: Engine, calls: int) -> None:
        self.bundle, self.engine, self.calls = bundle, engine, calls
        self.times: dict[str, dict[Lowering, list[float]]] = {name: {} for name in bundle.layers}

    def add(self, design: Design) -> None:
        for layer, ms in _layer_times(self.bundle, self.engine, design, self.calls).items():
            self.times[layer].setdefault(design[layer], []).append(ms)

    def medians(self) -> dict[str, dict[Lowering, float]]:
        return {
            layer: {lowering: statistics.median(found) for lowering, found in by.items()}
            for layer, by in self.times.items()
        }


def _layer_times(
    bundle: Bundle, engine: Engine, design: Mapping[str, Lowering], calls: int
) -> dict[str, float]:
    """Return layer -> ms in a network that is executed so; nothing where the engine refuses it."""
    whole = bundle.weights_of(0)
    finest = {knob.name: max(knob.options) for knob in bundle.space.knobs}
    built = build(
        bundle.graph, bundle.layers, ModeWeights(finest, whole.tensors, whole.norms), design
    )
    try:
        operations = engine.operation_times(built.content, bundle.example(), calls)
    except EngineError:
        return {}
    found = times_of_layers(built, operations)
    return {name: found[name] for name in bundle.layers if found.get(name, 0.0) > 0}


def _designs(
    layers: Mapping[str, SwitchableLayer], linked: Mapping[str, Chain], mixtures: int
) -> Iterator[tuple[str, Design]]:
    yield "whole", dict.fromkeys(layers, Lowering(1))
    finest = sorted({n for layer in layers.values() for n in layer.patterns if n > 1}, reverse=True)
    for groups in finest:
        for product in (False, True):
            for transpose in (False, True):
                wanted = Lowering(groups, "transpose" if transpose else "gather", product)
                yield str(wanted), {n: _nearest(layer, wanted) for n, layer in layers.items()}
            stored = Lowering(groups, "gather", product)
            yield f"{groups} groups, stored", _stored_design(layers, linked, stored)
    rng = random.Random(0)
    for number in range(mixtures):
        yield f"mixture {number + 1}", _mixture(layers, linked, rng)


def _nearest(layer: SwitchableLayer, wanted: Lowering) -> Lowering:
    """Return a lowering of a layer that is as near as possible to a wanted one."""
    groups = max(n for n in layer.patterns if n <= wanted.groups)
    if groups == 1:
        return Lowering(1)
    shuffled = layer.input_order() is not None
    return Lowering(
        groups, wanted.shuffling if shuffled else "gather", wanted.product and layer.pointwise
    )


def _stored_design(
    layers: Mapping[str, SwitchableLayer], linked: Mapping[str, Chain], wanted: Lowering
) -> Design:
    """Return a design in which every shuffle is stored that can be; the layers that do it are whole."""
    design = {name: _nearest(layer, wanted) for name, layer in layers.items()}
    return design | _stored_pairs(design, layers, linked, lambda: True)


def _mixture(
    layers: Mapping[str, SwitchableLayer], linked: Mapping[str, Chain], rng: random.Random
) -> Design:
    design: Design = {}
    for name, layer in layers.items():
        ways = [each for each in lowerings_of(layer, max(layer.patterns)) if not each.product]
        design[name] = rng.choice(ways)
    return design | _stored_pairs(design, layers, linked, lambda: rng.random() < 0.5)


def _stored_pairs(
    design: Mapping[str, Lowering],
    layers: Mapping[str, SwitchableLayer],
    linked: Mapping[str, Chain],
    wanted: Callable[[], bool],
) -> Design:
    """Return lowerings of producers and readers with the shuffle stored, for those pairs wanted.

    A layer that reads a stored order is no producer of another: a producer runs as a whole.
    """
    found: Design = {}
    for name, chain in linked.items():
        shuffled = layers[name].input_order() is not None and design[name].groups > 1
        if shuffled and chain.producer not in found and name not in found and wanted():
            found[chain.producer] = Lowering(1)
            found[name] = replace(design[name], shuffling="stored")
    return found
