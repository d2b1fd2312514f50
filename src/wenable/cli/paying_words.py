"""What `--profile` left out of a network, in a line."""

from __future__ import annotations

from wenable.network.dynamic_network import DynamicNetwork
from wenable.runtime.device_profile import DeviceProfile


def left_out_line(net: DynamicNetwork, profile: DeviceProfile) -> str:
    """Return how many options a profile took away from a network that was converted with it."""
    assert profile.table is not None  # or `convert` had refused it
    measured = profile.table.space.knobs
    kept = {knob.name: knob.options for knob in net.space.knobs}
    gone = sum(len({*knob.options}.difference(kept.get(knob.name, (1,)))) for knob in measured)
    whole = sum(knob.name not in kept for knob in measured)
    return (
        f"profile of {profile.device}, {profile.engine}: {gone} of"
        f" {sum(len(knob.options) - 1 for knob in measured)} options are no faster than coarser ones and"
        f" left out; {whole} of {len(measured)} layers are always whole"
    )
