"""The modes of a session that are held ready to run one after another."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from wenable.runtime.building import build, choose_each
from wenable.runtime.bundle import Bundle
from wenable.runtime.controller import Controller
from wenable.runtime.decisions import ModeFigures
from wenable.runtime.engine import Engine
from wenable.runtime.forking import no_fork_meanwhile
from wenable.runtime.image_sizes import with_smaller_images
from wenable.runtime.implementations import as_written
from wenable.runtime.prepared import PreparedModes
from wenable.runtime.stages import Part, Run, StageModel, parts_of


@dataclass(frozen=True)
class ReadyStages:
    """Modes that can run one after another without further ado.

    - `modes`: their numbers; `parts`: what each adds to those before it; `runs`: what runs it.
    - `shrinks`: whether a smaller batch may be run than the one before.
    """

    modes: tuple[int, ...]
    parts: Sequence[Part]
    runs: Sequence[Run]
    shrinks: bool


class StagesOfSession:
    """Prepares the parts of modes at their first use, and keeps them.

    - `whole`: the modes as they are, where these are run; they share nothing then.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        whole: PreparedModes | None,
    ) -> None:
        self._bundle, self._engine, self._whole = bundle, engine, whole
        self.forget()

    def forget(self) -> None:
        """Drop all, as a closed session and a forked process have to."""
        self._lock = threading.Lock()
        self._parts: dict[tuple[int, ...], Sequence[Part]] = {}
        self._ready: dict[tuple[tuple[int, ...], int], ReadyStages] = {}
        self._controllers: dict[
            tuple[tuple[int, ...], int], tuple[tuple[ModeFigures, ...], Controller]
        ] = {}

    @property
    def run_whole(self) -> bool:
        """Whether each mode runs by itself, as it does for a request of its own."""
        return self._whole is not None

    def controller(self, stages: ReadyStages, batch: int, of_modes: Controller) -> Controller:
        """Return what learns how fast stages run, made at their first use of this size of batch.

        It begins by the figures of the modes, and begins anew where these are replaced by measured ones.
        """
        key, modes = (stages.modes, batch), of_modes.modes
        with self._lock:
            made_of, found = self._controllers.get(key, (modes, None))
            if found is None:
                found = Controller(figures_of_stages(stages, modes), target=of_modes.target)
            elif made_of is not modes:
                found.replace(figures_of_stages(stages, modes))
            self._controllers[key] = modes, found
            return found

    def are_ready(self, numbers: tuple[int, ...], batch: int) -> bool:
        """Say whether these modes can run one after another without being prepared first."""
        return (numbers, self._size(batch)) in self._ready

    def of(self, numbers: tuple[int, ...], batch: int) -> ReadyStages:
        """Return these modes ready to run; raises what the engine raises."""
        key = numbers, self._size(batch)
        with self._lock:  # two threads that want the same prepare it once
            if key not in self._ready:
                parts = self._parts_of(numbers)
                with no_fork_meanwhile():
                    runs = [self._run(*each, batch) for each in zip(numbers, parts, strict=True)]
                # An engine that prepares a mode for each size of batch would do so on the way.
                self._ready[key] = ReadyStages(numbers, parts, runs, not self._engine.per_batch)
            return self._ready[key]

    def _size(self, batch: int) -> int:
        return batch if self._engine.per_batch and self._whole is None else 0

    def _parts_of(self, numbers: tuple[int, ...]) -> Sequence[Part]:
        if numbers not in self._parts:
            models = [_model(self._bundle, number) for number in numbers]
            shared = self._whole is None
            self._parts[numbers] = (
                parts_of(models) if shared else [parts_of([each])[0] for each in models]
            )
        return self._parts[numbers]

    def _run(self, number: int, part: Part, batch: int) -> Run:
        if (whole := self._whole) is not None:
            if whole.fits(number, batch):  # without dropping another, which may be a stage too
                whole.leave(whole.take(number, batch))
            return lambda inputs: whole.call(number, len(next(iter(inputs.values()))), inputs)
        runner = self._engine.prepare(part.model(), *([batch] if self._engine.per_batch else []))
        own = {each.name: each for each in part.inputs}
        images = [each for each in self._bundle.inputs if each.name in own]
        return with_smaller_images(runner, images, [own[each.name] for each in images])


def figures_of_stages(stages: ReadyStages, modes: Sequence[ModeFigures]) -> list[ModeFigures]:
    """Return what each stage takes, as far as the modes tell: as large a part of it as of its work."""
    return [
        ModeFigures(modes[number].name, None, max(part.share, 0.001) * modes[number].latency_ms)
        for number, part in zip(stages.modes, stages.parts, strict=True)
    ]


def _model(bundle: Bundle, number: int) -> StageModel:
    """Return the model of a mode as written, so that what modes have in common looks the same."""
    graph, weights = bundle.graph_of(number), bundle.weights_of(number)
    ways = choose_each(bundle.layers, weights.options, as_written)
    built = build(graph, bundle.layers, weights, ways)
    return StageModel(graph.inputs, graph.outputs, built.nodes, built.tensors, graph.opset)
