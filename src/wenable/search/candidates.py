"""Calibrates and evaluates modes that differ from one another in one knob, sharing what they share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from wenable.core.journal import Journal
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Point, Reading
from wenable.core.space import Mode
from wenable.layers.batch_norm import Moments, Statistics, SwitchableBatchNorm
from wenable.modules.batch_parts import inputs_alone, labelled
from wenable.modules.passes import call_network, device_of, in_eval_mode
from wenable.network.calibration import calibrate
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.evaluation import evaluate_each
from wenable.search.certain_errors import certainly_wrong, margins, rounding
from wenable.search.noted import NotedEvaluations
from wenable.search.prefix_reuse import EXAMPLES, Outputs, PrefixReuse
from wenable.search.recorded import RecordedModes, Source
from wenable.search.work import Work


class Candidates:
    """Calibrates and evaluates modes that differ from one another in few knobs.

    - `net`, `search_batches`, `calibration_batches`: as in `search_greedily`.
    - `cache_mb`: memory for outputs of layers, and as much again for images, in MiB.
    - `work`: is told what was computed; `journal`: is told every evaluation, and asked first.
    """

    def __init__(
        self,
        net: DynamicNetwork,
        search_batches: Iterable[Any],
        calibration_batches: Iterable[Any],
        cache_mb: float,
        work: Work,
        journal: Journal | None = None,
    ) -> None:
        self.net, self.search, self.calibration = net, search_batches, calibration_batches
        self.work, self.journal, self.device = work, journal, device_of(net)
        self.before = set(net.calibrated_modes)
        self.calibrated: set[Mode] = set()
        self.reuse = PrefixReuse(net, cache_mb)
        self.recorded = RecordedModes(self.reuse)
        work.add("trial", net.macs("full"), EXAMPLES * (1 + self.reuse.passes))
        self.labels: torch.Tensor | None = None
        self.margins: dict[Mode, torch.Tensor] = {}
        self.images: tuple[torch.Tensor, ...] | None = None
        self.held = torch.empty(0, dtype=torch.long)
        self.noted = NotedEvaluations(net.space, journal)

    # --- evaluation on all images -----------------------------------------------------------------

    def evaluate(self, mode: Mode, source: Source | None = None) -> Reading:
        """Return the accuracy on the search split as `wenable.evaluate` gives it, or the journal.

        - `source`: a mode that was evaluated, and the one knob in which this one differs from it.
        """
        if mode in self.noted.readings:
            return self.noted.readings[mode]
        reading, outcomes, self.margins[mode] = self._evaluate(mode, source)
        self.noted.note(mode, reading, outcomes)
        return reading

    def margins_of(self, mode: Mode) -> torch.Tensor:
        """Return by how much each label is ahead of the best other class, shape `(images,)`."""
        if mode not in self.margins:
            *_, self.margins[mode] = self._evaluate(mode)
        return self.margins[mode]

    def errors_in(self, reading: Reading) -> int:
        """Return how many images an accuracy leaves wrong."""
        return reading.count - round(reading.known * reading.count)

    def _evaluate(
        self, mode: Mode, source: Source | None = None
    ) -> tuple[Reading, Outcomes, torch.Tensor]:
        self.calibrate([mode])
        labels, outputs = list[torch.Tensor](), list[torch.Tensor]()
        used = source if self._share(mode, source) else None
        running = ExitStack()

        def watched() -> Iterator[Any]:
            for number, batch in enumerate(self.search):
                labels.append(labelled(batch, self.net)[1])
                running.close()
                running.enter_context(self.recorded.running(mode, number, used))
                yield batch
            running.close()

        handle = self.net.register_forward_hook(lambda *given: outputs.append(given[-1].cpu()))
        try:
            with running:
                reading, outcomes = evaluate_each(
                    self.net, mode, watched(), split="the search split"
                )
        finally:
            handle.remove()
        macs = self.reuse.macs(mode, used.knob if used else None, self.recorded.images)
        self.work.add("evaluation", macs, reading.count)
        self._check_order(torch.cat(labels).cpu())
        self.recorded.use_batches([len(each) for each in labels])
        ahead = torch.cat([margins(*pair) for pair in zip(outputs, labels, strict=True)])
        return reading, outcomes, ahead

    def _share(self, mode: Mode, source: Source | None) -> bool:
        """Say whether a mode's layers give what a source's gave, up to the knob in which they differ.

        What was calibrated before this search, maybe on other images, shares nothing.
        """
        if not self.recorded.has(source):
            return False
        assert source is not None
        return not self.net.switchable_norms() or {mode, source.mode} <= self.calibrated

    def _check_order(self, labels: torch.Tensor) -> None:
        if self.labels is None:
            self.labels = labels
        if not torch.equal(self.labels, labels):
            raise ValueError(
                "`search_batches` came in another order than before; the images of a search have to"
                " be the same in the same order each time: pass a loader that does not shuffle"
            )

    # --- calibration ------------------------------------------------------------------------------

    def calibrate(self, modes: Sequence[Mode]) -> None:
        """Calibrate modes as `wenable.calibrate` does, unless they were before; bit for bit."""
        for mode in modes:
            if mode in self.before | self.calibrated:
                continue
            calibrate(self.net, mode, self.calibration)
            self.calibrated.add(mode)
            kept = self.net.calibration(mode)
            images = kept.images if kept and kept.images else 0
            self.work.add("calibration", self.net.macs(mode), images)

    def calibrate_neighbours(self, knobs: Mapping[Mode, str]) -> None:
        """Calibrate modes that differ from one common mode in one knob each, as `calibrate` does.

        Before the first layer of its knob, the norms of each see what those of the others see.
        """
        new = {m: knob for m, knob in knobs.items() if m not in self.before | self.calibrated}
        norms, images = self.net.switchable_norms(), 0
        # Ranges that were never seen have to be learned too, which `calibrate` does.
        if len(new) < 2 or not norms or not all(map(self.net.knows_input_ranges, new)):
            self.calibrate(list(new))
            return
        moments = {mode: {name: Moments() for name in norms} for mode in new}
        leader = self._leader(new)
        with in_eval_mode(self.net), torch.no_grad():
            for batch in self.calibration:
                x = inputs_alone(batch, self.net)
                images += _length(x)
                for mode, knob, running in self._sharing(new, _length(x), "calibration"):
                    own = mode == leader
                    shared = () if own else self.reuse.cut(knob, _length(x)).norms
                    with running, _collecting(norms, moments[mode], shared):
                        call_network(self.net, x, self.device)
        for mode, knob in new.items():
            with self.net.using(mode):
                statistics = {}
                for name, norm in norms.items():
                    theirs = moments[mode][name]
                    if not theirs.count and mode != leader:
                        shared = name in self.reuse.cut(knob, EXAMPLES).norms
                        theirs = moments[leader][name] if shared else theirs
                    statistics[name] = _statistics(norm, theirs)
            self.net.store_calibration(mode, statistics, images)
        self.calibrated.update(new)

    def _leader(self, knobs: Mapping[Mode, str]) -> Mode:
        """Return the mode whose knob is the last to run: what runs before it serves all others."""
        return max(knobs, key=lambda mode: self.reuse.start(knobs[mode]))

    def _sharing(
        self, knobs: Mapping[Mode, str], images: int, purpose: str
    ) -> Iterator[tuple[Mode, str, ExitStack]]:
        """Go through modes, the leader first; each with what to enter for a pass on one batch."""
        leader = self._leader(knobs)
        others = {mode: knob for mode, knob in knobs.items() if mode != leader}
        outputs: dict[str, torch.Tensor] = {}
        for mode, knob in {leader: knobs[leader], **others}.items():
            running = ExitStack()
            running.enter_context(self.net.using(mode))
            if mode == leader:
                recording = self.reuse.recording(images, list(others.values()))
                outputs = running.enter_context(recording)
            else:
                running.enter_context(self.reuse.replaying(knob, outputs, images))
            macs = self.reuse.macs(mode, None if mode == leader else knob, images)
            self.work.add(purpose, macs, images)
            yield mode, knob, running

    def forget_all_but(self, keep: set[Mode]) -> None:
        """Drop the statistics of modes that this search calibrated, but for these."""
        self.net.forget_calibrations(self.calibrated - keep)
        self.calibrated &= keep
        self.margins = {mode: each for mode, each in self.margins.items() if mode in keep}

    def note_step(
        self, taken: Point, evaluated: Sequence[Point], excess: Mapping[str, int]
    ) -> None:
        """Tell the journal how a step was decided, once it is."""
        if self.journal is not None:
            self.journal.append(
                {
                    "kind": "step", "mode": str(taken.mode), "cost": taken.cost.known,
                    "evaluated": [str(point.mode) for point in evaluated], "excess": dict(excess),
                }
            )  # fmt: skip

    # --- looks at the hardest images --------------------------------------------------------------

    def hardest_first(self, margins: torch.Tensor) -> torch.Tensor:
        """Return the indices of the images that are held, by their margin in some mode."""
        if self.images is None:
            self._hold_the_hardest(margins)
        return self.held[torch.sort(margins[self.held], stable=True).indices]

    def certain_errors(
        self, knobs: Mapping[Mode, str], indices: torch.Tensor, stand: Mode | None = None
    ) -> list[int]:
        """Return for each mode how many of these images it is certain to have wrong.

        - `knobs`: mode -> the one knob in which it differs from a mode common to all.
        - `stand`: that mode, where it was evaluated.
        """
        assert self.images is not None
        assert self.labels is not None
        self.calibrate_neighbours(knobs)
        rows = torch.searchsorted(self.held, indices)
        inputs = tuple(each[rows] for each in self.images)
        labels, found = self.labels[indices], dict[Mode, int]()
        # What was calibrated before, maybe on other images, shares nothing but the options.
        alone = {mode: knob for mode, knob in knobs.items() if mode in self.before}
        together = {mode: knob for mode, knob in knobs.items() if mode not in self.before}
        with in_eval_mode(self.net), torch.inference_mode():
            for group in (*({mode: knob} for mode, knob in alone.items()), together):
                if not group:
                    continue
                known = self._known_rows(group, indices, stand)
                if known is not None:
                    found |= self._check(group, inputs, labels, known)
                    continue
                for mode, _, running in self._sharing(group, len(indices), "looks"):
                    with running:
                        outputs, _ = call_network(self.net, inputs, self.device)
                    found[mode] = certainly_wrong(outputs, labels)
        return [found[mode] for mode in knobs]

    def _known_rows(
        self, knobs: Mapping[Mode, str], indices: torch.Tensor, stand: Mode | None
    ) -> dict[str, tuple[Outputs, torch.Tensor]] | None:
        """Return for each knob what the common mode gave for these images, if that saves work."""
        if stand is None:
            return None
        sources = {mode: Source(stand, knob) for mode, knob in knobs.items()}
        if not all(self._share(mode, source) for mode, source in sources.items()):
            return None
        leader, images = self._leader(knobs), self.recorded.images
        alone = sum(self.reuse.macs(mode, knob, images) for mode, knob in knobs.items())
        together = sum(
            self.reuse.macs(mode, None if mode == leader else knob, len(indices))
            for mode, knob in knobs.items()
        )
        if alone > together:
            return None
        rows = {each.knob: self.recorded.some(each, indices) for each in sources.values()}
        known = {knob: each for knob, each in rows.items() if each is not None}
        return known if len(known) == len(rows) else None

    def _check(
        self,
        knobs: Mapping[Mode, str],
        inputs: tuple[torch.Tensor, ...],
        labels: torch.Tensor,
        known: Mapping[str, tuple[Outputs, torch.Tensor]],
    ) -> dict[Mode, int]:
        found, images = dict[Mode, int](), self.recorded.images
        for mode, knob in knobs.items():
            outputs, order = known[knob]
            ordered = tuple(each[order] for each in inputs)
            with self.net.using(mode), self.reuse.replaying(knob, outputs, images):
                answers, _ = call_network(self.net, ordered, self.device)
            found[mode] = certainly_wrong(answers, labels[order])
            self.work.add("looks", self.reuse.macs(mode, knob, images), len(order))
        return found

    def _hold_the_hardest(self, margins: torch.Tensor) -> None:
        """Keep as many of the hardest images as fit, so that they can be had in any order."""
        self.images = ()
        size = next(
            sum(each[0].nbytes for each in inputs_alone(batch, self.net)) for batch in self.search
        )
        fit = int(self.reuse.cache_mb * 2**20 / max(size, 1))
        chosen = torch.sort(margins, stable=True).indices[:fit].sort().values
        parts, start = list[tuple[torch.Tensor, ...]](), 0
        for batch in self.search:
            inputs = inputs_alone(batch, self.net)
            end = start + len(inputs[0])
            rows = chosen[(chosen >= start) & (chosen < end)] - start
            parts.append(tuple(each.cpu()[rows] for each in inputs))
            start = end
        self.images = tuple(torch.cat(each) for each in zip(*parts, strict=True))
        self.held = chosen if self._batches_do_not_matter() else chosen[:0]

    def _batches_do_not_matter(self) -> bool:
        """Say whether an image's answer is the same, but for rounding, in batches of other sizes."""
        assert self.images is not None
        several = tuple(each[:16] for each in self.images)
        if not len(several[0]):
            return False
        with in_eval_mode(self.net), torch.inference_mode():
            together, count = call_network(self.net, several, self.device)
            alone, _ = call_network(self.net, tuple(x[:1] for x in several), self.device)
        self.work.add("looks", self.net.macs(), count + 1)
        allowed = rounding(together[:1]) / 4
        return bool(((together[:1] - alone).abs().amax(1) <= allowed).all())


@contextmanager
def _collecting(
    norms: Mapping[str, SwitchableBatchNorm],
    moments: Mapping[str, Moments],
    shared: Iterable[str],
) -> Iterator[None]:
    """Let norms add to `moments` what they see; what the shared ones see again is not added."""
    shared = set(shared)
    for name, norm in norms.items():
        norm.collecting = Moments() if name in shared else moments[name]
    try:
        yield
    finally:
        for norm in norms.values():
            norm.collecting = None


def _statistics(norm: SwitchableBatchNorm, seen: Moments) -> Statistics:
    present = norm.present_statistics()
    # A norm that no input reaches keeps what it has, as in `calibrate`.
    return seen.statistics(present.mean.dtype) if seen.count else present


def _length(x: Any) -> int:
    return len(x[0] if isinstance(x, tuple) else x)
