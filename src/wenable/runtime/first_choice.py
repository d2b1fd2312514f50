"""How a mode is executed where `wenable profile` was not run: as written, or by the default table.

The table merges small groups until they fill vectors. Which of the two is faster depends on the network,
the mode, the engine and the processor, and no table knows that. So both are timed beside each other
when a mode is first prepared, and the answer is remembered for this user. What is written stands,
unless the table is clearly faster: no mode is slower than its plain export for want of a profile.
"""

from __future__ import annotations

import re
import threading
from functools import partial

from wenable.measure.device import describe_device
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.runtime.building import build_model
from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import DeviceProfile
from wenable.runtime.engine import Engine, EngineError
from wenable.runtime.forking import no_fork_meanwhile
from wenable.runtime.implementations import Implementation
from wenable.runtime.memory import give_back
from wenable.runtime.remembered import Remembered, of_batches
from wenable.runtime.unloaded import MOST_WAITING_S, waited_s

AS_WRITTEN, TABLE = "as written", "measured"
"""Of `device_profile.SCHEMES`; where nothing was measured the second is the default table."""
_MARGIN = 0.97
"""The table is taken where it takes less than this share of the time."""
_TIMING = TimingPlan(blocks=3, calls=3, warmup=1, gap_ms=2.0)

_lock = threading.Lock()


class FirstChoice:
    """Chooses between the two ways for the modes of a bundle on an engine.

    - `measure`: False to go by what is remembered, and as written otherwise: timing two models beside
      each other takes the memory of both.
    - `batch`: the size of batch that they are timed with; each has its own choices.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, *, measure: bool = True, batch: int = 1
    ) -> None:
        self._bundle, self._engine = bundle, engine
        self._measure, self._batch = measure, batch
        version = f"{engine.name} {engine.version}"
        self._nothing = DeviceProfile(bundle.structure, "", version, engine.threads)
        of = f"{version}-{engine.threads}-{describe_device()}{of_batches(batch)}"
        words = re.sub(r"[^A-Za-z0-9.]+", "-", of)
        self._remembered = Remembered(f"{bundle.structure[:16]}-{words}.json", (AS_WRITTEN, TABLE))

    def scheme(self, number: int) -> str:
        """Return the scheme of mode `number`: as remembered, or as timed now."""
        mode = str(self._bundle.modes[number].mode)
        ways = {scheme: self._ways(number, scheme) for scheme in (AS_WRITTEN, TABLE)}
        if ways[AS_WRITTEN] == ways[TABLE]:
            return AS_WRITTEN
        with no_fork_meanwhile(), _lock:
            known = self._remembered.find(mode)
            if known is not None or not self._measure:
                return known or AS_WRITTEN
            before = waited_s()
            chosen = self._timed(number)
            after = waited_s()
            undisturbed = None in (before, after) or (after or 0) - (before or 0) < MOST_WAITING_S
            self._remembered.note(mode, chosen, keep=undisturbed)
            return chosen

    def _ways(self, number: int, scheme: str) -> dict[str, Implementation]:
        bundle, options = self._bundle, self._bundle.weights_of(number).options
        return self._nothing.implementations(
            bundle.layers, bundle.chains_of(number), options, scheme
        )

    def _timed(self, number: int) -> str:
        bundle, weights = self._bundle, self._bundle.weights_of(number)
        inputs, calls = bundle.example(self._batch, number), {}
        for scheme in (AS_WRITTEN, TABLE):
            ways = self._ways(number, scheme)
            model = build_model(bundle.graph_of(number), bundle.layers, weights, ways)
            try:
                runner = self._engine.prepare(model)
                runner(inputs)
            except EngineError:  # whoever asked for the mode is told, where the other way fails too
                continue
            calls[scheme] = partial(runner, inputs)
        if len(calls) < 2:
            return next(iter(calls), AS_WRITTEN)
        found = measure_latencies(calls, _TIMING)
        calls.clear()
        give_back()
        faster = found[TABLE].known < _MARGIN * found[AS_WRITTEN].known
        return TABLE if faster else AS_WRITTEN
