"""Several methods in one search space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from wenable.core.cost_table import CostTable
from wenable.graph import TracedGraph
from wenable.methods.depth import EarlyExits
from wenable.methods.image_size import ImageSize
from wenable.methods.laid_over import laid_over
from wenable.methods.plan import Method, Plan
from wenable.methods.precision import SwitchablePrecision
from wenable.methods.weight_enabling import WeightEnabling
from wenable.methods.width import Slimmable, UniversallySlimmable

NAME = "composition"
FEWEST_BITS = 8

# In the order in which plans are made and laid over each other. Exits come last: they give modules
# another class in place, which the others would not know.
_KINDS: dict[type, str] = {
    WeightEnabling: "groups",
    Slimmable: "widths",
    UniversallySlimmable: "widths",
    SwitchablePrecision: "precision",
    ImageSize: "sizes",
    EarlyExits: "exits",
}
_ORDER = tuple(dict.fromkeys(_KINDS.values()))
_UNSOUND: dict[frozenset[str], str] = {
    frozenset(
        ("groups", "widths")
    ): "groups are blocks of all neurons of a layer, and no layer here"
    " multiplies by the blocks of those that a width leaves",
}


@dataclass(frozen=True)
class Composition:
    """Several methods at once: a mode has an option of each, as `1/4,size=160,precision=8-bit`.

    This is what `convert` makes of a list of methods, in any order. These compose:

    - `ImageSize` with every other method;
    - `WeightEnabling` with `SwitchablePrecision` down to 8 bits, and with `EarlyExits`;
    - `Slimmable` and `UniversallySlimmable` with `SwitchablePrecision` down to 8 bits;
    - `Slimmable` and `UniversallySlimmable` with `EarlyExits`;
    - `SwitchablePrecision` with `EarlyExits`.

    The full mode gives the bits of the original. Norms have statistics for each whole mode, and an
    affine for each option of the groups, of the width, or of the precision where there are neither.
    Knobs of precision are called `precision`, or `precision.LAYER` if each layer has its own.

    Raises `ValueError` for fewer than two methods, two of one kind, and those that do not compose, with
    the reason; and when it meets a network, where one of them would, and for an exit at a layer that
    another method replaces.

    >>> both = Composition((WeightEnabling((1, 2, 4)), ImageSize((224, 160))))
    >>> both.to_json()["methods"][1]
    {'method': 'image-size', 'sizes': [224, 160]}
    """

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        parts = [part for method in self.methods for part in getattr(method, "parts", (method,))]
        object.__setattr__(self, "methods", tuple(parts))
        for place, method in enumerate(parts):
            if isinstance(method, type) or not callable(getattr(method, "plan", None)):
                raise ValueError(
                    f"`methods` holds {method!r}, which is no method; allowed: objects with a `plan`, as"
                    " wenable.WeightEnabling()"
                )
            for other in parts[:place]:
                _check_pair(other, method)
        if len(parts) < 2:
            raise ValueError(f"`methods` (={self.methods}) must hold at least two methods")

    @property
    def fits_bundle(self) -> bool:
        """Whether a bundle can hold its modes: those of every part."""
        return all(getattr(each, "fits_bundle", False) for each in self.methods)

    @property
    def parts(self) -> tuple[Method, ...]:
        """The methods, for a composition of which this one is a part."""
        return self.methods

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {"method": NAME, "methods": [method.to_json() for method in self.methods]}

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return what switches in a traced network: the plans of all methods, laid over each other.

        Raises `ValueError` where one of them would, and where two set the same module.
        """
        plans = {
            kind_of(each): each.plan(model, graph) for each in sorted(self.methods, key=_place)
        }
        # As its plan says, a method has everything in it that a file can keep.
        kept = tuple(plans[kind_of(each)].method for each in self.methods)
        return laid_over(plans, graph, replace(self, methods=kept))


def as_one(methods: Method | Sequence[Method] | None) -> Method:
    """Return the method that `convert` was given: one, a list of several, or none, for weight-enabling.

    >>> as_one([ImageSize((64, 48))]), as_one(None) == WeightEnabling()
    (ImageSize(sizes=(64, 48)), True)
    """
    if methods is None:
        return WeightEnabling()
    if not isinstance(methods, Sequence):
        return methods
    return methods[0] if len(methods) == 1 else Composition(tuple(methods))


def paying(method: Method, table: CostTable) -> Method:
    """Return a method without the options of groups that a device runs no faster than a coarser one.

    Raises `ValueError` for a method that has no groups.
    """
    if isinstance(method, WeightEnabling):
        return method.paying(table)
    if isinstance(method, Composition):
        parts = [p.paying(table) if isinstance(p, WeightEnabling) else p for p in method.methods]
        if tuple(parts) != method.methods:
            return replace(method, methods=tuple(parts))
    raise ValueError(
        f"`profile` says which groups of a layer pay; `method` ({type(method).__name__}) has no groups"
    )


def kind_of(method: Method) -> str:
    """Return what a method switches: `"groups"`, `"sizes"`; the name of the class for one of your own."""
    return _KINDS.get(type(method), type(method).__name__)


def _place(method: Method) -> int:
    kind = kind_of(method)
    return _ORDER.index(kind) if kind in _ORDER else -1


def _check_pair(one: Method, other: Method) -> None:
    names = f"{type(one).__name__} and {type(other).__name__}"
    kinds = frozenset((kind_of(one), kind_of(other)))
    if len(kinds) == 1:
        raise ValueError(f"`methods` holds {names}, two methods of one kind ({kind_of(one)})")
    if kinds in _UNSOUND:
        raise ValueError(f"`methods` holds {names}, which do not compose: {_UNSOUND[kinds]}")
    beside = kinds - {"precision"}
    if "precision" in kinds and beside <= {"groups", "widths"}:
        bits = next(each.bits for each in (one, other) if isinstance(each, SwitchablePrecision))
        if bits[-1] < FEWEST_BITS:
            raise ValueError(
                f"`methods` holds {names} with `bits` (={bits}) below {FEWEST_BITS}, where each precision"
                f" needs norms of its own, and the {min(beside)} have them here; allowed: 32, 16, 8"
            )
