"""Shares the time of a network's operations, as an engine counted them, out among its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wenable.runtime.building import BuiltModel
from wenable.runtime.engine import OperationTime

REST = ""
"""In the place of a layer: what ran before any switchable layer."""


def times_of_layers(built: BuiltModel, operations: Sequence[OperationTime]) -> dict[str, float]:
    """Return switchable layer -> the time in ms of all that its implementation brings with it.

    That is the layer itself, its shuffle, the changes of layout around it, and what follows it up to
    the next layer: an engine may fuse that into the layer, or not, as the layer is executed. All
    times together are the sum of the operations'; `REST` is what no layer brought.

    - `operations`: in the order in which they ran.
    """
    brought = _brought_by(built)
    owners: list[str | None] = []
    done: set[str] = set()
    for operation in operations:
        owner = _owner(operation, built.layer_of, brought, done)
        owners.append(owner)
        if owner and operation.computes:
            done.add(owner)
    times = dict.fromkeys([REST, *built.layer_of.values()], 0.0)
    for number, operation in enumerate(operations):
        times[_known_owner(owners, number, built.layer_of, operations)] += operation.ms
    return times


def _brought_by(built: BuiltModel) -> dict[str, tuple[str, ...]]:
    """Return value -> the layers whose implementation may include it, the last to run at the end."""
    found: dict[str, tuple[str, ...]] = {}
    order = {layer: place for place, layer in enumerate(dict.fromkeys(built.layer_of.values()))}
    for node in built.nodes:
        for value in node.outputs:
            if value in built.layer_of:
                found[value] = (built.layer_of[value],)
            else:
                before = {layer for name in node.inputs for layer in found.get(name, ())}
                found[value] = tuple(sorted(before, key=order.__getitem__))
    return found


def _owner(
    operation: OperationTime,
    layer_of: Mapping[str, str],
    brought: Mapping[str, tuple[str, ...]],
    done: set[str],
) -> str | None:
    """Return the layer that an operation belongs to, `REST`, or None where its names do not tell."""
    own = [layer_of[name] for name in operation.names if name in layer_of]
    if own:
        return own[0]
    known = [brought[name] for name in operation.names if name in brought]
    if not known:
        return None
    layers = known[0]
    if operation.computes:  # it was fused with what follows it, and has that one's name
        layers = tuple(each for each in layers if each not in done) or layers
    return layers[-1] if layers else REST


def _known_owner(
    owners: Sequence[str | None],
    number: int,
    layer_of: Mapping[str, str],
    operations: Sequence[OperationTime],
) -> str:
    """Return the owner; of a change of layout that of what it is for, or else of what it came from."""
    own = owners[number]
    if own is not None:
        return own
    after = next((place for place in range(number, len(owners)) if owners[place] is not None), None)
    if after is not None and any(name in layer_of for name in operations[after].names):
        return owners[after] or REST
    before = [owner for owner in owners[:number] if owner is not None]
    return before[-1] if before else REST
