"""Makes an ordinary network dynamic, and checks that it computes what it did."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from wenable.core.cost_table import CostTable
from wenable.core.reasons import first_line
from wenable.core.space import Mode
from wenable.graph import TracedGraph, run_counted, trace
from wenable.layers.batch_norm import SwitchableBatchNorm
from wenable.layers.exits import KNOB as EXIT
from wenable.layers.exits import ExitPoint
from wenable.layers.quantization import InputRange
from wenable.methods.composition import as_one, paying
from wenable.methods.plan import INPUTS, KnobTarget, Method, Plan
from wenable.modules.copying import copy_network, put_in_place
from wenable.modules.example_inputs import checked_inputs, describe
from wenable.modules.fingerprint import weights_fingerprint
from wenable.modules.outputs import tensors_of
from wenable.modules.passes import in_eval_mode, same_random_numbers
from wenable.network.convertible import check_convertible
from wenable.network.dynamic_network import Calibration, DynamicNetwork, NetworkState
from wenable.network.gain import warn_of_conversion, warn_of_strangers
from wenable.network.image_sizes import counts_of_sizes
from wenable.network.profile_of import check_profile_of
from wenable.network.recounting import counted, structure_of


class HasTable(Protocol):
    """What holds the latency of any mode as a sum: a device profile."""

    @property
    def table(self) -> CostTable | None:
        """The table, None if it was not measured."""
        ...


def convert(
    model: nn.Module,
    example_input: torch.Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    method: Method | Sequence[Method] | None = None,
    profile: HasTable | CostTable | None = None,
    check: bool = True,
) -> Any:
    """Return a dynamic copy of a network; its full mode gives the very bits the network gave.

    - `model`: any network whose pass can be traced, by its operations; it is left untouched, and is
      not run: what a network keeps from one pass to the next, copies of it keep.
    - `example_input`: a batch, shape `(N, ...)`, or a tuple of positional inputs, or a dict of inputs
      by the names that the network's forward has: tensors, and plain values (None, numbers, texts)
      that are the same in every pass. Its size is the one that MACs are counted at.
    - `method`: how to make it dynamic; `WeightEnabling()` where nothing is said. A list is for several
      at once, in one search space (`wenable.methods.composition`).
    - `profile`: what `wenable profile` measured of this network's modes on the device that will run it
      (`wenable.runtime.DeviceProfile`), or its cost table. Options of groups that the device runs no faster
      than a coarser one are left out: trained they would cost passes and accuracy and return nothing.
    - `check`: compare the result with the original before it is handed back: the full mode gives
      the same bits on the example, and the smallest mode and every exit cost the MACs that they are said
      to. That takes two forward passes and one for each exit; without it a wrong conversion would go
      unnoticed.

    Returns an instance of the model's own class that is a `DynamicNetwork` as well. It starts in
    the full mode. A `torch.nn.TransformerEncoderLayer` runs through its parts from then on, since
    its fused path knows nothing of modes, and equals the original's own way through the parts.

    Raises `ValueError` where the network is already dynamic, is wrapped or quantised, does not run on
    the example, cannot be traced, has NaN in its weights or nothing to switch, and for a profile of
    another network or without a table; `RuntimeError` where a check fails. Warns `ConversionWarning`
    where less than a quarter of the multiply-accumulates switches, unless `only` said which, layers
    among `exclude` not counted; where frozen norms get statistics of their own in other options
    than the first; and where its forward reads weights that are not among its parameters.

    >>> net = convert(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.ones(2, 8))
    >>> net.set_mode("1/8"), net.macs(), net.macs("full")
    (None, 80, 192)
    """
    check_convertible(model)
    inputs = checked_inputs(example_input, model.forward)
    chosen = as_one(method)
    if profile is not None:
        chosen = paying(chosen, _table_of(profile))
    graph, expected, full_macs = _tried(model, inputs)
    net: Any = copy_network(model)
    weights = sum(parameter.numel() for parameter in net.parameters())
    plan = chosen.plan(net, graph)
    if "" in plan.replacements:
        raise ValueError(
            f"`model` (={type(model).__name__}) is a single layer; wrap it in torch.nn.Sequential"
        )
    put_in_place(net, plan.replacements)
    _leave_fused_path(net, plan.replacements)
    net._wenable = NetworkState(
        plan=plan,
        method=plan.method,
        original_class=type(model),
        example=describe(inputs),
        counts={1: counted(plan, graph, full_macs // graph.examples)},
        fixed_weights=weights - sum(layer.weights for layer in plan.layers),
        structure=(),
        examples=graph.examples,
        mode=plan.space.full,
        switches=tuple(
            tuple(_switch(net, plan, follower) for follower in plan.followers[knob])
            for knob in plan.space.names
        ),
        norms={
            name: module
            for name, module in net.named_modules()
            if isinstance(module, SwitchableBatchNorm)
        },
    )
    net.__class__ = dynamic_class(type(model))
    net._wenable.structure = structure_of(net)
    net._wenable.counts = {**net._wenable.counts, **counts_of_sizes(net, inputs, expected)}
    if check:
        norms = {call.module for call in graph.norms} & set(plan.replacements)
        _check_converted(copy_network(net), inputs, expected, norms)
    if profile is not None:
        check_profile_of(net, profile)
    fingerprint = weights_fingerprint(net, with_norms=True)
    net._wenable.calibrations[net.space.full] = Calibration(None, None, fingerprint)
    warn_of_conversion(model, plan, net._wenable.counts[1])
    warn_of_strangers(model, graph)
    return net


# --- steps of convert -----------------------------------------------------------------------------


def _table_of(profile: HasTable | CostTable) -> CostTable:
    table = profile if isinstance(profile, CostTable) else profile.table
    if table is None and getattr(profile, "parts", ()):
        raise ValueError(
            "`profile` has a cost table for each size of images, width, exit or precision, and none that"
            " says what an option of a layer costs in all of them: profile a bundle that has groups alone"
        )
    if table is None:
        raise ValueError(
            "`profile` has no cost table, which says what each option of a layer costs: measure it again"
            " with `wenable profile`"
        )
    return table


def dynamic_class(original: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a dynamic network: its forward has the signature of the original's.

    Programs ask a network by it which inputs it takes, as Hugging Face's `Trainer` does.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return DynamicNetwork.forward(self, *args, **kwargs)

    with contextlib.suppress(ValueError, TypeError):  # a forward that was written in C
        setattr(forward, "__signature__", inspect.signature(original.forward))  # noqa: B010
    forward.__doc__ = DynamicNetwork.forward.__doc__
    name = f"Dynamic{original.__name__}"
    return type(name, (DynamicNetwork, original), {"forward": forward})


def _tried(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[TracedGraph, list[Any], int]:
    """Return the graph of a network, its outputs for the example, flattened, and the MACs of all.

    A copy runs and is thrown away: networks keep things from one pass to the next. It runs once
    before it is traced, so that the trace is of a pass like all the later ones.
    """
    net = copy_network(model)
    with in_eval_mode(net), same_random_numbers(net):
        try:
            expected, macs = _run_counted(net, inputs)
        except Exception as error:  # the model's own code raises whatever it likes
            raise ValueError(
                f"`model` (={type(model).__name__}) does not run on this `example_input`:"
                f" {first_line(error)}"
            ) from error
        if not expected:
            raise ValueError(
                f"`model` (={type(model).__name__}) gives back no tensor for this `example_input`; allowed:"
                " tensors, in tuples, lists, dicts, named tuples or dataclasses"
            )
        return trace(net, inputs), expected, macs


def _switch(net: nn.Module, plan: Plan, follower: KnobTarget) -> Callable[[int], None]:
    if follower.module == INPUTS:
        assert plan.image_sizes is not None
        return plan.image_sizes.set_option
    put = getattr(net.get_submodule(follower.module), follower.setter)
    return functools.partial(put, part=follower.part) if follower.part else put


def _run_counted(net: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[Any], int]:
    """Return the outputs, flattened, and the MACs for the whole example."""
    # Some networks draw random numbers even in eval mode; both runs get the same ones.
    with same_random_numbers(net):
        outputs, macs = run_counted(net, inputs)
    return tensors_of(outputs), macs


def _leave_fused_path(net: nn.Module, replaced: Iterable[str]) -> None:
    """Let every encoder layer that holds a switchable one run through its parts.

    In inference torch's encoder layer hands the weights of its parts to one fused operation, which
    knows nothing of modes; this attribute is what it asks before it does.
    """
    for name in replaced:
        parent = net.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0


def _check_converted(
    net: Any, inputs: tuple[Any, ...], expected: list[Any], norms: set[str]
) -> None:
    """Compare the full mode with the original, and the cost of the smallest with its formula.

    With exits, that of every exit of the smallest.
    """
    if EXIT in net.space.names:
        _check_exits(net, inputs)
    with in_eval_mode(net):
        outputs, whole = _run_counted(net, inputs)
    same = len(outputs) == len(expected) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(outputs, expected, strict=True)
    )
    if not same or whole // net.examples_counted != net.macs("full"):
        raise RuntimeError(
            "the converted network does not compute what the original did, so it is not handed back;"
            " this is a defect of wenable: please report the network"
        )
    entered: set[str] = set()
    own = [(name, module) for name, module in net.named_modules() if list(module.parameters(False))]
    ranges = _ranges_by_layer(net)
    looking = [(name, each) for name, several in ranges.items() for each in several]
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.add(name))
        for name, module in (*own, *net.switchable_norms().items())
    ]
    rounding: set[str] = set()  # a layer in low precision has as many MACs as in full
    handles += [
        each.register_forward_pre_hook(lambda *_, name=name: rounding.add(name))
        for name, each in looking
    ]
    smallest = net.space.smallest
    counts = [_macs_found_and_said(net, smallest, inputs)]
    if EXIT in net.space.names:  # what lies behind the first exit
        exits = net.space.knobs[net.space.position(EXIT)].options
        others = [n for n in exits if n != smallest[EXIT]]
        counts += [_macs_found_and_said(net, smallest.replace({EXIT: n}), inputs) for n in others]
    for handle in handles:
        handle.remove()
    past = [f"norm {name!r}" for name in sorted(norms - entered)]
    past += [f"layer {name!r}" for name in sorted(ranges.keys() - rounding)]
    for macs, expected_macs in counts:
        if past or macs != expected_macs:
            what = f"{past[0]} is" if past else "some layer is"
            raise RuntimeError(
                f"{what} reached past its registered place (through a plain list, say), so its mode"
                f" cannot be set; a mode costs {macs} MACs, {expected_macs} were expected"
            )
    within = tuple(f"{norm}." for norm in net.switchable_norms())
    idle = [name for name, _ in own if name not in entered and not name.startswith(within)]
    if idle:
        _check_in_training(net, inputs, idle[0])


def _check_exits(net: Any, inputs: tuple[Any, ...]) -> None:
    """Refuse exits behind a module that a pass runs several times, or that returns no single tensor."""
    written: dict[str, list[Any]] = {}
    handles = [
        module.register_forward_hook(
            lambda *called, name=name: written.setdefault(name, []).append(called[-1])
        )
        for name, module in net.named_modules()
        if isinstance(module, ExitPoint)
    ]
    with torch.no_grad(), in_eval_mode(net), same_random_numbers(net):
        net(*inputs)
    for handle in handles:
        handle.remove()
    for name, outputs in written.items():
        if len(outputs) > 1:
            raise ValueError(
                f"`exits` names {name!r}, which is run {len(outputs)} times in a pass; an exit needs a"
                " module that is run once"
            )
        if not isinstance(outputs[0], torch.Tensor):
            raise ValueError(
                f"`exits` names {name!r}, which returns a {type(outputs[0]).__name__}; an exit needs one"
                " tensor of maps (N, channels, H, W)"
            )


def _ranges_by_layer(net: nn.Module) -> dict[str, list[InputRange]]:
    """Return the ranges of inputs that a layer looks at when it runs in low precision, by layer."""
    found: dict[str, list[InputRange]] = {}
    for name, module in net.named_modules():
        if isinstance(module, InputRange):
            found.setdefault(name.rpartition(".input_ranges.")[0], []).append(module)
    return found


def _check_in_training(net: Any, inputs: tuple[Any, ...], idle: str) -> None:
    """Refuse a network whose smallest mode does not run in training, if its full one does.

    The trace is of a pass in eval mode. What runs in training alone, as the auxiliary classifiers of
    GoogLeNet do, is not in it.

    - `idle`: a module that does not run in eval mode.
    """
    net.train()
    twice = tuple(  # in training a norm over one place wants more examples than one
        torch.cat([each, each]) if isinstance(each, torch.Tensor) and each.ndim else each
        for each in inputs
    )
    for mode in (net.space.full, net.space.smallest):
        try:
            with torch.no_grad(), net.using(mode), same_random_numbers(net):
                net(*net.of_present_size(twice))
        except Exception as error:
            if mode == net.space.full:  # it wants targets, say
                return
            raise ValueError(
                f"`model` (={net.original_class.__name__}) does not run in its smallest mode in training:"
                f" {first_line(error)}; {idle!r} does not run in eval mode, where the network is traced:"
                " build it without what is for training alone"
            ) from error


def _macs_found_and_said(net: Any, mode: Mode, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """Return what a mode costs when it runs, and what the network says of it."""
    which = "its smallest mode" if mode == net.space.smallest else f"mode {mode}"
    with in_eval_mode(net), net.using(mode):
        try:
            _, whole = _run_counted(net, net.of_present_size(inputs))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"`model` (={net.original_class.__name__}) does not run in {which}: {first_line(error)}"
            ) from error
        return whole // net.examples_counted, net.macs()
