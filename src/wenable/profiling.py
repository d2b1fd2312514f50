"""Measures a bundle on this device: the fastest lowering of each layer, the latency of each mode.

Both are measured through the engine that will run them, with the models that a session builds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime.building import ModeWeights, build_model
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import (
    POLICIES,
    DeviceProfile,
    default_profile_path,
    write_profile,
)
from wenable.runtime.engines import Engine, open_engine
from wenable.runtime.graph import CONVOLUTION, Graph, Node, TensorType
from wenable.runtime.lowering import Lowering, SwitchableLayer, lowerings_of, stored_lowerings_of
from wenable.runtime.session import Session
from wenable.runtime.stored_order import chains
from wenable.tables import Reading

LAYER_TIMING = TimingPlan(blocks=5, calls=12, warmup=3, gap_ms=1.0)
MODE_TIMING = TimingPlan(blocks=6, calls=20, warmup=3, gap_ms=50.0)
POLICY_TIMING = TimingPlan(blocks=4, calls=12, warmup=3, gap_ms=10.0)
Progress = Callable[[int, int, str], None]
"""Told how many of how many measurements are done, and of what."""


def profile(
    path: str | os.PathLike[str],
    *,
    engine: str = "onnxruntime",
    threads: int | None = None,
    layer_timing: TimingPlan = LAYER_TIMING,
    policy_timing: TimingPlan = POLICY_TIMING,
    mode_timing: TimingPlan = MODE_TIMING,
    on_progress: Progress = lambda done, of, what: None,
) -> DeviceProfile:
    """Return what a bundle's layers and modes take on this device, and keep it for sessions.

    A session of the same bundle, engine and number of threads takes it up by itself. Layers that are
    alike are measured once, as part of a small model in which a depthwise convolution comes before
    them, so that an engine lays out their input as it does inside a network.

    Raises `FileNotFoundError`, `BundleError`, `EngineError`.
    """
    bundle, opened = Bundle(path), open_engine(engine, threads)
    times = measure_layers(bundle, opened, layer_timing, on_progress)
    found = DeviceProfile(
        bundle.identity,
        describe_device(),
        f"{opened.name} {opened.version}",
        opened.threads,
        times,
    )
    found = replace(
        found, policies=choose_policies(bundle, opened, found, on_progress, policy_timing)
    )
    session = Session(path, engine=engine, threads=threads, profile=found)
    found = replace(found, latencies=measure_modes(session, mode_timing))
    where = default_profile_path(found.bundle, found.device, found.engine, found.threads)
    write_profile(where, found.to_json())
    return found


def choose_policies(
    bundle: Bundle,
    engine: Engine,
    known: DeviceProfile,
    on_progress: Progress,
    timing: TimingPlan = POLICY_TIMING,
) -> dict[str, str]:
    """Return for every mode the policy under which the whole of it is fastest.

    Layers that are fast by themselves need not be so in a network, where engines fuse them and keep
    their data in layouts of their own. So no mode is slower than its plain export or the full mode.
    """
    chosen: dict[str, str] = {}
    linked = chains(bundle.graph, bundle.weights_of(0).tensors)
    for number, exported in enumerate(bundle.modes):
        mode, weights = str(exported.mode), bundle.weights_of(number)
        on_progress(number, len(bundle.modes), f"as a whole: {mode[:20]}")
        if set(exported.mode.options) == {1}:
            continue  # the full mode is as it is
        calls: dict[str, Callable[[], object]] = {}
        for policy in POLICIES:
            lowerings = known.lowerings(bundle.layers, linked, weights.patterns, policy)
            runner = engine.prepare(build_model(bundle.graph, bundle.layers, weights, lowerings))
            calls[policy] = partial(runner, bundle.example())
        found = measure_latencies(calls, timing)
        chosen[mode] = min(found, key=lambda policy: found[policy].known)
    return chosen


def measure_modes(session: Session, timing: TimingPlan = MODE_TIMING) -> dict[str, Reading]:
    """Return the latency of every mode of a session for one example, as readings."""
    inputs = session.example()
    calls = {mode: lambda mode=mode: session.run(inputs, mode=mode) for mode in session.modes}
    source = f"{session.engine.name} {session.engine.version}, {session.engine.threads} threads"
    return dict(measure_latencies(calls, timing, source=source))


def measure_layers(
    bundle: Bundle, engine: Engine, timing: TimingPlan, on_progress: Progress
) -> dict[str, dict[Lowering, float]]:
    """Return the time of every lowering of every layer on an engine, in ms.

    A lowering takes the same time in whatever finer pattern it is used, so each is timed once, and a
    finer pattern chooses among more: it is never slower than a coarser one.
    """
    nodes = {node.layer: node for node in bundle.graph.nodes if node.layer in bundle.layers}
    alike: dict[str, list[SwitchableLayer]] = {}
    for name, node in nodes.items():
        alike.setdefault(_kind(bundle.layers[name], node, bundle), []).append(bundle.layers[name])
    times: dict[str, dict[Lowering, float]] = {}
    for done, layers in enumerate(alike.values()):
        first = layers[0]
        on_progress(done, len(alike), first.name)
        found = _times(bundle, nodes[first.name], first, engine, timing)
        times |= {layer.name: found for layer in layers}
    return times


def _kind(layer: SwitchableLayer, node: Node, bundle: Bundle) -> str:
    """Return all that a layer's time depends on: layers that share it are alike."""
    shape = bundle.weights_of(0).tensors[node.inputs[1]].shape
    return f"{node.op} {shape} {sorted(node.attributes.items())} {layer.shuffle_groups} {layer.patterns}"


