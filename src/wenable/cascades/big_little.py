"""The baseline of two networks: a little one for all inputs, a big one for those it is unsure of."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import nn

from wenable.core.escalation import Escalation, by_margin
from wenable.core.readings import Reading
from wenable.graph import run_counted
from wenable.measure.latency import TimingPlan, measure_latencies
from wenable.modules.passes import device_name, in_eval_mode

Residence = Literal["both", "one"]


class BigLittle:
    """A little and a big network in the place of one dynamic network.

    What a dynamic network saves beside it is counted here: the memory for two sets of weights, or,
    where only one of them is held, the bytes that have to be loaded at every change.

    - `little`, `big`: networks with the same classes, which are run in eval mode.
    - `example_input`: a batch of one input `(N, ...)`, the size at which MACs are counted.
    - `residence`: `"both"` networks lie in memory; or `"one"`, and the other is loaded into its
      place when it is needed.

    Raises `ValueError` for another residence, or networks whose outputs differ in shape.

    >>> big = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 4))
    >>> pair = BigLittle(nn.Linear(8, 4), big, torch.ones(1, 8))
    >>> pair.macs, pair.bytes_held, pair.bytes_per_change
    ((32, 768), 3488, 0)

    Source: Park et al., Big/Little Deep Neural Network for Ultra Low Power Inference (2015).
    """

    def __init__(
        self,
        little: nn.Module,
        big: nn.Module,
        example_input: torch.Tensor,
        residence: Residence = "both",
    ) -> None:
        if residence not in get_args(Residence):
            raise ValueError(f"`residence` (={residence!r}) is unknown; allowed: 'both', 'one'")
        self.little, self.big, self.residence = little, big, residence
        self._little_macs, shape = _counted(little, example_input)
        self._big_macs, big_shape = _counted(big, example_input)
        if shape != big_shape:
            raise ValueError(
                f"`little` answers with shape {shape} and `big` with {big_shape}; they must be the same"
            )

    @property
    def macs(self) -> tuple[int, int]:
        """The multiply-accumulates of each network for one example."""
        return self._little_macs, self._big_macs

    @property
    def bytes_held(self) -> int:
        """The memory of the weights and buffers that have to be held, without activations."""
        sizes = network_bytes(self.little), network_bytes(self.big)
        return sum(sizes) if self.residence == "both" else max(sizes)

    @property
    def bytes_per_change(self) -> int:
        """What has to be loaded to answer a batch that escalates: the big network, and the little again."""
        if self.residence == "both":
            return 0
        return network_bytes(self.little) + network_bytes(self.big)

    def run(self, inputs: torch.Tensor, threshold: float) -> Escalation:
        """Answer a batch `(N, ...)`: the big network is asked where the little one's margin is below.

        - `threshold`: between 0 and 1, as in `wenable.core.escalation.by_margin`.

        The cost is in multiply-accumulates for an input. Loading is not in it: see
        `bytes_per_change`.
        """
        with torch.inference_mode(), in_eval_mode(self.little), in_eval_mode(self.big):
            stages = [lambda x, net=net: net(x).cpu() for net in (self.little, self.big)]
            return by_margin(stages, inputs, threshold, self.macs)

    def measure_change(self, plan: TimingPlan | None = None) -> Reading:
        """Return the time to copy the big network's weights into place, in ms.

        It is that of a copy from memory; from a disk or flash it takes longer. None with a reason
        where both are held, since nothing is loaded then.
        """
        if self.residence == "both":
            return Reading(None, "ms", reason="both networks are held; nothing is loaded")
        stored = [tensor.detach().clone() for tensor in _tensors(self.big)]
        place = [torch.empty_like(tensor) for tensor in stored]

        def load() -> None:
            for target, source in zip(place, stored, strict=True):
                target.copy_(source)

        source = "weights of the big network copied within memory"
        readings = measure_latencies(
            {"load": load}, plan, source=source, device=device_name(self.big)
        )
        return readings["load"]


def network_bytes(model: nn.Module) -> int:
    """Return the memory of a network's parameters and buffers, each counted once.

    >>> network_bytes(nn.Linear(8, 4))
    144
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(model))


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _counted(model: nn.Module, x: torch.Tensor) -> tuple[int, tuple[Any, ...]]:
    with in_eval_mode(model):
        outputs, macs = run_counted(model, (x,))
    return macs // len(x), tuple(outputs.shape[1:])
