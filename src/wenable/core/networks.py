"""Several networks in one space: a knob says which of them runs, and each other knob belongs to one.

The knob is called `network`, and its options are the networks, the most costly one first. The name of
every other knob begins with that of its network, as `little/conv1`, and within its network a knob is
known by the rest. A mode runs one network, so the knobs of the others stand at their first option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wenable.core.knob import Knob

NETWORK = "network"


def in_network(name: str, network: str) -> str:
    """Return how something of one network is called beside the other networks.

    >>> in_network("conv1", "little")
    'little/conv1'
    """
    return f"{network}/{name}"


def joined_knobs(networks: Mapping[str, Sequence[Knob]]) -> tuple[Knob, ...]:
    """Return the knobs of several networks together; `networks`: name -> knobs, most costly first.

    >>> joined = joined_knobs({"big": [Knob("a", (1, 2))], "little": [Knob("a", (1,))]})
    >>> [knob.name for knob in joined], joined[0].labels
    (['network', 'big/a', 'little/a'], ('big', 'little'))
    """
    names = tuple(networks)
    first = Knob(NETWORK, tuple(range(1, len(names) + 1)), labels=names, by_name=True)
    others = (
        replace(knob, name=in_network(knob.name, name), network=name)
        for name, knobs in networks.items()
        for knob in knobs
    )
    return (first, *others)


def places_of_networks(knobs: Sequence[Knob]) -> dict[str, tuple[int, ...]]:
    """Return network -> the places of its knobs; nothing where the knobs are those of one network.

    Raises `ValueError` for knobs of networks that no first knob `network` names, a network without
    knobs, and a knob among others that belongs to none, or that is not called by its network.
    """
    if not any(knob.network for knob in knobs):
        return {}
    first, *others = knobs
    if first.name != NETWORK or not first.labels or first.network:
        raise ValueError(
            f"the knob {others[0].name if others else first.name!r} belongs to one of several networks,"
            f" and the first knob is {first.name!r}, not {NETWORK!r} with their names"
        )
    places: dict[str, list[int]] = {name: [] for name in first.labels}
    for place, knob in enumerate(others, 1):
        if knob.network not in places:
            raise ValueError(
                f"the knob {knob.name!r} belongs to the network {knob.network!r}; allowed:"
                f" {', '.join(places)}"
            )
        if not knob.name.startswith(in_network("", knob.network)):
            raise ValueError(
                f"the knob {knob.name!r} of the network {knob.network!r} must be called"
                f" {in_network('NAME', knob.network)!r}"
            )
        places[knob.network].append(place)
    bare = [name for name, found in places.items() if not found]
    if bare:
        raise ValueError(f"the network {bare[0]!r} has no knob")
    return {name: tuple(found) for name, found in places.items()}


def own_knob(knob: Knob) -> Knob:
    """Return a knob as it is within its network."""
    return replace(knob, name=knob.name.removeprefix(in_network("", knob.network)), network="")


def split_network(text: str) -> tuple[str, str]:
    """Return the network that a mode's text names, "" for none, and what it says within the network.

    >>> split_network("network=little,1/4,size=160"), split_network("1/4")
    (('little', '1/4,size=160'), ('', '1/4'))
    """
    name, rest = "", []
    for part in text.split(","):
        key, named, value = (each.strip() for each in part.partition("="))
        if key == NETWORK and named and not name:
            name = value
        else:
            rest.append(part.strip())
    return name, ",".join(rest)


def with_network(name: str, text: str, *, full: bool) -> str:
    """Return the text of a mode of one network; `full`: whether it is that network's full mode.

    >>> with_network("big", "1/4", full=False), with_network("big", "1", full=True)
    ('network=big,1/4', 'network=big')
    """
    return f"{NETWORK}={name}" if full else f"{NETWORK}={name},{text}"
