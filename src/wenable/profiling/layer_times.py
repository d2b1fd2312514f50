"""How long every way to execute every layer takes inside the network, by the engine's own counters.

A layer alone is another matter: an engine fuses a layer with what follows it and keeps data in
layouts of its own, and a layer that does not take that layout makes its neighbours pay.
"""

from __future__ import annotations

import random
import statistics
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from wenable.profiling.attribution import times_of_layers
from wenable.profiling.drift import MOST_DRIFT, drift_words, measure_steadily
from wenable.profiling.steps import Steps
from wenable.runtime.building import build
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import DeviceProfile
from wenable.runtime.engine import HALF_A_TICK_MS, Engine, EngineError
from wenable.runtime.implementations import BundleLayer, Implementation, implementations_of
from wenable.runtime.stored_order import Chain

Progress = Callable[[int, int, str], None]
"""Told how many of how many measurements are done, and of what."""

Design = dict[str, Implementation]
"""How every layer of the network is executed in one measurement."""

GROUP = 12
"""Networks that are counted between two counts of the one that runs as a whole."""


def measure_layers(
    bundle: Bundle,
    engine: Engine,
    on_progress: Progress = lambda done, of, what: None,
    *,
    mixtures: int = 12,
    rounds: int = 2,
    calls: int = 8,
    steps: Steps | None = None,
) -> dict[str, dict[Implementation, float]]:
    """Return the time of the implementations of every layer on an engine, in ms, inside whole networks.

    Each implementation is tried in all layers at once, and then in mixtures, since what a layer takes
    depends on its neighbours; the median over the networks counts. Then the best of them are put
    together, for each option, and measured again beside each other; of those that were, this counts.
    An implementation takes the same time in whatever finer option it is used: a finer option only has more
    of them to choose from. One that the engine refuses is left out.

    Before and after every 12 networks the one in which all layers run as a whole is counted; see
    `drift.measure_steadily` for what follows where that shows that the device changed its speed.

    - `mixtures`: how many random ones; `rounds`: how often the best are put together; `calls`: of
      each network.
    - `steps`: of the run that this is part of; what is done there is not done again.
    """
    if not _options(bundle):
        return {}  # no layer has implementations to choose from
    linked = bundle.chains_of(0)
    most = networks_measured(bundle, mixtures, rounds)
    counter = _Counter(bundle, engine, calls, steps or Steps(), on_progress, most)
    known = counter.medians(list(_designs(bundle.layers, linked, mixtures)))
    for number in range(1, rounds + 1):
        designs = [
            (
                f"best at 1/{n}, round {number}",
                best_implementations(bundle, linked, known, bundle.space.uniform(n)),
            )
            for n in _options(bundle)
        ]
        again = counter.medians(designs)
        known = {layer: times | again[layer] for layer, times in known.items()}
    return known


def networks_measured(bundle: Bundle, mixtures: int = 12, rounds: int = 2) -> int:
    """Return how many networks `measure_layers` runs where the device keeps its speed."""
    options = len(_options(bundle))
    if not options:
        return 0
    first = 6 * options + mixtures
    return first + _anchors(first) + rounds * (options + _anchors(options))


