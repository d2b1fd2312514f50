"""Incremental training: the narrowest network first, then only what each wider one adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from wenable.core.space import Mode
from wenable.layers.exits import KNOB as EXIT
from wenable.layers.slimmable import SlimmableLayer
from wenable.modules.passes import device_of
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training.config import TrainConfig
from wenable.training.loading import Batch, EpochBatches
from wenable.training.loop import StepReport, run_steps
from wenable.training.losses import Loss
from wenable.training.start import Start, start_of_run
from wenable.training.state import TrainState
from wenable.training.step import to_channels_last

Entries = dict[nn.Parameter, torch.Tensor]
"""Parameter -> which of its entries are meant, a mask of its shape."""


def train_incrementally(
    net: DynamicNetwork,
    loader: Iterable[Batch] | EpochBatches,
    config: TrainConfig | None = None,
    *,
    loss: Loss | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_stage: Callable[[Mode], None] | None = None,
) -> None:
    """Train the narrowest mode, then for each wider one only the weights that it adds, in place.

    What is trained stays as it is, to the bit, so a narrower mode is what it was when its own stage
    ended. Each stage is a run of `config.epochs` with an optimizer and a schedule of its own; layers
    that do not switch are trained in the first.

    - `net`: converted by `Slimmable` or `UniversallySlimmable`, alone or with `EarlyExits`, `ImageSize`
      or `SwitchablePrecision`. With the first, norms belong to a width and the narrower modes keep
      their very outputs. With the second, widths share their affine, of which each trains what it adds,
      and have their statistics from calibration: the outputs are the same when calibrated on the same
      images. All exits of a width are trained together; image sizes and precisions add no weights, and
      stages run at the first of each.
    - `loader`, `loss`: as in `train`. `config`: as in `train`; a step has one pass, with exits one for
      each, so `passes`, `counting`, `grow_from` and `sampling` mean nothing here.
    - `on_step`: called after every step, counted within its stage; `on_stage`: after every stage
      with its mode, the network in eval mode and in that mode.

    The network is left in eval mode and in the full mode. Its modes have to be calibrated next.

    Raises `ValueError` for a network of another method, `distillation`, which needs a wider mode that is
    trained, and for loaders and labels that `train` refuses; `FloatingPointError` where a loss is NaN
    or infinite.

    Source: Tann et al., Runtime Configurable Deep Neural Networks for Energy-Accuracy Trade-off
    (CODES+ISSS 2016), section 3.

    >>> import wenable as we
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> net = we.convert(model, torch.ones(1, 4), method=we.Slimmable((1.0, 0.5), divisor=2))
    >>> batch = torch.randn(16, 4), torch.randint(2, (16,))
    >>> train_incrementally(net, [batch], TrainConfig(epochs=2), on_stage=print)
    0.5
    1
    """
    config = TrainConfig() if config is None else config
    if config.distillation:
        raise ValueError(
            "`config` has `distillation`, where modes learn from the full one, which is trained last"
        )
    start = start_of_run(net, loader, config, loss)
    _check_widths(net)
    if config.channels_last:
        to_channels_last(net)
    trained = {p: torch.zeros_like(p, dtype=torch.bool) for p in net.parameters()}
    devices = [device_of(net)] if device_of(net).type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            for mode in reversed(net.space.uniform_modes()):
                used = _used_entries(net, mode)
                added = {p: used[p] & ~trained[p] for p in trained}
                _train_stage(net, loader, start, config, _exits_of(net, mode), added, on_step)
                trained = {p: used[p] | trained[p] for p in trained}
                net.eval()
                net.set_mode(mode)
                if on_stage is not None:
                    on_stage(mode)
    finally:
        net.eval()
        net.set_mode(net.space.full)


def _train_stage(
    net: DynamicNetwork,
    loader: Any,
    start: Start,
    config: TrainConfig,
    modes: tuple[Mode, ...],
    added: Entries,
    on_step: Callable[[StepReport], None] | None,
) -> None:
    state = TrainState(net, config, start.batches * config.epochs)
    with _all_but(added, state.optimizer) as put_back:
        run_steps(state, loader, start, lambda step: modes, on_step)
        if state.average is not None:
            net.load_state_dict(state.average.module.state_dict())
            put_back()  # an average of equal numbers need not be that number


@contextmanager
def _all_but(added: Entries, optimizer: torch.optim.Optimizer) -> Iterator[Callable[[], None]]:
    """Keep every entry but the added ones as it is, to the bit, whatever the optimizer does to it.

    Gradients are cut first: clipping and averages of squares must not see them. Decay and momentum
    reach an entry all the same, so it is put back behind every step. Yields what does that.
    """
    before = {parameter: parameter.detach().clone() for parameter in added}

    def put_back(*_: Any) -> None:
        with torch.no_grad():
            for parameter, mask in added.items():
                parameter.copy_(torch.where(mask, parameter, before[parameter]))

    handles: list[Any] = [
        parameter.register_hook(lambda gradient, mask=mask: gradient.masked_fill(~mask, 0))
        for parameter, mask in added.items()
        if parameter.requires_grad
    ]
    handles.append(optimizer.register_step_post_hook(put_back))
    try:
        yield put_back
    finally:
        for handle in handles:
            handle.remove()


def _switching(net: DynamicNetwork) -> list[Any]:
    """Return the modules that a knob sets and that have weights."""
    modules = [module for module in net.modules() if hasattr(module, "set_option")]
    return [module for module in modules if next(module.parameters(), None) is not None]


def _exits_of(net: DynamicNetwork, mode: Mode) -> tuple[Mode, ...]:
    """Return a mode once for each exit of the network, that at its end first; alone without exits."""
    exits = [knob for knob in net.space.knobs if knob.name == EXIT]
    return tuple(mode.replace({EXIT: n}) for knob in exits for n in knob.options) or (mode,)


def _check_widths(net: DynamicNetwork) -> None:
    """Refuse a network without widths, and one whose other knobs set modules that widths know not."""
    switching = _switching(net)
    if not any(isinstance(module, SlimmableLayer) for module in switching) or not all(
        hasattr(module, "enabled_entries") for module in switching
    ):
        method = net.conversion_method.to_json()["method"]
        raise ValueError(
            f"`net` was converted by the method {method!r}, whose modes do not add weights to one"
            " another as widths do; convert it by wenable.Slimmable or wenable.UniversallySlimmable"
        )


def _used_entries(net: DynamicNetwork, mode: Mode) -> Entries:
    """Return which entries of every parameter a mode uses: all of those that do not switch."""
    used = {p: torch.ones_like(p, dtype=torch.bool) for p in net.parameters()}
    with net.using(mode):
        for module in _switching(net):
            masks = module.enabled_entries()
            used |= {module.get_parameter(name): mask for name, mask in masks.items()}
    return used
