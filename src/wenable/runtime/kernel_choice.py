"""Which modes our own kernels run faster than the engine does: measured at first use, remembered.

They gain most where a mode computes least, and an engine is often the faster one for the full mode. So the
two are timed beside each other for each mode, in the way in which the session would run it on either.
They are compared then, too: kernels that answer otherwise than the engine are not taken. What profiles of
both say is taken as it is.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import DeviceProfile, kept_profile
from wenable.runtime.engine import (
    Engine,
    EngineError,
    ModeEngine,
    PlannedMode,
    describe_engine,
    precision_of,
)
from wenable.runtime.forking import no_fork_meanwhile
from wenable.runtime.remembered import Remembered, of_batches
from wenable.runtime.unloaded import MOST_WAITING_S, waited_s

ENGINE, KERNELS = "engine", "our kernels"
_MARGIN = 0.97
"""Kernels are taken where they take less than this share of the engine's time."""
_TOLERANCE, _ROUNDED_TOLERANCE = 1e-3, 0.02
"""How far our answers may be from an engine's, in float32 and in less, as a share of its largest."""
_TIMING = TimingPlan(blocks=4, calls=4, warmup=1, gap_ms=2.0)

_lock = threading.Lock()


def chosen_by_profiles(of_engine: DeviceProfile, of_kernels: DeviceProfile) -> dict[str, str]:
    """Return mode, as text -> which of the two profiles has it faster; modes that one lacks are left out.

    The engine stays unless our kernels take clearly less, as when both are timed.
    """
    both = of_engine.latencies.keys() & of_kernels.latencies.keys()
    return {
        mode: KERNELS
        if of_kernels.latencies[mode].known < _MARGIN * of_engine.latencies[mode].known
        else ENGINE
        for mode in both
    }


def agree(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Say whether two answers are within a share of the largest number; whole numbers are the same.

    NaN and infinities are the same where they stand in the same places.

    >>> agree(np.array([1.001, -2.0]), np.array([1.0, -2.0]), 1e-3)
    True
    >>> agree(np.array([1.01, -2.0]), np.array([1.0, -2.0]), 1e-3)
    False
    """
    if found.shape != expected.shape or expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    most = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    return np.allclose(found, expected, rtol=0.0, atol=tolerance * most, equal_nan=True)


def kernels_beside(
    bundle: Bundle,
    engine: Engine,
    kernels: ModeEngine,
    profile: DeviceProfile,
    *,
    measure: bool,
    profiled: bool,
    batch: int = 1,
) -> tuple[KernelChoice | None, DeviceProfile]:
    """Return what chooses our kernels beside an engine, and the profile with what they take.

    A profile of the engine says how layers are executed, and what to expect under a deadline. With one
    of our kernels beside it the faster of both is taken for each mode; without one there is no choice.

    - `profile`: of the engine; `profiled`: whether it is of this bundle at this size of images.
    - `batch`: the size of batch that both are timed with.
    """
    told = profile.times_ms or profile.schemes or profile.latencies
    if not told or not profiled:
        return KernelChoice(bundle, engine, kernels, measure=measure, batch=batch), profile
    of_kernels = kept_profile(bundle.structure, kernels)
    chosen = chosen_by_profiles(profile, of_kernels)
    if not chosen:
        return None, profile
    latencies = {
        mode: of_kernels.latencies[mode] if chosen.get(mode) == KERNELS else reading
        for mode, reading in profile.latencies.items()
    }
    choice = KernelChoice(bundle, engine, kernels, measure=False, profiled=chosen)
    return choice, replace(profile, latencies=latencies)


class KernelChoice:
    """Chooses between an engine and our kernels for the modes of a bundle.

    - `measure`: False to go by what is remembered, and the engine otherwise: timing both beside each
      other takes the memory of both.
    - `batch`: the size of batch that they are timed with; each has its own choices.
    - `profiled`: mode, as text -> what profiles of both say; nothing is timed for these.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        kernels: ModeEngine,
        *,
        measure: bool = True,
        batch: int = 1,
        profiled: Mapping[str, str] | None = None,
    ) -> None:
        self._profiled = profiled or {}
        self._bundle, self._engine, self._kernels = bundle, engine, kernels
        self._measure, self._batch = measure, batch
        self._refused: dict[tuple[int, bool], str] = {}
        of = f"{describe_engine(engine)}-{describe_engine(kernels)}-{describe_device()}"
        of += of_batches(batch)
        words = re.sub(r"[^A-Za-z0-9.]+", "-", of)
        self._remembered = Remembered(f"{bundle.structure[:16]}-{words}.json", (ENGINE, KERNELS))

    @property
    def refused(self) -> str:
        """Why the kernels cannot run a mode of the bundle; "" where they can, or were not asked yet."""
        return next(iter(self._refused.values()), "")

    def model(self, number: int, build: Callable[[], bytes]) -> bytes | PlannedMode:
        """Return mode `number` as a model for the engine, or planned for our kernels.

        - `build`: makes the model.
        """
        mode = str(self._bundle.modes[number].mode)
        with no_fork_meanwhile(), _lock:
            known = self._profiled.get(mode) or self._remembered.find(mode)
            if known is None and not self._measure:
                known = ENGINE
            planned = None if known == ENGINE else self._planned(number)
            if planned is None:
                return build()
            if known == KERNELS:
                return planned
            model, before = build(), waited_s()
            chosen = self._timed(number, model, planned)
            after = waited_s()
            undisturbed = None in (before, after) or (after or 0) - (before or 0) < MOST_WAITING_S
            self._remembered.note(mode, chosen, keep=undisturbed)
            return planned if chosen == KERNELS else model

    def close(self) -> None:
        """Let the threads of the kernels end."""
        self._kernels.close()

    def _planned(self, number: int) -> PlannedMode | None:
        bundle, weights = self._bundle, self._bundle.weights_of(number)
        # What a graph holds that the kernels have not, it holds in all modes that run it.
        kind = bundle.modes[number].graph, bool(weights.roundings)
        if kind in self._refused:
            return None
        try:
            return self._kernels.plan(bundle.graph_of(number), bundle.layers, weights)
        except EngineError as error:
            self._refused[kind] = str(error)
            return None

    def _timed(self, number: int, model: bytes, planned: PlannedMode) -> str:
        inputs = self._bundle.example(self._batch, number)
        calls = {KERNELS: partial(planned.runner, inputs)}
        try:
            runner = self._engine.prepare(model)
            expected = runner(inputs)
        except EngineError:
            return KERNELS
        exact = precision_of(self._engine) == "float32"
        tolerance = _TOLERANCE if exact else _ROUNDED_TOLERANCE
        found = planned.runner(inputs)
        if not all(agree(*each, tolerance) for each in zip(found, expected, strict=True)):
            return ENGINE
        calls[ENGINE] = partial(runner, inputs)
        times = measure_latencies(calls, _TIMING)
        faster = times[KERNELS].known < _MARGIN * times[ENGINE].known
        return KERNELS if faster else ENGINE
