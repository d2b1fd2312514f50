"""Which batch norms follow which knobs: what all methods with a norm for each option share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from wenable.core.space import Knob
from wenable.graph import Slice, TracedGraph
from wenable.layers.batch_norm import (
    SwitchableBatchNorm,
    SwitchableBatchNorm1d,
    SwitchableBatchNorm2d,
    SwitchableBatchNormAct2d,
)
from wenable.layers.slimmable_norm import (
    SlimmableBatchNorm,
    SlimmableBatchNorm1d,
    SlimmableBatchNorm2d,
    SlimmableBatchNormAct2d,
)
from wenable.methods.plan import KnobTarget


def switchable_norms(
    model: nn.Module, graph: TracedGraph, knobs: Mapping[str, Knob], otherwise: Knob | None = None
) -> tuple[dict[str, nn.Module], dict[str, tuple[KnobTarget, ...]]]:
    """Return a switchable norm for every batch norm, and what each knob sets.

    A norm behind one switchable layer, through channelwise operations, is keyed by that layer;
    behind a concatenation each slice of it is. Any other follows the knob `otherwise`; without one
    it has one affine, and its statistics come from calibration.

    - `knobs`: layer -> the knob that sets it, in execution order.

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
    return replacements, {name: tuple(each) for name, each in followers.items()}


def known_norms(model: nn.Module, graph: TracedGraph) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return every batch norm with running statistics, by qualified name.

    Raises `ValueError` for one that cannot be calibrated: of a class that is not known, with hooks,
    or used past its own forward.
    """
    found: dict[str, nn.modules.batchnorm._BatchNorm] = {}
    unknown = {call.module for call in graph.norms}
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is None:
            continue
        unknown.discard(name)
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
    if _kind(norm) is None:
        raise ValueError(_unknown_norm(name, norm))


def _kind(norm: nn.Module) -> str | None:
    """Return the class of a norm by name, or None for one that is not known.

    timm's fused norm and activation is known by name so that timm need not be installed.
    """
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return type(norm).__name__
    return "BatchNormAct2d" if type(norm).__name__ == "BatchNormAct2d" else None


def _slices(
    name: str, norm: nn.modules.batchnorm._BatchNorm, graph: TracedGraph
) -> tuple[Slice, ...]:
    """Return the slices of channels that a norm reads; none where it can follow no layer."""
    calls = [call for call in graph.norms if call.module == name]
    # One that is called twice has no single input. Without momentum it averages over all batches
    # it ever saw, which slices in different options do not share.
    if len(calls) != 1 or calls[0].input is None or norm.momentum is None:
        return ()
    return calls[0].input.slices


def _switchable_norm(
    norm: nn.modules.batchnorm._BatchNorm, options: tuple[int, ...], widths: tuple[int, ...]
) -> SwitchableBatchNorm:
    classes = {
        "BatchNorm1d": SwitchableBatchNorm1d,
        "BatchNorm2d": SwitchableBatchNorm2d,
        "BatchNormAct2d": SwitchableBatchNormAct2d,
    }
    return classes[_kind(norm) or ""](norm, options, widths)


def slimmable_norm(
    norm: nn.modules.batchnorm._BatchNorm, features: Mapping[int, int], private: bool, name: str
) -> SlimmableBatchNorm:
    """Return a norm in several widths for one of `known_norms`."""
    classes = {
        "BatchNorm1d": SlimmableBatchNorm1d,
        "BatchNorm2d": SlimmableBatchNorm2d,
        "BatchNormAct2d": SlimmableBatchNormAct2d,
    }
    return classes[_kind(norm) or ""](norm, features, private, name)


def _unknown_norm(name: str, norm: nn.Module) -> str:
    return (
        f"{name!r} is a {type(norm).__name__} with running statistics, which cannot be calibrated"
        " for each mode; known: torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, timm's BatchNormAct2d"
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, which a replacement would lose."""
    return any(value for name, value in vars(module).items() if name.endswith("_hooks"))
