"""Re-estimates the normalisation statistics of a mode, with frozen weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from wenable.core.space import ModeChoice
from wenable.layers.batch_norm import Moments, Statistics, SwitchableBatchNorm
from wenable.layers.precision import PrecisionLayer
from wenable.layers.quantization import InputRange
from wenable.modules.batch_parts import inputs_alone
from wenable.modules.fingerprint import weights_fingerprint
from wenable.modules.passes import call_network, device_of, in_eval_mode
from wenable.modules.processes import several_processes, sum_over_processes, world_size
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.net_checks import check_dynamic


def calibrate(
    net: DynamicNetwork,
    modes: Iterable[ModeChoice] | ModeChoice,
    batches: Iterable[Any],
) -> None:
    """Estimate the norm statistics of each mode and store them with the network.

    While training, the norms of an option see the outputs of many modes, so their running averages
    belong to none. Here each norm's mean and variance are taken over all images of `batches`
    together, every batch being normalised by its own statistics on the way; nothing else behaves as
    in training, and no weight changes. Inputs of layers in low precision whose range was never seen,
    or in a calibration with other weights, get it here.

    - `modes`: one or several modes, in any form that `set_mode` takes.
    - `batches`: batches of training images, shape `(N, ...)`, or `(images, labels)` pairs, whose
      images are a tuple or list where the network takes several inputs; gone through once for each mode,
      so an iterator serves one mode only.

    Where several processes train together, each gives its own images and all get the statistics of
    all of them.

    Raises `ValueError` where `batches` is empty or holds no tensors that the network takes, or a mode
    is not of this network.

    >>> import wenable as we
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.BatchNorm2d(8))
    >>> net = we.convert(model, torch.ones(1, 4, 5, 5), method=we.WeightEnabling(classifier=True))
    >>> calibrate(net, "1/2", [torch.randn(16, 4, 5, 5)])
    >>> net.is_calibrated("1/2"), net.is_calibrated("1/4")
    (True, False)

    Source: "post-statistics" of US-Nets, here for each mode of a WeNet.
    """
    check_dynamic(net)
    several: list[Any] = [modes] if isinstance(modes, Mapping | str) else list(modes)
    wanted = [net.space.mode(mode) for mode in several]
    if iter(batches) is batches and len(wanted) > 1:
        raise ValueError(
            f"`batches` is an iterator, which can be gone through once, and there are {len(wanted)}"
            " modes; pass a list or a DataLoader"
        )
    for mode in wanted:
        with net.using(mode), _collecting_ranges(net) as ranges:
            if not net.switchable_norms() and not ranges:
                continue
            statistics, images = _estimate(net, batches)
        net.store_calibration(mode, statistics, images)


def _estimate(net: DynamicNetwork, batches: Iterable[Any]) -> tuple[dict[str, Statistics], int]:
    """Return the statistics of every norm in the present mode, and how many images were seen."""
    norms, images, device = net.switchable_norms(), 0, device_of(net)
    with _collecting(norms) as moments, in_eval_mode(net), torch.no_grad():
        for batch in batches:
            images += call_network(net, inputs_alone(batch, net), device)[1]
    images = int(sum_over_processes(torch.tensor(images, device=device)))
    for name, seen in moments.items():
        if several_processes():
            seen.set_sums(sum_over_processes(seen.sums(norms[name].present_features, device)))
    if not images:
        raise ValueError("`batches` is empty; calibration needs a few hundred training images")
    return {name: _statistics(norm, moments[name]) for name, norm in norms.items()}, images


@contextmanager
def _collecting(norms: Mapping[str, SwitchableBatchNorm]) -> Iterator[dict[str, Moments]]:
    moments = {name: Moments() for name in norms}
    for name, norm in norms.items():
        norm.collecting = moments[name]
    try:
        yield moments
    finally:
        for norm in norms.values():
            norm.collecting = None


@contextmanager
def _collecting_ranges(net: DynamicNetwork) -> Iterator[list[InputRange]]:
    """Let the inputs of low precision whose range is unknown look at what they are given.

    A range belongs to the options of its layer, whatever the rest of the mode. What training learned
    stays; so does what the first calibration of a precision saw, or other modes would change. Only
    one that calibration saw with other weights counts as unknown.
    """
    ranges = [
        layer.input_range
        for layer in net.modules()
        if isinstance(layer, PrecisionLayer) and layer.input_range is not None
    ]
    depends = any(not each.is_known or each.calibrated_for is not None for each in ranges)
    weights = weights_fingerprint(net) if depends else None
    unknown = [
        each for each in ranges if not each.is_known or each.calibrated_for not in (None, weights)
    ]
    before = [(each.running_bounds.clone(), each.calibrated_for) for each in unknown]
    for each in unknown:
        each.forget()
        each.collecting = True
    try:
        yield unknown
    except BaseException:  # what a part of the images showed must not stay
        for each, (bounds, calibrated_for) in zip(unknown, before, strict=True):
            each.running_bounds.copy_(bounds)
            each.calibrated_for = calibrated_for
        raise
    finally:
        for each in unknown:
            each.collecting = False
    for each in unknown:
        each.calibrated_for = weights
    for each in unknown if several_processes() else ():
        each.running_bounds.copy_(sum_over_processes(each.running_bounds) / world_size())


def _statistics(norm: SwitchableBatchNorm, seen: Moments) -> Statistics:
    present = norm.present_statistics()
    # A norm that no input reaches keeps what it has.
    return seen.statistics(present.mean.dtype) if seen.count else present
