"""Three parts of one data set that never mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Splits:
    """Three parts of one data set.

    - `train`: for weights and norm statistics; `search`: for choosing modes; `test`: for the
      figures that are reported, seen by neither.
    """

    train: Any
    search: Any
    test: Any
