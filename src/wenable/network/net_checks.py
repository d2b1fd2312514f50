"""What functions check of a network that they are given: that it is dynamic, and calibrated for a mode."""

from __future__ import annotations

import warnings

from wenable.core.space import Mode
from wenable.network.dynamic_network import DynamicNetwork, UncalibratedWarning
from wenable.network.recounting import replaced_said


def warn_if_uncalibrated(net: DynamicNetwork, mode: Mode, use: str) -> bool:
    """Warn where a mode is used for a figure or a file uncalibrated; return whether it is."""
    if net.is_calibrated(mode):
        return False
    warnings.warn(
        f"mode {mode} is {use} with norm statistics or input ranges that were never estimated for it (or"
        " for older weights); call wenable.calibrate(net, modes, batches) first",
        UncalibratedWarning,
        stacklevel=3,
    )
    return True


def check_dynamic(net: object) -> None:
    """Raise `ValueError` unless a network was converted and holds all that its knobs set.

    Where it holds them does not matter: a part may have been wrapped since. For a wrapped network it says
    what to pass instead.
    """
    if isinstance(net, DynamicNetwork):
        held = {id(module) for module in net.modules()}
        for name, own in sorted(net._wenable.plan.replacements.items()):
            if id(own) not in held:
                raise ValueError(replaced_said(name))
        return
    name = type(net).__name__
    for attribute in ("module", "_orig_mod"):
        if isinstance(getattr(net, attribute, None), DynamicNetwork):
            raise ValueError(
                f"`net` is a {name} around a dynamic network; pass the network itself:"
                f" `net.{attribute}`"
            )
    raise ValueError(f"`net` (a {name}) is no dynamic network; wenable.convert makes one")
