"""Says whether a device profile is of a network, by what its modes compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wenable.core.space import Mode, Space
from wenable.network.dynamic_network import DynamicNetwork


def check_profile_of(net: DynamicNetwork, profile: Any) -> None:
    """Raise `ValueError` where a profile was measured of another network, or at another size of images.

    Networks of the same knobs look alike to a cost table: all that are as many widths, say. So the
    multiply-accumulates are compared, of each mode that both have.

    - `profile`: a `wenable.runtime.DeviceProfile`, or what has tables alone.
    """
    table = getattr(profile, "table", None)
    space = net.space if table is None else table.space
    for text, measured in getattr(profile, "macs", {}).items():
        mode = _mode_in(net, space, text)
        if mode is not None and measured != net.macs(mode):
            raise ValueError(
                f"`profile` is of another network, or of another size of images: its mode {text} has"
                f" {measured:,.0f} multiply-accumulates, that of this network {net.macs(mode):,}"
            )


def _mode_in(net: DynamicNetwork, space: Space, text: str) -> Mode | None:
    """Return the mode of a network that a text names in the space of a profile; None if it has none.

    A text may name another mode in the network's own space, where options were left out.
    """
    try:
        options: Mapping[str, int] = space.mode(text)
        switched = {name: n for name, n in options.items() if n > 1 or name in net.space.names}
        return net.space.mode({**net.space.full, **switched})
    except ValueError:
        return None
