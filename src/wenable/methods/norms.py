"""Which batch norms follow which knobs: what all methods with a norm for each option share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from wenable.core.entries import Entries
from wenable.core.space import Knob
from wenable.graph import Slice, TracedGraph
from wenable.layers.batch_norm import (
    SwitchableBatchNorm,
    SwitchableBatchNorm1d,
    SwitchableBatchNorm2d,
    SwitchableBatchNorm3d,
    SwitchableBatchNormAct2d,
    SwitchableSyncBatchNorm,
)
from wenable.layers.frozen_norm import SwitchableFrozenBatchNorm2d
from wenable.layers.slimmable_norm import (
    SlimmableBatchNorm,
    SlimmableBatchNorm1d,
    SlimmableBatchNorm2d,
    SlimmableBatchNorm3d,
    SlimmableBatchNormAct2d,
    SlimmableSyncBatchNorm,
)
from wenable.methods.own_parts import has_hooks, has_own_forward
from wenable.methods.plan import KnobTarget


def switchable_norms(
    model: nn.Module,
    graph: TracedGraph,
    knobs: Mapping[str, Knob],
    otherwise: Knob | None = None,
    *,
    unfreeze: bool = False,
) -> tuple[dict[str, nn.Module], dict[str, tuple[KnobTarget, ...]]]:
    """Return a switchable norm for every batch norm, and what each knob sets.

    A norm behind one switchable layer, through channelwise operations, is keyed by that layer;
    behind a concatenation each slice of it is. Any other follows the knob `otherwise`; without one
    it has one affine, and its statistics come from calibration.

    - `knobs`: layer -> the knob that sets it, in execution order.
    - `unfreeze`: whether a frozen norm behind one switchable layer has statistics of its own in every
      option but the first. It is a constant in every mode otherwise, and behind several layers.

    Raises `ValueError` for a norm that cannot be calibrated: of a class that is not known, with
    hooks, or used past its own forward.
    """
    followers: dict[str, list[KnobTarget]] = {knob.name: [] for knob in knobs.values()}
    for name, knob in knobs.items():
        followers[knob.name].append(KnobTarget(name))
    replacements: dict[str, nn.Module] = {}
    for name, module in known_norms(model, graph).items():
        slices = _slices(name, module, graph)
        keys = [knobs.get(part.single_producer or "", otherwise) for part in slices]
        keys = keys or [otherwise]
        options = {n for knob in keys if knob for n in knob.options} | {1}
        widths = tuple(part.width for part in slices) if len(slices) > 1 else ()
        replacements[name] = _switchable_norm(module, tuple(sorted(options)), widths)
        for part, knob in enumerate(keys):
            if knob:
                followers[knob.name].append(KnobTarget(name, part if widths else None))
    for name, knob in _frozen_norms(model, graph, knobs) if unfreeze else ():
        frozen: Any = model.get_submodule(name)
        replacements[name] = SwitchableFrozenBatchNorm2d(frozen, knob.options)
        followers[knob.name].append(KnobTarget(name))
    return replacements, {name: tuple(each) for name, each in followers.items()}


def _frozen_norms(
    model: nn.Module, graph: TracedGraph, knobs: Mapping[str, Knob]
) -> Iterator[tuple[str, Knob]]:
    """Yield the frozen norms that read one switchable layer, each with that layer's knob."""
    for name, module in model.named_modules():
        if type(module) is not FrozenBatchNorm2d:
            continue
        inputs = {call.input for call in graph.norms if call.module == name}
        origin = inputs.pop() if len(inputs) == 1 else None
        knob = knobs.get((origin.single_producer if origin else None) or "")
        if knob is not None and not has_hooks(module) and not has_own_forward(module):
            yield name, knob


