"""Says whether a device profile is of a network, by what its full mode computes."""

from __future__ import annotations

from typing import Any

from wenable.network.dynamic_network import DynamicNetwork


def check_profile_of(net: DynamicNetwork, profile: Any) -> None:
    """Raise `ValueError` where a profile was measured of another network, or at another size of images.

    Networks of the same knobs look alike to a cost table: all that are as many widths, say. So the
    multiply-accumulates of the full mode are compared, where the profile has them.

    - `profile`: a `wenable.runtime.DeviceProfile`, or what has tables alone.
    """
    full = str(net.space.full)
    measured, own = getattr(profile, "macs", {}).get(full), net.macs("full")
    if measured is not None and measured != own:
        raise ValueError(
            f"`profile` is of another network, or of another size of images: its mode {full} has"
            f" {measured:,.0f} multiply-accumulates, that of this network {own:,}"
        )
