"""The parts of a bundle's space in which modes differ in groups alone, and what they are built from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from wenable.core.cost_parts import missing_parts, places
from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.core.space import Mode, Space
from wenable.runtime.bundle import Bundle


@dataclass(frozen=True)
class Part:
    """The modes of one image size, width, exit and precision, as far as a network switches these.

    - `number`: of an exported mode of the part. Its graph and its views are those of all of them.
    """

    bundle: Bundle
    number: int = 0

    @cached_property
    def space(self) -> Space:
        """The part of the bundle's space (`Space.fixed`)."""
        mode = self.bundle.modes[self.number].mode
        return self.bundle.space.fixed(
            {name: mode[name] for name in self.bundle.knobs_beside_groups}
        )

    @property
    def full(self) -> Mode:
        """The mode of the part with all layers whole, in the space of the bundle."""
        return self.whole(self.space.full)

    @property
    def words(self) -> str:
        """What tells the part from others, for the names of measurements; "" if it is the only one."""
        return f" at {self.full}" if self.bundle.knobs_beside_groups else ""

    def whole(self, mode: Mode) -> Mode:
        """Return a mode of the part as one of the bundle's space."""
        return self.bundle.space.mode(dict(mode))

    def __contains__(self, mode: Mode) -> bool:
        """Say whether a mode of the bundle's space is one of the part."""
        own = self.bundle.modes[self.number].mode
        return all(mode[name] == own[name] for name in self.bundle.knobs_beside_groups)

    def table(self, reading: Reading) -> CostTable:
        """Return the table of a part with one mode: what was measured of that."""
        costs = {knob.name: dict.fromkeys(knob.options, 0.0) for knob in self.space.knobs}
        source = f"measured as a whole: {reading.source}"
        return CostTable(self.space, reading.unit, reading.known, costs, source, reading.device)


def parts_of(bundle: Bundle) -> tuple[Part, ...]:
    """Return the parts of which a bundle holds a mode, the costliest first.

    What it holds no mode of cannot be built from it, and is not measured. A bundle of several networks
    has no parts: no search goes over several networks.
    """
    if bundle.networks:
        return ()
    found: dict[tuple[int, ...], Part] = {}
    for number in range(len(bundle.modes)):
        part = Part(bundle, number)
        found.setdefault(part.full.options, part)
    return tuple(found[options] for options in sorted(found, key=partial(places, bundle.space)))


def parts_without_modes(bundle: Bundle, parts: Sequence[Part], most: int = 4) -> str:
    """Return the full modes of the parts of which a bundle holds no mode, as text; "" if it lacks none.

    - `most`: how many are named.
    """
    names, space = bundle.knobs_beside_groups, bundle.space
    count = math.prod(len(space.knobs[space.position(name)].options) for name in names) - len(parts)
    first = missing_parts(space, names, [part.full for part in parts], most)
    return ", ".join(first) + (f" and {count - len(first)} more" if count > len(first) else "")
