"""Converts one network and checks what comes out against the original and against torch."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

import wenable as we
from benchmarks.coverage.groupable import groupable_macs
from benchmarks.coverage.networks import CLASSES, Candidate
from wenable.graph import run_counted
from wenable.methods.plan import LeftAlone

BATCH = 2
RANDOM_MODES = 3
ENOUGH = 0.5  # of what is groupable


@dataclass
class Outcome:
    """What came of one network. MACs are for one example at `input_size`.

    - `refusal`: the sentence with which `convert` refused it; empty where it did not.
    - `defects`: what a check found wrong; empty where all is right.
    - `unfinished`: why the checks did not come to their end; empty where they did.
    - `share_by_default`: the part of `groupable_macs` that switches with the default settings, and
      `share_with_attention` with the projections of attention switched too.
    - `settings`: what all else here was found with; empty for the default settings, which are tried
      first.
    - `extract_difference`: the largest difference between a mode and its extracted network, in
      units of the largest output.
    - `left_alone`: MACs by the reason for which a layer does not switch.
    - `commit`: the state of wenable that this was found with; `counted`: the one that its MACs, knobs
      and shares were counted again with, empty where they were not.
    """

    library: str
    family: str
    name: str
    input_size: tuple[int, int, int]
    parameters: int = 0
    groupable_macs: int = 0
    full_macs: int = 0
    smallest_macs: int = 0
    switched_macs: int = 0
    knobs: int = 0
    settings: str = ""
    share_by_default: float = 0.0
    share_with_attention: float | None = None
    extract_difference: float = 0.0
    refusal: str = ""
    defects: list[str] = field(default_factory=list)
    unfinished: str = ""
    left_alone: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    commit: str = ""
    counted: str = ""

    @property
    def verdict(self) -> str:
        """`converted`, `partly` (under half of what is groupable), `refused`, `wrong`, `unfinished`."""
        if self.defects:
            return "wrong"
        if self.unfinished:
            return "unfinished"
        if self.refusal:
            return "refused"
        share = max(self.share_by_default, self.share_with_attention or 0.0)
        return "converted" if share >= ENOUGH else "partly"


def check(candidate: Candidate) -> Outcome:
    """Return what came of a network; nothing is raised for what it does wrong."""
    started = time.perf_counter()
    names = (candidate.library, candidate.family, candidate.name, candidate.input_size)
    outcome = Outcome(*names)
    model = with_telling_values(candidate.build())
    batch = torch.randn(BATCH, *candidate.input_size, generator=torch.Generator().manual_seed(1))
    outcome.parameters = sum(parameter.numel() for parameter in model.parameters())
    outcome.groupable_macs = groupable_macs(model, batch, CLASSES)
    try:
        _check_converted(outcome, model, batch)
    except Exception as error:  # a defect is a result here, and the next network is to be tried
        outcome.defects.append(f"{type(error).__name__}: {error}")
    outcome.seconds = round(time.perf_counter() - started, 1)
    return outcome


def with_telling_values(model: nn.Module) -> nn.Module:
    """Give norms, biases and layer scales values that show when one is lost or out of place.

    Freshly built they are all 0 or 1 (or 1e-6), under which many a mistake computes the same.
    """
    generator = torch.Generator().manual_seed(2)
    for tensor in model.parameters():
        if tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            tensor.data.uniform_(0.5, 1.5, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.2, generator=generator)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def _check_converted(outcome: Outcome, model: nn.Module, batch: torch.Tensor) -> None:
    expected = outputs_of(model, batch)
    if not all(bool(each.isfinite().all()) for each in expected):
        outcome.defects.append("the original's own output is not finite: nothing can be compared")
        return
    try:
        net = we.convert(model, batch)
        outcome.share_by_default = _switched(net) / outcome.groupable_macs
        if any("attention" in layer.reason for layer in net.left_alone):
            every = we.convert(model, batch, method=we.WeightEnabling(attention=True))
            outcome.share_with_attention = _switched(every) / outcome.groupable_macs
            if outcome.share_by_default < ENOUGH <= outcome.share_with_attention:
                net, outcome.settings = every, "attention=True"
    except ValueError as error:
        outcome.refusal = str(error)
        return
    _note(outcome, net)
    found = outputs_of(net, batch)
    if not all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)):
        outcome.defects.append("the full mode does not equal the original bit for bit")
    rng = random.Random(3)
    modes = [net.space.smallest, *(net.space.sample(rng) for _ in range(RANDOM_MODES))]
    we.calibrate(net, modes, [batch])
    for mode in modes:
        _check_extracted(outcome, net, mode, batch)
    for mode in modes:
        _check_training(outcome, net, mode, batch)


def _switched(net: Any) -> int:
    return sum(layer.macs for layer in net.switchable_layers)


def note_left_alone(outcome: Outcome, layers: Iterable[LeftAlone]) -> None:
    """Add up the MACs of what does not switch, by reason; most first."""
    reasons: Counter[str] = Counter()
    for layer in layers:
        reasons[layer.reason] += layer.macs
    outcome.left_alone = dict(reasons.most_common())


def _note(outcome: Outcome, net: Any) -> None:
    note_left_alone(outcome, net.left_alone)
    outcome.knobs = len(net.space.knobs)
    outcome.full_macs, outcome.smallest_macs = net.macs("full"), net.macs("smallest")
    outcome.switched_macs = _switched(net)


def _check_extracted(outcome: Outcome, net: Any, mode: we.Mode, batch: torch.Tensor) -> None:
    net.eval()
    plain = we.extract(net, mode)
    with net.using(mode):
        ours = outputs_of(net, batch)
    theirs = outputs_of(plain, batch)
    # Of the plain network, without the switch: what the mode costs by what runs.
    if run_counted(plain, (batch,))[1] != BATCH * net.macs(mode):
        outcome.defects.append(f"mode {mode}: macs() disagrees with a count of what runs")
    for a, b in zip(ours, theirs, strict=True):
        difference = float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
        outcome.extract_difference = max(outcome.extract_difference, difference)
        if not difference < 1e-3:  # rounding, and its growth through a deep random network
            outcome.defects.append(f"mode {mode}: extract differs by {difference:.1e}")


def _check_training(outcome: Outcome, net: Any, mode: we.Mode, batch: torch.Tensor) -> None:
    net.train()
    net.zero_grad(set_to_none=True)
    net.set_mode(mode)
    torch.stack([each.square().mean() for each in tree_flatten(net(batch))[0]]).sum().backward()
    net.eval()
    for layer in net.switchable_layers:
        gradient = net.get_submodule(layer.name).weight.grad
        if gradient is None or not bool(gradient.isfinite().all()):
            outcome.defects.append(f"mode {mode}: no finite gradient reaches {layer.name}")
            return


def outputs_of(model: nn.Module, batch: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs of a network, flattened, with the same random numbers each time."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # some networks draw random numbers even in eval mode
        return tree_flatten(model(batch))[0]
