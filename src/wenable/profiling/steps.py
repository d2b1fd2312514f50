"""The steps of a run that may be killed: each is done once, and held against the device as it is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from wenable.core.journal import Journal
from wenable.core.readings import Reading
from wenable.profiling.drift import MOST_DRIFT

Report = Callable[[str], None]


class Steps:
    """Does the steps of a run by name; what an earlier, killed run did of them is in its journal.

    The device need not run as it did then. So each sitting, which is what one process does of a run,
    begins with timing the same network (`begin`). Where it took another time, by more than 15 %, in
    the sitting that a step belongs to, counted times are scaled by the ratio, readings of whole modes
    are measured again, and choices between what was measured side by side stand.

    - `journal`: where steps are kept; None to keep them nowhere.
    - `report`: told what a reader of the results has to know, once each.

    >>> steps = Steps()
    >>> steps.choose("scheme of 1/2", lambda: "merged"), steps.choose("scheme of 1/2", lambda: "whole")
    ('merged', 'merged')
    """

    def __init__(self, journal: Journal | None = None, report: Report = lambda event: None) -> None:
        self._journal, self._report = journal, report
        self._done: dict[str, tuple[Any, float | None]] = {}
        self._anchor_ms: float | None = None
        self.events: list[str] = []
        for entry in journal.entries if journal else ():
            if entry["kind"] == "anchor":
                self._anchor_ms = entry["ms"]
            elif entry["kind"] == "event":
                self.events.append(entry["text"])
            else:
                self._done[entry["name"]] = (entry["values"], self._anchor_ms)

    def begin(self, anchor_ms: float) -> None:
        """Begin a sitting in which the anchor takes so many ms."""
        last, self._anchor_ms = self._anchor_ms, anchor_ms
        self._append({"kind": "anchor", "ms": anchor_ms})
        if last is None or not self._done:
            return
        text = f"interrupted after {len(self._done)} measurements"
        change = anchor_ms / last - 1
        if abs(change) > MOST_DRIFT:
            words = "slower" if change > 0 else "faster"
            text += (
                f"; the device was {abs(change):.0%} {words} afterwards: whole modes were measured"
                " again, counted times scaled"
            )
        self.report(text)

    def report(self, event: str) -> None:
        """Keep what a reader of the results has to know."""
        if event not in self.events:  # a run that goes on comes by the same events again
            self.events.append(event)
            self._append({"kind": "event", "text": event})
            self._report(event)

    def count(self, name: str, measure: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Return times of parts of a network, by their names, in ms of the device as it is now."""
        values, drift = self._values(name, lambda: dict(measure()))
        scale = 1 / (1 + drift) if abs(drift) > MOST_DRIFT else 1.0
        return {part: ms * scale for part, ms in values.items()}

    def time(self, name: str, measure: Callable[[], Mapping[str, Reading]]) -> dict[str, Reading]:
        """Return the readings of whole modes, by their text, taken of the device as it is now."""

        def plain() -> dict[str, Any]:
            return {mode: asdict(reading) for mode, reading in measure().items()}

        values, drift = self._values(name, plain)
        if abs(drift) > MOST_DRIFT:
            del self._done[name]
            values, _ = self._values(name, plain)
        return {mode: Reading(**each) for mode, each in values.items()}

    def choose(self, name: str, measure: Callable[[], str]) -> str:
        """Return what was chosen; that stands, since it was measured beside what was not."""
        return self._values(name, measure)[0]

    def done(self, kind: str) -> int:
        """Return how many steps whose names begin so are done."""
        return sum(name.startswith(kind) for name in self._done)

    def _values(self, name: str, measure: Callable[[], Any]) -> tuple[Any, float]:
        """Return a step's values, and how much longer the anchor took in their sitting than now."""
        if name not in self._done:
            values = measure()
            self._append({"kind": "step", "name": name, "values": values})
            self._done[name] = (values, self._anchor_ms)
        values, then_ms = self._done[name]
        if then_ms is None or self._anchor_ms is None:
            return values, 0.0
        return values, then_ms / self._anchor_ms - 1

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.append(entry)
