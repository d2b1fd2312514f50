"""A bundle that runs: its modes prepared when they are used, switched between two calls."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime.building import Choose, build_model, choose_each
from wenable.runtime.bundle import Bundle, ExportedMode
from wenable.runtime.controller import Controller, ModeFigures
from wenable.runtime.device_profile import DeviceProfile, kept_profile
from wenable.runtime.engine_choice import fastest_engine
from wenable.runtime.engines import Engine, ModeEngine, Runner, open_engine
from wenable.runtime.lowering import Lowering
from wenable.runtime.stored_order import chains
from wenable.space import Mode, ModeChoice
from wenable.tables import Reading

_QUICK = TimingPlan(blocks=4, calls=8, warmup=2, gap_ms=5.0)
_NO_ENERGY = "the bundle has no energy reading"


class Session:
    """Runs the modes of a bundle on one engine, from any number of threads.

    - `path`: the bundle.
    - `engine`: `"onnxruntime"`, `"openvino"`, `"native"` for our own kernels, which run networks of
      convolutions, or `"auto"` for the faster one of the first two, measured once and remembered.
    - `threads`: of one call; None for one for each core.
    - `memory_budget_mb`: modes that were not used for longest are dropped beyond it, counted by
      `bytes_held`; None for no limit.
    - `profile`: what `wenable profile` measured of this bundle on this device, or a path to it. None
      takes the one that is kept for this user where there is one, and otherwise a default table.
    - `choose`: how each layer is executed in each pattern, instead of what the profile says.
    - `target`: the share of requests with a deadline that are to meet it.

    Raises `FileNotFoundError`, `BundleError` for a damaged file, `EngineError` for an engine that is
    not installed, `ValueError` for a setting outside its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str = "auto",
        threads: int | None = None,
        memory_budget_mb: float | None = None,
        profile: DeviceProfile | str | os.PathLike[str] | None = None,
        choose: Choose | None = None,
        target: float = 0.99,
    ) -> None:
        for name, value in (("memory_budget_mb", memory_budget_mb), ("target", target)):
            most = 1 if name == "target" else math.inf
            if value is not None and not (isinstance(value, int | float) and 0 < value < most):
                raise ValueError(f"`{name}` (={value!r}) must be a number above 0, below {most}")
        self.bundle = Bundle(path)
        if engine == "auto":
            engine = fastest_engine(self.bundle, threads)
        self.engine: Engine = open_engine(engine, threads)
        self._numbers: dict[ModeChoice, int] = {}
        self._budget = None if memory_budget_mb is None else int(memory_budget_mb * 2**20)
        self.profile = self._profile(profile)
        self._choose = choose
        self._chains = chains(self.bundle.graph, self.bundle.weights_of(0).tensors)
        self._target = target
        self._controllers: dict[int, Controller] = {}
        self._lock = threading.Lock()
        self._prepared: OrderedDict[int, tuple[Runner, int]] = OrderedDict()
        self._preparing: dict[int, threading.Lock] = {}
        self._measuring = threading.RLock()

    @property
    def modes(self) -> tuple[str, ...]:
        """The exported modes, as text."""
        return tuple(str(each.mode) for each in self.bundle.modes)

    @property
    def prepared_modes(self) -> tuple[str, ...]:
        """The modes that are held ready, those not used for longest first."""
        with self._lock:
            return tuple(str(self.bundle.modes[number].mode) for number in self._prepared)

    def prepare(self, mode: ModeChoice) -> None:
        """Make a mode ready, so that its first call takes no longer than the next."""
        self._runner(self._number_of(mode))

    def run(
        self,
        x: np.ndarray | tuple[np.ndarray, ...],
        *,
        mode: ModeChoice | None = None,
        deadline_ms: float | None = None,
        max_energy_mj: float | None = None,
        strict: bool = False,
    ) -> Any:
        """Return the outputs for a batch: one array, or a tuple where the network has several.

        - `x`: shape `(N, ...)` as the network was exported with, of its type; a tuple of arrays for
          several inputs.
        - `mode`: one of the exported ones; the first of them where nothing is said.
        - `deadline_ms`, `max_energy_mj`: instead of a mode: the most accurate one that is predicted
          to stay within them, as the machine is now. Where none does, the one nearest to it runs;
          with `strict` it is refused (`BudgetError`). Energies are of one example: a larger batch is
          refused under such a limit.

        The first request with a limit measures the modes, for its size of batch, unless the profile
        has their latencies; `controller(batch)` does it ahead of time.

        Raises `ValueError` for an input of another shape or type, one with NaN or infinity, an
        unknown mode, or a limit that makes no sense; `BundleError` where the graph would hold more
        for a batch of this size than is allowed; `EngineError` where the engine fails.
        """
        inputs = self._inputs(x)
        if deadline_ms is None and max_energy_mj is None:
            outputs = self._runner(0 if mode is None else self._number_of(mode))(inputs)
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        if mode is not None:
            raise ValueError(f"`mode` (={mode}) and a limit were both given; ask for one of them")
        controller = self.controller(len(next(iter(inputs.values()))))
        decision = controller.choose(
            deadline_ms=deadline_ms, max_energy_mj=max_energy_mj, strict=strict
        )
        runner, started = self._runner(decision.mode), time.perf_counter()
        outputs = runner(inputs)
        controller.observe(decision, 1e3 * (time.perf_counter() - started))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def controller(self, batch: int = 1) -> Controller:
        """Return what chooses modes under a limit: its decisions, counters, predicted latencies.

        At its first use all modes are prepared, as far as the memory budget goes, and measured once
        for each size of batch, in turns of random order, unless the profile has their latencies for
        one example.
        """
        with self._measuring:
            if batch not in self._controllers:
                for number in range(len(self.bundle.modes)):
                    self._runner(number)  # under a deadline there is no time to prepare one
                figures = self._figures(batch)
                self._controllers[batch] = Controller(figures, target=self._target)
            return self._controllers[batch]

    def _figures(self, batch: int) -> list[ModeFigures]:
        kept = self.profile.latencies if batch == 1 else {}
        if not set(self.modes) <= set(kept):
            inputs = self.bundle.example(batch)
            runners = {
                str(each.mode): self._runner(number)
                for number, each in enumerate(self.bundle.modes)
            }
            calls = {mode: partial(runner, inputs) for mode, runner in runners.items()}
            kept = measure_latencies(calls, _QUICK, source="measured when it was needed")
        ranks = _ranks(self.bundle)
        energies = [self._energy(each, batch) for each in self.bundle.modes]
        return [
            ModeFigures(
                str(each.mode),
                ranks[number],
                kept[str(each.mode)].known,
                kept[str(each.mode)].p99,
                _measured_energy(energies[number]),
                _energy_reason(energies[number]),
            )
            for number, each in enumerate(self.bundle.modes)
        ]

    def _energy(self, exported: ExportedMode, batch: int) -> Reading | None:
        """Return the energy of a mode: that of this device before what its bundle tells."""
        mode = str(exported.mode)
        reading = self.profile.energies.get(mode) or exported.readings.get("energy")
        if reading is None and not self.profile.energies and self.profile.energy_reason:
            why = f"{_NO_ENERGY}, and none was measured here: {self.profile.energy_reason}"
            return Reading(None, "mJ", reason=why)
        if reading is not None and batch != 1:
            return Reading(None, "mJ", reason=f"measured for one example, not for {batch}")
        return reading

    def example(self, batch: int = 1) -> Any:
        """Return inputs to try a session with: random numbers, or zeros for whole ones."""
        arrays = tuple(self.bundle.example(batch).values())
        return arrays[0] if len(arrays) == 1 else arrays

    def _profile(self, given: DeviceProfile | str | os.PathLike[str] | None) -> DeviceProfile:
        """Return the profile that was given, or the one kept for this user, or an empty one."""
        if given is None:
            return kept_profile(self.bundle.structure, self.engine)
        profile = given if isinstance(given, DeviceProfile) else DeviceProfile.read(Path(given))
        profile.check_fits(self.bundle.structure, self.engine)
        return profile

    def _number_of(self, mode: ModeChoice) -> int:
        """Return the number of a mode; texts are read once, which takes longer than a switch may."""
        if not isinstance(mode, str | Mode):
            return self.bundle.number_of(mode)
        if mode not in self._numbers:
            self._numbers[mode] = self.bundle.number_of(mode)
        return self._numbers[mode]

    def _inputs(self, x: Any) -> Mapping[str, np.ndarray]:
        wanted = self.bundle.graph.inputs
        given = x if isinstance(x, tuple) else (x,)
        if len(given) != len(wanted):
            raise ValueError(f"`x` must be {len(wanted)} arrays, not {len(given)}")
        for array, expected in zip(given, wanted, strict=True):
            if not isinstance(array, np.ndarray) or str(array.dtype) != expected.dtype:
                found = getattr(array, "dtype", type(array).__name__)
                raise ValueError(f"`x` ({found}) must be a numpy array of {expected.dtype}")
            sizes = ("N", *expected.shape[1:])
            if array.shape[1:] != expected.shape[1:] or array.ndim != len(sizes) or not len(array):
                shape = ", ".join(map(str, sizes))
                raise ValueError(
                    f"`x` (of shape {array.shape}) must have shape ({shape}), N above 0"
                )
            if array.dtype.kind == "f" and not _is_finite(array):
                raise ValueError("`x` holds NaN or infinity")
        self.bundle.check_batch(len(given[0]))
        return {expected.name: array for array, expected in zip(given, wanted, strict=True)}

    def _runner(self, number: int) -> Runner:
        with self._lock:
            if number in self._prepared:
                self._prepared.move_to_end(number)
                return self._prepared[number][0]
            own = self._preparing.setdefault(number, threading.Lock())
        with own:  # two threads that want one mode prepare it once; other modes go on
            with self._lock:
                if number in self._prepared:
                    self._prepared.move_to_end(number)
                    return self._prepared[number][0]
            runner, size = self._prepare(number)
            with self._lock:
                self._prepared[number] = (runner, size)
                self._drop_beyond_budget()
        return runner

    def _prepare(self, number: int) -> tuple[Runner, int]:
        """Return a runner and the size of its model, 0 where it has none."""
        if isinstance(self.engine, ModeEngine):
            bundle = self.bundle
            weights = bundle.weights_of(number)
            return self.engine.prepare_mode(bundle.graph, bundle.layers, weights), 0
        model = self.model(number)
        return self.engine.prepare(model), len(model)

    def model(self, number: int) -> bytes:
        """Return the ONNX model of mode `number`, as the engine gets it."""
        bundle, weights = self.bundle, self.bundle.weights_of(number)
        return build_model(bundle.graph, bundle.layers, weights, self.lowerings(number))

    def lowerings(self, number: int) -> dict[str, Lowering]:
        """Return how each layer is executed in mode `number`."""
        layers, patterns = self.bundle.layers, self.bundle.weights_of(number).patterns
        if self._choose is not None:
            return choose_each(layers, patterns, self._choose)
        policy = self.profile.policies.get(str(self.bundle.modes[number].mode), "measured")
        return self.profile.lowerings(layers, self._chains, patterns, policy)

    @property
    def bytes_held(self) -> int:
        """What the prepared modes hold: the sizes of their models, or what our kernels really hold."""
        with self._lock:
            return self._bytes_held()

    def _bytes_held(self) -> int:
        if isinstance(self.engine, ModeEngine):
            return self.engine.bytes_held(runner for runner, _ in self._prepared.values())
        return sum(size for _, size in self._prepared.values())

    def _drop_beyond_budget(self) -> None:
        if self._budget is None:
            return
        while len(self._prepared) > 1 and self._bytes_held() > self._budget:
            self._prepared.popitem(last=False)


def _is_finite(array: np.ndarray) -> bool:
    """Say whether all values are finite; a sum, which is fast, tells it of nearly every array."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def _ranks(bundle: Bundle) -> list[float | None]:
    """Return by what modes are preferred: accuracy, or where one has none, the share of the MACs."""
    for name in ("accuracy", "macs"):
        found = [each.readings.get(name) for each in bundle.modes]
        values = [reading.value for reading in found if reading and reading.value is not None]
        if len(values) == len(found):
            most = max(*values, 1.0)
            return [value / most for value in values]
    return [None] * len(bundle.modes)


def _measured_energy(reading: Reading | None) -> float | None:
    """Return an energy that may stand for a budget: one that was measured."""
    if reading is None or reading.unit != "mJ" or "model" in reading.source:
        return None
    return reading.value


def _energy_reason(reading: Reading | None) -> str:
    if reading is None:
        return _NO_ENERGY
    return reading.reason or "its reading was modelled, not measured in mJ"
