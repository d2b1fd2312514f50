"""Answers each input at the first exit that is sure of it, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from wenable.core.escalation import Escalation, checked_thresholds, entropy, margin
from wenable.layers.exits import KNOB, ExitPoint, ExitReached
from wenable.modules.passes import in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork

Score = Literal["entropy", "margin"]


def run_with_exits(
    net: DynamicNetwork,
    inputs: torch.Tensor,
    threshold: float | Sequence[float],
    score: Score = "entropy",
) -> Escalation:
    """Answer a batch; each input leaves at the first exit that is sure, the others go on.

    - `net`: converted with `EarlyExits`, alone or with other methods. It is run in eval mode, with the
      present options of its other knobs, and stays in its mode.
    - `inputs`: a batch, shape `(N, ...)`.
    - `threshold`: an exit answers where its entropy is below (in nats), or its margin at least as
      high (between 0 and 1): one for all exits, or one for each, the first on the way first.

    What has left is not computed any further: the batch shrinks on its way, and the pass ends where
    nothing is left of it. Only what passes through the exits may lead from before to behind them; a
    shortcut around one would carry the whole batch, and is refused when it shows.

    Returns the answers; stage k is the k-th exit on the way, the last the end of the network. The
    cost is in multiply-accumulates for an input, the branches that it went through included.

    Raises `ValueError` where the network has no exits, for thresholds out of range, or a shortcut
    around an exit.

    Source: BranchyNet (ICPR 2016), algorithm 1.

    >>> import wenable as we
    >>> from wenable.methods import EarlyExits
    >>> class Small(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.trunk, self.head = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         return self.head(self.trunk(x).mean((2, 3)))
    >>> net = we.convert(Small(), torch.ones(1, 3, 6, 6), method=EarlyExits(("trunk",)))
    >>> run_with_exits(net, torch.ones(4, 3, 6, 6), threshold=9.0).stages.tolist()
    [0, 0, 0, 0]
    """
    points = _points_on_the_way(net)
    if not points:
        raise ValueError("`net` has no exits; convert it with method=EarlyExits(...)")
    highest = np.inf if score == "entropy" else 1.0
    limits = checked_thresholds(threshold, len(points) + 1, highest, score)
    way = _Way(len(inputs), [_is_sure(score, limit) for limit in limits])
    for number, point in enumerate(points):
        point.__dict__["listener"] = lambda _, features, k=number: way.leave(points[k], features, k)
    try:
        with torch.inference_mode(), in_eval_mode(net), net.using(net.mode.replace({KNOB: 1})):
            way.arrive(_run(net, inputs), len(points))
            costs = _costs(net, points)
    finally:
        for point in points:
            point.__dict__["listener"] = None
    assert way.outputs is not None
    counts = np.bincount(way.stages, minlength=len(points) + 1)
    # An input that left at stage k went through all stages before it.
    reached = counts[::-1].cumsum()[::-1]
    total = float((reached * np.array(costs)).sum())
    return Escalation(way.outputs, way.stages, total / max(len(inputs), 1))


class _Way:
    """Which inputs are still on their way, and what the others were answered."""

    def __init__(self, inputs: int, is_sure: list[Callable[[Any], NDArray[np.bool_]]]) -> None:
        self.left = np.arange(inputs)
        self.stages = np.zeros(inputs, dtype=np.intp)
        self.outputs: NDArray[np.floating] | None = None
        self.is_sure = is_sure

    def leave(self, point: ExitPoint, features: torch.Tensor, stage: int) -> torch.Tensor:
        """Take the answers of those that an exit is sure of, and return the features of the others."""
        logits = point.exit_outputs(features)
        answers = logits.cpu().numpy()
        sure = self.is_sure[stage](answers)
        self._take(answers, sure, stage)
        if not len(self.left):
            raise ExitReached(logits[:0])
        return features[torch.from_numpy(~sure).to(features.device)]

    def arrive(self, logits: torch.Tensor, stage: int) -> None:
        """Take the answers of those that are left at the end of the network."""
        if len(logits) != len(self.left):
            raise ValueError(_SHORTCUT)
        self._take(logits.cpu().numpy(), np.ones(len(self.left), dtype=bool), stage)

    def _take(self, answers: NDArray[np.floating], sure: NDArray[np.bool_], stage: int) -> None:
        if self.outputs is None:
            self.outputs = np.zeros((len(self.stages), answers.shape[1]), answers.dtype)
        done = self.left[sure]
        self.outputs[done], self.stages[done] = answers[sure], stage
        self.left = self.left[~sure]


_SHORTCUT = (
    "something leads around an exit of `net`, from before it to behind it, so that a part of the batch"
    " cannot leave there; choose exits that everything passes through, or run fixed exits"
)


_DOES_NOT_FIT = ("size of tensor", "Sizes of tensors", "is invalid for input of size")
"""What torch says where a part of the batch meets the whole: in a sum, a concatenation, a view."""


def _run(net: DynamicNetwork, inputs: torch.Tensor) -> torch.Tensor:
    try:
        return net(inputs)
    except RuntimeError as error:
        if any(words in str(error) for words in _DOES_NOT_FIT):
            raise ValueError(_SHORTCUT) from error
        raise


def _is_sure(score: Score, limit: float) -> Callable[[Any], NDArray[np.bool_]]:
    if score == "entropy":
        return lambda outputs: entropy(outputs) < limit
    return lambda outputs: margin(outputs) >= limit


def _points_on_the_way(net: DynamicNetwork) -> list[ExitPoint]:
    """Return the exits of a network, the first on the way first: that of the highest option."""
    points = [module for module in net.modules() if isinstance(module, ExitPoint)]
    return sorted(points, key=lambda point: -point.exit_option)


def _costs(net: DynamicNetwork, points: Sequence[ExitPoint]) -> list[int]:
    """Return what each stage adds, in MACs: from the exit before it, through its own branch."""
    ends = [*(point.exit_option for point in points), 1]
    macs = [net.macs(net.mode.replace({KNOB: option})) for option in ends]
    branches = [point.exit_enabled().numel() for point in points]
    # The mode of an exit runs its own branch only; on the way, those before were run as well.
    return macs[:1] + [macs[k] - macs[k - 1] + branches[k - 1] for k in range(1, len(macs))]
