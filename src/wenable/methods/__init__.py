"""One file per way to make a network dynamic: the rows of the paper's Table I, and more."""

from collections.abc import Mapping
from typing import Any

from wenable.methods.composition import NAME as COMPOSITION
from wenable.methods.composition import Composition as Composition
from wenable.methods.depth import EarlyExits as EarlyExits
from wenable.methods.image_size import ImageSize as ImageSize
from wenable.methods.plan import Method as Method
from wenable.methods.precision import SwitchablePrecision as SwitchablePrecision
from wenable.methods.static import Static as Static
from wenable.methods.weight_enabling import WeightEnabling as WeightEnabling
from wenable.methods.weight_enabling_with_precision import (
    WeightEnablingWithPrecision as WeightEnablingWithPrecision,
)
from wenable.methods.width import Slimmable as Slimmable
from wenable.methods.width import UniversallySlimmable as UniversallySlimmable

_BY_NAME = {
    "weight-enabling": WeightEnabling,
    "precision": SwitchablePrecision,
    "weight-enabling-with-precision": WeightEnablingWithPrecision,
    "early-exits": EarlyExits,
    "image-size": ImageSize,
    "slimmable": Slimmable,
    "static": Static,
    "universally-slimmable": UniversallySlimmable,
}


def method_from_json(values: Mapping[str, Any]) -> Method:
    """Return the method that its `to_json` wrote; raises `ValueError` for one that is unknown.

    >>> method_from_json(WeightEnabling((1, 2)).to_json()).groups
    (1, 2)
    """
    name = values.get("method")
    if name == COMPOSITION:
        if not isinstance(values.get("methods"), list):
            raise ValueError(
                "`values` is not the JSON form of the method: it has no list of `methods`"
            )
        return Composition(tuple(map(method_from_json, values["methods"])))
    if name not in _BY_NAME:
        allowed = ", ".join(map(repr, _BY_NAME))
        raise ValueError(f"`method` (={name!r}) is unknown to this version; allowed: {allowed}")
    return _BY_NAME[name].from_json(values)