def _anchors(networks: int) -> int:
    return 2 * -(-networks // GROUP)


def _options(bundle: Bundle) -> list[int]:
    return sorted({n for layer in bundle.layers.values() for n in layer.options if n > 1})


def best_implementations(
    bundle: Bundle,
    linked: Mapping[str, Chain],
    times_ms: Mapping[str, Mapping[Implementation, float]],
    options: Mapping[str, int],
) -> Design:
    """Return how every layer of a mode is executed where its layers were measured so."""
    known = DeviceProfile(bundle.structure, "", "", 1, times_ms)
    return known.implementations(bundle.layers, linked, options, "measured")


_Counts = dict[str, dict[str, float]]
"""Network -> layer -> ms."""
_WHOLES = ("whole", "whole again")
"""The network that runs as a whole, before and after the others of its group."""


class _Counter:
    """Counts the layers of networks, in groups with the network that runs as a whole."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        calls: int,
        steps: Steps,
        on_progress: Progress,
        most: int,
    ) -> None:
        self.bundle, self.engine, self.calls = bundle, engine, calls
        self.steps, self.on_progress, self.most = steps, on_progress, most
        self.usual: float | None = None
        self.networks = self.groups = 0

    def medians(
        self, designs: Sequence[tuple[str, Design]]
    ) -> dict[str, dict[Implementation, float]]:
        """Return the median time of each implementation of each layer in these networks, and as a whole."""
        groups = [dict(designs[start : start + GROUP]) for start in range(0, len(designs), GROUP)]
        found = measure_steadily(
            len(groups),
            lambda number, attempt: self._group(groups[number], self.groups + number + 1, attempt),
            _anchor_ms,
            usual=self.usual,
        )
        if self.usual is None:
            self.usual = statistics.median(_anchor_ms(counts) for counts, _ in found)
        times: dict[str, dict[Implementation, list[float]]] = {
            name: {} for name in self.bundle.layers
        }
        for number, ((counts, drift), group) in enumerate(zip(found, groups, strict=True)):
            if drift_words(drift):
                place = f"layers, group {self.groups + number + 1}"
                self.steps.report(f"{place}: {drift_words(drift)}; its times were scaled")
            speed = 1 + drift if abs(drift) > MOST_DRIFT else 1.0
            for what, design in {**dict.fromkeys(_WHOLES, self._whole()), **group}.items():
                for layer, ms in counts[what].items():
                    times[layer].setdefault(design[layer], []).append(ms / speed)
        self.groups += len(groups)
        return {
            layer: {implementation: statistics.median(ms) for implementation, ms in by.items()}
            for layer, by in times.items()
        }

    def _group(self, designs: Mapping[str, Design], number: int, attempt: int) -> _Counts:
        if attempt > 1:
            self.steps.report(f"layers, group {number}: measured again, the speed had changed")
        suffix = f", group {number}, attempt {attempt}"
        before, after = _WHOLES
        found = {before: self._count(before, self._whole(), suffix)}
        if not found[before]:
            raise EngineError(f"{self.engine.name} does not run the full network")
        for what, design in designs.items():
            found[what] = self._count(what, design, suffix)
        found[after] = self._count(after, self._whole(), suffix)
        return found

    def _count(self, what: str, design: Design, suffix: str) -> dict[str, float]:
        self.on_progress(min(self.networks, self.most - 1), self.most, f"layers: {what}")
        self.networks += 1
        return self.steps.count(
            f"layers: {what}, {_fingerprint(design)}{suffix}",
            lambda: _layer_times(self.bundle, self.engine, design, self.calls),
        )

    def _whole(self) -> Design:
        return dict.fromkeys(self.bundle.layers, Implementation(1))


def _anchor_ms(counts: _Counts) -> float:
    """Return what the network that runs as a whole took about a group, on the average."""
    return statistics.mean(sum(counts[what].values()) for what in _WHOLES)


def _fingerprint(design: Mapping[str, Implementation]) -> str:
    """Return what tells a design from others: the best of all is another one if the times are."""
    return f"{zlib.crc32(repr(sorted(design.items(), key=lambda each: each[0])).encode()):08x}"


def _layer_times(
    bundle: Bundle, engine: Engine, design: Mapping[str, Implementation], calls: int
) -> dict[str, float]:
    """Return layer -> ms in a network that is executed so; nothing where the engine refuses it."""
    whole = bundle.weights_of(0)
    finest = {knob.name: max(knob.options) for knob in bundle.space.knobs}
    built = build(bundle.graph_of(0), bundle.layers, replace(whole, options=finest), design)
    try:
        operations = engine.operation_times(built.content, bundle.example(number=0), calls)
    except EngineError:
        return {}
    found = times_of_layers(built, operations)
    told = sum(found.get(name, 0.0) for name in bundle.layers)
    if not told and sum(each.ms for each in operations) > 10 * len(bundle.layers) * HALF_A_TICK_MS:
        return {}  # what the operations took is no layer's
    # Counters tell whole microseconds, and nothing of a layer that takes less.
    return {name: max(found.get(name, 0.0), HALF_A_TICK_MS) for name in bundle.layers}


def _designs(
    layers: Mapping[str, BundleLayer], linked: Mapping[str, Chain], mixtures: int
) -> Iterator[tuple[str, Design]]:
    finest = sorted({n for layer in layers.values() for n in layer.options if n > 1}, reverse=True)
    for groups in finest:
        for shuffling in ("gather", "gather last", "transpose"):
            wanted = Implementation(groups, shuffling)
            yield str(wanted), {n: _nearest(layer, wanted) for n, layer in layers.items()}
        product = Implementation(groups, "gather", product=True)
        yield str(product), {n: _nearest(layer, product) for n, layer in layers.items()}
        for wanted in (Implementation(groups), product):
            yield f"{wanted}, stored", _stored_design(layers, linked, wanted)
    rng = random.Random(0)
    for number in range(mixtures):
        yield f"mixture {number + 1}", _mixture(layers, linked, rng)


def _nearest(layer: BundleLayer, wanted: Implementation) -> Implementation:
    """Return an implementation of a layer that is as near as possible to a wanted one."""
    groups = max(n for n in layer.options if n <= wanted.groups)
    if groups == 1:
        return Implementation(1)
    shuffled = layer.input_order() is not None
    return Implementation(
        groups, wanted.shuffling if shuffled else "gather", wanted.product and layer.pointwise
    )


def _stored_design(
    layers: Mapping[str, BundleLayer], linked: Mapping[str, Chain], wanted: Implementation
) -> Design:
    """Return a design in which every shuffle is stored that can be; the layers that do it are whole."""
    design = {name: _nearest(layer, wanted) for name, layer in layers.items()}
    return design | _stored_pairs(design, layers, linked, lambda: True)


def _mixture(
    layers: Mapping[str, BundleLayer], linked: Mapping[str, Chain], rng: random.Random
) -> Design:
    design: Design = {}
    for name, layer in layers.items():
        ways = [each for each in implementations_of(layer, max(layer.options)) if not each.product]
        design[name] = rng.choice(ways)
    return design | _stored_pairs(design, layers, linked, lambda: rng.random() < 0.5)


def _stored_pairs(
    design: Mapping[str, Implementation],
    layers: Mapping[str, BundleLayer],
    linked: Mapping[str, Chain],
    wanted: Callable[[], bool],
) -> Design:
    """Return implementations of producers and readers with the shuffle stored, for those pairs wanted.

    A layer that reads a stored order is no producer of another: a producer runs as a whole.
    """
    found: Design = {}
    for name, chain in linked.items():
        shuffled = layers[name].input_order() is not None and design[name].groups > 1
        if shuffled and chain.producer not in found and name not in found and wanted():
            found[chain.producer] = Implementation(1)
            found[name] = replace(design[name], shuffling="stored")
    return found
