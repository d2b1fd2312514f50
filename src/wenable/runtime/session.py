"""A bundle that runs: its modes prepared when they are used, switched between two calls."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from wenable.core.escalation import Escalation
from wenable.core.given_numbers import is_number
from wenable.core.renamed import refuse_renamed
from wenable.core.space import Mode, ModeChoice
from wenable.runtime.building import Choose, build_model, choose_each
from wenable.runtime.bundle import Bundle
from wenable.runtime.controller import Controller
from wenable.runtime.device_profile import DeviceProfile, scheme_of, without_modes
from wenable.runtime.engine import ModeEngine, PlannedMode, Runner, SharesMemory, precision_of
from wenable.runtime.engines import checked_threads
from wenable.runtime.escalating import Score, check_can_escalate, escalate, limit_of, sure
from wenable.runtime.first_choice import FirstChoice
from wenable.runtime.forking import tell_after_fork
from wenable.runtime.image_sizes import with_smaller_images
from wenable.runtime.implementations import Implementation
from wenable.runtime.kernel_choice import kernels_beside
from wenable.runtime.known_modes import known_modes
from wenable.runtime.latencies import Latencies
from wenable.runtime.memory import bytes_of
from wenable.runtime.prepared import PreparedModes
from wenable.runtime.prepared_at_size import PreparedAtSize
from wenable.runtime.ready_stages import StagesOfSession
from wenable.runtime.requests import LimitedRequests
from wenable.runtime.session_engine import opened_engine
from wenable.runtime.session_inputs import SessionInputs
from wenable.runtime.session_profile import profile_for
from wenable.runtime.sized import Sized, size_words
from wenable.runtime.thread_pool import ThreadPool
from wenable.runtime.unloaded import Load


class Session:
    """Runs the modes of a bundle on one engine, from any number of threads.

    - `path`: the bundle.
    - `engine`: `"onnxruntime"`, `"openvino"`, `"native"` for our own kernels, which run networks of
      convolutions, or `"auto"`: the faster one of the first two, and our kernels for every mode that
      they run faster. Both are measured once and remembered.
    - `threads`: of one call; None for one for each core. Or a `ThreadPool`: sessions that share it run
      one call at a time.
    - `memory_budget_mb`: in MiB, for all that prepared modes hold: weights, and what a batch of the
      largest size so far takes, of images as large as each is prepared for. Beyond it modes that were not
      used for longest are dropped, and where all are in use a request waits for room. One mode that is
      larger by itself is held alone. None for no limit.
    - `profile`: what `wenable profile` measured of this bundle on this device, or a path to it. None
      takes the one that is kept for this user where there is one. Otherwise each mode is timed as
      written and by a default table when it is first prepared, which is remembered; under a
      budget it is not timed, and what is not remembered runs as written.
    - `choose`: how each layer is executed in each option, instead of what the profile says.
    - `deadline_target`: the share of requests with a deadline that are to meet it.
    - `precision`: of the arithmetic, `"float32"`, `"bfloat16"` or `"float16"`, of which only OpenVINO
      offers the others; or `"auto"`: the fastest in which every mode's answers for the bundle's example are
      within 2 % (of the largest) of those in float32, and float32 otherwise. See `precision`.
    - `batch`: how many examples most requests hold. What is chosen by timing (the engine, our kernels, how
      layers are executed) is timed with as many. A profile is of one example and is left out for more.

    Close it when it is done with, or use it in a `with` statement. After a fork the child prepares
    modes of its own; see "Processes" in the documentation.

    Raises `FileNotFoundError`, `BundleError` for a damaged file, `EngineError` for an engine that is
    not installed, `ValueError` for a setting outside its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str = "auto",
        threads: int | ThreadPool | None = None,
        memory_budget_mb: float | None = None,
        profile: DeviceProfile | str | os.PathLike[str] | None = None,
        choose: Choose | None = None,
        deadline_target: float = 0.99,
        precision: str = "float32",
        batch: int = 1,
        **renamed: Any,
    ) -> None:
        refuse_renamed("Session", renamed, {"target": "deadline_target"})
        limits = {
            "memory_budget_mb": (memory_budget_mb, math.inf),
            "deadline_target": (deadline_target, 1),
        }
        for name, (value, most) in limits.items():
            if value is not None and not (is_number(value) and 0 < value < most):
                raise ValueError(f"`{name}` (={value!r}) must be a number above 0, below {most}")
        self.bundle = Bundle(path)
        batch = self.bundle.check_batch(batch)
        if threads is not None and not isinstance(threads, ThreadPool):
            threads = checked_threads(threads)
        self.engine, kernels = opened_engine(self.bundle, engine, threads, precision, batch)
        if memory_budget_mb is not None and isinstance(self.engine, SharesMemory):
            self.engine = self.engine.with_memory_apart()  # what is dropped is given back at once
        self._computed = 0  # the most that a mode computes at once, where all compute in one place
        self._pool = pool = threads if isinstance(threads, ThreadPool) else None
        self._numbers: dict[ModeChoice, int] = {}
        bundles = (self.bundle, *self.bundle.at_other_sizes)
        self._inputs = SessionInputs(bundles)
        self.profile = profile_for(self.bundle, self.engine, profile, batch)
        self._choose = choose
        self._kernels = kernels
        self._on_kernels: set[int] = set()
        self._prepared = PreparedModes(
            self._built,
            self._runner,
            self._held_bytes,
            largest=self.bundle.weight_bytes,
            per_batch=self.engine.per_batch,
            budget=None if memory_budget_mb is None else bytes_of(memory_budget_mb),
            turn=None if pool is None else pool.turn,
        )
        self._load = Load() if pool is None else pool.load
        # Timing takes memory that a budget is not asked for.
        self._choice: dict[str, Any] = {"measure": memory_budget_mb is None, "batch": batch}
        self._sized = [
            self._at_size(place, each, target=float(deadline_target))
            for place, each in enumerate(bundles)
        ]
        apart = isinstance(self.engine, ModeEngine) or memory_budget_mb is not None
        self._stages = StagesOfSession(self.bundle, self.engine, self._prepared if apart else None)
        tell_after_fork(self)

    def _at_size(self, place: int, bundle: Bundle, *, target: float) -> Sized:
        """Return what belongs to one size of images; `place`: 0 is that of the example."""
        kernels = None
        if self._kernels is not None and self._choose is None:
            kernels, self.profile = kernels_beside(
                bundle, self.engine, self._kernels, self.profile,
                profiled=place == 0,  # at the example's size
                **self._choice,
            )  # fmt: skip
        # What a profile says of whole modes holds for layers that run as it says.
        profile = self.profile if self._choose is None else without_modes(self.profile)
        known = known_modes(bundle, profile, size_words(self.bundle) if place else "")
        measured = {} if place else {1: profile.latencies}
        count = len(bundle.modes)
        limited = LimitedRequests(
            known,
            PreparedAtSize(self._prepared, place * count, count),
            Latencies(self.modes, [each.share for each in known], measured),
            self._load,
            bundle.example,
            target=target,
        )
        return Sized(bundle, FirstChoice(bundle, self.engine, **self._choice), kernels, limited)

    @property
    def modes(self) -> tuple[str, ...]:
        """The exported modes, as text."""
        return tuple(str(each.mode) for each in self.bundle.modes)

    @property
    def prepared_modes(self) -> tuple[str, ...]:
        """The modes that are held ready, those not used for longest first."""
        numbers = [number % len(self.bundle.modes) for number in self._prepared.numbers()]
        return tuple(dict.fromkeys(str(self.bundle.modes[number].mode) for number in numbers))

    @property
    def prepared_mb(self) -> float:
        """What is counted for the modes that are held ready, in MiB; see `memory_budget_mb`."""
        held = self._prepared.held_bytes
        return (held + self._computed if held else 0) / 2**20

    def engine_of(self, mode: ModeChoice) -> str:
        """Return the name of the engine that a mode runs on, which is prepared where it is not ready.

        That of the session, or with `engine="auto"` also `"native"`.
        """
        number = self._number_of(mode)
        self.prepare(mode)
        return "native" if number in self._on_kernels else self.engine.name

    @property
    def precision(self) -> str:
        """The precision that the engine computes in: float32 where the processor lacks another one."""
        return precision_of(self.engine)

    @property
    def image_sizes(self) -> tuple[str, ...]:
        """The sizes of images that it takes, as "128x160"; those of several inputs with "and"."""
        return tuple(size_words(each.bundle) for each in self._sized)

    def prepare(
        self, mode: ModeChoice, batch: int = 1, image_size: tuple[int, int] | str | None = None
    ) -> None:
        """Make a mode ready for a size of batch, so that its first call takes no longer than the next.

        Only OpenVINO prepares a mode for each size of batch.

        - `image_size`: height and width, or one of `image_sizes`; without it the example's.
        """
        place = self._place(image_size)
        number = place * len(self.bundle.modes) + self._number_of(mode)
        self._prepared.leave(self._prepared.take(number, self._size(batch, place)))

    def warm_up(
        self, batches: Iterable[int] = (1,), image_size: tuple[int, int] | str | None = None
    ) -> None:
        """Prepare all modes for these sizes of batch, and time them, so that no request waits for it.

        - `image_size`: height and width, or one of `image_sizes`; without it the example's.

        Where a budget does not hold all of them, the cheaper ones stay ready. Each size is timed
        unless the profile has it, and while nothing else runs: under load, for as long as three
        seconds, estimates are kept, and requests go on trying in the background.

        Raises `ValueError` for sizes that are no whole numbers above 0, `EngineError`, `BundleError`.
        """
        if not isinstance(batches, Iterable) or isinstance(batches, str):
            raise ValueError(f"`batches` (={batches!r}) must be sizes of batch, as [1, 8]")
        place = self._place(image_size)
        for batch in [self._size(each, place) for each in batches]:
            self._sized[place].limited.warm_up(batch)

    def run(
        self,
        x: np.ndarray | tuple[np.ndarray, ...] | list[np.ndarray] | Mapping[str, np.ndarray],
        *,
        mode: ModeChoice | None = None,
        deadline_ms: float | None = None,
        max_energy_mj: float | None = None,
        strict: bool = False,
    ) -> Any:
        """Return the outputs for a batch: one array, or a tuple where the network has several.

        A dict of them, by name, if the network gives back a dict, a named tuple or a dataclass.

        - `x`: shape `(N, ...)` as the network was exported with, of its type; for several inputs a tuple
          or list of arrays in their order, or a dict of them by name. Images may have any of
          `image_sizes`, and with `mode` also the mode's own size. Or images as uint8, prepared here as
          the bundle says (needs Pillow): shape `(N, height, width, channels)`, one image without the N,
          or a list of images of any sizes.
        - `mode`: one of the exported ones; the first of them where nothing is said.
        - `deadline_ms`, `max_energy_mj`: instead of a mode: the most accurate one that is predicted
          to stay within them, as the machine is now. Where none does, the one nearest to it runs;
          with `strict` it is refused (`BudgetError`). Energies are of one example: a larger batch is
          refused under such a limit.

        A deadline counts from this call on: checks, waiting, and preparing a mode are part of it, so a
        mode that is not ready is chosen only where there is time to prepare it. `warm_up` prepares and
        times modes ahead of requests. Without it the first request prepares the cheapest mode, and
        the others follow in the background.

        Raises `ValueError` for an input of another shape or type, one with NaN or infinity or with
        places that a table of the network has not, inputs of unlike numbers of examples, an unknown
        mode, or a limit that makes no sense; `BundleError` where the graph would hold more for a batch
        of this size than is allowed; `EngineError` where the engine fails; `ClosedError` after `close`.
        """
        started, load = time.perf_counter(), self._load
        limited = deadline_ms is not None or max_energy_mj is not None
        if limited and mode is not None:
            raise ValueError(f"`mode` (={mode}) and a limit were both given; ask for one of them")
        number = None if limited else 0 if mode is None else self._number_of(mode)
        given = self._inputs.given(x)
        place = self._inputs.place_of(given)
        inputs, batch = self._inputs.checked(given, number, place), len(given[0])
        if number is not None:
            number += place * len(self.bundle.modes)
        load.running.append(None)
        try:
            if number is not None:
                outputs = self._prepared.call(number, batch, inputs)
            else:
                outputs = self._sized[place].limited.run(
                    inputs, batch, started, deadline_ms=deadline_ms,
                    max_energy_mj=max_energy_mj, strict=strict,
                )  # fmt: skip
        finally:
            load.running.pop()
            load.served += 1
        if self.bundle.output_names is not None:
            return dict(zip(self.bundle.output_names, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def escalate(
        self,
        x: np.ndarray | list[np.ndarray],
        threshold: float | Sequence[float],
        *,
        modes: Sequence[ModeChoice] | None = None,
        score: Score = "margin",
        deadline_ms: float | None = None,
    ) -> Escalation:
        """Answer each input with the first mode that is sure of it, and ask the next one otherwise.

        Early exits are left by inputs that are easy; the same goes for a few bits before many, or few
        weights before all. What two modes compute alike, as exits do up to the earlier one, is
        computed once. Modes that have nothing in common each begin with the input.

        - `x`: a batch, as for `run`; the network gives back classes `(N, classes)`.
        - `threshold`: an answer stands if its margin, the likeliest class before the second, from 0 to
          1, is at least as high; or with `score="entropy"` if its entropy in nats is lower. One for
          all modes, or one for each but the last.
        - `modes`: in the order in which they are asked; without them all, the cheapest first.
        - `deadline_ms`: from this call on. A mode is not asked any more if it is predicted to be late;
          the answers of the one before stand. The first mode always runs.

        The first call with some modes makes them ready, beside those of `run`; that takes seconds, so
        do it once before there are deadlines. On our own kernels and under a memory budget modes share
        nothing. On OpenVINO the batch does not get smaller on its way.

        Returns the answers with the place in `modes` of the one that gave each, and the
        multiply-accumulates for an input. Raises `ValueError` for thresholds out of range, a score that
        is not known, a mode named twice, outputs that are no classes, images of another size than the
        example's, and as `run` does.

        Source: Teerapittayanon et al., BranchyNet (ICPR 2016), algorithm 1; Park et al., Big/Little
        (CODES+ISSS 2015) for the margin.
        """
        started, load = time.perf_counter(), self._load
        self._prepared.check_open()
        numbers = self._asked_in_turn(modes)
        is_sure = sure(score, threshold, len(numbers))
        given = self._inputs.given(x)
        check_can_escalate(self.bundle, self._inputs.place_of(given), deadline_ms)
        inputs, batch = self._inputs.checked(given, None), len(given[0])
        ready = self._stages.are_ready(numbers, batch)
        stages = self._stages.of(numbers, batch)
        limit = None
        if deadline_ms is not None:
            limited = self._sized[0].limited
            limit = limit_of(self._stages, stages, limited, batch, deadline_ms, started)
        load.running.append(None)
        try:
            with self._prepared.turn:
                answers, ran = escalate(
                    stages, inputs, is_sure, (lambda _: True) if limit is None else limit.fits
                )
        finally:
            load.running.pop()
            load.served += 1
        if limit is not None:
            limit.observe(ran, learn=ready)
        return answers

    def _asked_in_turn(self, modes: Sequence[ModeChoice] | None) -> tuple[int, ...]:
        """Return the numbers of modes to be asked one after another."""
        if modes is None:
            return self._sized[0].limited.cheapest_first
        numbers = tuple(map(self._number_of, modes))
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"`modes` (={list(map(str, modes))}) must name modes, each once")
        return numbers

    def check(self, x: Any, *, mode: ModeChoice | None = None) -> None:
        """Raise `ValueError` or `BundleError` for inputs or a mode that `run` would refuse; run nothing."""
        given = self._inputs.given(x)
        number = None if mode is None else self._number_of(mode)
        self._inputs.checked(given, number, self._inputs.place_of(given))

    def controller(
        self, batch: int = 1, image_size: tuple[int, int] | str | None = None
    ) -> Controller:
        """Return what chooses modes under a limit: its decisions, counters, predicted latencies.

        Each size of batch has its own, and each size of images. Where no request of this size came yet,
        `warm_up` is called.
        """
        place = self._place(image_size)
        return self._sized[place].limited.controller(self._size(batch, place))

    def close(self) -> None:
        """Drop all prepared modes and end their threads; calls that run go on to their end.

        Afterwards every use is refused with `ClosedError`. Closing again does nothing.
        """
        self._prepared.close()
        for each in self._sized:
            each.limited.close()
        self._stages.forget()
        if self._pool is not None:
            return
        if isinstance(self.engine, ModeEngine):
            self.engine.close()
        if self._kernels is not None:
            self._kernels.close()

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied: prepared modes and threads belong to one process."""
        raise TypeError(
            f"a Session cannot be pickled or copied: open another one of {self.bundle.path} where it is"
            " needed"
        )

    def __enter__(self) -> Session:
        self._prepared.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """Begin anew in a forked process, which the threads of prepared modes did not come along to."""
        self._prepared.forget()
        for each in self._sized:
            each.limited.forget()
        self._stages.forget()
        self._load.forget()

    def example(self, batch: int = 1) -> Any:
        """Return inputs to try a session with: random numbers, or zeros for whole ones."""
        arrays = tuple(self.bundle.example(batch).values())
        return arrays[0] if len(arrays) == 1 else arrays

    def _number_of(self, mode: ModeChoice) -> int:
        """Return the number of a mode; texts are read once, which takes longer than a switch may."""
        if not isinstance(mode, str | Mode):
            return self.bundle.number_of(mode)
        if mode not in self._numbers:
            self._numbers[mode] = self.bundle.number_of(mode)
        return self._numbers[mode]

    def _place(self, image_size: tuple[int, int] | str | None) -> int:
        """Return which of the sizes of images one is; refuses one that the bundle does not take."""
        names = self.image_sizes
        if image_size is None:
            return 0
        wanted = image_size
        if isinstance(image_size, Iterable) and not isinstance(image_size, str):
            wanted = "x".join(map(str, image_size))
        if wanted not in names:
            raise ValueError(
                f"`image_size` (={image_size!r}) is none of the bundle's; allowed: {', '.join(names)}"
            )
        return names.index(wanted)

    def _built(self, number: int) -> bytes | PlannedMode:
        place, own = divmod(number, len(self.bundle.modes))
        bundle, kernels = self._sized[place].bundle, self._sized[place].kernels
        if isinstance(self.engine, ModeEngine):
            return self.engine.plan(bundle.graph_of(own), bundle.layers, bundle.weights_of(own))
        if kernels is None:
            return self.model(number)
        model = kernels.model(own, lambda: self.model(number))
        if isinstance(model, PlannedMode):
            self._on_kernels.add(number)
        return model

    def _runner(self, number: int, model: bytes | PlannedMode, batch: int) -> Runner:
        if isinstance(model, PlannedMode):
            runner = model.runner
        else:
            runner = self.engine.prepare(model, *([batch] if self.engine.per_batch else []))
        place, own = divmod(number, len(self.bundle.modes))
        bundle = self._sized[place].bundle
        return with_smaller_images(runner, bundle.inputs, bundle.inputs_of(own))

    def _held_bytes(self, number: int, model: int, batch: int) -> int:
        place, own = divmod(number, len(self.bundle.modes))
        computed = self._sized[place].bundle.computed_bytes(batch, own)
        if isinstance(self.engine, SharesMemory) and self.engine.shares_memory:
            self._computed, computed = max(self._computed, computed), 0
        return self.engine.held_bytes(model, computed)

    def _size(self, batch: int, place: int = 0) -> int:
        """Return a size of batch; raises where it is none, or larger than the graph can bear."""
        return (self._sized[place].bundle if place else self.bundle).check_batch(batch)

    def model(self, number: int) -> bytes:
        """Return the ONNX model of mode `number`, as the engine gets it.

        With several sizes of images, those of each have the numbers behind those of the size before.
        """
        place, own = divmod(number, len(self.bundle.modes))
        bundle = self._sized[place].bundle
        graph, ways = bundle.graph_of(own), self.implementations(number)
        return build_model(graph, bundle.layers, bundle.weights_of(own), ways)

    def implementations(self, number: int) -> dict[str, Implementation]:
        """Return how each layer is executed in mode `number`, counted as in `model`."""
        place, number = divmod(number, len(self.bundle.modes))
        bundle, profile = self._sized[place].bundle, self.profile
        layers, options = bundle.layers, bundle.weights_of(number).options
        if self._choose is not None:
            return choose_each(layers, options, self._choose)
        scheme = scheme_of(profile, str(bundle.modes[number].mode))
        if place and profile.times_ms:  # measured at the first size, which tells nothing of others
            scheme, profile = None, replace(profile, times_ms={})
        if scheme is None and isinstance(self.engine, ModeEngine):
            scheme = "as written"
        if scheme is None:
            scheme = self._sized[place].choice.scheme(number)
        linked = bundle.chains_of(number)
        return profile.implementations(layers, linked, options, scheme)