def _times(
    bundle: Bundle, node: Node, layer: SwitchableLayer, engine: Engine, timing: TimingPlan
) -> dict[Lowering, float]:
    given = node.attributes["input"]
    assert isinstance(given, list)
    sizes = [int(size) for size in given]
    x = np.random.default_rng(0).standard_normal((1, *sizes), dtype=np.float32)
    finest = max(layer.patterns)
    calls: dict[Lowering, Callable[[], object]] = {}
    for lowering in (*lowerings_of(layer, finest), *stored_lowerings_of(layer, finest)):
        runner = engine.prepare(_small_model(bundle, node, layer, sizes, lowering))
        calls[lowering] = partial(runner, {"x": x})
    found = measure_latencies(calls, timing)
    return {lowering: reading.known for lowering, reading in found.items()}


def _small_model(
    bundle: Bundle, node: Node, layer: SwitchableLayer, sizes: Sequence[int], lowering: Lowering
) -> bytes:
    """Return a model of one layer between two others, executed in one way."""
    weights = dict(bundle.weights_of(0).tensors)
    if lowering.shuffling == "stored":  # the layer before did it: here is no shuffle
        layer, lowering = replace(layer, shuffle_groups=1), replace(lowering, shuffling="gather")
    before = Node("Relu", ("before",), ("input",))
    nodes = [Node("Identity", ("x",), ("before",)), before]
    if node.op == CONVOLUTION:
        weights["depthwise"] = np.full((layer.inputs, 1, 3, 3), 0.1, np.float32)
        attributes = {"group": layer.inputs, "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
        nodes[0] = Node("Conv", ("x", "depthwise"), ("before",), attributes)
    inputs = ("input", *node.inputs[1:])
    nodes.append(Node(node.op, inputs, ("output",), node.attributes, layer.name))
    nodes.append(Node("Relu", ("output",), ("y",)))
    graph = Graph(
        (TensorType("x", "float32", (None, *sizes)),),
        (TensorType("y", "float32", (None,) * (len(sizes) + 1)),),
        tuple(nodes),
        bundle.graph.opset,
    )
    patterns: Mapping[str, int] = {layer.knob: max(layer.patterns)}
    return build_model(
        graph, {layer.name: layer}, ModeWeights(patterns, weights, {}), {layer.name: lowering}
    )
