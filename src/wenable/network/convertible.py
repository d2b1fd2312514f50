"""Which networks `convert` refuses before it does anything, each with the reason and the way out."""

from __future__ import annotations

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.jit import ScriptModule
from torch.nn.parameter import UninitializedParameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from wenable.methods.own_parts import has_own_forward
from wenable.network.dynamic_network import DynamicNetwork

_WRAPPERS = {
    "DataParallel": "model.module",
    "DistributedDataParallel": "model.module",
    "FullyShardedDataParallel": "model.module",
}


def check_convertible(model: nn.Module) -> None:
    """Raise `ValueError` unless a network can be made dynamic, as far as it can be told unrun."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"`model` is a {type(model).__name__}; allowed: a torch.nn.Module")
    if isinstance(model, DynamicNetwork):
        raise ValueError("`model` is already dynamic; convert the network it was made from")
    _refuse_wrapped(model)
    for name, module in model.named_modules():
        _refuse_module(name, module)
    if has_own_forward(model):
        raise ValueError(
            f"`model` (={type(model).__name__}) has a `forward` of its own, set on the instance, which"
            " would run in the place of the dynamic network's; give it a class with that forward"
        )
    _check_weights(model)
    taken = [name for name in vars(DynamicNetwork) if not name.startswith("_")]
    clash = [name for name in taken if hasattr(model, name) and not hasattr(nn.Module, name)]
    if clash:
        raise ValueError(
            f"`model` (={type(model).__name__}) already has an attribute {clash[0]!r}, which a"
            " dynamic network needs"
        )


def _refuse_wrapped(model: nn.Module) -> None:
    kind = type(model).__name__
    if isinstance(model, ScriptModule):
        raise ValueError("`model` is a scripted module; convert the network it was scripted from")
    if kind in _WRAPPERS and type(model).__module__.startswith("torch."):
        raise ValueError(
            f"`model` is wrapped in {kind}; convert {_WRAPPERS[kind]}, and wrap what comes out"
        )
    if type(model).__module__.partition(".")[0] == "peft":
        raise ValueError(
            f"`model` is a {kind} of peft, whose layers are two in one; convert"
            " model.merge_and_unload(), which is the network with its adapters merged in"
        )


def _refuse_module(name: str, module: nn.Module) -> None:
    what = f"{name!r} of `model`" if name else "`model`"
    if isinstance(module, OptimizedModule):
        raise ValueError(
            f"{what} is compiled by torch.compile; convert the network first"
            " (what was compiled is its `_orig_mod`), and compile what comes out"
        )
    if isinstance(module, DynamicNetwork):
        raise ValueError(
            f"{what} is a dynamic network itself; convert the whole network before any part of it"
        )
    path = type(module).__module__
    if path.startswith("torch.") and ".quantized" in path:
        raise ValueError(
            f"{what} is a layer that torch has quantised ({type(module).__name__}); convert the"
            " network in floating point, with wenable.SwitchablePrecision for low precision"
        )
    if path.partition(".")[0] == "peft":
        raise ValueError(
            f"{what} is a layer of peft ({type(module).__name__}); merge the adapters into the"
            " network first, with merge_and_unload()"
        )


def _check_weights(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(
                f"`model` has a lazy layer, whose {name!r} has no size yet; run the network once on"
                " an example before it is converted"
            )
        if is_traceable_wrapper_subclass(parameter):
            raise ValueError(
                f"`model` holds {name!r} as a {type(parameter).__name__}, no plain tensor; convert the"
                " network before its weights are quantised or sharded"
            )
        if parameter.is_meta:
            raise ValueError(
                f"`model` has no weights yet: {name!r} lies on the meta device; load them first"
            )
        if not bool(parameter.isfinite().all()):
            raise ValueError(
                f"`model` has NaN or infinite weights in {name!r}; nothing was converted"
            )
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")) and not bool(buffer.isfinite().all()):
            raise ValueError(
                f"`model` has NaN or infinite values in {name!r}; nothing was converted"
            )