def known_norms(model: nn.Module, graph: TracedGraph) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return every batch norm with running statistics, by qualified name.

    Raises `ValueError` for one that cannot be calibrated: of a class that is not known, with hooks or
    a forward of its own, or used past its forward.
    """
    found: dict[str, nn.modules.batchnorm._BatchNorm] = {}
    unknown = {call.module for call in graph.norms}
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is None:
            continue
        unknown.discard(name)
        if type(module) is FrozenBatchNorm2d:
            continue  # it has constants, and nothing to calibrate
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            unknown.add(name)
            continue
        _check_norm(name, module, graph)
        found[name] = module
    for name in sorted(unknown):
        raise ValueError(_unknown_norm(name, model.get_submodule(name)))
    return found


def _check_norm(name: str, norm: nn.modules.batchnorm._BatchNorm, graph: TracedGraph) -> None:
    if not all(call.direct for call in graph.norms if call.module == name):
        raise ValueError(
            f"the statistics of batch norm {name!r} are used by another module, past its own"
            " forward; such a network cannot be calibrated mode by mode"
        )
    if has_hooks(norm):
        raise ValueError(
            f"batch norm {name!r} has hooks, which would be lost; remove them before `convert`"
        )
    if has_own_forward(norm):
        raise ValueError(
            f"batch norm {name!r} has a `forward` of its own, which would be lost; give it a class of its"
            " own around a batch norm"
        )
    if _kind(norm) is None:
        raise ValueError(_unknown_norm(name, norm))


def _kind(norm: nn.Module) -> str | None:
    """Return the class of a norm by name, or None for one that is not known.

    timm's fused norm and activation is known by name so that timm need not be installed.
    """
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        return type(norm).__name__
    return "BatchNormAct2d" if type(norm).__name__ == "BatchNormAct2d" else None


def _slices(
    name: str, norm: nn.modules.batchnorm._BatchNorm, graph: TracedGraph
) -> tuple[Slice, ...]:
    """Return the slices of channels that a norm reads; none where it can follow no layer."""
    inputs = {call.input for call in graph.norms if call.module == name}
    # One whose calls read different layers has no single input. Without momentum it averages over
    # all batches it ever saw, which slices in different options do not share.
    if len(inputs) != 1 or norm.momentum is None:
        return ()
    origin = inputs.pop()
    slices = () if origin is None else origin.slices
    # Over processes torch averages a whole norm, and not its slices.
    return () if isinstance(norm, nn.SyncBatchNorm) and len(slices) > 1 else slices


def _switchable_norm(
    norm: nn.modules.batchnorm._BatchNorm, options: tuple[int, ...], widths: tuple[int, ...]
) -> SwitchableBatchNorm:
    classes = {
        "BatchNorm1d": SwitchableBatchNorm1d,
        "BatchNorm2d": SwitchableBatchNorm2d,
        "BatchNorm3d": SwitchableBatchNorm3d,
        "BatchNormAct2d": SwitchableBatchNormAct2d,
        "SyncBatchNorm": SwitchableSyncBatchNorm,
    }
    return classes[_kind(norm) or ""](norm, options, widths)


def slimmable_norm(
    norm: nn.modules.batchnorm._BatchNorm, features: Mapping[int, Entries], private: bool, name: str
) -> SlimmableBatchNorm:
    """Return a norm in several widths for one of `known_norms`.

    Raises `ValueError` for a `SyncBatchNorm` whose widths share one affine: while training they
    normalise by the batch, which torch does not average over processes for part of the channels.
    """
    if isinstance(norm, nn.SyncBatchNorm) and not private:
        raise ValueError(
            f"{name!r} is a SyncBatchNorm, and norms that are shared by all widths do not average over"
            " processes; use wenable.Slimmable, whose widths have norms of their own"
        )
    classes = {
        "BatchNorm1d": SlimmableBatchNorm1d,
        "BatchNorm2d": SlimmableBatchNorm2d,
        "BatchNorm3d": SlimmableBatchNorm3d,
        "BatchNormAct2d": SlimmableBatchNormAct2d,
        "SyncBatchNorm": SlimmableSyncBatchNorm,
    }
    return classes[_kind(norm) or ""](norm, features, private, name)


def _unknown_norm(name: str, norm: nn.Module) -> str:
    return (
        f"{name!r} is a {type(norm).__name__} with running statistics, which cannot be calibrated"
        " for each mode; known: torch.nn.BatchNorm1d, 2d and 3d, torch.nn.SyncBatchNorm, timm's"
        " BatchNormAct2d"
    )
