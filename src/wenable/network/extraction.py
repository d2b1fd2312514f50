"""Extracts the plain network of one mode: standard torch layers that know nothing of modes."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wenable.core.space import Mode, ModeChoice
from wenable.modules.copying import copies_of_results, copy_network, put_in_place
from wenable.modules.outputs import tensors_of
from wenable.modules.passes import in_eval_mode, same_random_numbers
from wenable.modules.structures import names_in
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.net_checks import warn_if_uncalibrated

_ROUNDINGS = 100
"""How many roundings of an output's type a network may make of one."""
_ROUNDING_IN_FLOAT64 = 1e-8
"""The same in float64, as a share of the largest output."""


def extract(net: DynamicNetwork, mode: ModeChoice | None = None) -> nn.Module:
    """Return the network of one mode: an instance of the original class, of standard torch layers.

    - `mode`: the present mode where nothing is said.

    The result has weights of its own and knows nothing of wenable; in eval mode it computes what
    `net` computes in that mode. Three methods cannot keep all of this: the network of an early exit is
    a `torch.fx.GraphModule`, since its class would run on; a layer in low precision has a
    `wenable.layers.quantization.FakeQuantizedInput` before it, since torch has no layer that rounds;
    and in a mode with smaller images the network lies in a
    `wenable.layers.image_size.SmallerImagesFirst`, which makes them smaller by two products.

    Warns `UncalibratedWarning` where the norm statistics of the mode were never estimated.

    >>> import wenable as we
    >>> net = we.convert(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.ones(2, 8))
    >>> type(extract(net, "1/2")[0]).__name__
    'Sequential'
    """
    mode = net.mode if mode is None else net.space.mode(mode)
    warn_if_uncalibrated(net, mode, "extracted")
    finish = net._wenable.plan.finish_extraction
    with net.using(mode):
        # What the network knows of its other modes is left out of the copy, and so are the layers that
        # switch, with all their options, unless the plan finishes a network that still has them.
        copied: dict[int, Any] = {id(net._wenable): None}
        plain: Any = copy_network(net, copied if finish else copied | _plain_layers(net))
    plain.__class__ = net.original_class
    del plain._wenable
    plain.__dict__.pop("wenable_source", None)
    if finish is not None:
        plain = finish(plain)
        plain_layers = _plain_layers(plain)
        named = [(name, id(module)) for name, module in plain.named_modules()]
        put_in_place(plain, {name: plain_layers[key] for name, key in named if key in plain_layers})
    sizes = net._wenable.plan.image_sizes
    if sizes is not None:
        with net.using(mode):
            plain = sizes.to_plain(plain)
    _check_extracted(net, mode, plain)
    return plain


def _plain_layers(net: nn.Module) -> dict[int, nn.Module]:
    """Return plain copies of the layers that switch, in their present options, by the layers' identity."""
    memo: dict[int, Any] = dict(copies_of_results(net))
    return {
        id(module): copy.deepcopy(cast(Any, module).to_plain(), memo)
        for module in net.modules()
        if hasattr(module, "set_option") and hasattr(module, "to_plain")
    }


def _check_extracted(net: DynamicNetwork, mode: Mode, plain: nn.Module) -> None:
    """Run both on an example: some networks look into their layers while they run.

    Copies run, for what a network keeps of a pass. The layers that switch keep nothing of it: of the
    network they are not copied.
    """
    own = (m for m in net.modules() if hasattr(m, "set_option") and not _holds_others(m))
    kept = {id(each): each for each in (net._wenable, *own)}
    try:
        with net.using(mode):
            difference, rounding = _difference(copy_network(net, kept), copy_network(plain), mode)
    except (AttributeError, TypeError) as error:
        raise RuntimeError(
            f"mode {mode} cannot be extracted: the network looks into a layer that was replaced"
            f" ({error})"
        ) from error
    if difference <= _ROUNDINGS * rounding:
        return
    precise, _ = _difference(_in_float64(net), _in_float64(plain), mode)
    if not precise <= _rounding_left(difference):
        raise RuntimeError(
            f"mode {mode} does not compute the same once extracted; this is a defect of wenable:"
            " please report the network"
        )


def _rounding_left(difference: float) -> float:
    """Return how much of a difference in float32 may be left in float64, if rounding alone made it.

    Deep networks can make much of a difference in rounding. In float64 there is next to none, so that even
    ten thousand times as much of it is told from another computation. Some compute in float32 at places,
    whatever type they are given: a hundredth may be left of those, and no more than a millionth of the
    outputs. Another computation shows in float64 as it does in float32.
    """
    return max(_ROUNDING_IN_FLOAT64, min(difference / 100, 1e-6))


def _holds_others(layer: nn.Module) -> bool:
    """Say whether a layer holds modules other than the norms of its options."""
    return not all(isinstance(each, _BatchNorm | nn.ModuleDict) for each in layer.children())


def _in_float64(net: Any) -> Any:
    return copy_network(net).double()


def _difference(net: DynamicNetwork, plain: nn.Module, mode: Mode) -> tuple[float, float]:
    """Return by how much the two differ on the network's own example, and the rounding of their types.

    Both are shares of the largest output.
    """
    example = net.example_batch
    with torch.no_grad(), in_eval_mode(net), in_eval_mode(plain), net.using(mode):
        with same_random_numbers(net):  # some draw numbers in eval mode too
            ours = net(*example)
        with same_random_numbers(net):
            theirs = plain(*example)
    if names_in(ours) != names_in(theirs):
        raise ValueError(
            f"the network gives back {_shown(ours)} in mode {mode}, and {_shown(theirs)} once extracted:"
            " its forward asks which mode runs; outputs must have one structure in all modes"
        )
    expected, found = tensors_of(ours), tensors_of(theirs)
    if [each.shape for each in expected] != [each.shape for each in found]:
        return math.inf, 0.0
    types = {each.dtype for each in expected if each.is_floating_point()}
    rounding = max((torch.finfo(dtype).eps for dtype in types), default=0.0)
    return max(map(_difference_of, expected, found), default=0.0), rounding


def _shown(outputs: Any) -> str:
    """Return what outputs hold in a few words."""
    return ", ".join(name or "one tensor" for name in names_in(outputs)[:6]) or "nothing"


def _difference_of(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference over the largest output, or over 1 if that is less."""
    if not ours.is_floating_point():
        return 0.0
    # Where a network overflows on random numbers, rounding decides between them.
    finite = ours.isfinite()
    ours, theirs = ours[finite], theirs[finite]
    if not len(ours):
        return 0.0
    difference = float((ours - theirs).abs().max()) / max(float(ours.abs().max()), 1.0)
    return math.inf if math.isnan(difference) else difference
