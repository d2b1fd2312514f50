"""Requests with a limit: which mode runs, what is known of the modes, and how that gets better.

Nothing is measured while a request waits for it. The first request of a session that knows nothing
prepares its cheapest mode and times that once; those of a new size of batch go by what is known of
other sizes. A thread in the background then prepares the other modes, as far as they fit beside each
other, and times them while nothing else runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from wenable.core.readings import Reading
from wenable.measure.latency import latency_reading
from wenable.runtime.controller import Controller
from wenable.runtime.decisions import ModeFigures, check_positive
from wenable.runtime.known_modes import KnownMode
from wenable.runtime.latencies import Latencies
from wenable.runtime.prepared import PreparedModes
from wenable.runtime.prepared_at_size import PreparedAtSize
from wenable.runtime.unloaded import Load, Timed, Watch, time_unloaded

_PATIENCE_S = 3.0
"""For a moment in which nothing else runs."""
_FIRST_RETRY_S, _MOST_RETRIES = 2.0, 6
_MS_OF_A_MODEL, _MS_OF_A_MB = 50.0, 20.0
"""What preparing a model is taken to need before one was seen to."""


class Helper(Protocol):
    """What runs in the background."""

    def is_alive(self) -> bool:
        """Say whether it still runs."""
        ...

    def join(self) -> None:
        """Wait for its end."""
        ...


def _thread(work: Callable[[], None]) -> Helper:
    # Not a daemon: one that is in an engine when the interpreter ends would bring it down.
    thread = threading.Thread(target=work, name="wenable-prepare", daemon=False)
    thread.start()
    return thread


class LimitedRequests:
    """Runs requests with a limit in the modes that are chosen for them.

    - `modes`: in the order of their numbers; `prepared`: makes them ready.
    - `example`: returns inputs of a size of batch to time modes with.
    - `watch`, `spawn` (starts what runs in the background): replaced in tests.
    """

    def __init__(
        self,
        modes: Sequence[KnownMode],
        prepared: PreparedModes | PreparedAtSize,
        latencies: Latencies,
        load: Load,
        example: Any,
        *,
        target: float,
        watch: Watch | None = None,
        spawn: Callable[[Callable[[], None]], Helper] | None = None,
    ) -> None:
        self._modes, self._prepared, self._latencies = tuple(modes), prepared, latencies
        self._load, self._example, self._target = load, example, target
        self._watch = Watch() if watch is None else watch
        self._spawn = _thread if spawn is None else spawn
        self._cheapest = min(range(len(modes)), key=lambda number: modes[number].share)
        self.forget()

    def forget(self) -> None:
        """Begin anew with no controllers, as a forked process has to; what was measured stays."""
        self._lock = threading.Lock()
        self._first = threading.Lock()
        self._measuring = threading.Lock()
        self._controllers: dict[int, Controller] = {}
        self._helper: Helper | None = None
        self._unfinished: dict[int, tuple[float, int]] = {}  # batch -> when to try again, tries

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        batch: int,
        started: float,
        *,
        deadline_ms: float | None,
        max_energy_mj: float | None,
        strict: bool,
    ) -> list[np.ndarray]:
        """Return the outputs of the mode that is chosen; `started`: when the request came, in s."""
        controller = self._controllers.get(batch)
        if controller is None:
            self._check(batch, deadline_ms, max_energy_mj)
            controller = self.begun(batch)
        if batch in self._unfinished:
            self._improve(batch)
        clock, prepared = self._watch.clock, self._prepared
        # The mode is chosen when the turn has come, by what is left of the deadline then.
        with prepared.turn:
            all_ready = prepared.ready(batch) == len(self._modes)
            decision = controller.choose(
                deadline_ms=deadline_ms,
                max_energy_mj=max_energy_mj,
                strict=strict,
                spent_ms=1e3 * (clock() - started),
                waits_ms=None if all_ready else self.waits_ms(batch),
            )
            was_ready = all_ready or prepared.is_ready(decision.mode, batch)
            held = prepared.take(decision.mode, batch)
            begun = clock()
            try:
                outputs = prepared.run(held, batch, inputs)
            finally:
                ended = clock()
                prepared.leave(held)
            controller.observe(
                decision, 1e3 * (ended - begun), total_ms=1e3 * (ended - started), learn=was_ready
            )
            return outputs

    def controller(self, batch: int) -> Controller:
        """Return the controller of a size of batch; `warm_up` first where there is none yet."""
        if batch not in self._controllers:
            self.warm_up(batch)
        return self._controllers[batch]

    def under_way(self, batch: int) -> Controller:
        """Return the controller of a size of batch by what is known; the background finds out the rest."""
        controller = self.begun(batch)
        if batch in self._unfinished:
            self._improve(batch)
        return controller

    def warm_up(self, batch: int) -> None:
        """Prepare the modes for a size of batch, and time them unless that was done."""
        self._prepared.check_open()
        with self._measuring:
            if self._latencies.is_measured(batch):
                self._prepare_each(batch)
            else:
                self._measure(batch)
        self.begun(batch)

    def close(self) -> None:
        """Wait for what runs in the background, and forget the controllers."""
        if self._helper is not None:
            self._helper.join()
        self._controllers.clear()
        self._unfinished.clear()

    def _check(self, batch: int, deadline_ms: float | None, max_energy_mj: float | None) -> None:
        """Refuse limits that make no sense before anything is prepared for them."""
        self._prepared.check_open()
        if deadline_ms is not None:
            check_positive("deadline_ms", deadline_ms)
        if max_energy_mj is not None:
            figures = self._figures(batch, {each.name: (1.0, None) for each in self._modes})
            Controller(figures, target=self._target).choose(max_energy_mj=max_energy_mj)

    def begun(self, batch: int) -> Controller:
        """Return the controller of a size of batch, by what is known of it or of others."""
        known = self._latencies.figures(batch)
        if known is None:
            with self._first:
                if (known := self._latencies.figures(batch)) is None:
                    self._time_cheapest(batch)
                    known = self._latencies.figures(batch)
        assert known is not None
        with self._lock:
            if batch not in self._controllers:
                figures = self._figures(batch, known)
                self._controllers[batch] = Controller(
                    figures, target=self._target, clock=self._watch.clock
                )
                is_done = self._latencies.is_measured(batch) and self._is_filled(batch)
                if not is_done:  # the background does the rest
                    self._unfinished[batch] = (0.0, 0)
            return self._controllers[batch]

    def _time_cheapest(self, batch: int) -> None:
        """Prepare the cheapest mode and call it twice, so that there is something to go by."""
        clock, number = self._watch.clock, self._cheapest
        call = partial(self._prepared.call, number, batch, self._example(batch))
        call()
        begun = clock()
        call()
        ended = clock()
        name = self._modes[number].name
        self._latencies.estimated(batch, {name: max(1e3 * (ended - begun), 1e-6)})

    def _figures(
        self, batch: int, known: Mapping[str, tuple[float, float | None]]
    ) -> list[ModeFigures]:
        found = []
        for each in self._modes:
            median, p99 = known[each.name]
            energy = each.energy
            if batch != 1 and energy.value is not None:
                energy = Reading(None, "mJ", reason=f"measured for one example, not for {batch}")
            found.append(
                ModeFigures(each.name, each.rank, median, p99, energy.value, energy.reason or "")
            )
        return found

    def waits_ms(self, batch: int) -> list[float]:
        """Return what each mode needs to be made ready: as others did, by the size of the model."""
        prepared, numbers = self._prepared, range(len(self._modes))
        guesses = [_MS_OF_A_MODEL + _MS_OF_A_MB * prepared.size(n) / 2**20 for n in numbers]
        seen = [prepared.seconds(n) for n in numbers]
        scales = [1e3 * s / guess for s, guess in zip(seen, guesses, strict=True) if s is not None]
        scale = max(scales, default=1.0)
        return [
            0.0 if prepared.is_ready(n, batch)
            else scale * guesses[n] if (s := seen[n]) is None
            else 1e3 * s
            for n in numbers
        ]  # fmt: skip

    def _is_filled(self, batch: int) -> bool:
        return not any(self._could_be_ready(number, batch) for number in range(len(self._modes)))

    def _could_be_ready(self, number: int, batch: int) -> bool:
        ready = self._prepared.is_ready(number, batch)
        return not ready and self._prepared.fits(number, batch)

    def _improve(self, batch: int) -> None:
        """Let a thread prepare and time the modes of a size of batch, one thread at a time."""
        with self._lock:
            when, tries = self._unfinished.get(batch, (0.0, _MOST_RETRIES))
            busy = self._helper is not None and self._helper.is_alive()
            if busy or tries >= _MOST_RETRIES or self._watch.clock() < when:
                return
            self._unfinished[batch] = (when, tries + 1)
            self._helper = self._spawn(partial(self._help, batch))

    def _help(self, batch: int) -> None:
        try:
            with self._measuring:
                self._prepare_what_fits(batch)
                done = self._latencies.is_measured(batch) or self._measure(batch, all_modes=False)
        except Exception:  # what fails here fails again where somebody waits for it, and is told
            done = False
        with self._lock:
            _, tries = self._unfinished.pop(batch, (0.0, 0))
            if not done and not self._prepared.is_closed:
                later = self._watch.clock() + _FIRST_RETRY_S * 2 ** (tries - 1)
                self._unfinished[batch] = (later, tries)

    def _prepare_what_fits(self, batch: int) -> None:
        """Prepare modes beside those that are ready: the cheapest first, then by their rank."""
        order = sorted(range(len(self._modes)), key=lambda n: -(self._modes[n].rank or 0.0))
        for number in dict.fromkeys([self._cheapest, *order]):
            if self._could_be_ready(number, batch):
                self._prepared.leave(self._prepared.take(number, batch))

    def _prepare_each(self, batch: int) -> None:
        """Prepare all modes, the cheapest last: under a budget the last ones stay."""
        for number in self._costliest_first():
            self._prepared.leave(self._prepared.take(number, batch))

    @property
    def cheapest_first(self) -> tuple[int, ...]:
        """The modes in the order of their cost."""
        return tuple(reversed(self._costliest_first()))

    def _costliest_first(self) -> list[int]:
        return sorted(range(len(self._modes)), key=lambda n: -self._modes[n].share)

    def _measure(self, batch: int, *, all_modes: bool = True) -> bool:
        """Time the modes while nothing else runs; say whether that could be done.

        Where it could not, the quickest calls are kept as an estimate.

        - `all_modes`: also those that are not ready; they are prepared one after another where there
          is no room for all.
        """
        inputs, numbers = self._example(batch), self._costliest_first()
        if all_modes:
            self._prepare_each(batch)
        ready = [number for number in numbers if self._prepared.is_ready(number, batch)]
        groups = [ready]
        if all_modes and len(ready) < len(numbers):
            groups = [[number] for number in numbers]
        found: dict[int, Timed] = {}
        for group in groups:
            calls = {n: partial(self._prepared.call, n, batch, inputs) for n in group}
            for call in calls.values():
                call()  # the first call takes memory, which may need room
            patience = _PATIENCE_S / len(groups)
            with self._load.alone(lambda: self._prepared.is_closed):
                found |= time_unloaded(calls, self._load, patience_s=patience, watch=self._watch)
        return self._taken_in(batch, found)

    def _taken_in(self, batch: int, found: Mapping[int, Timed]) -> bool:
        quiet = all(len(each.quiet) > 1 for each in found.values())
        if quiet:
            readings = {
                self._modes[number].name: latency_reading(
                    each.quiet, source="measured when unloaded"
                )
                for number, each in found.items()
            }
            self._latencies.measured(batch, readings)
        else:
            times = {n: each.quiet + each.loaded for n, each in found.items()}
            least = {self._modes[n].name: min(each) for n, each in times.items() if each}
            self._latencies.estimated(batch, least)
        self._replace(batch)
        return quiet

    def _replace(self, batch: int) -> None:
        with self._lock:
            known, controller = self._latencies.figures(batch), self._controllers.get(batch)
            if controller is not None and known is not None:
                controller.replace(self._figures(batch, known))
