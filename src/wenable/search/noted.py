"""What was found of modes so far, and what a journal knows of them from before."""

from __future__ import annotations

from dataclasses import asdict

from wenable.core.journal import Journal
from wenable.core.outcomes import Outcomes
from wenable.core.readings import Reading
from wenable.core.space import Mode, Space


class NotedEvaluations:
    """Modes' accuracies on the search split, and which images each had right, kept in a journal.

    - `journal`: is told of each; what it holds already is known from the start. None for no journal.
    """

    def __init__(self, space: Space, journal: Journal | None = None) -> None:
        self.journal = journal
        self.readings: dict[Mode, Reading] = {}
        self.outcomes: dict[Mode, Outcomes] = {}
        for entry in journal.entries if journal else ():
            if entry["kind"] == "evaluation":
                mode = space.mode(entry["mode"])
                self.readings[mode] = Reading(**entry["accuracy"])
                if "outcomes" in entry:  # journals of earlier versions lack them
                    self.outcomes[mode] = Outcomes.from_json(entry["outcomes"])

    def note(self, mode: Mode, reading: Reading, outcomes: Outcomes) -> None:
        """Take in what was found of a mode; where there is a journal, it is on the disk afterwards."""
        if self.journal is not None:
            total = reading.count
            self.journal.append(
                {
                    "kind": "evaluation", "mode": str(mode), "right": round(reading.known * total),
                    "total": total, "accuracy": asdict(reading), "outcomes": outcomes.to_json(),
                }
            )  # fmt: skip
        self.readings[mode], self.outcomes[mode] = reading, outcomes
