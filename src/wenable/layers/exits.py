"""Early exits: modules behind which a forward pass can end, with an answer of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from wenable.core.entries import Entries, count_of
from wenable.core.views import View
from wenable.layers.enabled import enabled, mark

KNOB = "exit"
"""The knob that says where a pass ends; its option 1 is the end of the network."""
HEAD = "exit_head"
"""What the branch is called in a network that was cut off at an exit."""
NAMES_IN_HEAD = {"2.weight": "exit_weight", "2.bias": "exit_bias"}
"""The parameters of `exit_head`, and those of the exit that they are copies of."""


class ExitReached(Exception):  # noqa: N818 - not an error: it ends a forward pass, with an answer
    """Ends a forward pass at an exit. `DynamicNetwork.forward` returns its `outputs`.

    The rest of the network is not run, whatever its forward does: no other way out of the middle of
    a forward pass works for every network.
    """

    def __init__(self, outputs: torch.Tensor) -> None:
        super().__init__("a forward pass ended at an exit; run the network, not a part of it")
        self.outputs = outputs


class ExitPoint(nn.Module):
    """What `with_exit` adds to the class of a module: a side branch on its output.

    The branch averages over positions and multiplies by one weight. Its parameters are those of the
    module itself and no child of it: a `Sequential` would run a child.
    """

    exit_weight: nn.Parameter
    exit_bias: nn.Parameter
    exit_option: int
    exit_channels: Entries
    exit_widths: Mapping[int, Entries]
    stops: bool
    listener: Any

    def set_option(self, n: int) -> None:
        """End forward passes here in option `exit_option`, and pass on in any other."""
        self.__dict__["stops"] = n == self.exit_option

    def narrow_exit(self, widths: Mapping[int, Entries]) -> None:
        """Say which channels the module writes in each option of a width, the widest first."""
        self.__dict__["exit_widths"] = dict(widths)

    def set_exit_width(self, n: int) -> None:
        """Let the branch read the channels of the `n`-th width: the same columns of its weight."""
        self.__dict__["exit_channels"] = self.exit_widths[n]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; where the mode says so, end the pass with the branch's answer."""
        output = super().forward(*args, **kwargs)
        if self.stops:
            raise ExitReached(self.exit_outputs(output))
        return output if self.listener is None else self.listener(self, output)

    def exit_outputs(self, features: torch.Tensor) -> torch.Tensor:
        """Return the branch's answer, shape `(N, classes)`."""
        return nn.functional.linear(pooled(features), self.exit_enabled(), self.exit_bias)

    def exit_enabled(self) -> torch.Tensor:
        """Return the weight of the branch for the channels of the present width."""
        return enabled(self.exit_weight, 1, self.exit_channels)

    def enabled_entries(self) -> dict[str, torch.Tensor]:
        """Return for each parameter of the branch which of its entries the present width uses."""
        weight = torch.zeros_like(self.exit_weight, dtype=torch.bool)
        mark(weight, len(weight), self.exit_channels)
        return {
            "exit_weight": weight,
            "exit_bias": torch.ones_like(self.exit_bias, dtype=torch.bool),
        }

    def exit_views(self) -> Mapping[str, View]:
        """Return the part of the branch that the present width uses; nothing for the widest."""
        whole = count_of(self.exit_channels) == self.exit_weight.shape[1]
        return {} if whole else {"exit_weight": View(columns=self.exit_channels)}

    def exit_head(self) -> nn.Sequential:
        """Return the branch of standard torch layers, with weights of its own."""
        classes, channels = self.exit_enabled().shape
        place = {"device": self.exit_weight.device, "dtype": self.exit_weight.dtype}
        linear = skip_init(nn.Linear, channels, classes, **place)
        with torch.no_grad():
            linear.get_parameter("weight").copy_(self.exit_enabled())
            linear.get_parameter("bias").copy_(self.exit_bias)
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).train(self.training)


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Return the mean over positions of maps `(N, channels, H, W)`, shape `(N, channels)`."""
    return nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)


def with_exit(
    module: nn.Module,
    channels: int,
    classes: int,
    option: int,
    like: torch.Tensor | None = None,
) -> nn.Module:
    """Give a module an exit behind it, in place, and return it.

    - `channels`: of its output; `classes`: of the network's.
    - `option`: the option of the knob that ends a pass here.
    - `like`: a tensor of the type and on the device of the branch where the module has no weights.

    The module keeps its class, as a base of its new one, and the names of its parameters; the new
    ones are `exit_weight` and `exit_bias`, which start as those of a new `torch.nn.Linear`.

    >>> block = with_exit(nn.Sequential(nn.Conv2d(3, 8, 3)), 8, 5, option=2)
    >>> block(torch.ones(1, 3, 6, 6)).shape
    torch.Size([1, 8, 4, 4])
    >>> block.set_option(2)
    >>> try:
    ...     block(torch.ones(1, 3, 6, 6))
    ... except ExitReached as reached:
    ...     reached.outputs.shape
    torch.Size([1, 5])
    """
    own = next((each for each in module.parameters() if each.is_floating_point()), like)
    like = torch.empty(0) if own is None else own
    branch = nn.Linear(channels, classes, device=like.device, dtype=like.dtype)
    module.__class__ = type(f"{type(module).__name__}WithExit", (ExitPoint, type(module)), {})
    module.register_parameter("exit_weight", nn.Parameter(branch.weight.detach()))
    module.register_parameter("exit_bias", nn.Parameter(branch.bias.detach()))
    module.__dict__.update(exit_option=option, exit_channels=channels, exit_widths={})
    module.__dict__.update(stops=False, listener=None)
    return module


def without_exit(module: ExitPoint) -> nn.Module:
    """Take the exit away again, in place: the module is of its former class."""
    module.__class__ = type(module).__bases__[1]
    for name in ("exit_weight", "exit_bias"):
        delattr(module, name)
    for name in ("exit_option", "exit_channels", "exit_widths", "stops", "listener"):
        del module.__dict__[name]
    return module
